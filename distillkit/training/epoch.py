"""What is random of an epoch: which images a step sees, and how they are augmented and mixed. It is drawn before the
steps, goes to a GPU in one transfer, and no step waits for numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillkit import rng
from distillkit.data import augment
from distillkit.data.augment import CutMix, Draw, Mix
from distillkit.data.inputs import Inputs
from distillkit.data.transfer import at_once
from distillkit.training.batches import in_batches
from distillkit.training.recipe import Batch, Recipe


@dataclass(frozen=True)
class PlannedStep:
    """``indices`` int64 [B] of the images, the draws of their augmentation, and of what is mixed, if anything is."""

    indices: Tensor
    draws: tuple[Draw, ...] = ()
    mix: Mix | None = None

    @property
    def numbers(self) -> list[Tensor]:
        """All its tensors."""
        return [self.indices, *(draw.values for draw in self.draws), *([] if self.mix is None else [self.mix.partner])]

    def on(self, numbers: Sequence[Tensor]) -> PlannedStep:
        """The same step with other tensors in the order of ``numbers``."""
        indices, *rest = numbers
        draws = tuple(replace(draw, values=values) for draw, values in zip(self.draws, rest, strict=False))
        return PlannedStep(indices, draws, None if self.mix is None else replace(self.mix, partner=rest[-1]))

    def batch(self, images: Inputs, targets: Tensor) -> Batch:
        """What the network sees of ``images`` [n, C, H, W] and ``targets``, on the device of the plan."""
        clean = seen = images[self.indices]
        for draw in self.draws:
            seen = augment.apply(seen, draw)
        wanted = targets[self.indices]
        if self.mix is not None:
            seen, wanted = CutMix.mixed(seen, wanted, self.mix)
        return Batch(seen, clean, wanted)


def plan_epoch(recipe: Recipe, images: Inputs, epoch: int, seed: int, *names: rng.Name) -> list[PlannedStep]:
    """The steps of ``epoch`` on ``images`` [n, C, H, W], on the CPU, drawn under the use ``names``."""
    order = recipe.order(len(images), epoch, rng.generator(seed, *names, "order", epoch))
    generator = rng.generator(seed, *names, "augment", epoch)
    height, width = map(int, images.shape[2:]) if len(images.shape) == 4 else (1, 1)  # plain vectors are not augmented
    steps = []
    for indices in in_batches(order, recipe.batch_size):
        size = (len(indices), height, width, generator)
        draws = () if recipe.augmentation is None else recipe.augmentation.draws(*size)
        steps.append(PlannedStep(indices, draws, None if recipe.mixing is None else recipe.mixing.draw(*size)))
    return steps


def to_device(plans: Sequence[Sequence[PlannedStep]], device: torch.device) -> list[list[PlannedStep]]:
    """Plans of several networks on ``device``, in one transfer."""
    there = iter(at_once([numbers for plan in plans for step in plan for numbers in step.numbers], device))
    return [[step.on([next(there) for _ in step.numbers]) for step in plan] for plan in plans]
