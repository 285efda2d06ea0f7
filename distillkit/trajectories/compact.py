"""Convexified trajectories as tensors of a file, in fewer bits.

The first waypoint is stored, and of every later one its difference from the one before. A rounding error of the first
shifts the whole path, which a student that starts on it does not notice; the error of a difference is relative to the
segment's own length, where that of a waypoint would be relative to the parameters, which are far longer.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from distillkit.errors import TrajectoryError
from distillkit.settings import TrajectoryDtype
from distillkit.trajectories.convex import ConvexTrajectory

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(TrajectoryDtype)}
MAX_NUMBERS = 100_000
LARGEST_ERROR = 0.02
"""Of a one-epoch segment's vector, relative to its length; its square is what the matching loss sees."""


def encode(trajectory: ConvexTrajectory, dtype: str) -> dict[str, Tensor]:
    """The tensors of the file: epochs, sizes, β, the start and the differences in ``dtype``.

    Raises:
        TrajectoryError: a parameter is too large for ``dtype``.
    """
    kind = DTYPES[dtype]
    steps, position = [], trajectory.waypoints[0].to(kind).float()
    for before, after in zip(trajectory.waypoints, trajectory.waypoints[1:], strict=False):
        steps.append((after.float() - before.float()).to(kind))
    if not all(bool(torch.isfinite(tensor).all()) for tensor in (position, *steps)):
        raise TrajectoryError(f"a parameter is too large to be stored as {dtype}; use trajectories.dtype=float32")
    tensors = {
        "waypoint-epochs": torch.tensor(trajectory.epochs),
        "sizes": torch.tensor(trajectory.sizes),
        "start": position.to(kind),
    }
    tensors |= {f"step-{index:02d}": step for index, step in enumerate(steps, start=1)}
    tensors |= {f"beta-{index:02d}": beta.float() for index, beta in enumerate(trajectory.betas, start=1)}
    return tensors


def decode(tensors: Mapping[str, Tensor]) -> ConvexTrajectory:
    """The inverse of ``encode`` but for the rounding; float32. Nothing is computed before every shape is right.

    Raises:
        TrajectoryError: tensors are missing, not of the right kind, or do not fit each other.
    """
    epochs, sizes = _whole_numbers(tensors, "waypoint-epochs"), _whole_numbers(tensors, "sizes")
    spans = [end - begin for begin, end in itertools.pairwise(epochs)]
    if epochs[:1] != (0,) or not spans or min(spans) < 1 or min(sizes, default=0) < 1:
        raise TrajectoryError("a convexified trajectory is damaged: its waypoints and sizes do not fit each other")
    count, parameters = len(spans), sum(sizes)
    start = _floats(tensors, "start", (parameters,))
    steps = [_floats(tensors, f"step-{index:02d}", (parameters,)) for index in range(1, count + 1)]
    betas = tuple(
        _floats(tensors, f"beta-{index:02d}", (span + 1, len(sizes))) for index, span in enumerate(spans, start=1)
    )
    waypoints = torch.stack([start, *steps]).cumsum(0)
    if not bool(torch.isfinite(waypoints).all()):
        raise TrajectoryError("a convexified trajectory is damaged: not all of its numbers are finite")
    return ConvexTrajectory(epochs, waypoints, betas, sizes)


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise TrajectoryError(f"this is no file of a convexified trajectory (it has no {name})")
    return tensors[name]


def _whole_numbers(tensors: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    tensor = _tensor(tensors, name)
    if tensor.dtype != torch.int64 or tensor.dim() != 1 or tensor.numel() > MAX_NUMBERS:
        raise TrajectoryError(f"a convexified trajectory is damaged: {name} is no list of whole numbers")
    return tuple(int(value) for value in tensor)


def _floats(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = _tensor(tensors, name)
    if tensor.dtype not in DTYPES.values() or tuple(tensor.shape) != shape:
        found = f"{tensor.dtype} {list(tensor.shape)}"
        raise TrajectoryError(f"a convexified trajectory is damaged: {name} is {found}, expected floats {list(shape)}")
    if not bool(torch.isfinite(tensor).all()):
        raise TrajectoryError(f"a convexified trajectory is damaged: not all of its numbers are finite ({name})")
    return tensor.float()


def storage_error(exact: ConvexTrajectory, stored: ConvexTrajectory) -> dict[str, Any]:
    """How far storage moved a trajectory, in units of its one-epoch segments.

    Returns:
        ``segment``: the largest |(q(t+1) - q(t)) - (p(t+1) - p(t))| / |p(t+1) - p(t)| over t, what the matching loss
        sees; ``position``: the largest |q(t) - p(t)| / |p(t+1) - p(t)|, which counts the shift of the whole path too.
    """
    segment, position = 0.0, 0.0
    p, q = exact.point(0).float(), stored.point(0)
    for epoch in range(exact.epochs[-1]):
        after_p, after_q = exact.point(epoch + 1).float(), stored.point(epoch + 1)
        length = float((after_p - p).norm())
        if length > 0:
            segment = max(segment, float(((after_q - q) - (after_p - p)).norm()) / length)
            position = max(position, float((q - p).norm()) / length)
        p, q = after_p, after_q
    return {"segment": segment, "position": position}


def check_storage_error(error: Mapping[str, float], dtype: str) -> None:
    """Is it small?

    Raises:
        TrajectoryError: no.
    """
    if not error["segment"] <= LARGEST_ERROR:  # not-a-number too
        raise TrajectoryError(
            f"stored as {dtype}, a trajectory's segments would be off by {error['segment']:.1%} of their length, more "
            f"than {LARGEST_ERROR:.0%}; use trajectories.dtype=float32"
        )
