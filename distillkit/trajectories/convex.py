"""MCT: convexified trajectories (Zhong et al., CVPR 2025, arXiv:2406.19827, Sec. 3; formulas of the released code).

An expert's noisy path becomes straight segments between a few waypoints. Per parameter tensor l, inside the segment
from epoch a to epoch b,

    θ_l(t) = (1 - β_l(t)) W_l(a) + β_l(t) W_l(b),
    β_l(t) = Σ_{a<=p<t} |θ*_l(p+1) - θ*_l(p)| / Σ_{a<=p<b} |θ*_l(p+1) - θ*_l(p)|    (0 where the tensor never moved)

with β linear between epochs, so that t may be any real number. Legend: P parameters in L tensors, W waypoints, E
epochs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distillkit.errors import ConfigError, TrajectoryError


@dataclass(frozen=True)
class ConvexTrajectory:
    """A path of straight segments.

    ``epochs``: W ascending waypoint epochs, the first 0; ``waypoints`` [W, P]; ``betas``: for each segment
    [b - a + 1, L]; ``sizes``: parameters of each of the L tensors, in flat order.
    """

    epochs: tuple[int, ...]
    waypoints: Tensor
    betas: tuple[Tensor, ...]
    sizes: tuple[int, ...]

    def point(self, epoch: float) -> Tensor:
        """Parameters [P] at real ``epoch``; a waypoint exactly at its own, the last one included.

        Raises:
            TrajectoryError: outside of 0 .. E.
        """
        if not 0 <= epoch <= self.epochs[-1]:
            raise TrajectoryError(f"this trajectory runs from epoch 0 to {self.epochs[-1]}, there is no epoch {epoch}")
        if epoch in self.epochs:
            return self.waypoints[self.epochs.index(int(epoch))].clone()
        segment = sum(epoch > waypoint for waypoint in self.epochs) - 1
        begin, end = self.waypoints[segment], self.waypoints[segment + 1]
        beta = self._beta(segment, epoch - self.epochs[segment]).to(begin)
        pieces = zip(begin.split(self.sizes), end.split(self.sizes), beta, strict=True)
        return torch.cat([torch.lerp(a, b, weight) for a, b, weight in pieces])

    def _beta(self, segment: int, offset: float) -> Tensor:
        """β [L] at ``offset`` epochs behind the segment's begin, linear between whole epochs."""
        rows, whole = self.betas[segment], math.floor(offset)
        return torch.lerp(rows[whole], rows[whole + 1], offset - whole)


