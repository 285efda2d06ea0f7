"""Matching losses: how far a student is from its target."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from distillkit.errors import ConfigError, TrajectoryError

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
        TrajectoryError: start equals target (an expert that did not move would give 0/0).
    """
    progress = (start_P - target_P).square().sum()
    if progress == 0:
        raise TrajectoryError("an expert's start and target are the same parameters; its training did not move it")
    return (student_P - target_P).square().sum() / progress


MATCHING: dict[str, MatchingLoss] = {"parameter-distance": normalised_parameter_distance}


def matching_loss(name: str) -> MatchingLoss:
    """The loss called ``name``.

    Raises:
        ConfigError: unknown.
    """
    if name not in MATCHING:
        raise ConfigError(f"distill.matching={name!r} is unknown; known: {', '.join(MATCHING)}")
    return MATCHING[name]
