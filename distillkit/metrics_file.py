"""Lines of ``metrics.jsonl``: a JSON object a line with the CRC-32 of its content, for they are read back."""

from __future__ import annotations

import json
import zlib
from typing import Any

from distillkit import storage

CHECKSUM = "crc32"
"""Key of a line's checksum: of its other keys as canonical JSON."""
WITHOUT = frozenset(("step", "loss", "lr", "gradient_norm", "skipped", "gated", "seconds", "validation_accuracy"))
"""Keys of the lines of versions that wrote no checksums."""


def line_of(row: dict[str, Any]) -> str:
    """A row as a line of the file."""
    return json.dumps({**row, CHECKSUM: _checksum(row)}, allow_nan=False) + "\n"


def rows_of(content: bytes) -> list[dict[str, Any]]:
    """The rows of all lines that are as they were written, in order of their steps.

    Lines of an older version have no checksum; one that lacks it among others that have it is damaged, and so is one
    with a key that those versions did not write.
    """
    found = [row for line in content.splitlines() if (row := _parsed(line)) is not None]
    if any(CHECKSUM in row for row in found):
        return [row for row in found if row.pop(CHECKSUM, None) == _checksum(row)]
    return [row for row in found if row.keys() <= WITHOUT]


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line's row; None if it was torn by a kill or is damaged."""
    try:
        row = json.loads(line)
        storage.canonical_json(row)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


def _checksum(row: dict[str, Any]) -> str:
    return f"{zlib.crc32(storage.canonical_json(row).encode()):08x}"
