"""What one inner step of the student sees: a batch of the synthetic set and its augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillkit.data import augment
from distillkit.data.augment import Augmentation, Draw
from distillkit.data.transfer import at_once
from distillkit.training.batches import in_batches


@dataclass(frozen=True)
class InnerStep:
    """One step's batch: ``indices`` int64 [B] into the synthetic set, and the augmentation, both replayable."""

    indices: Tensor
    draw: Draw | None

    @property
    def pieces(self) -> tuple[tuple[Tensor, Draw | None], ...]:
        """One: the whole batch has one draw."""
        return ((self.indices, self.draw),)

    def augmented(self, images_B: Tensor) -> Tensor:
        """The batch [B, C, H, W] as the student sees it, differentiable."""
        return images_B if self.draw is None else augment.apply(images_B, self.draw)


def batch_indices(size: int, batch_size: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches without replacement inside shuffled passes, for ever (MTT Alg. 1).

    As in the released code, a pass is cut into chunks that are taken from its end, so a short remainder comes first. A
    batch as large as the set, or larger, is the whole set in order.
    """
    if batch_size is None or batch_size >= size:
        while True:
            yield torch.arange(size)
    while True:
        yield from reversed(in_batches(torch.randperm(size, generator=generator), batch_size))


def plan_inner_steps(
    count: int,
    size: int,
    batch_size: int | None,
    image_shape: tuple[int, int, int],
    augmentation: Augmentation | None,
    generator: torch.Generator,
) -> list[InnerStep]:
    """Draw everything random of ``count`` inner steps on a set of ``size`` images [C, H, W]."""
    _, height, width = image_shape
    batches = batch_indices(size, batch_size, generator)
    steps = []
    for _ in range(count):
        indices = next(batches)
        draw = None if augmentation is None else augmentation.draw(len(indices), height, width, generator)
        steps.append(InnerStep(indices, draw))
    return steps


def to_device(steps: list[InnerStep], device: torch.device) -> list[InnerStep]:
    """The same steps with all their numbers on ``device``, in one transfer that the host does not wait for."""
    there = iter(at_once([numbers for step in steps for numbers in _numbers(step)], device))
    return [
        InnerStep(next(there), None if step.draw is None else replace(step.draw, values=next(there))) for step in steps
    ]


def _numbers(step: InnerStep) -> list[Tensor]:
    return [step.indices, *([] if step.draw is None else [step.draw.values])]
