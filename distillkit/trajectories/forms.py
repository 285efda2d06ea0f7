"""Trajectory forms by name: what is kept of an expert while it is trained, and how that answers ``point(t)``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from distillkit import storage
from distillkit.parts import Choice, Seam
from distillkit.records import TrajectorySource
from distillkit.settings import TrajectorySettings
from distillkit.trajectories.compact import DTYPES, check_storage_error, decode, encode, storage_error
from distillkit.trajectories.convex import (
    ConvexTrajectory,
    PathRecorder,
    check_beta,
    check_waypoint_epochs,
    epochs_behind,
    waypoint_epochs,
    waypoints_read,
)
from distillkit.trajectories.store import RawTrajectories, TrajectoryStore


@dataclass(frozen=True)
class Kept:
    """What goes to the disk: the file's tensors, facts for the record, and what besides the file a builder must
    remember to go on.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)
    rest: dict[str, Tensor] = field(default_factory=dict)


class Builder(Protocol):
    """Gathers one expert's trajectory while it is trained, or read from a raw one."""

    def keep(self, epoch: int, parameters_P: Tensor) -> dict[str, Tensor]:
        """The parameters [P] after ``epoch`` epochs, in order from 0; the tensor is the builder's own.

        Returns:
            What of it the builder remembers, by name: all that it was told together restores it.
        """

    def restore(self, items: Mapping[str, Tensor], last_P: Tensor) -> None:
        """Go on from what ``keep`` returned in all epochs so far, and the parameters after the last of them."""

    def finish(self) -> Kept:
        """After the last epoch.

        Raises:
            TrajectoryError: the form cannot hold this trajectory.
        """


@dataclass(frozen=True, kw_only=True)
class TrajectoryForm(Choice):
    """A trajectory form.

    ``check``: whether settings fit experts of so many epochs; ``setup``: which settings the files depend on (none:
    those of the raw form, which came first), experts being of so many epochs; ``reach``: epochs to train, of so many
    at most, for points up to a given epoch; ``builder``: for tensors of given sizes, a number of epochs at most and
    one that is trained; ``size``: bytes of an expert of so many epochs at most, trained for so many, and so many
    parameters; ``open``: the first so many experts of a store, up to an epoch if one is given; ``continuous``: whether
    t may be any real number.
    """

    check: Callable[[TrajectorySettings, int], None]
    setup: Callable[[TrajectorySettings, int], dict[str, Any]]
    reach: Callable[[TrajectorySettings, int, float], int]
    builder: Callable[[TrajectorySettings, tuple[int, ...], int, int], Builder]
    size: Callable[[TrajectorySettings, int, int, int], int]
    open: Callable[[TrajectoryStore, int, int | None], TrajectorySource]
    continuous: bool


