"""Output: results on stdout, progress and errors on stderr, one sentence an error."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from distillkit.cli.flags import Flags
from distillkit.errors import DistillkitError
from distillkit.interrupt import came_early
from distillkit.progress import Progress, Silent

errors = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False, soft_wrap=True)
P = ParamSpec("P")
_NO_FLAGS = Flags()
_flags: ContextVar[Flags] = ContextVar("flags", default=_NO_FLAGS)
"""Of the command that runs: where messages of the library are shown, these stand for what the messages name."""
EXTRAS = {"timm": "timm", "torchvision": "timm", "sklearn": "distill", "matplotlib": "distill"}
EXTRAS |= dict.fromkeys(("datasets", "pyarrow", "huggingface_hub"), "hub")
"""What to install for a module that using a set does not need."""


NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "failed to map segment", "std::bad_alloc")
"""What torch, the system and its loader say where there is no memory."""


def speak_any_encoding() -> None:
    """A terminal that lacks a character gets a question mark, not an error at the end of a long run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def write_a_log() -> None:
    """What this process would say on the terminal goes into a file instead: in a run of several processes, the first
    one alone speaks.
    """
    from distillkit import storage

    folder = storage.make_folder(storage.cache_root() / "ranks")
    log = (folder / f"{os.environ.get('MASTER_PORT', '0')}-rank-{os.environ['RANK']}.log").open("a", buffering=1)
    sys.stdout = sys.stderr = log


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn errors into a sentence and an exit status; with ``--debug`` let the traceback through."""

    @functools.wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        before = _flags.set(Flags.of(command))
        try:
            with _own_warnings():
                command(*args, **kwargs)
            sys.stdout.flush()
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            _fail("interrupted", 130, kwargs)
        except Exception as error:
            if kwargs.get("debug"):
                raise
            if came_early() and not isinstance(error, DistillkitError):
                _fail("interrupted", 130, kwargs)  # what a module says that was being loaded
            _fail(_sentence(error), getattr(error, "exit_status", 1), kwargs)
        finally:
            _flags.reset(before)

    return wrapper


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Warnings of the library as a sentence each; those of others as Python shows them."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category.__module__ == DistillkitError.__module__:
                errors.print(printable(f"warning: {_flags.get().spoken(str(message))}"), markup=False)
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _sentence(error: Exception) -> str:
    if isinstance(error, DistillkitError):
        return _flags.get().spoken(str(error))
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "out of memory; lower distill.batch_size, network.width or --ipc, or --set distill.keep_gib=0, "
            "distill.together=never, experts.together=1; run the same command again to continue"
        )
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY):
        return (
            "out of memory; --set distill.batch_size=100 (or less), a smaller --ipc, network.width, --image-size or "
            "dataset.max_train needs less, as does distill.keep_gib=0; run the same command again to continue"
        )
    if isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] in EXTRAS:
        module = str(error.name).split(".")[0]
        return f"this needs {module}, which is not installed: pip install 'distillkit[{EXTRAS[module]}]'"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
    first = (str(error).strip().splitlines() or [""])[0]
    return f"unexpected {type(error).__name__}: {first} (--debug shows where; please report it)"


def _fail(message: str, status: int, options: dict[str, Any]) -> None:
    try:
        if options.get("as_json"):
            print_json({"error": message, "exit_status": status})
        sys.stdout.flush()
    except OSError:  # what cannot be written now cannot be at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        errors.print(printable(f"error: {message}".replace("\n", " ")), markup=False)
    raise typer.Exit(status)


def print_json(value: Any) -> None:
    """Exactly one JSON object on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    """A table on stdout."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for position, name in enumerate(header):
        table.add_column(name, justify="left" if position == 0 else "right", no_wrap=position == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # text from elsewhere is no markup
    results.print(table)


# What decides where things are and what is shown, not what comes out: the record leaves it away, paths above all.
_LOCAL = ("--out", "--data-root", "--tracker", "--token")
_LOCAL_KEY = "dataset.data_root="
_LOCAL_FLAGS = ("--yes", "-y", "--json", "--quiet", "-q", "--debug")


def command_line() -> str:
    """The command as typed, without options that have no influence on the result and with names instead of paths."""
    kept, words = ["distillkit"], sys.argv[1:]
    skip = False
    for word, after in zip(words, [*words, ""][1:], strict=True):
        option, _, value = word.partition("=")
        dropped = skip or word in _LOCAL_FLAGS or option in _LOCAL or (word == "--set" and after.startswith(_LOCAL_KEY))
        skip = not skip and (word in _LOCAL or (word == "--set" and after.startswith(_LOCAL_KEY)))
        if not dropped:
            kept.append(f"{option}={_without_folders(value)}" if value else _without_folders(word))
    return shlex.join(kept)


def _without_folders(word: str) -> str:
    """The last part of a path; what names no file here (a Hub id, an architecture) as it is."""
    path = Path(word.strip("\"'"))  # as --set takes it, a text may be quoted
    try:
        local = path.is_absolute() or word.startswith((".", "~")) or path.exists()
    except (OSError, ValueError):
        return word
    return (path.name or word) if local and "/" in word else word


def print_lines(lines: dict[str, str]) -> None:
    """A name and a text each line; texts may come from others' files, so control characters are taken out."""
    width = max(len(name) for name in lines) + 2
    for name, text in lines.items():
        results.print(printable(f"{name:<{width}}{text}"), markup=False)


