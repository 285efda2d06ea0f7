"""How a long stage tells what it is doing: a protocol, and the silent form that the library uses by default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from distillkit.errors import ConfigError


class Progress(Protocol):
    """A listener of one run. Stages follow one another; inside a stage ``advance`` counts towards ``total``."""

    def stage(self, title: str, total: int, done: int = 0) -> None:
        """A stage begins, of ``total`` steps, ``done`` of which an earlier run did."""

    def advance(self, steps: int = 1, **values: float) -> None:
        """``steps`` more are done; ``values`` are the figures worth showing (matching loss, lr, accuracy)."""

    def note(self, message: str) -> None:
        """One line for the person at the terminal."""


class Silent:
    """Says nothing."""

    def stage(self, title: str, total: int, done: int = 0) -> None:
        """Ignored."""

    def advance(self, steps: int = 1, **values: float) -> None:
        """Ignored."""

    def note(self, message: str) -> None:
        """Ignored."""


class Overheard:
    """A ``listener`` that is told everything, with ``heard`` called whenever work was done."""

    def __init__(self, listener: Progress, heard: Callable[[], None]) -> None:
        self.listener, self.heard = listener, heard

    def stage(self, title: str, total: int, done: int = 0) -> None:
        """Passed on."""
        self.listener.stage(title, total, done)

    def advance(self, steps: int = 1, **values: float) -> None:
        """Passed on, and heard."""
        self.listener.advance(steps, **values)
        self.heard()

    def note(self, message: str) -> None:
        """Passed on."""
        self.listener.note(message)


def check_listener(progress: object) -> None:
    """Is ``progress`` a listener, or None?

    Raises:
        ConfigError: no.
    """
    if progress is not None and not all(hasattr(progress, name) for name in ("stage", "advance", "note")):
        raise ConfigError(f"progress is a {type(progress).__name__}, expected a listener (distillkit.Progress)")
