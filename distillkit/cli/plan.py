"""``compress --plan``: what a run would cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.cli import console
from distillkit.cli.running import running

if TYPE_CHECKING:
    from distillkit.config import Composed


def print_plan(
    composed: Composed,
    device: str,
    processes: int,
    quiet: bool,
    as_json: bool,
    *,
    out: Path,
    replace: bool = False,
    tuned: Sequence[str] = (),
    budget: float = 0.0,
) -> None:
    """Print what the run would cost so many processes, as far as it is not done in ``out``, with a search of ``budget``
    seconds for each network that is ``tuned`` afterwards.
    """
    from distillkit.environment import resolve_device
    from distillkit.plan import make_plan
    from distillkit.stages.context import make_run

    with running(quiet) as (progress, stop), stop.at_once("while planning", "nothing was made"):
        run = make_run(composed, resolve_device(device), progress, stop, to_tune=tuned)
        planned = make_plan(run, processes=processes, out=out, replace=replace)
    planned["notes"] = [console.spoken_flags.get().spoken(line) for line in planned["notes"]]
    tuned = _still_to_tune(tuned, out) if planned["done"]["finished"] else tuned
    searches = [{"name": f"recipe for {name}", "steps": 1, "seconds_each": budget, "seconds": budget} for name in tuned]
    planned = {
        **planned,
        "stages": [*planned["stages"], *searches],
        "seconds": planned["seconds"] + budget * len(searches),
    }
    if as_json:
        console.print_json(planned)
        return
    console.print_table("Plan", ["", "steps", "seconds each", "minutes"], planned_rows(planned))
    for line in planned["notes"]:
        console.results.print(line, markup=False)


def _still_to_tune(names: Sequence[str], out: Path) -> list[str]:
    """Those that the finished artifact has no recipe for."""
    from distillkit.distilled import load_distilled
    from distillkit.stages.tune import name_on

    ds = load_distilled(out)
    return [name for name in names if name_on(ds, name) not in ds.recipes]


def planned_rows(planned: dict[str, Any]) -> list[list[str]]:
    """The rows of the plan's table."""
    rows = []
    for stage in planned["stages"]:
        rows.append(
            [
                stage["name"],
                str(stage["steps"]),
                f"{stage['seconds_each']:.4f}",
                f"{stage['seconds'] / 60:.1f}",
            ]
        )
    return [*rows, ["all", "", "", f"{planned['seconds'] / 60:.1f}"]]
