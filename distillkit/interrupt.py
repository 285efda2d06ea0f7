"""Stopping on SIGINT, SIGTERM and SIGHUP at a place where nothing is lost; at once where there is nothing to lose."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from distillkit.errors import Interrupted

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
ECHO = 0.1
"""Seconds in which a second signal is the first one again: ``timeout`` sends it to a process and to its group, and no
hand is so fast."""
AGAIN = "run the same command again to continue"


class StopRequest:
    """Set by a signal; long loops look at it where they can stop."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.watch: Callable[[], None] = lambda: None
        """Raises if something else than a signal ends the run, as another process of it that failed."""
        self._at_once: tuple[str, str] | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def check(self, where: str, advice: str = AGAIN) -> None:
        """Raise ``Interrupted`` if a stop was asked for; ``where`` says what was saved."""
        self.raise_if_asked(where, advice)
        self.watch()

    def raise_if_asked(self, where: str, advice: str = AGAIN) -> None:
        """The same, by a signal alone."""
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            raise Interrupted(f"stopped by {name} {where}; {advice}")

    def follow(self) -> None:
        """Another process of the run was told to stop: this one stops at the same place."""
        if self.signal is None:
            self.signal = signal.SIGTERM

    @contextlib.contextmanager
    def at_once(self, where: str, advice: str = AGAIN) -> Iterator[None]:
        """Inside the block a signal raises ``Interrupted`` there and then, in the middle of whatever is done."""
        self.raise_if_asked(where, advice)
        before, self._at_once = self._at_once, (where, advice)
        try:
            yield
        except Exception:
            self.raise_if_asked(where, advice)  # an import that was cut short says something else
            raise
        finally:
            self._at_once = before
        self.raise_if_asked(where, advice)

    def ask(self, number: int) -> bool:
        """A signal came; False if one had come before.

        Raises:
            Interrupted: this is a place to stop at once.
        """
        if self.signal is not None:
            return False
        self.signal = number
        if self._at_once is not None:
            self.raise_if_asked(*self._at_once)
        return True


def _said_to_nobody() -> None:
    """Default listener: says nothing."""


@contextlib.contextmanager
def stop_on_signals(launched: bool = False, heard: Callable[[], None] = _said_to_nobody) -> Iterator[StopRequest]:
    """Turn the first SIGINT, SIGTERM or SIGHUP inside the block into a request; a second one stops at once, but where
    the process was ``launched`` by one that passes signals on: there they come twice.

    A SIGHUP that is ignored, as ``nohup`` has it, stays so. ``heard`` is called when the first one was taken.

    Raises:
        Interrupted: a signal came while the program was being loaded.
    """
    request = StopRequest()
    if _Early.signal is not None:
        request.signal = _Early.signal
        request.raise_if_asked("before anything was begun", "nothing was changed")

    first = -math.inf  # of those who follow another process none came here

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if request.ask(number):
            first = time.monotonic()
            heard()
        elif not launched and time.monotonic() - first > ECHO:
            raise KeyboardInterrupt

    with _handling(handle):
        yield request


class _Early:
    """The signal that came while the program was being loaded."""

    signal: int | None = None


def came_early() -> bool:
    """Whether a signal came while the program was being loaded."""
    return _Early.signal is not None


@contextlib.contextmanager
def early_signals() -> Iterator[None]:
    """Inside the block a signal raises ``KeyboardInterrupt``, whichever it is, and is remembered: a module that is
    being loaded just then may take the exception for another.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        _Early.signal = number
        raise KeyboardInterrupt

    _Early.signal = None
    try:
        with _handling(handle):
            yield
    finally:
        _Early.signal = None


@contextlib.contextmanager
def _handling(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    hangup = getattr(signal, "SIGHUP", None)
    numbers = [number for number in SIGNALS if number != hangup or signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
