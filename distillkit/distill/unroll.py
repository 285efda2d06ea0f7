"""The exact hypergradient of an unrolled student, with one parameter vector kept of each inner step.

Legend: ``_P`` a flat parameter vector [P]; N inner steps; η the student's lr.

The student takes steps θ_i → θ_{i+1} of an optimiser (``inner_optimizers``) along g_i = ∇_θ ℓ(θ_i; X[b_i], Y[b_i]), and
is compared after one or several of them, with an expert or on real images: L = Σ_n L_n(θ_n). Scripts for trajectory
matching differentiate L through a graph of all N steps (MTT) or drop all but the direct term (TESLA). Here the θ_i
alone are kept (Adam: its moments and gradients too) and the adjoint runs backwards, rebuilding one step at a time, as
RememberThePast (Deng and Russakovsky, NeurIPS 2022) does. With u = dL/dθ_{i+1} over all later steps, the optimiser's
way back gives ḡ = dL/dg_i = c w (c = η for SGD, 1 for Adam), and then

    s = g_iᵀ w;  dL/dX[b_i] += c ∂s/∂X;  dL/dY[b_i] += c ∂s/∂Y;  u += c ∂s/∂θ_i

Where there is memory for it, the graphs of the last steps are kept, and their way back costs a forward pass less.

TESLA's approximation (Cui et al., arXiv:2211.10586; also in MCT's released code) holds each θ_i fixed in g_i: the last
update, of u, is left out. ``Unroll(..., exact=False)`` is that, for comparison; with the factor 2 of the squared
distance, which the authors' scripts lose (their image gradient is half of it).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from distillkit.distill.inner_optimizers import InnerMemory, InnerOptimizer, Sgd
from distillkit.distill.seen import ReplayableStep, SeenImages, seen_images
from distillkit.distill.step_functions import StepFunctions, Trace, Wanted


class Term(Protocol):
    """Something that the student is asked after ``after`` of its steps."""

    @property
    def after(self) -> int:
        """1 .. N."""

    def adjoint(self, student_P: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of the student's parameters, a scalar, and its derivative in them [P]."""


@dataclass(frozen=True)
class MatchingTerm:
    """A comparison with the expert: ``loss`` maps the student's parameters after ``after`` steps [P] to a scalar."""

    after: int
    loss: Callable[[Tensor], Tensor]

    def adjoint(self, student_P: Tensor) -> tuple[Tensor, Tensor]:
        """By autograd."""
        student = student_P.detach().requires_grad_()
        value = self.loss(student)
        (adjoint,) = torch.autograd.grad(value, student)
        return value.detach(), adjoint


@dataclass(frozen=True)
class Hypergradient:
    """The outer loss and its exact derivatives: ``images`` [S, C, H, W], ``labels`` [S, K] or None, ``lr`` [].

    ``carried`` [S', P]: networks that the next outer step goes on with, where an objective has such.
    """

    loss: Tensor
    images: Tensor
    labels: Tensor | None
    lr: Tensor
    carried: Tensor | None = None


PLAIN_SGD = Sgd()


@dataclass(frozen=True)
class Path:
    """The way of a student: ``points`` [N + 1, P], ``remembered`` [N, R, P] of its optimiser, kept graphs by step, and
    the number of steps it had taken before.
    """

    points: Tensor
    remembered: Tensor
    traces: dict[int, Trace]
    before: int


ALIGNMENT = 128
"""Numbers that a row of the path is padded to a multiple of: a compiled function meets all rows at one alignment, which
a recording of kernels relies on."""


