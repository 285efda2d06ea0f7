"""What one inner step of the student sees: a batch of the synthetic set, its augmentation, its loss."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit.data import augment
from distillkit.data.augment import Augmentation, Draw
from distillkit.distill.labels import LabelPart
from distillkit.networks.functional import FlatNetwork


@dataclass(frozen=True)
class InnerStep:
    """One step's batch: ``indices`` int64 [B] into the synthetic set, and the augmentation, both replayable."""

    indices: Tensor
    draw: Draw | None


@dataclass(frozen=True)
class StudentLoss:
    """The inner loss as a pure function; a label part says how labels enter, ``scale`` multiplies it."""

    network: FlatNetwork
    labels: LabelPart
    scale: float = 1.0

    def __call__(self, pieces: list[Tensor], images_B: Tensor, labels_B: Tensor, draw: Draw | None) -> Tensor:
        """Scalar loss, mean over the batch, of parameters given in pieces on ``images_B`` [B, C, H, W]."""
        seen = images_B if draw is None else augment.apply(images_B, draw)
        loss = self.labels.loss(self.network(pieces, seen), labels_B)
        return loss if self.scale == 1.0 else loss * self.scale


def batch_indices(size: int, batch_size: int | None, generator: torch.Generator) -> Iterator[Tensor]:
    """Batches without replacement inside shuffled passes, for ever (MTT Alg. 1).

    As in the released code, a pass is cut into chunks that are taken from its end, so a short remainder comes first. A
    batch as large as the set, or larger, is the whole set in order.
    """
    if batch_size is None or batch_size >= size:
        while True:
            yield torch.arange(size)
    while True:
        yield from reversed(torch.randperm(size, generator=generator).split(batch_size))


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
