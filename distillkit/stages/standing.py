"""How far a run is that was begun before: what its folder holds, and whether it would be taken up there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.artifact.layout import FILES
from distillkit.errors import DistillkitError, StorageError
from distillkit.run_folder import RunFolder


@dataclass(frozen=True)
class Standing:
    """What is made of a run.

    Attributes:
        outer_steps: of the last checkpoint.
        looks: at validation images, on the way.
        distilled: the set is selected.
        rows: of the results table, by name.
        packed: the artifact is there.
    """

    outer_steps: int = 0
    looks: int = 0
    distilled: bool = False
    rows: tuple[str, ...] = ()
    packed: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the plan has it."""
        return {"outer_steps": self.outer_steps, "distilled": self.distilled, "rows": list(self.rows)} | {
            "finished": self.packed
        }


BEGINNING = Standing()


def standing(folder: RunFolder) -> Standing:
    """Of the run that ``folder`` holds, from its files; whatever cannot be read is not made yet."""
    distilled = folder.load_synthetic() is not None
    steps = max(_step_of(folder.checkpoint), _step_of(folder.older_checkpoint))
    looks = sum("validation_accuracy" in row for row in folder.read_metrics() if row["step"] <= steps)
    packed = distilled and (folder.out / FILES.config).is_file() and (folder.out / FILES.card).is_file()
    return Standing(steps, looks, distilled, tuple(folder.rows()), packed)


def _step_of(checkpoint: Path) -> int:
    try:
        return int(storage.read_metadata(checkpoint)["step"])
    except (StorageError, KeyError, TypeError, ValueError):
        return 0


def found_in(out: Path, identity: dict[str, Any], replace: bool) -> tuple[Standing, list[str]]:
    """How far the run called ``identity`` is in ``out``, and what is to be said of that: nothing where it would begin,
    why not where it would be refused there.
    """
    folder = RunFolder(out)
    try:
        if not folder.holds(identity, replace):
            return BEGINNING, []
        found = standing(folder)
    except DistillkitError as error:
        return BEGINNING, [f"as it is, this run would be refused: {error}"]
    if found.packed:
        return found, [f"{out} holds this run, finished: nothing is left to do"]
    made = "the set is learned" if found.distilled else f"{found.outer_steps} outer steps are made"
    return found, [f"{out} holds this run: {made}, {len(found.rows)} rows measured; times are of what is left"]
