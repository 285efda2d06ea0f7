"""Reading an artifact folder, trusting nothing in it: safetensors and JSON only, checked before and after use.

Before a tensor is read, the file's size, the header's size and every name, dtype and shape must be what the config
says; so a hostile file costs no more memory than an honest one of its size, and that is at most four times its size.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

from distillkit import storage
from distillkit.artifact.dtypes import IN_HEADER, STORED, WIDTHS
from distillkit.artifact.encoding import decode
from distillkit.artifact.layout import FILES, check_format, recipe_file, recipe_files
from distillkit.artifact.schema import AGREEMENT, ArtifactConfig, RecipeFile, ResultsFile, TunedRecipeFile
from distillkit.data import preprocess
from distillkit.data.augment import parse_augmentation
from distillkit.data.preprocess import Preprocess
from distillkit.errors import ArtifactError, ConfigError, StorageError
from distillkit.hub.address import looks_like_address
from distillkit.records import SyntheticSet

MAX_JSON = 2**20  # bytes; a JSON value may take twenty times its text in memory
MAX_HEADER = 2**20  # bytes of a safetensors header
Layout = dict[str, tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Artifact:
    """An artifact as read: checked tensors, and the three JSON files; ``folder`` is where it was read."""

    synthetic: SyntheticSet
    preprocess: Preprocess
    config: dict[str, Any]
    recipe: dict[str, Any]
    results: dict[str, Any]
    folder: Path
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of further networks, by architecture."""
    sums: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the files that were read, but for the config."""


def read_artifact(folder: Path, name: str | None = None) -> Artifact:
    """Read and check a folder; ``name`` is what error messages call it (default: the folder).

    Raises:
        ArtifactError: no artifact, a newer format, or a damaged file (which one, and what is wrong with it).
    """
    name = name or str(folder)
    raw = read_config(folder, name)
    config = ArtifactConfig.model_validate(raw)
    if not any((folder / file).exists() for file in (FILES.tensors, FILES.preprocess)):
        raise ArtifactError(f"{name} holds the card and the figures of a set, and not its images")
    try:
        recipe = _checked_json(folder / FILES.recipe, RecipeFile)
        _check_augmentation(recipe)
        results = _checked_json(folder / FILES.results, ResultsFile)
        recipes = {architecture: read_recipe(folder, architecture) for architecture in config.recipes}
        tensors = _read(folder / FILES.preprocess, preprocess_layout(config))
        for key, tensor in tensors.items():
            _check_finite(FILES.preprocess, key, tensor)
            if key == "std" and not bool((tensor > 0).all()):
                raise StorageError(f"{FILES.preprocess}: std is not positive")
        preprocessing = preprocess.from_tensors(tensors, config.image_shape)
        synthetic = _synthetic(_read(folder / FILES.tensors, tensors_layout(config)), config, preprocessing)
        _check_agreement(raw, storage.read_metadata(folder / FILES.tensors), recipe, synthetic.lr)
        sums = _sums(folder, config)  # last: what is wrong with a file says more than that it is another
    except StorageError as error:
        raise ArtifactError(f"{name} is damaged: {error}") from error
    return Artifact(synthetic, preprocessing, raw, recipe, results, folder, recipes, sums)


def check_unchanged(artifact: Artifact, now: Artifact) -> None:
    """Whether ``now``, read later, is what ``artifact`` was, wherever it was pushed to in between.

    Raises:
        StorageError: a file is another.
    """
    before, after = ({**one.config, "hub": None, "checksums": None, "checksums_next": None} for one in (artifact, now))
    changed = [name for name in artifact.sums | now.sums if artifact.sums.get(name) != now.sums.get(name)]
    changed += [FILES.config] if before != after else []
    if changed:
        raise StorageError(f"{now.folder / changed[0]} was changed since the set was loaded; load it again")


OF_THE_TENSORS = ("label_kind", "ipc", "uint8_range")
"""What both the config and the header of the tensors say; a reader of the tensors goes by them."""


def _check_agreement(config: dict[str, Any], header: Any, recipe: dict[str, Any], lr: float) -> None:
    """Whether the files say the same of what is in several of them."""
    for key in OF_THE_TENSORS if isinstance(header, dict) else ():  # older artifacts do not say all of it
        if key in header and header[key] != config.get(key):
            said, found = (str(value)[:60] for value in (config.get(key), header[key]))
            raise StorageError(f"{FILES.config} says {key} {said}, {FILES.tensors} says {found}")
    if isinstance(header, dict) and "uint8_range" in header and FILES.tensors not in config.get("checksums", {}):
        raise StorageError(f"{FILES.config} has lost the checksums of the other files")
    chosen = config["settings"].get("evaluate")
    asked = chosen.get("lr") if isinstance(chosen, dict) else None  # instead of the set's own, if it was set
    try:
        expected = float(asked) if isinstance(asked, (int, float)) else lr
    except OverflowError as error:
        raise StorageError(f"{FILES.config}: settings.evaluate.lr is no learning rate") from error
    if abs(recipe["lr"] - expected) > AGREEMENT * abs(expected):
        raise StorageError(f"{FILES.recipe} says lr {recipe['lr']:g}, {FILES.tensors} has {expected:g}")


def _sums(folder: Path, config: ArtifactConfig) -> dict[str, str]:
    """SHA-256 of the files that are read, by name; those that the config knows are what it says."""
    read = (FILES.tensors, FILES.preprocess, FILES.recipe, FILES.results, *recipe_files(config.recipes))
    found = {name: storage.sha256_file(folder / name) for name in read}
    for name, digest in found.items():
        if config.checksums and digest not in (config.checksums.get(name), config.checksums_next.get(name)):
            raise StorageError(f"{name} is not the file that {FILES.config} names (its SHA-256 is another)")
    return found


def read_recipe(folder: Path, architecture: str) -> dict[str, Any]:
    """The recipe of a further network, checked.

    Raises:
        StorageError: it is missing, damaged, or that of another network.
    """
    recipe = _checked_json(folder / recipe_file(architecture), TunedRecipeFile)
    _check_augmentation(recipe)
    if recipe["tuned_for"] != architecture:
        raise StorageError(f"{recipe_file(architecture)} is the recipe of another network than {FILES.config} says")
    return recipe


def read_config(folder: Path, name: str | None = None) -> dict[str, Any]:
    """distill_config.json, checked.

    Raises:
        ArtifactError: there is none, it is damaged, or of a newer format.
    """
    name = name or str(folder)
    path = folder / FILES.config
    if not path.is_file():
        missing = "is a file; expected a folder" if folder.is_file() else "does not exist"
        what = f"has no {FILES.config}" if folder.is_dir() else missing
        raise ArtifactError(f"{name} is not a distillkit artifact: it {what}{_pull_first(folder)}")
    try:
        value = storage.read_json(path, MAX_JSON)
        check_format(value.get("format_version") if isinstance(value, dict) else None)
        return _fitting(value, path, ArtifactConfig)
    except StorageError as error:
        raise ArtifactError(f"{name} is damaged: {error}") from error


def _pull_first(folder: Path) -> str:
    """What to do where the folder that is not there has the name of a repository."""
    text = re.sub(r"^(hf|https?):/+", r"\1://", str(folder))  # a path has but one slash
    if folder.exists() or not looks_like_address(text):
        return ""
    return f"; if it is on the Hub, fetch it first: distillkit pull {text}"


def tensors_layout(config: ArtifactConfig) -> Layout:
    """Dtype and shape of each tensor of distilled.safetensors, as the config says."""
    stored = STORED[config.dtype]
    return {
        "images": (IN_HEADER[stored.images], (config.size, *config.image_shape)),
        "labels": (IN_HEADER[stored.labels], (config.size, config.num_classes)),
        "class_ids": ("I64", (config.size,)),
        "lr": ("F64", ()),
    }


def preprocess_layout(config: ArtifactConfig) -> Layout:
    """Dtype and shape of each tensor of preprocess.safetensors."""
    size, kind = math.prod(config.image_shape), config.settings.dataset.preprocessing
    if kind == "unit-zca":
        return {"unit_zca_matrix": ("F32", (size, size))}
    if kind == "unit-dct":
        channels, height, width = config.image_shape
        return {"unit_dct_matrices": ("F32", (height, width, channels, channels))}
    if kind == "zca":
        return {"zca_mean": ("F32", (size,)), "zca_matrix": ("F32", (size, size))}
    return {"mean": ("F32", (config.image_shape[0],)), "std": ("F32", (config.image_shape[0],))}


def largest_sizes(config: ArtifactConfig) -> dict[str, int]:
    """Bytes that the files of an artifact with this config can have at most."""
    layouts = {FILES.tensors: tensors_layout(config), FILES.preprocess: preprocess_layout(config)}
    sizes = {name: 8 + MAX_HEADER + _data_bytes(layout) for name, layout in layouts.items()}
    pixels = config.size * math.prod(config.image_shape)
    views = 2**24 + 8 * pixels + 8 * config.size * config.num_classes  # pictures and tables are smaller than this
    others = {FILES.card: MAX_JSON * 4, FILES.parquet: views, FILES.preview: views, FILES.curves: views}
    texts = (FILES.config, FILES.recipe, FILES.results, *recipe_files(config.recipes))
    return sizes | others | dict.fromkeys(texts, MAX_JSON)


def _data_bytes(layout: Layout) -> int:
    return sum(WIDTHS[dtype] * math.prod(shape) for dtype, shape in layout.values())


def _read(path: Path, expected: Layout) -> dict[str, Tensor]:
    """The tensors of a file that has exactly the ``expected`` ones.

    Raises:
        StorageError: it has not; nothing was read then.
    """
    header = storage.header_bytes(path)
    if header > MAX_HEADER:
        raise StorageError(f"{path.name}: its header of {header} bytes is larger than {MAX_HEADER}")
    size, wanted = path.stat().st_size, 8 + header + _data_bytes(expected)
    with storage.open_tensors(path) as file:
        found = {name: _slot(file.get_slice(name)) for name in file.keys()}  # noqa: SIM118 (not a dict)
        if found != expected:
            raise StorageError(f"{path.name} holds {_words(found)}, the config says {_words(expected)}")
        if size != wanted:
            raise StorageError(f"{path.name} has {size} bytes, its tensors need {wanted}")
        return {name: file.get_tensor(name) for name in expected}


def _slot(part: Any) -> tuple[str, tuple[int, ...]]:
    return str(part.get_dtype()), tuple(part.get_shape())


def _words(layout: Layout) -> str:
    shown = [
        f"{name if name.isidentifier() else repr(name)} {dtype} {list(shape)}"
        for name, (dtype, shape) in sorted(layout.items())[:6]
    ]
    return ", ".join(shown)[:500] or "no tensors"


def _checked_json(path: Path, model: type[BaseModel]) -> dict[str, Any]:
    """A JSON object that fits ``model``, as it stands in the file."""
    return _fitting(storage.read_json(path, MAX_JSON), path, model)


def _fitting(value: Any, path: Path, model: type[BaseModel]) -> dict[str, Any]:
    try:
        model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part)[:60] for part in first["loc"]) or "the whole"
        raise StorageError(f"{path.name}: {key}: {first['msg'].lower()}") from error
    found: dict[str, Any] = value
    return found


def _check_augmentation(recipe: dict[str, Any]) -> None:
    try:
        parse_augmentation(recipe["augmentation"].get("strategy", "none"))
    except ConfigError as error:
        raise StorageError(f"{FILES.recipe}: augmentation: {error}") from error


def _check_finite(file: str, name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point() and not all(
        bool(torch.isfinite(part).all()) for part in tensor.reshape(-1).split(2**18)
    ):
        raise StorageError(f"{file}: {name} has values that are not finite")


def _synthetic(tensors: dict[str, Tensor], config: ArtifactConfig, preprocessing: Preprocess) -> SyntheticSet:
    for name, tensor in tensors.items():
        _check_finite(FILES.tensors, name, tensor)
    wanted = torch.arange(config.num_classes).repeat_interleave(config.ipc)
    if not torch.equal(tensors["class_ids"], wanted):
        raise StorageError(
            f"{FILES.tensors}: class_ids are not {config.ipc} of each of {config.num_classes} classes, class by class"
        )
    if float(tensors["lr"]) <= 0:
        raise StorageError(f"{FILES.tensors}: the learning rate {float(tensors['lr'])} is not positive")
    if config.label_kind == "probabilities":
        _check_probabilities(tensors["labels"])
    if config.label_kind == "weights" and bool((tensors["labels"] < 0).any()):
        raise StorageError(f"{FILES.tensors}: labels are said to be weights of classes, but some are negative")
    synthetic = decode(tensors, config.uint8_range, preprocessing, config.label_kind)
    _check_finite(FILES.tensors, "images, decoded,", synthetic.images)
    return synthetic


def _check_probabilities(labels: Tensor) -> None:
    for part in labels.split(2**12):
        sums = part.float().sum(1)
        if bool((part < 0).any()) or bool(((sums - 1).abs() > 1e-2).any()):
            raise StorageError(f"{FILES.tensors}: labels are said to be probabilities, but are not")
