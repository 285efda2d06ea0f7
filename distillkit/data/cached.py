"""What the cache holds of data sets, decoded images and whitening matrices: to look at, and to make room."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.errors import StorageError
from distillkit.locks import BusyError, locked


@dataclass(frozen=True)
class CachedSet:
    """The files of one decoded data set, or of a whitening matrix: ``name``, its fingerprint; ``source``, where the
    images were found; ``state``: ``whole``, ``gone`` (its source is not where it was), ``unfinished`` or ``unusable``;
    ``holds``: ``images``, or the kind of whitening.
    """

    name: str
    source: str
    state: str
    files: tuple[Path, ...]
    holds: str = "images"

    @property
    def size_bytes(self) -> int:
        """Bytes on disk; room that a file keeps without using it is not counted."""
        about = [path.stat() for path in self.files]
        return sum(getattr(one, "st_blocks", 0) * 512 or one.st_size for one in about)


def cached_sets() -> list[CachedSet]:
    """All that are in the cache."""
    folder = storage.cache_root() / "data"
    found: dict[str, list[Path]] = {}
    for path in sorted((*folder.glob("*.safetensors"), *folder.glob(".*.decoding"), *folder.glob(".*.journal"))):
        found.setdefault(path.name.lstrip(".").split(".")[0], []).append(path)
    return [_described(name, paths) for name, paths in found.items()]


def _described(name: str, paths: list[Path]) -> CachedSet:
    whole = [path for path in paths if path.suffix == ".safetensors"]
    if not whole:
        return CachedSet(name, "-", "unfinished", tuple(paths))
    try:
        facts: Any = storage.read_metadata(whole[0])
        kind, source = facts["place"]
    except (StorageError, KeyError, TypeError, ValueError):  # damaged, or of an older version
        return CachedSet(name, "-", "unusable", tuple(paths))
    state = "gone" if kind != "hub" and not Path(source).exists() else "whole"
    return CachedSet(name, str(source), state, tuple(paths), str(facts.get("holds", "images")))


def clear(found: CachedSet) -> bool:
    """Delete one; False if a process is decoding it now."""
    try:
        with locked(storage.cache_root() / "data" / f".{found.name}.lock"):
            for path in found.files:
                with storage.storage_errors(path, "delete"):
                    path.unlink(missing_ok=True)
    except BusyError:
        return False
    return True
