"""Artifacts of private data sets that are published for all to see: what names the source stays here."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.artifact.layout import FILES, recipe_files
from distillkit.artifact.read import Artifact
from distillkit.data.registry import DATASETS
from distillkit.errors import PrivateSourceWarning
from distillkit.hub import repository
from distillkit.hub.address import REPOSITORY

PRIVATE = "a private data set"
"""What a published artifact calls its source."""
REGISTERED = frozenset(known.hub_id for known in DATASETS.values())


def private_source(hub_id: str | None) -> str | None:
    """The source's id, if it is one on the Hub that not everybody may see.

    Raises:
        NetworkError: the Hub is out of reach.
    """
    if hub_id is None or hub_id in REGISTERED or not REPOSITORY.fullmatch(hub_id) or repository.is_public(hub_id):
        return None
    return hub_id


def warn_of(hub_id: str, what: str) -> None:
    """Say what is about to become public."""
    warnings.warn(
        f"{what} of {hub_id}, which is not public, and are being published for all to see: what they were made of may "
        "be read from them. The name is left out; `private=True` keeps the rest from others too",
        PrivateSourceWarning,
        stacklevel=2,
    )


def without_source(artifact: Artifact, hub_id: str) -> tuple[Artifact, dict[str, bytes]]:
    """The artifact with its source unnamed, and the contents of the files that differ from those in its folder."""
    config, recipe, results = (
        _unnamed(value, hub_id) for value in (artifact.config, artifact.recipe, artifact.results)
    )
    recipes = {name: _unnamed(value, hub_id) for name, value in artifact.recipes.items()}
    files = {
        FILES.tensors: _tensors(artifact.folder / FILES.tensors, hub_id),
        FILES.recipe: storage.json_bytes(recipe),
        FILES.results: storage.json_bytes(results),
        **{file: storage.json_bytes(recipes[name]) for name, file in _files_of(recipes).items()},
    }
    files = {name: content for name, content in files.items() if content != (artifact.folder / name).read_bytes()}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    source = {**config["source"], "name": PRIVATE, "source": PRIVATE, "hub_id": None, "revision": None}
    dataset = {**config["settings"]["dataset"], "name": PRIVATE, "revision": None}
    config |= {"source": source, "settings": {**config["settings"], "dataset": dataset}}
    config["checksums"] = {name: sums.get(name, known) for name, known in config.get("checksums", {}).items()}
    if isinstance(config.get("experts"), dict):
        config["experts"] = {**config["experts"], "pulled_from": []}
    return replace(artifact, config=config, recipe=recipe, results=results, recipes=recipes), files


def _files_of(recipes: dict[str, Any]) -> dict[str, str]:
    return dict(zip(recipes, recipe_files(recipes), strict=True))


def _unnamed(value: Any, hub_id: str) -> Any:
    """A JSON value with another text wherever one names the source."""
    return json.loads(json.dumps(value).replace(json.dumps(hub_id)[1:-1], PRIVATE))


def _tensors(path: Path, hub_id: str) -> bytes:
    tensors, metadata = storage.read_tensors(path)
    return storage.tensor_bytes(tensors, _unnamed(metadata, hub_id))
