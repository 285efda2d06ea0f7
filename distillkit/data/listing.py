"""The files of a folder of images. Paths are text here: there may be a million of them."""
# ruff: noqa: PTH113, PTH116, PTH118, PTH122, PTH206

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def files_below(folder: Path) -> list[str]:
    """Paths of files, relative to ``folder``, in the order of their parts; hidden ones are left out."""
    found = []
    for base, below, names in os.walk(folder):
        below[:] = [name for name in below if not is_hidden_name(name)]
        place = os.path.relpath(base, folder)
        prefix = "" if place == os.curdir else place + os.sep
        for name in names:
            if not is_hidden_name(name) and os.path.isfile(os.path.join(base, name)):
                found.append(prefix + name)
    return sorted(found, key=lambda path: path.split(os.sep))


def version_of(folder: Path, files: list[str]) -> str:
    """SHA-256 of the names, sizes and times of files: another one if a file was changed."""
    digest = hashlib.sha256()
    for path in files:
        about = os.stat(os.path.join(folder, path))
        digest.update(json.dumps([path, about.st_size, about.st_mtime_ns]).encode())
    return digest.hexdigest()


def suffix_of(path: str) -> str:
    """The suffix of a file's name, in lower case, with its dot."""
    return os.path.splitext(path)[1].lower()


def first_part(path: str) -> str | None:
    """The folder that a relative path begins with; None of a bare name."""
    head, separator, _ = path.partition(os.sep)
    return head if separator else None


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file below ``folder`` is one that systems and editors hide there: ``.x``, ``._x``, ``__MACOSX/x``."""
    return any(is_hidden_name(part) for part in path.relative_to(folder).parts)


def is_hidden_name(name: str) -> bool:
    """The same, of one part of a path."""
    return name.startswith(".") or name == "__MACOSX"
