"""Trajectory forms by name: how a stored trajectory answers ``point(expert, epoch)``."""

from __future__ import annotations

from collections.abc import Callable

from distillkit.errors import ConfigError
from distillkit.records import TrajectorySource
from distillkit.trajectories.store import RawTrajectories, TrajectoryStore

FORMS: dict[str, Callable[[TrajectoryStore, int], TrajectorySource]] = {
    "raw": RawTrajectories,
}


def check_form(form: str) -> None:
    """Is there such a form?

    Raises:
        ConfigError: no.
    """
    if form not in FORMS:
        raise ConfigError(f"trajectories.form={form!r} is unknown; known: {', '.join(FORMS)}")


def open_trajectories(form: str, store: TrajectoryStore, count: int) -> TrajectorySource:
    """The first ``count`` experts of ``store`` in the form called ``form``.

    Raises:
        ConfigError: the form is unknown.
    """
    check_form(form)
    return FORMS[form](store, count)
