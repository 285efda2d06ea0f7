"""From the field's files to an artifact: the same evaluation and packaging as for sets made here."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, FiniteFloat, ValidationError

from distillkit import storage
from distillkit.artifact.schema import RecipeFile
from distillkit.data.published_statistics import published_statistics
from distillkit.errors import ConfigError, StorageError
from distillkit.interchange.export import NOTES
from distillkit.interchange.read_pt import FieldFiles
from distillkit.interchange.to_set import label_kind, to_synthetic
from distillkit.methods import METHODS, SettingsLayer
from distillkit.records import Pixels, SourceData, SyntheticSet
from distillkit.run_folder import RunFolder
from distillkit.stages.context import Prepared, Run, prepare, run_identity, training_set
from distillkit.stages.evaluation import evaluate_rows
from distillkit.stages.finished import check_place
from distillkit.stages.opinions import expert_opinions
from distillkit.stages.package import Provenance, package
from distillkit.stages.probe import check_network
from distillkit.stages.threads import settled_threads
from distillkit.stages.validation import that_select

UNIT_SPACES = ("unit-zca", "unit-dct")
MAX_NOTE = 2**20
"""Bytes of the note that our own export writes beside its files."""
SEARCHED_LRS = (0.001, 0.003, 0.01, 0.03, 0.1)


@dataclass(frozen=True)
class Lost:
    """What the files do not say.

    ``zca`` None: nobody said; ``space``: the preprocessing, where a note beside the files names one of ours; ``lr``
    None: as the file says, else (or with ``search``) the best of a few on validation data; ``labels`` None: as they
    look; ``mean`` and ``std`` None: the constants that the method's code uses for the data set.
    """

    zca: bool | None = None
    lr: float | None = None
    search: bool = False
    labels: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    space: str | None = None


def provenance(kind: str, title: str | None, files: FieldFiles) -> Provenance:
    """Whose images these are.

    Raises:
        ConfigError: unknown kind.
    """
    names = ", ".join(files.names)
    if title is not None and len(title) > 300:
        raise ConfigError(f"`title` has {len(title)} characters; 300 are enough for a card")
    if kind == "mtt":
        return Provenance("mtt", title or METHODS["mtt"].title, METHODS["mtt"].citation, names)
    if kind == "datm":
        return Provenance("datm", title or METHODS["datm"].title, METHODS["datm"].citation, names)
    if kind == "pt":
        return Provenance("imported", title or "a method that the files do not name", "", names)
    raise ConfigError(f"`kind` {kind!r} is unknown; known: mtt, datm, pt")


def told_beside(paths: Sequence[Path], lost: Lost) -> Lost:
    """``lost`` without what our own export has written down beside its files: the space of the images, and that soft
    labels are logits or weights, which they need not look like.

    Mean and standard deviation that the user gave count; a note that cannot be read is none.

    Raises:
        ConfigError: the note contradicts what was said of whitening.
    """
    if lost.mean is not None or lost.std is not None:
        return lost
    for note in _notes_beside(paths):
        if lost.labels is None and note.label_kind in ("logits", "weights"):
            lost = replace(lost, labels=note.label_kind)
        white = note.preprocessing == "zca"
        if (lost.zca and not white) or (lost.zca is False and white):
            raise ConfigError(
                f"{NOTES} beside the files says that their images are in the space {note.preprocessing}, another one "
                "than was said; leave `zca` out"
            )
        if note.preprocessing in UNIT_SPACES:
            return replace(lost, space=note.preprocessing)
        if white:
            return replace(lost, zca=True)
        if note.preprocess.mean and note.preprocess.std:
            return replace(lost, mean=tuple(note.preprocess.mean), std=tuple(note.preprocess.std))
    return lost


def _notes_beside(paths: Sequence[Path]) -> Iterator[_Note]:
    """Those of our own export that can be read."""
    for path in paths:
        file = (path if path.is_dir() else path.parent) / NOTES
        with contextlib.suppress(StorageError, ValidationError):
            yield _Note.model_validate(storage.read_json(file, MAX_NOTE))


def recipe_layer(paths: Sequence[Path]) -> SettingsLayer:
    """How networks are trained on a set that was exported here, and which ones, from the note beside its files; nothing
    of other files.
    """
    recipe = next((note.recipe for note in _notes_beside(paths) if note.recipe is not None), None)
    values: dict[str, Any] = {}
    if recipe is not None:
        optimizer, schedule = recipe.optimizer, recipe.schedule
        strategy = recipe.augmentation.strategy
        values = {
            "evaluate.optimizer": optimizer.name,
            "evaluate.momentum": optimizer.momentum,
            "evaluate.weight_decay": optimizer.weight_decay,
            "evaluate.epochs": schedule.epochs,
            "evaluate.lengths": (),
            "evaluate.lr_drop_epochs": tuple(schedule.lr_drop_epochs),
            "evaluate.lr_drop_factor": schedule.lr_drop_factor,
            "evaluate.momentum_after_drop": schedule.momentum_after_drop,
            "evaluate.batch_size": recipe.batch_size,
            "evaluate.augment": strategy != "none",
            **({} if strategy == "none" else {"dataset.augmentation": strategy}),
            **{f"network.{key}": value for key, value in recipe.architecture.model_dump().items() if key != "pool"},
        }
    return SettingsLayer(f"{NOTES} beside the files", values)


class _Space(BaseModel):
    mean: list[FiniteFloat] = Field([], max_length=64)
    std: list[FiniteFloat] = Field([], max_length=64)


class _Note(BaseModel):
    """What is read of it."""

    preprocessing: str
    preprocess: _Space
    label_kind: str | None = None
    recipe: RecipeFile | None = None


def preprocessing_layer(kind: str, dataset: str, files: FieldFiles, lost: Lost) -> SettingsLayer:
    """The settings of the images' space.

    Raises:
        ConfigError: it is not known and was not said.
    """
    values: dict[str, Any] = {"dataset.max_train": None, "dataset.image_size": files.images.shape[-1]}
    values["dataset.color"] = "gray" if files.images.shape[1] == 1 else "rgb"
    if lost.zca and (lost.mean is not None or lost.std is not None):
        raise ConfigError("`zca` and `mean` or `std` contradict each other: whitened images are not standardised")
    if lost.zca or lost.space is not None:
        return SettingsLayer("import", {**values, "dataset.preprocessing": lost.space or "zca"})
    mean, std = lost.mean, lost.std
    if mean is None and std is None and kind in ("mtt", "datm"):
        if lost.zca is None:
            raise ConfigError("the files do not say whether the images are ZCA-whitened; give `zca=True` or False")
        mean, std = published_statistics(dataset) or (None, None)
    if mean is None or std is None:
        raise ConfigError(
            "the files do not say how the images are normalised; give `mean` and `std` (0,0,0 and 1,1,1 for pixels in "
            "[0, 1] as they are), or `zca=True`"
        )
    return SettingsLayer("import", {**values, "dataset.mean": tuple(mean), "dataset.std": tuple(std)})


def import_set(run: Run, files: FieldFiles, made_by: Provenance, lost: Lost, out: Path, *, replace: bool) -> None:
    """Evaluate the files' set on the run's data and write it as an artifact into ``out``."""
    check_place(out, run)
    prepared = prepare(run, _all_training_images)
    if not len(prepared.data.validation) and _lr_given(files, lost) is None:
        raise ConfigError(
            "the learning rate is searched on validation images, and dataset.validation_fraction=0 holds none out; "
            "give `lr`"
        )
    check_network(run, prepared, prepared.network)
    _check_fit(prepared, files)
    folder = RunFolder(out)
    with settled_threads(run, prepared), folder.claimed(_identity(run, prepared, files, lost), replace):
        known = folder.load_synthetic()
        if known is None:
            with folder.timed("import"):
                synthetic, selection = _complete(run, prepared, files, lost)
            folder.save_synthetic(synthetic, selection)
        else:
            synthetic, selection = known
        rows = evaluate_rows(run, prepared, synthetic, folder, lambda: expert_opinions(run, prepared))
        package(run, prepared, folder, synthetic, selection, rows, made_by)


def _all_training_images(data: SourceData) -> Pixels:
    """Research code fits ZCA on all of them, and holds none out."""
    return data.train.pixels.with_(data.validation.pixels)


def _identity(run: Run, prepared: Prepared, files: FieldFiles, lost: Lost) -> dict[str, Any]:
    digest = hashlib.sha256()
    for tensor in (files.images, files.labels):
        storage.sha256_tensor(digest, tensor)
    said = {"sha256": digest.hexdigest(), "lr": [files.lr, lost.lr, lost.search], "labels": lost.labels}
    return {**run_identity(run, prepared), "imported": said}


def _check_fit(prepared: Prepared, files: FieldFiles) -> None:
    """Are the files' images and classes those of the data set? Asked before anything in the folder is touched.

    Raises:
        ConfigError: no.
    """
    if files.images.shape[1:] != prepared.image_shape:
        raise ConfigError(
            f"the files hold images of {list(files.images.shape[1:])}, the data set of {list(prepared.image_shape)}"
        )
    to_synthetic(files, prepared.num_classes, 1.0, label_kind(files, None))


def _complete(run: Run, prepared: Prepared, files: FieldFiles, lost: Lost) -> tuple[SyntheticSet, dict[str, Any]]:
    lr, kind = _lr_given(files, lost), label_kind(files, lost.labels)
    selection: dict[str, Any] = {"split": "unknown, the files do not say"}
    if lr is None:
        lr = _searched_lr(run, prepared, to_synthetic(files, prepared.num_classes, 1.0, kind))
        selection["split"] += f"; the learning rate was chosen from {list(SEARCHED_LRS)} on validation data"
    return to_synthetic(files, prepared.num_classes, lr, kind), selection


def _lr_given(files: FieldFiles, lost: Lost) -> float | None:
    """By the user or the files; None: it is to be searched."""
    if lost.search:
        return None
    return lost.lr if lost.lr is not None else files.lr


def _searched_lr(run: Run, prepared: Prepared, synthetic: SyntheticSet) -> float:
    run.progress.stage("searching the lr", len(SEARCHED_LRS))
    training, images = training_set(synthetic, run.device), len(synthetic.images)
    count, exam, network = run.settings.distill.select_networks, prepared.validation, prepared.network
    scores = {}

    def stop() -> None:
        run.stop.check("while the learning rate was searched")

    for lr in SEARCHED_LRS:
        scores[lr] = that_select(run, prepared, training, images, lr, count, exam, network, stop).mean
        run.progress.advance(1, validation=scores[lr], lr=lr)
    return max(scores, key=scores.__getitem__)
