"""Whose an output folder is: which run may begin or go on in it, which one is refused, and what replacing deletes."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.artifact import own_section
from distillkit.artifact.layout import FILES, PUBLISHED, RUN_FILES, missing_files
from distillkit.artifact.read import read_config
from distillkit.artifact.schema import ArtifactConfig
from distillkit.errors import ArtifactError, ConfigError, StorageError
from distillkit.identities import (
    but_sizes,
    completed,
    difference,
    experts_of,
    outer_steps_of,
    same_but_for_length,
    same_run,
    with_experts,
)
from distillkit.methods import METHODS
from distillkit.run_folder.contents import OWN_FILES, FolderContents

TOLD_BEFORE = {
    RUN_FILES.seconds,
    RUN_FILES.experts,
    RUN_FILES.experts_picture,
    RUN_FILES.schedule_picture,
    RUN_FILES.metrics,
    RUN_FILES.earlier_runs,
}
"""A run's files that are there before anything is learned; the experts themselves lie in the cache."""


def is_of_another(there: FolderContents, identity: dict[str, Any], replace: bool) -> bool:
    """True if the folder holds another run, or an artifact, that is to be replaced; writes nothing.

    Raises:
        ConfigError: it holds another run or other files, and is not to be replaced.
    """
    there.check_possible()
    if not there.run_config.is_file():
        return _check_others(there, replace)
    other = there.stored_identity()
    if same_run(other, identity) or (not replace and _goes_on(there, other, identity)):
        return False
    if _has_results(there) and not replace:
        what = f"{other.get('method', '?')} on {other.get('dataset', '?')} at ipc {other.get('ipc', '?')}"
        known = f"another run ({what}; differs in {difference(other, identity)}{_way_on(there, other, identity)})"
        held = known if other else f"a run whose settings cannot be read any more ({there.run_config} is damaged)"
        raise ConfigError(f"{there.out} holds {held}; choose another `out`, or `replace=True` to replace it")
    return True


def _goes_on(there: FolderContents, other: dict[str, Any], identity: dict[str, Any]) -> bool:
    """Whether a run goes on from the steps of the one that the folder holds, which was to be longer or shorter; not
    one of a method made in Python, whose parts nobody knows.
    """
    known = other.get("method") in METHODS and same_but_for_length(other, identity)
    return known and _outer_steps_made(there, other) <= outer_steps_of(identity)


def _outer_steps_made(there: FolderContents, other: dict[str, Any]) -> float:
    """Of the run that the folder holds; all that it was asked for where a file is damaged; of no end where one does
    not say whose it is, as those of older versions did not.
    """
    steps: list[float] = []
    for path in filter(Path.exists, (there.synthetic, there.checkpoint)):
        try:
            about = storage.read_metadata(path)
            asked = outer_steps_of(completed(about["owner"]))
            steps.append(asked if path == there.synthetic else about["step"])
        except StorageError:
            steps.append(outer_steps_of(other))
        except (KeyError, TypeError):
            steps.append(math.inf)
    return max(steps, default=outer_steps_of(other))


def _way_on(there: FolderContents, other: dict[str, Any], identity: dict[str, Any]) -> str:
    """How to go on from a run that had another budget and is not the same run, as words."""
    if not same_run(but_sizes(other), but_sizes(identity)):
        return ""
    count = experts_of(other)
    if count is not None and _goes_on(there, other, with_experts(identity, count)):
        return f"; to go on with its experts, `experts.count={count}`"
    if not (there.out / FILES.config).is_file():
        return ""
    return f"; to go on from its images, `distill.init=artifact` and `distill.init_from={there.out}` in another `out`"


def _has_results(there: FolderContents) -> bool:
    """Whether the run that the folder is of has left anything: one that was refused at its beginning has not."""
    kept = set(OWN_FILES) - TOLD_BEFORE
    return any((there.path / name).exists() for name in kept) or any((there.out / name).exists() for name in PUBLISHED)


def _check_others(there: FolderContents, replace: bool) -> bool:
    """True if the folder, which no run is known of, holds an artifact that is to be replaced."""
    if not there.out.exists():
        return False
    if (there.out / FILES.config).is_file():
        if not replace:
            raise ConfigError(
                f"{there.out} holds an artifact that another run made{_lacks(there)}; choose another `out`, or "
                "`replace=True` to replace it"
            )
        return True
    if there.path.exists() and any(
        path.name not in (".lock", "images") and not storage.is_leftover(path) for path in there.path.iterdir()
    ):
        raise ConfigError(f"{there.path} holds files that are no run of distillkit; choose another `out`")
    others = [path.name for path in there.out.iterdir() if path.name != FILES.run]
    taken = sorted(name for name in PUBLISHED if (there.out / name).exists() and not _is_left_card(there, name))
    if taken:  # never written over, whatever was said
        raise ConfigError(f"{there.out} holds a {taken[0]} that is no artifact's; choose another `out`")
    if others and not replace:
        raise ConfigError(f"{there.out} holds other files; choose another `out`, or `replace=True` to write among them")
    return False


def _lacks(there: FolderContents) -> str:
    """Which files the artifact in ``out``, whose run is not known, should have and has not, in words."""
    try:
        about = ArtifactConfig.model_validate(read_config(there.out))
    except ArtifactError:
        return ""
    missing = ", no ".join(missing_files(there.out, about.learned))
    return f" and is incomplete (it has no {missing}, and no {FILES.run}/ to pack it from)" if missing else ""


def _is_left_card(there: FolderContents, name: str) -> bool:
    """Whether a file is the card of an artifact that was being replaced: it goes on, with the user's section."""
    card = there.out / name
    return name == FILES.card and card.is_file() and own_section.BEGIN.encode() in card.read_bytes()


def remove_run(there: FolderContents) -> None:
    """Delete the other run's files, and no others, but for its config, which is written over next: a kill on the
    way leaves it its run, incomplete, and never makes it another's.
    """
    shutil.rmtree(there.path / "images", ignore_errors=True)
    for name in OWN_FILES:
        (there.path / name).unlink(missing_ok=True)
    for name in PUBLISHED:
        if name not in (FILES.card, FILES.config):  # the card may hold the user's own section, which goes on
            (there.out / name).unlink(missing_ok=True)
    for path in there.out.glob(f"{FILES.recipes}/*.json"):
        path.unlink()
    (there.out / FILES.config).unlink(missing_ok=True)
