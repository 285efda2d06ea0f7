"""How far a run is that was begun before: what its folder holds, and whether it would be taken up there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.distill.state import OuterState
from distillkit.errors import ConfigError, DistillkitError, StorageError
from distillkit.progress import Silent
from distillkit.run_folder import RunFolder
from distillkit.stages.context import Prepared, Run, run_identity
from distillkit.stages.finished import check_place, finished_artifact
from distillkit.words import counted


@dataclass(frozen=True)
class Standing:
    """What is made of a run.

    Attributes:
        state: of the last whole checkpoint, on the CPU; None before there is one.
        validations: of the set, on the way.
        tests: of checkpoints, by a paper's protocol.
        distilled: the set is selected.
        rows: of the results table, by name.
        finished: the artifact is there, whole.
    """

    state: OuterState | None = None
    validations: int = 0
    tests: int = 0
    distilled: bool = False
    rows: tuple[str, ...] = ()
    finished: bool = False

    @property
    def begun(self) -> bool:
        """Has it a set to go on from?"""
        return self.state is not None or self.distilled

    @property
    def outer_steps(self) -> int:
        """Made until the checkpoint."""
        return 0 if self.state is None else self.state.step

    def to_json(self) -> dict[str, Any]:
        """As the plan has it."""
        learned = {"outer_steps": self.outer_steps, "distilled": self.distilled}
        return {**learned, "rows": list(self.rows), "finished": self.finished}


BEGINNING = Standing()


class _Listener(Silent):
    """Keeps notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        """Kept."""
        self.notes.append(message)


def found_in(out: Path, run: Run, prepared: Prepared, allowed: bool) -> tuple[Standing, list[str]]:
    """How far the run is in ``out``, and what is to be said of that: nothing where it would begin, why not where it
    would be refused there (``allowed``: to replace another one). Writes nothing.
    """
    identity = run_identity(run, prepared)
    folder, listener = RunFolder(out, identity), _Listener()
    try:
        check_place(out, run)
        if not folder.holds(identity, allowed):
            return BEGINNING, []
        whole = finished_artifact(out, replace(run, progress=listener), prepared) is not None
    except (ConfigError, StorageError) as error:
        return BEGINNING, [f"as it is, this run would be refused: {error}"]
    except OSError as error:
        return BEGINNING, [f"{out} cannot be read: {(error.strerror or str(error)).lower()}"]
    if whole:
        return Standing(distilled=True, finished=True), [f"{out} holds this run, finished: nothing is left to do"]
    found = _standing(folder)
    if not found.begun:
        return found, listener.notes
    made = "the set is selected" if found.distilled else f"{counted(found.outer_steps, 'outer step')} made"
    measured = counted(len(found.rows), "row")
    return found, [*listener.notes, f"{out} holds this run: {made}, {measured} measured; the times are of what is left"]


def _standing(folder: RunFolder) -> Standing:
    """From the run's files; what cannot be read is not made."""
    try:
        distilled = folder.load_synthetic() is not None
        checkpoints = (_checkpoint(folder, path) for path in (folder.checkpoint, folder.older_checkpoint))
        state = next((found for found in checkpoints if found is not None), None)
        if state is None:
            return Standing(distilled=distilled, rows=tuple(folder.rows()))
        looked = {row["step"] for row in folder.read_metrics() if "validation_accuracy" in row}
        tested = {int(step) for step in folder.test_checkpoints()}
    except (DistillkitError, OSError):
        return BEGINNING
    end = state.step + (not state.selection_due)
    validations, tests = (sum(step < end for step in found) for found in (looked, tested))
    return Standing(state, validations, tests, distilled, tuple(folder.rows()))


def _checkpoint(folder: RunFolder, path: Path) -> OuterState | None:
    """The state that a checkpoint holds; None if it is of no use."""
    try:
        return OuterState.load(path, "cpu") if folder.is_own(storage.read_metadata(path)) else None
    except (StorageError, KeyError, TypeError, ValueError, AttributeError):
        return None