def _aligned_rows(like_P: Tensor, count: int) -> Tensor:
    """Empty rows [count, P], each aligned in memory."""
    size = like_P.numel()
    return like_P.new_empty(count, -(-size // ALIGNMENT) * ALIGNMENT)[:, :size]


@dataclass(frozen=True)
class Unroll:
    """A student: its loss as functions, its inner steps, its optimiser, whether to differentiate exactly.

    The graphs of the last ``kept`` steps are kept from the way there; the others are made anew on the way back.
    ``at_once``: whether all batches are augmented before the first step.
    """

    functions: StepFunctions
    steps: Sequence[ReplayableStep]
    optimizer: InnerOptimizer = PLAIN_SGD
    exact: bool = True
    kept: int = 0
    at_once: bool = False

    def run(self, start_P: Tensor, images: Tensor, labels: Tensor, lr: Tensor) -> Tensor:
        """Parameters after 0 .. N steps, [N + 1, P], without a graph."""
        fresh, seen = self.fresh_memory(start_P), self._seen(images)
        return replace(self, kept=0)._path(start_P, seen, labels, lr, Wanted(), fresh).points

    def _seen(self, images: Tensor) -> SeenImages:
        return seen_images(self.steps, images, self.at_once)

    def fresh_memory(self, like_P: Tensor) -> InnerMemory:
        """That of an optimiser that has taken no step."""
        return InnerMemory(like_P.new_zeros(self.optimizer.slots, like_P.numel()))

    def arrive(self, start_P: Tensor, images: Tensor, labels: Tensor, lr: Tensor) -> tuple[Tensor, InnerMemory]:
        """Parameters [P] and the optimiser's memory after all steps, in memory that does not grow with their number."""
        theta, memory, seen = start_P.clone(), self.fresh_memory(start_P), self._seen(images)
        for i, step in enumerate(self.steps):
            gradient = self.functions.gradient(theta, seen.batch(i), labels[step.indices.to(labels.device)])
            memory = self.optimizer.step(theta, memory, gradient, lr, theta)
        return theta, memory

    def _path(
        self, start_P: Tensor, seen: SeenImages, labels: Tensor, lr: Tensor, wanted: Wanted, memory: InnerMemory
    ) -> Path:
        count, size = len(self.steps), start_P.numel()
        points = _aligned_rows(start_P, count + 1)
        remembered = start_P.new_empty(count, self.optimizer.remembered, size)
        points[0] = start_P
        traces: dict[int, Trace] = {}
        before = memory.count
        for i, step in enumerate(self.steps):
            batch, own = seen.batch(i), labels[step.indices.to(labels.device)]
            if i >= count - self.kept:
                traces[i] = self.functions.trace(points[i], batch, own, wanted)
                gradient = traces[i].gradient
            else:
                gradient = self.functions.gradient(points[i], batch, own)
            memory = self.optimizer.step(points[i], memory, gradient, lr, points[i + 1])
            for row, vector in zip(remembered[i], self.optimizer.remember(memory, gradient), strict=True):
                row.copy_(vector)
        return Path(points, remembered, traces, before)

    def hypergradient(
        self,
        start_P: Tensor,
        images: Tensor,
        labels: Tensor,
        lr: Tensor,
        terms: Sequence[Term],
        *,
        learn_labels: bool = False,
        memory: InnerMemory | None = None,
    ) -> Hypergradient:
        """The sum of ``terms`` and its derivative with respect to images, labels and lr.

        Args:
            start_P: the student's start, held fixed.
            images: S synthetic images, network inputs.
            labels: [S, K].
            lr: scalar tensor.
            terms: at least one; several at the same step add up.
            learn_labels: also return the labels' derivative.
            memory: of the optimiser at the start, held fixed too; default that of a fresh one.
        """
        wanted = Wanted(labels=learn_labels, theta=self.exact)
        begun = self.fresh_memory(start_P) if memory is None else memory
        seen = self._seen(images)
        path = self._path(start_P, seen, labels, lr, wanted, begun)
        adjoints, total = _adjoints(path.points, terms)
        back = self.optimizer.way_back(lr, start_P)
        u = torch.zeros_like(start_P)
        grad_labels, grad_lr = torch.zeros_like(labels), torch.zeros_like(lr)
        for i in reversed(range(len(self.steps))):
            if i + 1 in adjoints:
                u = u + adjoints[i + 1]
            w = back.direction(u, path.remembered[i], path.before + i + 1)
            index = self.steps[i].indices.to(labels.device)
            if i in path.traces:
                s = path.traces.pop(i).adjoint(w, wanted)
            else:
                s = self.functions.adjoint(path.points[i], seen.batch(i), labels[index], w, wanted)
            grad_lr += back.lr_share(s.value)
            seen.carry_back(i, s.images, back.scale)
            if s.labels is not None:
                grad_labels.index_add_(0, index, s.labels * back.scale)
            if s.theta is not None:
                u = u + s.theta * back.scale
        grad_lr += back.from_start(begun.slots)
        return Hypergradient(total, seen.gradient(), grad_labels if learn_labels else None, grad_lr)


def _adjoints(points: Tensor, terms: Sequence[Term]) -> tuple[dict[int, Tensor], Tensor]:
    """dL_n/dθ_n for every step n that is compared, and the total loss."""
    adjoints: dict[int, Tensor] = {}
    total = points.new_zeros(())
    for term in terms:
        value, adjoint = term.adjoint(points[term.after])
        adjoints[term.after] = adjoints[term.after] + adjoint if term.after in adjoints else adjoint
        total = total + value
    return adjoints, total
