"""Stopping on SIGINT and SIGTERM at a place where nothing is lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from distillkit.errors import Interrupted

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StopRequest:
    """Set by a signal; long loops look at it where they can stop."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.watch: Callable[[], None] = lambda: None
        """Raises if something else than a signal ends the run, as another process of it that failed."""

    def __bool__(self) -> bool:
        return self.signal is not None

    def check(self, where: str, advice: str = "run the same command again to continue") -> None:
        """Raise ``Interrupted`` if a stop was asked for; ``where`` says what was saved."""
        self.raise_if_asked(where, advice)
        self.watch()

    def raise_if_asked(self, where: str, advice: str = "run the same command again to continue") -> None:
        """The same, by a signal alone."""
        if self.signal is not None:
            name = signal.Signals(self.signal).name
            raise Interrupted(f"stopped by {name} {where}; {advice}")

    def follow(self) -> None:
        """Another process of the run was told to stop: this one stops at the same place."""
        if self.signal is None:
            self.signal = signal.SIGTERM


@contextlib.contextmanager
def stop_on_signals(launched: bool = False) -> Iterator[StopRequest]:
    """Turn the first SIGINT, SIGTERM or SIGHUP inside the block into a request; a second one stops at once, but where
    the process was ``launched`` by one that passes signals on: there they come twice.
    """
    request = StopRequest()

    def handle(number: int, _frame: FrameType | None) -> None:
        if request.signal is None:
            request.signal = number
        elif not launched:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
