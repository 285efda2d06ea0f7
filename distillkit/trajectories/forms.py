"""Trajectory forms by name: what is kept of an expert while it is trained, and how that answers ``point(t)``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from distillkit import storage
from distillkit.errors import ConfigError
from distillkit.records import TrajectorySource
from distillkit.settings import TrajectorySettings
from distillkit.trajectories.compact import DTYPES, check_storage_error, decode, encode, storage_error
from distillkit.trajectories.convex import (
    ConvexTrajectory,
    PathRecorder,
    check_beta,
    check_waypoint_epochs,
    waypoint_epochs,
)
from distillkit.trajectories.store import RawTrajectories, TrajectoryStore


@dataclass(frozen=True)
class Kept:
    """What goes to the disk: the file's tensors, and facts for the record."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)


class Builder(Protocol):
    """Gathers one expert's trajectory while it is trained, or read from a raw one."""

    def keep(self, epoch: int, parameters_P: Tensor) -> None:
        """The parameters [P] after ``epoch`` epochs, in order from 0; the tensor is the builder's own."""

    def finish(self) -> Kept:
        """After the last epoch.

        Raises:
            TrajectoryError: the form cannot hold this trajectory.
        """


@dataclass(frozen=True)
class Form:
    """A trajectory form.

    ``check``: whether settings fit experts of so many epochs; ``setup``: which settings the files depend on (none:
    those of the raw form, which came first); ``builder``: for tensors of given sizes and a number of epochs; ``size``:
    bytes of an expert of so many epochs and parameters; ``open``: the first so many experts of a store;
    ``continuous``: whether t may be any real number.
    """

    check: Callable[[TrajectorySettings, int], None]
    setup: Callable[[TrajectorySettings], dict[str, Any]]
    builder: Callable[[TrajectorySettings, tuple[int, ...], int], Builder]
    size: Callable[[TrajectorySettings, int, int], int]
    open: Callable[[TrajectoryStore, int], TrajectorySource]
    continuous: bool


class RawBuilder:
    """Keeps every epoch as it is."""

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def keep(self, epoch: int, parameters_P: Tensor) -> None:
        """One tensor an epoch."""
        self._tensors[f"epoch-{epoch:04d}"] = parameters_P

    def finish(self) -> Kept:
        """All of them."""
        return Kept(self._tensors)


class ConvexBuilder:
    """Keeps path lengths and waypoints (MCT)."""

    def __init__(self, settings: TrajectorySettings, sizes: tuple[int, ...], epochs: int) -> None:
        self._settings = settings
        self._path = PathRecorder(_waypoints(settings, epochs), sizes, whole=settings.beta == "projection")

    def keep(self, epoch: int, parameters_P: Tensor) -> None:
        """Its distance from the epoch before; itself only near a waypoint."""
        self._path.keep(epoch, parameters_P)

    def finish(self) -> Kept:
        """The waypoints in the dtype of the settings, and how far that moved them.

        Raises:
            TrajectoryError: too far.
        """
        trajectory = self._path.trajectory(self._settings.beta, self._settings.smooth)
        tensors = encode(trajectory, self._settings.dtype)
        error = storage_error(trajectory, decode(tensors))
        check_storage_error(error, self._settings.dtype)
        return Kept(tensors, {"storage_error": error})


DECODED_EXPERTS = 32
"""How many are kept in memory; an outer step reads one, in shuffled passes."""


class ConvexTrajectories:
    """The convexified form of the ``TrajectorySource`` protocol: any real epoch."""

    continuous = True

    def __init__(self, store: TrajectoryStore, count: int) -> None:
        self._store = store
        self._decoded: dict[int, ConvexTrajectory] = {}
        self.count = count
        self.final_epoch = int(store.record(0)["epochs"])

    def point(self, expert: int, epoch: float) -> Tensor:
        """Flat parameters [P], float32, on the CPU.

        Raises:
            TrajectoryError: ``epoch`` is not in 0 .. ``final_epoch``, or the file is damaged.
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


def _convex_size(settings: TrajectorySettings, epochs: int, parameters: int) -> int:
    return len(_waypoints(settings, epochs)) * parameters * DTYPES[settings.dtype].itemsize


FORMS: dict[str, Form] = {
    "raw": Form(
        check=lambda settings, epochs: None,
        setup=lambda settings: {},
        builder=lambda settings, sizes, epochs: RawBuilder(),
        size=lambda settings, epochs, parameters: (epochs + 1) * parameters * 4,
        open=RawTrajectories,
        continuous=False,
    ),
    "convex": Form(
        check=_check_convex,
        setup=lambda settings: {"form": settings.model_dump(mode="json", exclude={"keep_raw"})},
        builder=ConvexBuilder,
        size=_convex_size,
        open=ConvexTrajectories,
        continuous=True,
    ),
}


def find_form(name: str) -> Form:
    """The form called ``name``.

    Raises:
        ConfigError: unknown.
    """
    if name not in FORMS:
        raise ConfigError(f"trajectories.form={name!r} is unknown; known: {', '.join(FORMS)}")
    return FORMS[name]


def open_trajectories(store: TrajectoryStore, count: int) -> TrajectorySource:
    """The first ``count`` experts of ``store``, in its form.

    Raises:
        ConfigError: the form is unknown.
    """
    return find_form(store.form).open(store, count)
