"""The exact hypergradient of an unrolled student, in memory that does not grow with the number of inner steps.

Second-order graphs are built here, by ``training.second_order``. Legend: ``_P`` a flat parameter vector [P]; N inner
steps; η the student's lr; μ its momentum.

The student runs v_i = μ v_{i-1} + g_i, θ_{i+1} = θ_i - η v_i with g_i = ∇_θ ℓ(θ_i; X[b_i], Y[b_i]), and is compared
with the expert after one or several of its steps: L = Σ_n L_n(θ_n). The field's scripts differentiate L through a
graph of all N steps (MTT) or drop all but the direct term (TESLA). Here the θ_i alone are kept and the adjoint runs
backwards, rebuilding one step at a time:

    u = dL/dθ_{i+1} (all later steps),  w = -Σ_{j>=i} μ^{j-i} u_{j+1}   (so dL/dv_i = η w)
    s_i = g_iᵀ w;  dL/dη += s_i;  dL/dX[b_i] += η ∂s_i/∂X;  dL/dY[b_i] += η ∂s_i/∂Y;  u += η ∂s_i/∂θ_i

dL/dη = -Σ_i u_{i+1}ᵀ v_i is reordered to Σ_i g_iᵀ w, so no velocity is stored.

TESLA's approximation (Cui et al., arXiv:2211.10586; also in MCT's released code) holds each θ_i fixed in g_i: the last
update, u += η ∂s_i/∂θ_i, is left out. ``Unroll(..., exact=False)`` is that, for comparison; with the factor 2 of the
squared distance, which the authors' scripts lose (their image gradient is half of it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit.distill.student import InnerStep, StudentLoss
from distillkit.training.second_order import differentiable_gradient


@dataclass(frozen=True)
class MatchingTerm:
    """A comparison with the expert: ``loss`` maps the student's parameters after ``after`` steps [P] to a scalar."""

    after: int
    loss: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Hypergradient:
    """The matching loss and its exact derivatives: ``images`` [S, C, H, W], ``labels`` [S, K] or None, ``lr`` []."""

    loss: Tensor
    images: Tensor
    labels: Tensor | None
    lr: Tensor


@dataclass(frozen=True)
class Unroll:
    """A student's inner loop: the loss, its steps, the momentum of its SGD, and whether its derivative is exact."""

    loss: StudentLoss
    steps: Sequence[InnerStep]
    momentum: float = 0.0
    exact: bool = True

    def run(self, start_P: Tensor, images: Tensor, labels: Tensor, lr: Tensor) -> Tensor:
        """Parameters after 0 .. N steps, [N + 1, P], without a graph."""
        path = start_P.new_empty(len(self.steps) + 1, start_P.numel())
        path[0] = start_P
        velocity = torch.zeros_like(start_P)
        for i, step in enumerate(self.steps):
            pieces = self._leaves(path[i])
            index = step.indices.to(images.device)
            loss = self.loss(pieces, images[index], labels[index], step.draw)
            gradient = self.loss.network.join(torch.autograd.grad(loss, pieces))
            velocity = gradient + self.momentum * velocity if self.momentum else gradient
            torch.add(path[i], velocity * lr, alpha=-1, out=path[i + 1])
        return path

    def hypergradient(
        self,
        start_P: Tensor,
        images: Tensor,
        labels: Tensor,
        lr: Tensor,
        terms: Sequence[MatchingTerm],
        *,
        learn_labels: bool = False,
    ) -> Hypergradient:
        """The sum of ``terms`` and its derivative with respect to images, labels and lr.

        Args:
            start_P: the student's start, held fixed.
            images: S synthetic images, network inputs.
            labels: [S, K].
            lr: scalar tensor.
            terms: at least one; several at the same step add up.
            learn_labels: also return the labels' derivative.
        """
        path = self.run(start_P, images, labels, lr)
        adjoints, total = _adjoints(path, terms)
        u = torch.zeros_like(start_P)
        w = torch.zeros_like(start_P)
        grad_images, grad_labels, grad_lr = (
            torch.zeros_like(images),
            torch.zeros_like(labels),
            torch.zeros_like(lr),
        )
        for i in reversed(range(len(self.steps))):
            if i + 1 in adjoints:
                u = u + adjoints[i + 1]
            w = self.momentum * w - u if self.momentum else -u
            index = self.steps[i].indices.to(images.device)
            s, d_images, d_labels, d_theta = self._second_order(
                path[i], images[index], labels[index], self.steps[i], w, learn_labels
            )
            grad_lr += s
            grad_images.index_add_(0, index, d_images * lr)
            if d_labels is not None:
                grad_labels.index_add_(0, index, d_labels * lr)
            if d_theta is not None:
                u = u + d_theta * lr
        return Hypergradient(total, grad_images, grad_labels if learn_labels else None, grad_lr)

    def _leaves(self, parameters_P: Tensor) -> list[Tensor]:
        return [piece.detach().requires_grad_() for piece in self.loss.network.split(parameters_P)]

    def _second_order(
        self,
        theta_P: Tensor,
        images_B: Tensor,
        labels_B: Tensor,
        step: InnerStep,
        w_P: Tensor,
        learn_labels: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """S = ∇_θ ℓ · w and its derivatives in the batch's images, labels and θ (None if not wanted); one second-order
        call.
        """
        pieces = self._leaves(theta_P)
        images_B = images_B.detach().requires_grad_()
        labels_B = labels_B.detach().requires_grad_(learn_labels)
        loss = self.loss(pieces, images_B, labels_B, step.draw)
        gradients = differentiable_gradient(loss, pieces)
        directions = self.loss.network.split(w_P)
        s = torch.stack([(g * d).sum() for g, d in zip(gradients, directions, strict=True)]).sum()
        wanted = [images_B, *([labels_B] if learn_labels else []), *(pieces if self.exact else [])]
        # a parameter that the gradient does not depend on (the last bias, say) has no path: its derivative is zero
        found = torch.autograd.grad(s, wanted, allow_unused=True, materialize_grads=True)
        d_theta = self.loss.network.join(found[-len(pieces) :]) if self.exact else None
        return s.detach(), found[0], found[1] if learn_labels else None, d_theta


def _adjoints(path: Tensor, terms: Sequence[MatchingTerm]) -> tuple[dict[int, Tensor], Tensor]:
    """dL_n/dθ_n for every step n that is compared, and the total loss."""
    adjoints: dict[int, Tensor] = {}
    total = path.new_zeros(())
    for term in terms:
        student = path[term.after].detach().requires_grad_()
        value = term.loss(student)
        (adjoint,) = torch.autograd.grad(value, student)
        adjoints[term.after] = adjoints[term.after] + adjoint if term.after in adjoints else adjoint
        total = total + value.detach()
    return adjoints, total
