"""Several students of one outer step: each with its own segment, in turn or side by side as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit.distill.student import InnerStep
from distillkit.distill.unroll import Hypergradient, MatchingTerm, ReplayableStep


@dataclass(frozen=True)
class Student:
    """A start [P], the inner steps from there, what is compared, and the scale of the inner loss."""

    start_P: Tensor
    steps: Sequence[ReplayableStep]
    terms: Sequence[MatchingTerm]
    scale: float | Tensor = 1.0


@dataclass(frozen=True)
class JoinedStep:
    """The batches of several students, one after the other; each is augmented by its own draw."""

    parts: tuple[InnerStep, ...]

    @property
    def indices(self) -> Tensor:
        """Int64 [sum of the parts' B]."""
        return torch.cat([part.indices for part in self.parts])

    def augmented(self, images_B: Tensor) -> Tensor:
        """The batches as the students see them, differentiable."""
        chunks = images_B.split([len(part.indices) for part in self.parts])
        return torch.cat([part.augmented(chunk) for part, chunk in zip(self.parts, chunks, strict=True)])


def side_by_side(students: Sequence[Student]) -> Student:
    """One student of all their parameters [S * P], whose loss is the mean of theirs."""
    count, size = len(students), students[0].start_P.numel()
    start = torch.cat([student.start_P for student in students])
    steps = [JoinedStep(tuple(parts)) for parts in zip(*(student.steps for student in students), strict=True)]
    terms = [
        MatchingTerm(term.after, _share(term.loss, slice(k * size, (k + 1) * size), count))
        for k, student in enumerate(students)
        for term in student.terms
    ]
    scales = torch.tensor([student.scale for student in students], dtype=start.dtype, device=start.device)
    return Student(start, steps, terms, scales.repeat_interleave(size))


def _share(loss: Callable[[Tensor], Tensor], own: slice, count: int) -> Callable[[Tensor], Tensor]:
    return lambda parameters: loss(parameters[own]) / count


def average(results: Sequence[Hypergradient]) -> Hypergradient:
    """The mean of losses and gradients."""
    labels = [result.labels for result in results if result.labels is not None]
    return Hypergradient(
        torch.stack([result.loss for result in results]).mean(),
        torch.stack([result.images for result in results]).mean(0),
        torch.stack(labels).mean(0) if labels else None,
        torch.stack([result.lr for result in results]).mean(),
    )
