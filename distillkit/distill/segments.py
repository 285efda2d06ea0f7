"""Segment samplers: which stretch of which expert an outer step matches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit import rng
from distillkit.errors import ConfigError, TrajectoryError
from distillkit.parts import Need, Part, Seam
from distillkit.records import Segment, TrajectorySource
from distillkit.settings import DistillSettings

SegmentSampler = Callable[[int], Segment]
"""The segment of a number; outer step ``step`` takes the numbers step * S .. step * S + S - 1."""


@dataclass(frozen=True)
class PlannedTrajectories:
    """Trajectories that are not there yet: enough to check settings against."""

    count: int
    final_epoch: int
    continuous: bool = False

    def end(self, expert: int) -> int:
        """The last epoch, the same of all."""
        return self.final_epoch

    def point(self, expert: int, epoch: float) -> Tensor:
        """There is none.

        Raises:
            TrajectoryError: always.
        """
        raise TrajectoryError("no expert is trained yet; only planned trajectories were given")


def shuffled_expert(step: int, count: int, seed: int) -> int:
    """The expert of outer step ``step``: shuffled passes over all experts, reshuffled each pass (released MTT code)."""
    order = torch.randperm(count, generator=rng.generator(seed, "distill", "expert order", step // count))
    return int(order[step % count])


def uniform_segments(settings: DistillSettings, trajectories: TrajectorySource, seed: int) -> SegmentSampler:
    """Start epochs uniform on the integers T- .. T+ - 1 (upper bound excluded), target M epochs later (MTT Alg. 1).

    Raises:
        ConfigError: the trajectories are too short for it, or M is no whole number.
    """
    low, high, length = settings.min_start_epoch, settings.max_start_epoch, settings.expert_epochs
    _check_bounds(settings)
    if length != int(length):
        raise ConfigError(
            f"distill.expert_epochs={length} must be a whole number with distill.sampler={settings.sampler}; "
            "distill.sampler=continuous takes any"
        )
    _check_length(settings, high - 1 + int(length), trajectories)

    def sample(step: int) -> Segment:
        generator = rng.generator(seed, "distill", "segment", step)
        start = int(torch.randint(low, high, (1,), generator=generator))
        return Segment(shuffled_expert(step, trajectories.count, seed), start, start + int(length))

    return sample


def continuous_segments(settings: DistillSettings, trajectories: TrajectorySource, seed: int) -> SegmentSampler:
    """Start times uniform on the reals of [T-, T+), target at min(t + M, E), M real too (MCT).

    Where T+ is so near to the end E that segments would be cut to nothing, starts end at E - M / 2: a segment of a
    hundredth of an epoch would have ten thousand times the gradient, since the loss is in units of its length.

    Raises:
        ConfigError: the trajectories hold whole epochs only, or end before T+.
    """
    low, last = settings.min_start_epoch, trajectories.final_epoch
    high = min(settings.max_start_epoch, last - settings.expert_epochs / 2)
    _check_bounds(settings)
    if not trajectories.continuous:
        raise ConfigError(
            "distill.sampler=continuous needs trajectories between the epochs: trajectories.form=convex, or "
            "distill.sampler=uniform"
        )
    _check_length(settings, settings.max_start_epoch, trajectories)
    if high <= low:
        raise ConfigError(
            f"distill.expert_epochs={settings.expert_epochs} leaves no segment after distill.min_start_epoch={low} in "
            f"experts of {last} epochs"
        )

    def sample(step: int) -> Segment:
        share = float(torch.rand((), generator=rng.generator(seed, "distill", "segment", step), dtype=torch.float64))
        start = low + share * (high - low)
        target = min(start + settings.expert_epochs, last)
        return Segment(shuffled_expert(step, trajectories.count, seed), start, target)

    return sample


def _check_bounds(settings: DistillSettings) -> None:
    low, high = settings.min_start_epoch, settings.max_start_epoch
    if low >= high:
        raise ConfigError(f"distill.min_start_epoch={low} must be below distill.max_start_epoch={high}")


def _check_length(settings: DistillSettings, needed: int, trajectories: TrajectorySource) -> None:
    if needed > trajectories.final_epoch:
        raise ConfigError(
            f"distill.max_start_epoch={settings.max_start_epoch} with distill.expert_epochs={settings.expert_epochs} "
            f"needs experts of {needed} epochs, they have {trajectories.final_epoch}; raise experts.epochs or lower "
            "one of the two"
        )


def upper_bound(settings: DistillSettings, step: int) -> int:
    """DATM's U(it) = min(T+, T + floor((T+ - T) it / E)): start epochs are below it (arXiv:2310.05773, Sec. 3.3)."""
    first, last = settings.first_max_start_epoch, settings.max_start_epoch
    if first is None:
        return last
    return min(last, first + (last - first) * step // settings.expansion_end_step)


def curriculum_segments(settings: DistillSettings, trajectories: TrajectorySource, seed: int) -> SegmentSampler:
    """Start epochs uniform on the integers T- .. U(it) - 1, with an upper bound U that grows from T to T+ (DATM, PAD).

    Raises:
        ConfigError: the trajectories are too short for it, T is not between T- and T+, or M is no whole number.
    """
    low, first, high = settings.min_start_epoch, settings.first_max_start_epoch, settings.max_start_epoch
    if first is not None and not low < first <= high:
        raise ConfigError(
            f"distill.first_max_start_epoch={first} must be above distill.min_start_epoch={low} and at most "
            f"distill.max_start_epoch={high}"
        )
    uniform_segments(settings, trajectories, seed)  # the same checks

    def sample(step: int) -> Segment:
        generator = rng.generator(seed, "distill", "segment", step)
        bound = upper_bound(settings, step // settings.segments)
        start = int(torch.randint(low, bound, (1,), generator=generator))
        return Segment(shuffled_expert(step, trajectories.count, seed), start, start + int(settings.expert_epochs))

    return sample


def _last_whole(settings: DistillSettings) -> float:
    return settings.max_start_epoch - 1 + settings.expert_epochs


def _last_real(settings: DistillSettings) -> float:
    return settings.max_start_epoch + settings.expert_epochs


_BOUNDS = ("distill.min_start_epoch", "distill.max_start_epoch", "distill.expert_epochs")


@dataclass(frozen=True, kw_only=True)
class SamplerPart(Part[Callable[[DistillSettings, TrajectorySource, int], SegmentSampler]]):
    """A sampler; ``last`` is the last epoch that its segments read, by settings."""

    needs: frozenset[Need] = frozenset({"trajectories"})
    reads: tuple[str, ...] = _BOUNDS
    last: Callable[[DistillSettings], float] = _last_whole


SEGMENTS: Seam[SamplerPart] = Seam(
    "distill.sampler",
    {
        "uniform": SamplerPart(build=uniform_segments),
        "continuous": SamplerPart(build=continuous_segments, last=_last_real),
        "curriculum": SamplerPart(
            build=curriculum_segments,
            reads=(*_BOUNDS, "distill.first_max_start_epoch", "distill.expansion_end_step"),
        ),
    },
)


def last_read(settings: DistillSettings) -> float:
    """The last epoch that a segment reads: T+ - 1 + M, or T+ + M where segments start at any time.

    Raises:
        ConfigError: the sampler is unknown.
    """
    return SEGMENTS.chosen(settings).last(settings)


def segment_sampler(settings: DistillSettings, trajectories: TrajectorySource, seed: int) -> SegmentSampler:
    """The sampler that ``settings.sampler`` names.

    Raises:
        ConfigError: unknown, or it does not fit the trajectories.
    """
    return SEGMENTS.chosen(settings).build(settings, trajectories, seed)