class RawBuilder:
    """Keeps every epoch as it is."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def keep(self, epoch: int, parameters_P: Tensor) -> dict[str, Tensor]:
        """One tensor an epoch."""
        self._tensors[f"epoch-{epoch:04d}"] = parameters_P
        return {f"epoch-{epoch:04d}": parameters_P}

    def restore(self, items: Mapping[str, Tensor], last_P: Tensor) -> None:
        """All epochs so far."""
        self._tensors = dict(items)

    def finish(self) -> Kept:
        """All of them."""
        return Kept(self._tensors)


class ConvexBuilder:
    """Keeps path lengths and waypoints (MCT)."""

    def __init__(self, settings: TrajectorySettings, sizes: tuple[int, ...], epochs: int, trained: int) -> None:
        self._settings, waypoints = settings, _waypoints(settings, epochs)
        behind = [epochs_behind(waypoints, count, settings.smooth) for count in range(1, len(waypoints) + 1)]
        count = sum(need <= trained for need in behind)
        self._path = PathRecorder(waypoints, sizes, whole=settings.beta == "projection", count=count)

    def keep(self, epoch: int, parameters_P: Tensor) -> dict[str, Tensor]:
        """Its distance from the epoch before; itself only near a waypoint."""
        return self._path.keep(epoch, parameters_P)

    def restore(self, items: Mapping[str, Tensor], last_P: Tensor) -> None:
        """Path lengths and the points near waypoints."""
        self._path.restore(items, last_P)

    def finish(self) -> Kept:
        """The waypoints in the dtype of the settings, and how far that moved them.

        Raises:
            TrajectoryError: too far.
        """
        trajectory = self._path.trajectory(self._settings.beta, self._settings.smooth)
        tensors = encode(trajectory, self._settings.dtype)
        error = storage_error(trajectory, decode(tensors))
        check_storage_error(error, self._settings.dtype)
        unfinished = trajectory.epochs != self._path.epochs
        facts = {"storage_error": error, "last_point": trajectory.epochs[-1]}
        return Kept(tensors, facts, self._path.items() if unfinished else {})


DECODED_EXPERTS = 32
"""How many are kept in memory; an outer step reads one, in shuffled passes."""


class ConvexTrajectories:
    """The convexified form of the ``TrajectorySource`` protocol: any real epoch."""

    continuous = True

    def __init__(self, store: TrajectoryStore, count: int, until: int | None = None) -> None:
        self._store = store
        self._decoded: dict[int, ConvexTrajectory] = {}
        self.count = count
        self._ends = store.ends(count, until)
        self.final_epoch = min(self._ends)

    def end(self, expert: int) -> int:
        """The last epoch that can be asked of it."""
        return self._ends[expert]

    def point(self, expert: int, epoch: float) -> Tensor:
        """Flat parameters [P], float32, on the CPU.

        Raises:
            TrajectoryError: ``epoch`` is not on the expert's path, or the file is damaged.
        """
        if expert not in self._decoded:
            while len(self._decoded) >= DECODED_EXPERTS:
                del self._decoded[next(iter(self._decoded))]  # the one that was read first
            tensors, _ = storage.read_tensors(self._store.tensors_path(expert))
            self._decoded[expert] = decode(tensors)
        return self._decoded[expert].point(epoch)


def _waypoints(settings: TrajectorySettings, epochs: int) -> tuple[int, ...]:
    if settings.waypoint_epochs is not None:
        return check_waypoint_epochs(settings.waypoint_epochs, epochs)
    return waypoint_epochs(epochs, settings.waypoints)


def _check_convex(settings: TrajectorySettings, epochs: int) -> None:
    check_beta(settings.beta)
    _waypoints(settings, epochs)


def _convex_reach(settings: TrajectorySettings, epochs: int, read: float) -> int:
    waypoints = _waypoints(settings, epochs)
    return epochs_behind(waypoints, waypoints_read(waypoints, read), settings.smooth)


def _convex_size(settings: TrajectorySettings, epochs: int, trained: int, parameters: int) -> int:
    count = sum(waypoint <= trained for waypoint in _waypoints(settings, epochs))
    return count * parameters * DTYPES[settings.dtype].itemsize


FORMS: Seam[TrajectoryForm] = Seam(
    "trajectories.form",
    {
        "raw": TrajectoryForm(
            check=lambda settings, epochs: None,
            setup=lambda settings, epochs: {},
            reach=lambda settings, epochs, read: math.ceil(read),
            builder=lambda settings, sizes, epochs, trained: RawBuilder(),
            size=lambda settings, epochs, trained, parameters: (trained + 1) * parameters * 4,
            open=RawTrajectories,
            continuous=False,
        ),
        "convex": TrajectoryForm(
            check=_check_convex,
            setup=lambda settings, epochs: {
                "form": settings.model_dump(mode="json", exclude={"keep_raw"}),
                "epochs": epochs,  # the waypoints are spread over them
            },
            reach=_convex_reach,
            builder=ConvexBuilder,
            size=_convex_size,
            open=ConvexTrajectories,
            continuous=True,
            reads=tuple(f"trajectories.{name}" for name in TrajectorySettings.model_fields if name != "form"),
        ),
    },
)


def open_trajectories(store: TrajectoryStore, count: int, until: int | None = None) -> TrajectorySource:
    """The first ``count`` experts of ``store``, in its form; not beyond epoch ``until``, if one is given.

    Raises:
        ConfigError: the form is unknown.
    """
    return FORMS.named(store.form).open(store, count, until)
