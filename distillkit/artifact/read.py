"""Reading an artifact folder, trusting nothing in it: safetensors and JSON only, checked against the config."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from distillkit import storage
from distillkit.artifact.layout import FILES, check_format
from distillkit.data import preprocess
from distillkit.data.preprocess import Preprocess
from distillkit.errors import ArtifactError, StorageError
from distillkit.records import LabelKind, SyntheticSet
from distillkit.settings import NetworkSettings

Size = Annotated[int, Field(ge=1, le=4096)]


class ArtifactConfig(BaseModel):
    """What the loader needs of distill_config.json; other keys are kept but not relied on."""

    model_config = ConfigDict(extra="allow", frozen=True)

    format_version: str
    method: str
    ipc: int = Field(ge=1)
    image_shape: tuple[Size, Size, Size]
    classes: list[str] = Field(min_length=2)
    label_kind: LabelKind
    settings: dict[str, Any]
    source: dict[str, Any]


class _Loose(BaseModel):
    """Checked keys; others may be there."""

    model_config = ConfigDict(extra="allow", frozen=True)


class _Optimizer(_Loose):
    momentum: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)


class _Schedule(_Loose):
    epochs: int = Field(ge=1, le=1_000_000)
    lr_drop_epochs: list[int]
    lr_drop_factor: float = Field(gt=0)


class RecipeFile(_Loose):
    """What training needs of recipe.json."""

    architecture: NetworkSettings
    optimizer: _Optimizer
    schedule: _Schedule
    lr: float = Field(gt=0, allow_inf_nan=False)
    batch_size: int = Field(ge=1)
    augmentation: dict[str, Any]


class _Row(_Loose):
    mean: float
    std: float
    n: int
    accuracies: list[float]


class ResultsFile(_Loose):
    """What is shown of results.json."""

    architectures: dict[str, _Row]
    baselines: dict[str, _Row]
    uint8: _Row | None
    selection: dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """An artifact as read: checked tensors, and the three JSON files."""

    synthetic: SyntheticSet
    preprocess: Preprocess
    config: dict[str, Any]
    recipe: dict[str, Any]
    results: dict[str, Any]


def read_artifact(folder: Path) -> Artifact:
    """Read and check a folder.

    Raises:
        ArtifactError: no artifact, a newer format, or a damaged file (which one, and what is wrong with it).
    """
    raw = read_config(folder)
    config = ArtifactConfig.model_validate(raw)
    try:
        tensors, _ = storage.read_tensors(folder / FILES.tensors)
        preprocessing, _ = storage.read_tensors(folder / FILES.preprocess)
        recipe = _checked_json(folder / FILES.recipe, RecipeFile)
        results = _checked_json(folder / FILES.results, ResultsFile)
    except StorageError as error:
        raise ArtifactError(f"{folder} is damaged: {error}") from error
    synthetic = _checked(tensors, config, folder)
    for name, tensor in preprocessing.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise ArtifactError(f"{folder} is damaged: {FILES.preprocess}: {name} is not a finite float tensor")
        if name == "std" and not bool((tensor > 0).all()):
            raise ArtifactError(f"{folder} is damaged: {FILES.preprocess}: std is not positive")
    return Artifact(synthetic, preprocess.from_tensors(preprocessing, config.image_shape), raw, recipe, results)


def read_config(folder: Path) -> dict[str, Any]:
    """distill_config.json, checked.

    Raises:
        ArtifactError: there is none, it is damaged, or of a newer format.
    """
    path = folder / FILES.config
    if not path.is_file():
        what = f"has no {FILES.config}" if folder.is_dir() else "does not exist"
        raise ArtifactError(f"{folder} is not a distillkit artifact: it {what}")
    try:
        value = storage.read_json(path)
        check_format(value.get("format_version") if isinstance(value, dict) else None)
        return _checked_json(path, ArtifactConfig)
    except StorageError as error:
        raise ArtifactError(f"{folder} is damaged: {error}") from error


def _checked_json(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    """A JSON object that fits ``model``, as it stands in the file.

    Raises:
        StorageError: it does not.
    """
    value = storage.read_json(path)
    try:
        model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise StorageError(f"{path.name}: {key}: {first['msg'].lower()}") from error
    found: dict[str, Any] = value
    return found


def _checked(tensors: dict[str, Tensor], config: ArtifactConfig, folder: Path) -> SyntheticSet:
    num_classes = len(config.classes)
    size = config.ipc * num_classes
    expected = {
        "images": (size, *config.image_shape),
        "labels": (size, num_classes),
        "class_ids": (size,),
        "lr": (),
    }
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != expected:
        raise ArtifactError(f"{folder} is damaged: {FILES.tensors} holds {found}, the config says {expected}")
    for name in ("images", "labels", "lr"):
        if not tensors[name].is_floating_point() or not bool(torch.isfinite(tensors[name]).all()):
            raise ArtifactError(f"{folder} is damaged: {FILES.tensors}: {name} is not a finite float tensor")
    ids = tensors["class_ids"]
    if ids.dtype != torch.int64 or int(ids.min()) < 0 or int(ids.max()) >= num_classes:
        raise ArtifactError(f"{folder} is damaged: {FILES.tensors}: class_ids are not ids of {num_classes} classes")
    lr = float(tensors["lr"])
    if lr <= 0:
        raise ArtifactError(f"{folder} is damaged: {FILES.tensors}: the learning rate {lr} is not positive")
    images, labels = tensors["images"].float().clone(), tensors["labels"].float().clone()
    return SyntheticSet(images, labels, ids.clone(), lr, config.label_kind)
