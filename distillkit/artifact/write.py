"""Writing an artifact folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.artifact.card import render_card
from distillkit.artifact.layout import FILES
from distillkit.artifact.views import eight_bit, parquet_bytes, preview_png
from distillkit.data.preprocess import Preprocess
from distillkit.records import SyntheticSet


@dataclass(frozen=True)
class ArtifactContent:
    """Everything that goes into an artifact; ``config``, ``recipe`` and ``results`` are JSON values."""

    synthetic: SyntheticSet
    preprocess: Preprocess
    classes: tuple[str, ...]
    config: dict[str, Any]
    recipe: dict[str, Any]
    results: dict[str, Any]


def write_artifact(folder: Path, content: ArtifactContent) -> None:
    """Write all files of an artifact; the config comes last, so a folder with one is complete.

    Raises:
        StorageError: a file cannot be written.
    """
    synthetic, preprocess = content.synthetic, content.preprocess
    view = eight_bit(synthetic, preprocess)
    config = {**content.config, "uint8_range": {"low": view.low, "high": view.high}}
    storage.write_tensors(folder / FILES.preprocess, preprocess.to_tensors())
    storage.write_bytes(folder / FILES.tensors, synthetic_bytes(synthetic))
    storage.write_json(folder / FILES.recipe, content.recipe)
    storage.write_json(folder / FILES.results, content.results)
    storage.write_bytes(folder / FILES.parquet, parquet_bytes(view, synthetic, content.classes))
    storage.write_bytes(folder / FILES.preview, preview_png(synthetic, preprocess))
    card = render_card(config, content.recipe, content.results)
    storage.write_bytes(folder / FILES.card, card.encode())
    storage.write_json(folder / FILES.config, config)


def synthetic_bytes(synthetic: SyntheticSet) -> bytes:
    """distilled.safetensors: images [S, C, H, W], labels [S, K], class_ids [S], lr []."""
    import torch

    tensors = {
        "images": synthetic.images.float(),
        "labels": synthetic.labels.float(),
        "class_ids": synthetic.class_ids.to(torch.int64),
        "lr": torch.tensor(synthetic.lr, dtype=torch.float64),
    }
    return storage.tensor_bytes(tensors, {"label_kind": synthetic.label_kind})
