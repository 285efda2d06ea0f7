"""Which files below a folder are images, and which folders are called like splits."""

from __future__ import annotations

from pathlib import Path

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


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file below ``folder`` is one that systems and editors hide there: ``.x``, ``._x``, ``__MACOSX/x``."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)


def is_image(path: Path) -> bool:
    """Whether the name of a file is that of an image."""
    return path.suffix.lower() in IMAGE_SUFFIXES


def files_below(folder: Path) -> list[Path]:
    """All files below ``folder`` that are not hidden, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and not is_hidden(path, folder))


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in ``folder`` that are not hidden, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path, folder))


def split_called(name: str, asked: frozenset[str] = frozenset()) -> str | None:
    """The split that a folder or file of this name is: the name itself where somebody asked for it; None of others."""
    return name if name in asked else SPLIT_NAMES.get(name.lower())
