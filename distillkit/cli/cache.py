"""``distillkit cache``: decoded data sets, what they take and how to be rid of them."""

from __future__ import annotations

from typing import Annotated

import typer

from distillkit.cli import console
from distillkit.cli import options as opt
from distillkit.errors import ConfigError, NotFoundError

cache = typer.Typer(no_args_is_help=True, help="Decoded data sets that runs have left: list, clear.")


@cache.command("list")
@console.guarded
def list_(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """List the decoded data sets in the cache, and whitening matrices that were fitted on them."""
    from distillkit.data.cached import cached_sets

    found = cached_sets()
    if as_json:
        rows = [
            {
                "name": one.name,
                "holds": one.holds,
                "source": one.source,
                "state": one.state,
                "bytes": one.size_bytes,
            }
            for one in found
        ]
        console.print_json({"sets": rows, "bytes": sum(one.size_bytes for one in found)})
        return
    table = [[one.name, one.holds, one.source, one.state, f"{one.size_bytes / 1e6:.1f}"] for one in found]
    console.print_table("Decoded data sets", ["name", "holds", "made from", "state", "MB"], table)


@cache.command()
@console.guarded
def clear(
    name: Annotated[str | None, typer.Argument(help="Which one, as 'distillkit cache list' calls it.")] = None,
    unused: Annotated[
        bool, typer.Option("--unused", help="Those that are unfinished, unusable, or whose source is gone.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    yes: opt.Yes = False,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Delete decoded data sets; a run that needs one decodes it again."""
    from distillkit.data import cached

    if [name is not None, unused, everything].count(True) != 1:
        raise ConfigError("say which decoded sets to delete: a name, --unused or --all")
    found = [
        one
        for one in cached.cached_sets()
        if everything or (unused and one.state != "whole") or (name and one.name.startswith(name))
    ]
    if name is not None and not found:
        raise NotFoundError(f"no decoded set called {console.printable(name)}; 'distillkit cache list' shows them")
    if name is not None and len(found) > 1:
        raise ConfigError(f"{name!r} fits several: {', '.join(one.name for one in found)}")
    size = sum(one.size_bytes for one in found)
    if found and not console.confirmed(f"Delete {len(found)} decoded data sets ({size / 1e6:.1f} MB)?", yes):
        raise typer.Exit(1)
    deleted = [one for one in found if cached.clear(one)]
    if as_json:
        console.print_json({"deleted": [one.name for one in deleted], "bytes": size})
    else:
        console.results.print(f"deleted {len(deleted)} of {len(found)} decoded data sets, {size / 1e6:.1f} MB")
