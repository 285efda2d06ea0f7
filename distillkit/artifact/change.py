"""Changing the results and recipes of an artifact that is there: by one process at a time, and so that a kill or a
full disk at any moment leaves an artifact that loads, with the old results or the new ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillkit import storage
from distillkit.artifact.layout import FILES, recipe_file
from distillkit.artifact.read import Artifact, read_artifact
from distillkit.artifact.schema import ArtifactConfig, ResultsFile
from distillkit.artifact.write import write_card, write_config
from distillkit.errors import ConfigError
from distillkit.locks import locked

LOCK = ".lock"
"""No file of the artifact: held while it is changed."""


@dataclass(frozen=True)
class Change:
    """What an artifact's results are to be, and recipes to be added, or to take the place of others of their name."""

    results: dict[str, Any]
    recipes: Mapping[str, dict[str, Any]] = field(default_factory=dict)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """No other process changes the artifact in ``folder`` meanwhile; waits for one that does.

    Raises:
        StorageError: the folder cannot be written.
    """
    with locked(folder / LOCK, lambda: None):
        yield


def change_artifact(folder: Path, change: Callable[[Artifact], Change]) -> None:
    """Write what ``change`` makes of the artifact as it is now; its card follows.

    While files are replaced, the config names them with both digests.

    Raises:
        ArtifactError: no artifact, or a damaged one.
        ConfigError: it cannot hold that much.
        StorageError: it cannot be written.
    """
    with held(folder):
        artifact = read_artifact(folder)
        made = change(artifact)
        kept = [name for name in artifact.config.get("recipes", []) if name not in made.recipes]
        config = {**artifact.config, "recipes": [*kept, *made.recipes]}
        _check(folder, config, made.results)
        written = {recipe_file(name): storage.json_bytes(recipe) for name, recipe in made.recipes.items()}
        written[FILES.results] = storage.json_bytes(made.results)
        _announce(folder, artifact, written)
        for name, content in written.items():
            storage.write_bytes(folder / name, content)
        config = write_config(folder, config)
        write_card(folder, config, artifact.recipe, made.results)


def _check(folder: Path, config: dict[str, Any], results: dict[str, Any]) -> None:
    """Would the artifact be read again?"""
    try:
        ArtifactConfig.model_validate(config)
        ResultsFile.model_validate(results)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{folder} cannot hold this as well: {key}: {first['msg'].lower()}") from error


def _announce(folder: Path, artifact: Artifact, written: Mapping[str, bytes]) -> None:
    """Let the config name the files as they are and as they will be."""
    coming = {name: hashlib.sha256(content).hexdigest() for name, content in written.items()}
    both = {**artifact.config, "checksums": artifact.sums, "checksums_next": coming}
    storage.write_json(folder / FILES.config, both)
