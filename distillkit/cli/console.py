"""Output of a command: results on stdout, errors on stderr, one sentence an error."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distillkit.cli.flags import Flags
from distillkit.errors import ConfigError, DistillkitError, Interrupted
from distillkit.interrupt import came_early
from distillkit.words import first_line

if TYPE_CHECKING:
    from distillkit.distilled import DistilledDataset

errors = Console(stderr=True, highlight=False, soft_wrap=True)
results = Console(highlight=False, soft_wrap=True)
P = ParamSpec("P")
_NO_FLAGS = Flags()
spoken_flags: ContextVar[Flags] = ContextVar("flags", default=_NO_FLAGS)
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


def has_terminal() -> bool:
    """Whether somebody can be asked: not in a pipe, nor where standard input is closed."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirmed(question: str, yes: bool) -> bool:
    """Whether the user says yes, or has said so by ``--yes``.

    Raises:
        ConfigError: there is no terminal to ask on.
    """
    if yes:
        return True
    if not has_terminal():
        raise ConfigError(f"without --yes nothing is deleted, and there is no terminal to ask on: {question}")
    return typer.confirm(question, err=True)


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
        before = spoken_flags.set(Flags.of(command))
        try:
            with _own_warnings():
                command(*args, **kwargs)
            _flush()
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            _fail("interrupted", Interrupted.exit_status, kwargs)
        except Exception as error:
            if kwargs.get("debug"):
                raise
            if came_early() and not isinstance(error, DistillkitError):
                _fail("interrupted", Interrupted.exit_status, kwargs)  # what a module says that was being loaded
            _fail(_sentence(error), getattr(error, "exit_status", DistillkitError.exit_status), kwargs)
        finally:
            spoken_flags.reset(before)

    return wrapper


@contextmanager
def _own_warnings() -> Iterator[None]:
    """Warnings of the library as a sentence each; those of others as Python shows them."""
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if category.__module__ == DistillkitError.__module__:
                errors.print(printable(f"warning: {spoken_flags.get().spoken(str(message))}"), markup=False)
            else:
                shown(message, category, *where, **more)

        warnings.showwarning = show
        yield


def _sentence(error: Exception) -> str:
    if isinstance(error, DistillkitError):
        return spoken_flags.get().spoken(str(error))
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
    return f"unexpected {type(error).__name__}: {first_line(error)} (--debug shows where; please report it)"


def _fail(message: str, status: int, options: dict[str, Any]) -> None:
    print_failure(message, status, bool(options.get("as_json")))
    with contextlib.suppress(OSError):
        errors.print(printable(f"error: {message}".replace("\n", " ")), markup=False)
    raise typer.Exit(status)


def print_failure(message: str, status: int, as_json: bool) -> None:
    """What a command that failed says on stdout: one JSON object under ``--json``, else nothing more."""
    try:
        if as_json:
            print_json({"error": message, "exit_status": status})
        _flush()
    except OSError:  # what cannot be written now cannot be at the end either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _flush() -> None:
    if sys.stdout is not None:  # of a process that was started with it closed
        sys.stdout.flush()


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


def print_set(ds: DistilledDataset, folder: Path, as_json: bool) -> None:
    """Where an artifact was made, and its results."""
    if as_json:
        print_json({"artifact": str(folder), "results": ds.results, "lr": ds.lr})
        return
    print_results(folder, ds.results)


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
    """``87.3 ± 0.4`` of an EvalReport; without a deviation where there is one network alone."""
    return (
        f"{100 * report.mean:.1f} ± {100 * report.std:.1f}"
        if len(report.accuracies) > 1
        else f"{100 * report.mean:.1f}"
    )
