"""Which files below a folder are images, and which folders are called like splits. Paths of files are text here: there
may be a million of them.
"""
# ruff: noqa: PTH100, PTH112, PTH113, PTH116, PTH118, PTH122, PTH206

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from distillkit.errors import DataError

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".avif", ".jp2", ".tga")
IMAGE_SUFFIXES = frozenset({*PHOTOGRAPHS, ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"})
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "dev": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
"""Usual names of splits, in lower case, and the split that each means."""

HALVES = re.compile("[\ud800-\udfff]")
"""What Python has in the place of bytes that are no text, which cannot be written as UTF-8."""


def files_below(folder: Path) -> list[str]:
    """Paths of files, relative to ``folder``, in the order of their parts; hidden ones are left out."""
    return sorted(_files(folder), key=lambda path: path.split(os.sep))


def holds_images(folder: Path) -> bool:
    """Whether there is any image below ``folder``; the first that is found ends the search."""
    return any(is_image(path) for path in _files(folder))


def _files(folder: Path) -> Iterator[str]:
    """Files below ``folder``, those behind links too, but for links to a folder that it lies in."""
    parents = (os.stat(parent) for parent in Path(os.path.abspath(folder)).parents)
    return _walk(folder, "", frozenset((about.st_dev, about.st_ino) for about in parents))


def _walk(folder: Path | str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    """A link to a folder that lies ``above`` is passed over.

    Raises:
        DataError: a folder cannot be read.
    """
    try:
        about, entries = os.stat(folder), list(os.scandir(folder))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DataError(f"folder {escaped(str(folder))} cannot be read: {reason}") from error
    place = (about.st_dev, about.st_ino)
    if place in above:
        return
    for entry in entries:
        if _is_hidden_name(entry.name):
            continue
        if os.path.isdir(entry.path):
            yield from _walk(entry.path, f"{prefix}{entry.name}{os.sep}", above | {place})
        elif os.path.isfile(entry.path):
            yield prefix + entry.name


def version_of(folder: Path, files: list[str]) -> str:
    """SHA-256 of the names, sizes and times of files: another one if a file was changed."""
    digest = hashlib.sha256()
    for path in files:
        about = os.stat(os.path.join(folder, path))
        digest.update(json.dumps([path, about.st_size, about.st_mtime_ns]).encode())
    return digest.hexdigest()


def part_not_utf8(path: str) -> str | None:
    """The shortest beginning of ``path`` that ends in a name that is not UTF-8; None where all names are."""
    found = HALVES.search(path)
    return None if found is None else path[: found.start()] + path[found.start() :].partition(os.sep)[0]


def escaped(text: str) -> str:
    r"""``text`` with the bytes of a name that are not UTF-8 as ``\xe9``, so that it can be written."""

    def shown(half: re.Match[str]) -> str:
        code = ord(half[0])
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"

    return HALVES.sub(shown, text)


def suffix_of(path: str) -> str:
    """The suffix of a file's name, in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()


def first_part(path: str) -> str | None:
    """The folder that a relative path begins with; None of a bare name."""
    head, separator, _ = path.partition(os.sep)
    return head if separator else None


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file below ``folder`` is one that systems and editors hide there: ``.x``, ``._x``, ``__MACOSX/x``."""
    return any(_is_hidden_name(part) for part in path.relative_to(folder).parts)


def _is_hidden_name(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "lost+found")


def is_image(path: str) -> bool:
    """Whether the name of a file is that of an image."""
    return suffix_of(path) in IMAGE_SUFFIXES


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in ``folder`` that are not hidden, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path, folder))


def split_called(name: str, asked: frozenset[str] = frozenset()) -> str | None:
    """The split that a folder or file of this name is: the name itself where somebody asked for it; None of others."""
    return name if name in asked else SPLIT_NAMES.get(name.lower())
