"""Several students of one outer step: each with its own segment, in turn or side by side as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit.data.augment import Draw
from distillkit.distill.seen import ReplayableStep
from distillkit.distill.unroll import Hypergradient, Term


@dataclass(frozen=True)
class Student:
    """A start [P], the inner steps from there, what is asked, and the scale of the inner loss.

    ``prefix``: steps that are taken before the others and not differentiated.
    """

    start_P: Tensor
    steps: Sequence[ReplayableStep]
    terms: Sequence[Term]
    scale: float | Tensor = 1.0
    prefix: Sequence[ReplayableStep] = ()


@dataclass(frozen=True)
class JoinedStep:
    """The batches of several students, one after the other; each is augmented by its own draw."""

    parts: tuple[ReplayableStep, ...]

    @property
    def indices(self) -> Tensor:
        """Int64 [sum of the parts' B]."""
        return torch.cat([part.indices for part in self.parts])

    @property
    def pieces(self) -> list[tuple[Tensor, Draw | None]]:
        """Those of all parts."""
        return [piece for part in self.parts for piece in part.pieces]

    def augmented(self, images_B: Tensor) -> Tensor:
        """The batches as the students see them, differentiable."""
        chunks = images_B.split([len(part.indices) for part in self.parts])
        return torch.cat([part.augmented(chunk) for part, chunk in zip(self.parts, chunks, strict=True)])


@dataclass(frozen=True)
class SharedTerm:
    """The term of one of ``count`` students, whose parameters are ``own`` of all: a share of their mean."""

    term: Term
    own: slice
    count: int

    @property
    def after(self) -> int:
        """The same step."""
        return self.term.after

    def adjoint(self, student_P: Tensor) -> tuple[Tensor, Tensor]:
        """Zero in the parameters of the others."""
        value, adjoint = self.term.adjoint(student_P[self.own])
        whole = torch.zeros_like(student_P)
        whole[self.own] = adjoint / self.count
        return value / self.count, whole


def side_by_side(students: Sequence[Student]) -> Student:
    """One student of all their parameters [S * P], whose loss is the mean of theirs."""
    count, size = len(students), students[0].start_P.numel()
    start = torch.cat([student.start_P for student in students])
    terms = [
        SharedTerm(term, slice(k * size, (k + 1) * size), count)
        for k, student in enumerate(students)
        for term in student.terms
    ]
    scales = torch.tensor([student.scale for student in students], dtype=start.dtype, device=start.device)
    steps, prefix = _joined([one.steps for one in students]), _joined([one.prefix for one in students])
    return Student(start, steps, terms, scales.repeat_interleave(size), prefix)


def _joined(steps: Sequence[Sequence[ReplayableStep]]) -> list[JoinedStep]:
    return [JoinedStep(tuple(parts)) for parts in zip(*steps, strict=True)]


def average(results: Sequence[Hypergradient]) -> Hypergradient:
    """The mean of losses and gradients; networks that are carried on, all of them."""
    labels = [result.labels for result in results if result.labels is not None]
    carried = [result.carried for result in results if result.carried is not None]
    return Hypergradient(
        torch.stack([result.loss for result in results]).mean(),
        torch.stack([result.images for result in results]).mean(0),
        torch.stack(labels).mean(0) if labels else None,
        torch.stack([result.lr for result in results]).mean(),
        torch.cat(carried) if carried else None,
    )
