"""Writing an artifact folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillkit import licenses, storage
from distillkit.artifact import front_matter as head
from distillkit.artifact import own_section
from distillkit.artifact.card import front_matter, render_card
from distillkit.artifact.encoding import decode, encode
from distillkit.artifact.headline import headline_row
from distillkit.artifact.layout import FILES, recipe_files
from distillkit.artifact.schema import ArtifactConfig, Range
from distillkit.artifact.views import eight_bit, parquet_bytes, preview_png
from distillkit.data.preprocess import Preprocess
from distillkit.errors import StorageError
from distillkit.records import SyntheticSet
from distillkit.settings import NetworkSettings, StoredDtype


@dataclass(frozen=True)
class ArtifactContent:
    """Everything that goes into an artifact; ``config``, ``recipe`` and ``results`` are JSON values.

    ``synthetic`` is the set before it is stored as ``dtype``.
    """

    synthetic: SyntheticSet
    preprocess: Preprocess
    classes: tuple[str, ...]
    config: dict[str, Any]
    recipe: dict[str, Any]
    results: dict[str, Any]
    dtype: StoredDtype = "float32"


def write_artifact(folder: Path, content: ArtifactContent) -> None:
    """Write all files of an artifact; the config comes last, so a folder with one is complete.

    The user's own section of a card that is there survives.

    Raises:
        StorageError: a file cannot be written.
        ConfigError: a value does not fit the dtype, or the markers of the user's section are damaged.
    """
    synthetic, preprocess = content.synthetic, content.preprocess
    view = eight_bit(synthetic, preprocess)
    value_range = Range(low=view.low, high=view.high)
    config = {**content.config, "dtype": content.dtype, "uint8_range": value_range.model_dump()}
    tensors = encode(synthetic, view, content.dtype)
    stored = decode(tensors, value_range, preprocess, synthetic.label_kind)
    view = eight_bit(stored, preprocess, (view.low, view.high))
    own = read_own_section(folder)
    storage.write_tensors(folder / FILES.preprocess, preprocess.to_tensors())
    storage.write_tensors(folder / FILES.tensors, tensors, identity(config, content.recipe, content.results))
    storage.write_json(folder / FILES.recipe, content.recipe)
    storage.write_json(folder / FILES.results, content.results)
    storage.write_bytes(folder / FILES.parquet, parquet_bytes(view, stored, content.classes))
    storage.write_bytes(folder / FILES.preview, preview_png(stored, preprocess))
    card = with_own_head(folder, render_card(config, content.recipe, content.results, own))
    storage.write_bytes(folder / FILES.card, card.encode())
    write_config(folder, config)


def write_config(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Write an artifact's config, last of its files, with the checksums of the others; returns it as written.

    Raises:
        StorageError: a file is missing, or the config cannot be written.
    """
    names = [FILES.tensors, FILES.preprocess, FILES.recipe, FILES.results, *recipe_files(config.get("recipes", []))]
    sealed = {**config, "checksums": {name: storage.sha256_file(folder / name) for name in names}}
    sealed.pop("checksums_next", None)
    storage.write_json(folder / FILES.config, sealed)
    return sealed


def identity(config: dict[str, Any], recipe: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """What the header of distilled.safetensors says of the artifact, for a look at it without a download."""
    about = ArtifactConfig.model_validate(config)
    network = headline_row(NetworkSettings.model_validate(recipe["architecture"]), results["architectures"])
    rows = {f"this set, {network}": results["architectures"].get(network), **results["baselines"]}
    return {
        "format_version": about.format_version,
        "label_kind": about.label_kind,
        "generator": about.generator,
        "method_title": about.method_title,
        "ipc": about.ipc,
        "num_classes": about.num_classes,
        "source": about.source.hub_id or about.source.source,
        "train_images": about.source.train_images,
        "lr": recipe["lr"],
        "accuracy": {name: row for name, row in rows.items() if row is not None},
        "uint8_range": about.uint8_range.model_dump(),
        **({"unmoved": True} if about.unmoved else {}),
    }


def read_own_section(folder: Path) -> str:
    """What the user wrote in the card of a folder; empty where there is no card.

    Raises:
        ConfigError: the markers are damaged.
    """
    path = folder / FILES.card
    return own_section.find(path.read_text("utf-8", errors="replace")) if path.is_file() else ""


def write_card(folder: Path, config: dict[str, Any], recipe: dict[str, Any], results: dict[str, Any]) -> Path:
    """Make the card again; the user's own section survives.

    Raises:
        StorageError: it cannot be written.
        ConfigError: the markers of the user's section are damaged.
    """
    path = folder / FILES.card
    card = render_card(config, recipe, results, read_own_section(folder))
    storage.write_bytes(path, with_own_head(folder, card).encode())
    return path


def with_own_head(folder: Path, card: str) -> str:
    """A ``card`` made anew, with what the user wrote at the head of the one in ``folder``; a licence counts there where
    the config states none.

    Raises:
        ConfigError: that head is no YAML.
    """
    path = folder / FILES.card
    theirs = head.read(path.read_text("utf-8", errors="replace"), f"the card {path}") if path.is_file() else {}
    if not theirs:
        return card
    try:
        base = front_matter(ArtifactConfig.model_validate(storage.read_json(folder / FILES.config)))
    except (StorageError, ValidationError):
        base = None
    ours = head.read(card, "the card")
    if ours.get("license") != licenses.UNKNOWN:
        theirs = {key: value for key, value in theirs.items() if key not in head.LICENSE}
    merged = head.merge(ours, theirs, base, ours_wins=True)
    return card if merged == ours else head.replace(card, merged)


def foreign_lines(folder: Path, config: dict[str, Any], recipe: dict[str, Any], results: dict[str, Any]) -> int:
    """Lines of a folder's card, outside the user's section and the head, that are not as they are written here: they
    are lost when it is made again.
    """
    path = folder / FILES.card
    if not path.is_file():
        return 0
    before = path.read_text("utf-8", errors="replace")
    ours = set(render_card(config, recipe, results, own_section.find(before)).splitlines())
    return sum(line.strip() != "" and line not in ours for line in head.HEAD.sub("", before, count=1).splitlines())
