"""Matching losses: how far a student is from its target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from distillkit.distill.unroll import MatchingTerm
from distillkit.errors import ConfigError, TrajectoryError
from distillkit.records import Segment
from distillkit.settings import DistillSettings

MatchingLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def normalised_parameter_distance(student_P: Tensor, start_P: Tensor, target_P: Tensor) -> Tensor:
    """Squared distance to the target, in units of the expert's own progress (MTT, arXiv:2203.11932, Sec. 3.2, Eq. 2).

    loss = |student - target|^2 / |start - target|^2, so 1.0 means "no better than not moving", 0.0 means "arrived".

    Args:
        student_P: flat parameters [P] of the student; the only argument that needs a graph.
        start_P: where the student started [P].
        target_P: where the expert got to [P].

    Returns:
        Scalar tensor, no unit.

    Raises:
        TrajectoryError: start equals target (an expert that did not move would give 0/0); on a GPU, where asking would
            make the host wait, the loss is not finite then, and the step is skipped.
    """
    progress = (start_P - target_P).square().sum()
    if progress.device.type == "cpu" and progress == 0:
        raise TrajectoryError("an expert's start and target are the same parameters; its training did not move it")
    return (student_P - target_P).square().sum() / progress


def depth_masked(ratio: float) -> MatchingLoss:
    """PAD (arXiv:2408.03360, Sec. 3.3): the distance without the first floor(ratio * P) parameters.

    Parameters are in flat order, shallow to deep; the cut may fall inside a tensor. Numerator and denominator alike.
    """

    def loss(student_P: Tensor, start_P: Tensor, target_P: Tensor) -> Tensor:
        first = int(ratio * student_P.numel())
        return normalised_parameter_distance(student_P[first:], start_P[first:], target_P[first:])

    return loss


def loss_masked(ratio: float) -> MatchingLoss:
    """The mask of PAD's released code: without the floor(ratio * P) parameters of the smallest squared error.

    Which ones these are is not differentiated; numerator and denominator alike.
    """

    def loss(student_P: Tensor, start_P: Tensor, target_P: Tensor) -> Tensor:
        dropped = int(ratio * student_P.numel())
        if dropped == 0:
            return normalised_parameter_distance(student_P, start_P, target_P)
        kept = (student_P.detach() - target_P).square().argsort(stable=True)[dropped:]
        return normalised_parameter_distance(student_P[kept], start_P[kept], target_P[kept])

    return loss


MASKS: dict[str, Callable[[float], MatchingLoss]] = {
    "none": lambda ratio: normalised_parameter_distance,
    "depth": depth_masked,
    "loss": loss_masked,
}


def _masked(settings: DistillSettings) -> MatchingLoss:
    if settings.mask not in MASKS:
        raise ConfigError(f"distill.mask={settings.mask!r} is unknown; known: {', '.join(MASKS)}")
    return MASKS[settings.mask](settings.mask_ratio)


@dataclass(frozen=True)
class MatchingProblem:
    """What an outer step compares: the student's start [P], its N, the segment, and the expert's points by epoch."""

    start_P: Tensor
    inner_steps: int
    segment: Segment
    point: Callable[[float], Tensor]


MatchingPart = Callable[[MatchingProblem], list[MatchingTerm]]


def end_of_segment(loss: MatchingLoss) -> MatchingPart:
    """Compare once, after the last inner step, with the segment's target (MTT)."""

    def terms(problem: MatchingProblem) -> list[MatchingTerm]:
        start, target = problem.start_P, problem.point(problem.segment.target)
        return [MatchingTerm(problem.inner_steps, lambda student: loss(student, start, target))]

    return terms


def with_intermediate(loss: MatchingLoss, expert_epochs: float, *, growing: bool) -> MatchingPart:
    """AST: compare also with the expert after k = 1 .. M - 1 epochs, at inner step k * floor(N / M).

    L = L_M + sum_k b_k L_k, each in units of its own distance from the start, b_k = 1 or, ``growing``, k / M. Where
    floor(N / M) = 0 there is no step to compare at, and no term; nor is there where the step or the epoch of a term
    would not come before the segment's own (a real M, or a target clamped at the end).
    """

    def terms(problem: MatchingProblem) -> list[MatchingTerm]:
        found = end_of_segment(loss)(problem)
        start, stride = problem.start_P, int(problem.inner_steps // expert_epochs)
        for k in range(1, math.ceil(expert_epochs)) if stride else ():
            if k * stride >= problem.inner_steps or problem.segment.start + k >= problem.segment.target:
                break
            target, weight = problem.point(problem.segment.start + k), k / expert_epochs if growing else 1.0
            found.append(MatchingTerm(k * stride, _weighted(loss, weight, start, target)))
        return found

    return terms


def _weighted(loss: MatchingLoss, weight: float, start: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda student: weight * loss(student, start, target)


MATCHING: dict[str, Callable[[DistillSettings], MatchingPart]] = {
    "parameter-distance": lambda settings: end_of_segment(_masked(settings)),
    "intermediate": lambda settings: with_intermediate(_masked(settings), settings.expert_epochs, growing=False),
    "intermediate-growing": lambda settings: with_intermediate(_masked(settings), settings.expert_epochs, growing=True),
}


def matching_part(settings: DistillSettings) -> MatchingPart:
    """The part that ``settings.matching`` names: what is compared, after which inner steps.

    Raises:
        ConfigError: unknown.
    """
    if settings.matching not in MATCHING:
        raise ConfigError(f"distill.matching={settings.matching!r} is unknown; known: {', '.join(MATCHING)}")
    return MATCHING[settings.matching](settings)
