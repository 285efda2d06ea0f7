"""All commands together. Each reads options, calls the library, prints; nothing heavy is imported before one runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from distillkit.cli import console
from distillkit.cli.cache import cache
from distillkit.cli.compress import compress
from distillkit.cli.experts import experts
from distillkit.cli.inspect import datasets, doctor, info, methods, preview
from distillkit.cli.interchange import export, import_files
from distillkit.cli.measure import evaluate, tune
from distillkit.cli.sharing import card, pull, push
from distillkit.launch import launched_as
from distillkit.version import __version__


class Commands(TyperGroup):
    """The commands; what is wrong with how one is typed is said in JSON too where that was asked for."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Run the command of ``args``, default those of the process."""
        try:
            return super().main(args, *more, **options)
        except SystemExit as end:
            say = getattr(end.__context__, "format_message", None)  # of the usage error that typer has shown
            if say is not None and isinstance(end.code, int):
                words = list(sys.argv[1:] if args is None else args)
                console.print_failure(" ".join(say().split()), end.code, "--json" in words)
            raise


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress a labelled image data set into a few learned images per class.",
)
app.add_typer(experts, name="experts")
app.add_typer(cache, name="cache")
COMMANDS: dict[str, Callable[..., None]] = {
    "compress": compress,
    "evaluate": evaluate,
    "tune": tune,
    "info": info,
    "preview": preview,
    "card": card,
    "push": push,
    "pull": pull,
    "export": export,
    "methods": methods,
    "datasets": datasets,
    "doctor": doctor,
    "import": import_files,
}
for name, command in COMMANDS.items():
    app.command(name=name)(command)


def _version(wanted: bool) -> None:
    if wanted:
        console.results.print(f"distillkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


SPINS = "1000"
"""Turns that a thread waits in circles for the others of a step before it sleeps: microseconds. The default of millions
is no faster on a quiet machine and ruinous on a busy one (examples/benchmarks/results/threads.md)."""
SHARED = ("compress", "evaluate")
"""Commands whose work several processes share; any other is the business of the first of them."""


def main() -> None:
    """Entry point of the console script."""
    launched = launched_as()
    if launched is not None and launched[0] != 0:
        if sys.argv[1:2] and sys.argv[1] not in SHARED:
            return
        console.write_a_log()
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    console.speak_any_encoding()
    try:
        app(prog_name="distillkit")  # of ``python -m distillkit`` too, or the shell would complete python's commands
    except SystemExit as end:
        if launched is not None:  # at once: connections to processes that are gone cannot be taken down in order
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        raise