def waypoint_epochs(epochs: int, count: int) -> tuple[int, ...]:
    """``count`` epochs from 0 to ``epochs``: the released ``range(0, E + 1, (E + 1) // (W - 1))``, then E.

    Raises:
        ConfigError: fewer than two, or more than there are epochs.
    """
    if not 2 <= count <= epochs + 1:
        raise ConfigError(f"trajectories.waypoints={count} must be 2 to {epochs + 1} for experts of {epochs} epochs")
    return (*range(0, epochs + 1, (epochs + 1) // (count - 1))[: count - 1], epochs)


def check_waypoint_epochs(chosen: Sequence[int], epochs: int) -> tuple[int, ...]:
    """``chosen`` as a tuple.

    Raises:
        ConfigError: not ascending from 0 to ``epochs``.
    """
    if len(chosen) < 2 or list(chosen) != sorted(set(chosen)) or chosen[0] != 0 or chosen[-1] != epochs:
        raise ConfigError(f"trajectories.waypoint_epochs={list(chosen)} must ascend from 0 to the last epoch, {epochs}")
    return tuple(chosen)


def path_length_beta(lengths_TL: Tensor) -> Tensor:
    """β [T, L] of a segment from the lengths of its T - 1 steps, [T - 1, L]: the relative path length so far."""
    total = lengths_TL.sum(0)
    so_far = torch.cat([torch.zeros_like(lengths_TL[:1]), lengths_TL.cumsum(0)])
    so_far[-1] = total  # the end is 1 exactly, whatever the order of summation
    return so_far / torch.where(total > 0, total, torch.ones_like(total))


def uniform_beta(epochs: int, tensors: int) -> Tensor:
    """β [epochs + 1, L] = t / epochs, the same for all tensors (ablation)."""
    return (torch.arange(epochs + 1, dtype=torch.float64) / epochs)[:, None].repeat(1, tensors)


def decreasing_beta(epochs: int, tensors: int) -> Tensor:
    """β [epochs + 1, L] of steps that shrink in proportion to what is left, K + 1 - t of K (ablation)."""
    steps = torch.arange(epochs, 0, -1, dtype=torch.float64)
    return path_length_beta(steps[:, None].repeat(1, tensors))


def projection_beta(points_TP: Tensor, tensors: int) -> Tensor:
    """β [T, L] = <θ(t) - θ(a), θ(b) - θ(a)> / |θ(b) - θ(a)|², one scalar for all tensors (ablation)."""
    moved = (points_TP - points_TP[0]).double()
    total = moved[-1].square().sum()
    scalar = moved @ moved[-1] / torch.where(total > 0, total, torch.ones_like(total))
    return scalar[:, None].repeat(1, tensors)


def smoothed_waypoints(point: Callable[[int], Tensor], epochs: Sequence[int], count: int | None = None) -> Tensor:
    """Waypoints [W, P]: an inner one is the mean of its two neighbouring epochs (itself left out), the last that of the
    last two epochs, the first stays; with two waypoints none is changed (released code). The first ``count`` of them.
    """
    first = range(len(epochs) if count is None else count)
    if len(epochs) == 2:
        return torch.stack([point(epochs[index]) for index in first])

    def smoothed(index: int) -> Tensor:
        here = epochs[index]
        if index == 0:
            return point(here)
        if index == len(epochs) - 1:
            return (point(here - 1) + point(here)) / 2
        return (point(here - 1) + point(here + 1)) / 2

    return torch.stack([smoothed(index) for index in first])


def waypoints_read(epochs: Sequence[int], read: float) -> int:
    """How many waypoints there must be, from the first on, for points up to epoch ``read``: the segment that holds it
    ends at one.
    """
    return 1 + next(index for index, epoch in enumerate(epochs) if epoch >= read and index > 0)


def epochs_behind(epochs: Sequence[int], count: int, smooth: bool) -> int:
    """Epochs of training behind the first ``count`` waypoints: an inner one is smoothed by the epoch after it."""
    inner = smooth and len(epochs) > 2 and count < len(epochs)
    return epochs[count - 1] + (1 if inner else 0)


@dataclass
class PathRecorder:
    """What a convexified trajectory needs of a real one, gathered while it is trained.

    Path lengths of every epoch; parameters of the waypoints and of the epochs that smooth them only, or, where β asks
    for it (``whole``), of all. ``epochs``: all waypoints of the path, of which the first ``count`` are wanted (None:
    all).
    """

    epochs: tuple[int, ...]
    sizes: tuple[int, ...]
    whole: bool = False
    count: int | None = None
    lengths: list[Tensor] = field(default_factory=list)
    kept: dict[int, Tensor] = field(default_factory=dict)
    _last: Tensor | None = None

    def keep(self, epoch: int, parameters_P: Tensor) -> dict[str, Tensor]:
        """The parameters after ``epoch`` epochs, in order of epochs; what of them is remembered, by name."""
        new = {}
        if self._last is not None:
            steps = (parameters_P.double() - self._last.double()).split(self.sizes)
            self.lengths.append(torch.stack([step.norm() for step in steps]))
            new[f"length-{epoch:04d}"] = self.lengths[-1]
        self._last = parameters_P
        if self.whole or any(abs(epoch - waypoint) <= 1 for waypoint in self.epochs):
            self.kept[epoch] = parameters_P
            new[f"point-{epoch:04d}"] = parameters_P
        return new

    def items(self) -> dict[str, Tensor]:
        """All that is remembered, by name."""
        lengths = {f"length-{epoch:04d}": length for epoch, length in enumerate(self.lengths, start=1)}
        return lengths | {f"point-{epoch:04d}": point for epoch, point in self.kept.items()}

    def restore(self, items: Mapping[str, Tensor], last_P: Tensor) -> None:
        """Remember ``items``, and the parameters after the last epoch."""
        self.lengths = [items[name] for name in sorted(items) if name.startswith("length-")]
        self.kept = {int(name[6:]): items[name] for name in sorted(items) if name.startswith("point-")}
        self._last = last_P

    def betas(self, kind: str) -> tuple[Tensor, ...]:
        """β of each segment, [b - a + 1, L] float64.

        Raises:
            ConfigError: ``kind`` is unknown.
        """
        check_beta(kind)
        found, tensors, wanted = [], len(self.sizes), self.epochs[: self.count]
        for begin, end in itertools.pairwise(wanted):
            if kind == "path-length":
                found.append(path_length_beta(torch.stack(self.lengths[begin:end])))
            elif kind == "uniform":
                found.append(uniform_beta(end - begin, tensors))
            elif kind == "decreasing":
                found.append(decreasing_beta(end - begin, tensors))
            else:
                points = torch.stack([self.kept[epoch] for epoch in range(begin, end + 1)])
                found.append(projection_beta(points, tensors))
        return tuple(found)

    def trajectory(self, beta: str, smooth: bool) -> ConvexTrajectory:
        """The convexified trajectory of what was recorded, waypoints in the dtype of the parameters."""
        wanted = self.epochs[: self.count]
        if smooth:
            waypoints = smoothed_waypoints(self.kept.__getitem__, self.epochs, len(wanted))
        else:
            waypoints = torch.stack([self.kept[epoch] for epoch in wanted])
        return ConvexTrajectory(wanted, waypoints, self.betas(beta), self.sizes)


BETAS = ("path-length", "uniform", "decreasing", "projection")


def check_beta(kind: str) -> None:
    """Is there such a β?

    Raises:
        ConfigError: no.
    """
    if kind not in BETAS:
        raise ConfigError(f"trajectories.beta={kind!r} is unknown; known: {', '.join(BETAS)}")
