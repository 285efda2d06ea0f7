"""A bar on the terminal of whoever trains on a set and gave no listener of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

EVERY = 0.5
"""Seconds between two looks at the loss, for which a GPU must be waited for."""

Told = Callable[[int, Tensor], None]
"""Called with an epoch that ended, from 0, and its mean loss, on the device that trains."""


@contextmanager
def epoch_bar(epochs: int, console: Console | None = None) -> Iterator[Told]:
    """What draws a bar of ``epochs`` on standard error (or ``console``) where that is a terminal, and else nothing."""
    console = Console(stderr=True) if console is None else console
    if not console.is_terminal:
        yield lambda epoch, loss: None
        return
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[loss]}"))
    with Progress(*columns, TimeRemainingColumn(), console=console, auto_refresh=False, transient=True) as bar:
        task, last = bar.add_task("", total=epochs, loss=""), time.monotonic()

        def told(epoch: int, loss: Tensor) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY:
                bar.update(task, completed=epoch + 1, loss=f"loss {float(loss):.3f}", refresh=True)
                last = time.monotonic()

        yield told


@contextmanager
def told_to(progress: Callable[[int, float], None] | None, epochs: int) -> Iterator[Told]:
    """``progress`` as it wants to be told, or the bar if it is None."""
    if progress is None:
        with epoch_bar(epochs) as told:
            yield told
    else:
        yield lambda epoch, loss: progress(epoch, float(loss))
