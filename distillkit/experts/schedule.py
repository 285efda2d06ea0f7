"""PAD's data scheduler (FIEX, arXiv:2408.03360, Sec. 3.2): an expert sees easy images first, hard ones later.

Of each class, with n images ranked from easy to hard, epoch e (first is 0) sees the ranks first(e) .. end(e) - 1:

    e <= A:         0 .. floor(n min(1, R + (1 - R) e / A))     R easy_fraction, A add_end_epoch
    A < e <= r1:    all
    r1 < e <= r2:   floor(n f1) .. n                            f remove_fractions
    e > r2:         floor(n f2) .. n

The released code has the class size of CIFAR-10 written into it and shows nothing of smaller classes after r1; here it
is each class's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from distillkit.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """The four numbers of the schedule; fractions of a class, epochs from 0."""

    easy_fraction: float
    add_end_epoch: int
    remove_epochs: tuple[int, int]
    remove_fractions: tuple[float, float]

    def ranks(self, epoch: int, size: int) -> tuple[int, int]:
        """First and end of the ranks that ``epoch`` sees of a class of ``size`` images, in exact arithmetic."""
        if epoch <= self.add_end_epoch:
            easy, last = _exact(self.easy_fraction), self.add_end_epoch
            share = min(Fraction(1), easy + (1 - easy) * Fraction(epoch, last)) if last else Fraction(1)
            return 0, int(share * size)
        if epoch <= self.remove_epochs[0]:
            return 0, size
        fraction = self.remove_fractions[0 if epoch <= self.remove_epochs[1] else 1]
        return int(_exact(fraction) * size), size

    def used(self, epoch: int, ranking: Sequence[Tensor]) -> Tensor:
        """Indices int64 that ``epoch`` sees; ``ranking``: of each class, its images from easy to hard."""
        return torch.cat([order[slice(*self.ranks(epoch, len(order)))] for order in ranking])


def _exact(value: float) -> Fraction:
    """0.1 is a tenth, not the float beside it."""
    return Fraction(str(value))


def check_schedule(schedule: Schedule, epochs: int, smallest_class: int) -> None:
    """Does every epoch see an image of every class?

    Raises:
        ConfigError: no, or the epochs are out of order.
    """
    first, second = schedule.remove_epochs
    if not schedule.add_end_epoch <= first <= second:
        raise ConfigError(
            f"experts.add_end_epoch={schedule.add_end_epoch} and experts.remove_epochs={[first, second]} must ascend"
        )
    for epoch in range(epochs):
        begin, end = schedule.ranks(epoch, smallest_class)
        if begin >= end:
            raise ConfigError(
                f"the data scheduler leaves nothing of a class of {smallest_class} images in epoch {epoch}; raise "
                "experts.easy_fraction or lower experts.remove_fractions"
            )


def schedule_of(recipe: Mapping[str, Any]) -> Schedule:
    """The scheduler of expert settings, or of a recipe as a trajectory folder's set-up records it."""
    first, second = recipe["remove_epochs"]
    some, more = recipe["remove_fractions"]
    return Schedule(recipe["easy_fraction"], recipe["add_end_epoch"], (first, second), (some, more))


def seen_shares(schedule: Schedule, epochs: int) -> list[tuple[float, float]]:
    """Of each epoch, where the ranks that it sees begin and end, as shares of a (large) class: 0 easiest, 1 hardest."""
    size = 10_000
    return [(first / size, end / size) for first, end in (schedule.ranks(epoch, size) for epoch in range(epochs))]


@dataclass(frozen=True)
class EasyToHard:
    """The data order part: the images of the schedule's epoch, shuffled."""

    schedule: Schedule
    ranking: tuple[Tensor, ...]

    def __call__(self, count: int, epoch: int, generator: torch.Generator) -> Tensor:
        """Indices int64 into all ``count`` images."""
        used = self.schedule.used(epoch, self.ranking)
        return used[torch.randperm(len(used), generator=generator)]
