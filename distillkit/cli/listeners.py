"""Who is told of progress on stderr: a bar on a terminal, lines elsewhere, or nobody."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress

from distillkit.cli import console
from distillkit.errors import DistillkitError
from distillkit.progress import Progress, Silent


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere, nothing if ``quiet``."""
    if quiet:
        yield Silent()
    elif console.errors.is_terminal:
        bar = _Bar()
        told = _Tolerant(bar)
        told.safely(bar.start)
        try:
            yield told
        finally:
            told.safely(bar.stop)
    else:
        yield _Tolerant(_Lines())


def tell_of_stop() -> None:
    """A signal was heard, and the run goes on to a place where it can stop; said past all buffers, since what was
    interrupted may be writing itself.
    """
    with contextlib.suppress(OSError):
        os.write(2, b"stopping at the next safe place; once more stops at once\n")


def say_nothing() -> None:
    """Nobody wants to know."""


class _Tolerant:
    """A listener that names the command's flags, and falls silent when its words cannot be written: they are no reason
    to end a run.
    """

    def __init__(self, listener: Progress) -> None:
        self._listener: Progress | None = listener
        self._flags = console.spoken_flags.get()  # here, since threads that tell of something have no context

    def safely(self, tell: Callable[[], None]) -> None:
        if self._listener is None:
            return
        try:
            tell()
        except (OSError, ValueError) as error:  # of a closed file
            if isinstance(error, DistillkitError):
                raise
            self._listener = None

    def stage(self, title: str, total: int, done: int = 0) -> None:
        listener = self._listener
        self.safely(lambda: listener.stage(title, total, done) if listener else None)

    def advance(self, steps: int = 1, **values: float) -> None:
        listener = self._listener
        self.safely(lambda: listener.advance(steps, **values) if listener else None)

    def note(self, message: str) -> None:
        listener, spoken = self._listener, self._flags.spoken(message)
        self.safely(lambda: listener.note(spoken) if listener else None)


def _values(values: dict[str, float]) -> str:
    names = {
        "loss": "loss {:.3f}",
        "lr": "lr {:.4g}",
        "validation": "validation {:.1%}",
        "accuracy": "accuracy {:.1%}",
        "gated": "gated {:.0%}",
        "wild": "wild {:.1%}",
    }
    return "  ".join(names.get(name, name + " {:.4g}").format(value) for name, value in values.items())


class _Bar:
    """A rich progress bar with rate, ETA and the latest figures."""

    def __init__(self) -> None:
        columns = [
            TextColumn("{task.description:<17}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
        ]
        columns += [
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
        ]
        self._bar = RichProgress(*columns, console=console.errors)
        self._task: TaskID | None = None
        self._figures: dict[str, float] = {}
        self._begin, self._made = time.monotonic(), 0

    def start(self) -> None:
        self._bar.start()

    def stop(self) -> None:
        self._bar.stop()

    def stage(self, title: str, total: int, done: int = 0) -> None:
        self._figures, self._begin, self._made = {}, time.monotonic(), 0
        self._task = self._bar.add_task(title, total=total, completed=done, figures="", rate="")

    def advance(self, steps: int = 1, **values: float) -> None:
        if self._task is None:
            return
        self._figures |= values
        self._made += steps
        seconds = max(1e-9, time.monotonic() - self._begin)
        shown = ""
        if self._made:
            shown = f"{self._made / seconds:.1f}/s" if self._made >= seconds else f"{seconds / self._made:.1f} s each"
        self._bar.update(self._task, advance=steps, figures=_values(self._figures), rate=shown)

    def note(self, message: str) -> None:
        self._bar.console.print(message, markup=False)


class _Lines:
    """A line when a stage begins, at every tenth of it (five seconds apart at least), and for notes."""

    def __init__(self) -> None:
        self._title, self._total, self._done, self._told = "", 0, 0, 0.0
        self._figures: dict[str, float] = {}

    def stage(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._done, self._figures = title, total, done, {}
        self._told = time.monotonic()
        console.errors.print(f"{title}: {total} steps" + (f", {done} done before" if done else ""), markup=False)

    def advance(self, steps: int = 1, **values: float) -> None:
        before, self._done = self._done, self._done + steps
        self._figures |= values
        tenth = max(1, self._total // 10)
        due = self._done // tenth > before // tenth and time.monotonic() - self._told >= 5
        if due or (steps and self._done == self._total):
            self._told = time.monotonic()
            console.errors.print(f"{self._title}: {self._done}/{self._total}  {_values(self._figures)}", markup=False)

    def note(self, message: str) -> None:
        console.errors.print(message, markup=False)