def print_results(folder: Path, results_json: dict[str, Any]) -> None:
    """The table of an artifact's results, and where to look at it."""
    from distillkit.records import EvalReport

    rows = [(f"this set, {name}", row) for name, row in results_json["architectures"].items()]
    if results_json.get("float32"):
        rows.append(("as float32", results_json["float32"]))
    if results_json["uint8"]:
        rows.append(("this set, 8-bit view", results_json["uint8"]))
    if results_json.get("hard_labels"):
        rows.append(("this set, hard labels", results_json["hard_labels"]))
    rows += list(results_json["baselines"].items())
    rows += [(f"this set, {name}, its own recipe", row) for name, row in results_json.get("tuned", {}).items()]
    table = [[name, percent(EvalReport.from_json(row)), str(row["n"]), f"{row['lr']:.4g}"] for name, row in rows]
    print_table("Test accuracy (%) of fresh networks", ["trained on", "accuracy", "n", "lr"], table)
    habit = results_json.get("paper_protocol")
    if habit:
        words = f"{100 * habit['accuracy']:.1f} at step {habit['step']}"
        results.print(f"paper protocol (maximum over checkpoints on test data): {words}", markup=False)
    results.print(f"\nartifact: {folder}", markup=False)
    results.print(f"look at:  {folder / 'preview.png'}", markup=False)


def printable(text: str) -> str:
    """``text`` without the characters that a terminal takes for commands."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def print_files(title: str, files: dict[str, int], as_json: bool, **facts: str) -> None:
    """Files with their sizes, as a table or as one JSON object with ``facts``."""
    if as_json:
        print_json({**facts, "files": files, "dry_run": True})
        return
    rows = [[name, f"{size:,}"] for name, size in files.items()]
    print_table(title, ["file", "bytes"], [*rows, ["all", f"{sum(files.values()):,}"]])


def percent(report: Any) -> str:
    """``87.3 ± 0.4`` of an EvalReport."""
    return f"{100 * report.mean:.1f} ± {100 * report.std:.1f}"


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """A bar on a terminal, plain lines elsewhere, nothing if ``quiet``."""
    if quiet:
        yield Silent()
    elif errors.is_terminal:
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
        self._flags = _flags.get()  # here, since threads that tell of something have no context

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
        self._bar = RichProgress(*columns, console=errors)
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
        errors.print(f"{title}: {total} steps" + (f", {done} done before" if done else ""), markup=False)

    def advance(self, steps: int = 1, **values: float) -> None:
        before, self._done = self._done, self._done + steps
        self._figures |= values
        tenth = max(1, self._total // 10)
        due = self._done // tenth > before // tenth and time.monotonic() - self._told >= 5
        if due or (steps and self._done == self._total):
            self._told = time.monotonic()
            errors.print(f"{self._title}: {self._done}/{self._total}  {_values(self._figures)}", markup=False)

    def note(self, message: str) -> None:
        errors.print(message, markup=False)
