"""What surrounds a command that works for a while: who listens, who stops it, which processes share it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from distillkit.cli import listeners

if TYPE_CHECKING:
    from distillkit.distributed import World
    from distillkit.interrupt import StopRequest
    from distillkit.progress import Progress


@contextmanager
def running(quiet: bool) -> Iterator[tuple[Progress, StopRequest]]:
    """Who listens to a command of one process, and who stops it."""
    from distillkit.interrupt import stop_on_signals

    with listeners.progress(quiet) as progress, stop_on_signals(heard=_told(quiet)) as stop:
        yield progress, stop


@contextmanager
def running_together(quiet: bool) -> Iterator[tuple[Progress, StopRequest, World]]:
    """Who listens to a command that several processes may share, who stops it, and the processes."""
    from distillkit.distributed import is_launched, joined
    from distillkit.interrupt import stop_on_signals

    with (
        listeners.progress(quiet) as progress,
        stop_on_signals(is_launched(), _told(quiet)) as stop,
        joined(stop) as processes,
    ):
        yield progress, stop, processes


def _told(quiet: bool) -> Callable[[], None]:
    return listeners.say_nothing if quiet else listeners.tell_of_stop
