"""What searches of recipes have tried and measured, in the cache: one that was stopped, or is given more time, begins
with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.distilled import DistilledDataset
from distillkit.environment import versions
from distillkit.errors import ConfigError, StorageError
from distillkit.evaluation.tuning import Tried
from distillkit.settings import NetworkSettings


def search_file(ds: DistilledDataset, network: NetworkSettings, row: str, **scored: Any) -> Path:
    """Where it is kept what was tried or measured for ``network`` on ``row`` (the set, or real images beside it).

    Args:
        ds: the set.
        network: which is trained.
        row: ``set``, or a kind of real images.
        scored: what else an accuracy depends on.
    """
    of = {
        "images": storage.digest_of(ds.images),
        "targets": storage.digest_of(ds.targets),
        "source": ds.config["source"].get("fingerprint"),
        "network": network.model_dump(mode="json"),
        "row": row,
        "versions": {name: versions().get(name) for name in ("distillkit", "torch", "timm")},
        **scored,
    }
    return storage.cache_root() / "searches" / f"{storage.fingerprint(of)}.json"


def tried_before(path: Path) -> list[Tried]:
    """The candidates of a file; none where it is missing, damaged or of another version."""
    try:
        return _read(storage.read_sealed_json(path))
    except StorageError:
        return []


def measured_before(path: Path) -> list[float]:
    """The test accuracies of a file, of the first networks; none where it is missing, damaged or of another version."""
    try:
        found = storage.read_sealed_json(path)
    except StorageError:
        return []
    fine = isinstance(found, list) and all(isinstance(one, float) and 0 <= one <= 1 for one in found)
    return found if fine else []


def tried_for(recipe: Mapping[str, Any] | None, network: NetworkSettings, scored: Mapping[str, Any]) -> list[Tried]:
    """The candidates that a recipe of an artifact says it was the best of, if they were scored as ``scored`` says."""
    if recipe is None or recipe["architecture"] != network.model_dump(mode="json"):
        return []
    chosen_by = recipe.get("chosen_by", {})
    if not isinstance(chosen_by, Mapping):
        return []
    if any(chosen_by.get(name, 0 if name == "seed" else None) != value for name, value in scored.items()):
        return []  # recipes of before name no seed: it was the default
    return _read(chosen_by.get("tried"))


def _read(found: Any) -> list[Tried]:
    try:
        return [Tried.from_json(one) for one in found]
    except (ConfigError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return []


def keep_tried(path: Path, tried: Sequence[Tried]) -> None:
    """Write them.

    Raises:
        StorageError: the cache cannot be written.
    """
    storage.write_sealed_json(path, [one.to_json() for one in tried])


def keep_measured(path: Path, accuracies: Sequence[float]) -> None:
    """Write them.

    Raises:
        StorageError: the cache cannot be written.
    """
    storage.write_sealed_json(path, list(accuracies))
