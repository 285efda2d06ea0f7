"""Where the files of a loaded set are, whole and unchanged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from distillkit.artifact.layout import LOADED
from distillkit.artifact.read import Artifact, check_unchanged, read_artifact
from distillkit.errors import StorageError
from distillkit.hub.address import Address
from distillkit.hub.client import Cache
from distillkit.sharing.pull import fetch


@dataclass(frozen=True)
class Origin:
    """Where on the Hub a set was loaded from, and how."""

    address: Address
    cache: Cache


def whole_folder(artifact: Artifact, origin: Origin | None, commit: str | None) -> Path:
    """Where all files of the artifact are, which are what was loaded; of the Hub's, those not loaded yet are fetched.

    Raises:
        StorageError: a file is gone, or another than was loaded.
    """
    if origin is None:
        missing = [name for name in LOADED if not (artifact.folder / name).is_file()]
        if missing:
            raise StorageError(f"could not save: {artifact.folder / missing[0]} is gone since the set was loaded")
        now = read_artifact(artifact.folder)
    else:
        now = fetch(Address(origin.address.repo, commit), origin.cache, whole=True).artifact
    check_unchanged(artifact, now)
    return now.folder
