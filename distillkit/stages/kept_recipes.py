"""A recipe that was found for a network, and how an artifact keeps it beside what it had."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.artifact.change import Change, change_artifact
from distillkit.artifact.read import Artifact
from distillkit.evaluation.tuning import Tried
from distillkit.records import EvalReport
from distillkit.settings import NetworkSettings
from distillkit.stages.searches import tried_for


@dataclass(frozen=True)
class Tuned:
    """A recipe in the form of ``recipe.json``, what was tried, its test accuracies, and those of tuned baselines."""

    architecture: str
    recipe: dict[str, Any]
    tried: tuple[Tried, ...]
    report: EvalReport
    baselines: dict[str, EvalReport]
    seconds: float

    def row(self) -> dict[str, Any]:
        """What results.json says of it."""
        return {
            **self.report.to_json(),
            "recipe": self.tried[0].candidate.words,
            "seconds": self.seconds,
            "baselines": {name: report.to_json() for name, report in self.baselines.items()},
        }


def keep_recipe(folder: Path, tuned: Tuned) -> dict[str, Any] | None:
    """Write a recipe into an artifact's folder, with its row in the results and the card. Returns the row of another
    recipe that it takes the place of, None where there was none.

    A row of before keeps its baselines where there are no new ones, and its accuracies where the recipe is the same and
    more networks measured it.

    Raises:
        StorageError: it cannot be written.
    """
    replaced: dict[str, Any] | None = None

    def with_recipe(artifact: Artifact) -> Change:
        nonlocal replaced
        before, row = artifact.results.get("tuned", {}), tuned.row()
        there = before.get(tuned.architecture)
        replaced = there if there is not None and there["recipe"] != row["recipe"] else None
        rows = {**before, tuned.architecture: _row_after(there, row)}
        recipe = _recipe_after(artifact.recipes.get(tuned.architecture), tuned.recipe)
        return Change({**artifact.results, "tuned": rows}, {tuned.architecture: recipe})

    change_artifact(folder, with_recipe)
    return replaced


def _row_after(before: dict[str, Any] | None, row: dict[str, Any]) -> dict[str, Any]:
    if before is None:
        return row
    best = before if before["recipe"] == row["recipe"] and before["n"] > row["n"] else row
    baselines = dict(before.get("baselines", {}))
    for name, report in row["baselines"].items():
        if name not in baselines or report["n"] >= baselines[name]["n"]:
            baselines[name] = report
    return {**best, "baselines": baselines}


def _recipe_after(before: dict[str, Any] | None, recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe of before if it is the same one and says of more candidates that were tried alike."""
    if before is None:
        return recipe
    same = all(before[key] == value for key, value in recipe.items() if key != "chosen_by")
    alike = tried_for(before, NetworkSettings.model_validate(recipe["architecture"]), _scored(recipe))
    return before if same and len(alike) > len(recipe["chosen_by"]["tried"]) else recipe


def _scored(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in recipe["chosen_by"].items() if key != "tried"}
