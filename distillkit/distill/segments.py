"""Segment samplers: which stretch of which expert an outer step matches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit import rng
from distillkit.errors import ConfigError, TrajectoryError
from distillkit.records import Segment, TrajectorySource
from distillkit.settings import DistillSettings

SegmentSampler = Callable[[int], Segment]


@dataclass(frozen=True)
class PlannedTrajectories:
    """Trajectories that are not there yet: enough to check settings against."""

    count: int
    final_epoch: int

    def point(self, expert: int, epoch: float) -> Tensor:
        """There is none.

        Raises:
            TrajectoryError: always.
        """
        raise TrajectoryError("these experts are planned, not trained")


def shuffled_expert(step: int, count: int, seed: int) -> int:
    """The expert of outer step ``step``: shuffled passes over all experts, reshuffled each pass (released MTT code)."""
    order = torch.randperm(count, generator=rng.generator(seed, "distill", "expert order", step // count))
    return int(order[step % count])


def uniform_segments(settings: DistillSettings, trajectories: TrajectorySource, seed: int) -> SegmentSampler:
    """Start epochs uniform on the integers T- .. T+ - 1 (upper bound excluded), target M epochs later (MTT Alg. 1).

    Raises:
        ConfigError: the trajectories are too short for it.
    """
    low, high, length = settings.min_start_epoch, settings.max_start_epoch, settings.expert_epochs
    if low >= high:
        raise ConfigError(f"distill.min_start_epoch={low} must be below distill.max_start_epoch={high}")
    if high - 1 + length > trajectories.final_epoch:
        raise ConfigError(
            f"distill.max_start_epoch={high} with distill.expert_epochs={length} needs experts of {high - 1 + length} "
            f"epochs, they have {trajectories.final_epoch}; raise experts.epochs or lower one of the two"
        )

    def sample(step: int) -> Segment:
        generator = rng.generator(seed, "distill", "segment", step)
        start = int(torch.randint(low, high, (1,), generator=generator))
        return Segment(shuffled_expert(step, trajectories.count, seed), start, start + length)

    return sample


SEGMENTS: dict[str, Callable[[DistillSettings, TrajectorySource, int], SegmentSampler]] = {"uniform": uniform_segments}


def segment_sampler(settings: DistillSettings, trajectories: TrajectorySource, seed: int) -> SegmentSampler:
    """The sampler that ``settings.segments`` names.

    Raises:
        ConfigError: unknown, or it does not fit the trajectories.
    """
    if settings.segments not in SEGMENTS:
        raise ConfigError(f"distill.segments={settings.segments!r} is unknown; known: {', '.join(SEGMENTS)}")
    return SEGMENTS[settings.segments](settings, trajectories, seed)
