"""Whitening matrices from the cache: fitting one takes half a minute of two cores, at 32 x 32 colour pixels."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path

import torch

from distillkit import storage
from distillkit.data.preprocess import CHUNK, Preprocess, UnitWhiten, Whiten, fit
from distillkit.errors import DamagedError, StorageError
from distillkit.locks import locked
from distillkit.progress import Progress, Silent
from distillkit.records import Pixels

KINDS: dict[str, type[Whiten] | type[UnitWhiten]] = {"zca": Whiten, "unit-zca": UnitWhiten}
WORTH_KEEPING = 1024
"""Values an image from which on a matrix is kept; smaller ones are fitted before a file is read."""
VERSION = 1
"""Rises when the fitting changes."""


def fitted(kind: str, images: Pixels, zca_eps: float, place: list[str], progress: Progress) -> Preprocess:
    """``fit``, or what it once made of the same images with as many threads: the same bytes.

    Args:
        kind: of preprocessing.
        images: uint8 [n, C, H, W].
        zca_eps: as in ``fit``.
        place: where the images come from, for ``distillkit cache``: ``folder`` and its path, or ``hub`` and its name.
        progress: hears of waiting, of damage, and of a cache that cannot be written, in which nothing is kept.

    Raises:
        ConfigError: as ``fit``.
    """
    if kind not in KINDS or images.numel() // len(images) < WORTH_KEEPING:
        return fit(kind, images, zca_eps)
    path = storage.cache_root() / "data" / f"{_key(kind, images, zca_eps)}.safetensors"
    waiting = "waiting for another process that fits the same whitening"
    found = None
    try:
        found = _read(kind, path, progress)
        if found is not None:
            return found
        storage.make_folder(path.parent)
        with locked(path.parent / f".{path.stem}.lock", lambda: progress.note(waiting)):
            found = _read(kind, path, Silent())  # another process may have made it
            if found is None:
                found = fit(kind, images, zca_eps)
                keep(path, kind, found, place)
    except StorageError as error:
        progress.note(f"the whitening is not kept: {error}")
    return fit(kind, images, zca_eps) if found is None else found


def keep(path: Path, kind: str, found: Preprocess, place: list[str]) -> None:
    """Write a matrix into the cache, with the name of its file: that of other images is never taken for it."""
    tensors = {field.name: getattr(found, field.name) for field in fields(found)}
    storage.write_tensors(path, tensors, {"place": place, "holds": kind, "of": path.name}, sealed=True)


def _key(kind: str, images: Pixels, zca_eps: float) -> str:
    """What the bytes of a matrix depend on; sums are in another order with other threads and other versions."""
    digest = hashlib.sha256()
    for chunk in images.split(CHUNK):
        storage.sha256_tensor(digest, chunk)
    how = {"threads": torch.get_num_threads(), "torch": torch.__version__, "version": VERSION}
    return storage.fingerprint({"kind": kind, "eps": zca_eps, "images": digest.hexdigest(), **how})


def _read(kind: str, path: Path, progress: Progress) -> Preprocess | None:
    """What the file holds, None if there is none or it is damaged."""
    if not path.exists():
        return None
    try:
        tensors, about = storage.read_tensors(path, sealed=True)
        if not isinstance(about, dict) or (about.get("holds"), about.get("of")) != (kind, path.name):
            raise DamagedError(f"{path} does not hold what its name says")
    except DamagedError:
        progress.note(f"the whitening in {path} is damaged; fitting it again")
        return None
    return KINDS[kind](**tensors)
