"""The exact hypergradient of an unrolled student, in memory that does not grow with the number of inner steps.

Legend: ``_P`` a flat parameter vector [P]; N inner
steps; η the student's lr; μ its momentum.

The student runs v_i = μ v_{i-1} + g_i, θ_{i+1} = θ_i - η v_i with g_i = ∇_θ ℓ(θ_i; X[b_i], Y[b_i]), and is compared
with the expert after one or several of its steps: L = Σ_n L_n(θ_n). The field's scripts differentiate L through a
graph of all N steps (MTT) or drop all but the direct term (TESLA). Here the θ_i alone are kept and the adjoint runs
backwards, rebuilding one step at a time:

    u = dL/dθ_{i+1} (all later steps),  w = -Σ_{j>=i} μ^{j-i} u_{j+1}   (so dL/dv_i = η w)
    s_i = g_iᵀ w;  dL/dη += s_i;  dL/dX[b_i] += η ∂s_i/∂X;  dL/dY[b_i] += η ∂s_i/∂Y;  u += η ∂s_i/∂θ_i

dL/dη = -Σ_i u_{i+1}ᵀ v_i is reordered to Σ_i g_iᵀ w, so no velocity is stored.

Where there is memory for it, the graphs of the last steps are kept, and their way back costs a forward pass less.

TESLA's approximation (Cui et al., arXiv:2211.10586; also in MCT's released code) holds each θ_i fixed in g_i: the last
update, u += η ∂s_i/∂θ_i, is left out. ``Unroll(..., exact=False)`` is that, for comparison; with the factor 2 of the
squared distance, which the authors' scripts lose (their image gradient is half of it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from distillkit.distill.step_functions import StepFunctions, Trace, Wanted


@dataclass(frozen=True)
class MatchingTerm:
    """A comparison with the expert: ``loss`` maps the student's parameters after ``after`` steps [P] to a scalar."""

    after: int
    loss: Callable[[Tensor], Tensor]


class ReplayableStep(Protocol):
    """An inner step's batch: ``indices`` int64 [B] into the synthetic set, and an augmentation."""

    @property
    def indices(self) -> Tensor:
        """Of the batch."""

    def augmented(self, images_B: Tensor) -> Tensor:
        """The batch as the student sees it, differentiable, the same at every call."""


@dataclass(frozen=True)
class Hypergradient:
    """The matching loss and its exact derivatives: ``images`` [S, C, H, W], ``labels`` [S, K] or None, ``lr`` []."""

    loss: Tensor
    images: Tensor
    labels: Tensor | None
    lr: Tensor


@dataclass(frozen=True)
class Unroll:
    """A student: its loss as functions, its inner steps, the momentum of its SGD, whether to differentiate exactly.

    The graphs of the last ``kept`` steps are kept from the way there; the others are made anew on the way back.
    """

    functions: StepFunctions
    steps: Sequence[ReplayableStep]
    momentum: float = 0.0
    exact: bool = True
    kept: int = 0

    def run(self, start_P: Tensor, images: Tensor, labels: Tensor, lr: Tensor) -> Tensor:
        """Parameters after 0 .. N steps, [N + 1, P], without a graph."""
        return replace(self, kept=0)._run(start_P, images, labels, lr, Wanted())[0]

    def _run(
        self, start_P: Tensor, images: Tensor, labels: Tensor, lr: Tensor, wanted: Wanted
    ) -> tuple[Tensor, dict[int, Trace]]:
        path = start_P.new_empty(len(self.steps) + 1, start_P.numel())
        path[0] = start_P
        velocity, traces = torch.zeros_like(start_P), {}
        for i, step in enumerate(self.steps):
            index = step.indices.to(images.device)
            seen, own = step.augmented(images[index]), labels[index]
            if i >= len(self.steps) - self.kept:
                traces[i] = self.functions.trace(path[i], seen, own, wanted)
                gradient = traces[i].gradient
            else:
                gradient = self.functions.gradient(path[i], seen, own)
            velocity = gradient + self.momentum * velocity if self.momentum else gradient
            torch.add(path[i], velocity * lr, alpha=-1, out=path[i + 1])
        return path, traces

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
        wanted = Wanted(labels=learn_labels, theta=self.exact)
        path, traces = self._run(start_P, images, labels, lr, wanted)
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
            batch = images[index].detach().requires_grad_()
            seen = self.steps[i].augmented(batch)
            if i in traces:
                s = traces.pop(i).adjoint(w, wanted)
            else:
                s = self.functions.adjoint(path[i], seen.detach(), labels[index], w, wanted)
            grad_lr += s.value
            grad_images.index_add_(0, index, _through(seen, batch, s.images) * lr)
            if s.labels is not None:
                grad_labels.index_add_(0, index, s.labels * lr)
            if s.theta is not None:
                u = u + s.theta * lr
        return Hypergradient(total, grad_images, grad_labels if learn_labels else None, grad_lr)


def _through(seen_B: Tensor, images_B: Tensor, adjoint_B: Tensor) -> Tensor:
    """The adjoint of ``seen_B`` carried back to the images that the augmentation made it from."""
    return adjoint_B if seen_B is images_B else torch.autograd.grad(seen_B, images_B, adjoint_B)[0]


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
