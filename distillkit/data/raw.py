"""What reading hands to decoding: a data set found, its images still encoded, its labels already class ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit.errors import DataError


@dataclass(frozen=True)
class RawSplit:
    """Undecoded rows of a split: a ``datasets`` table with an image column, and a class id for each row.

    ``folder``: where the images lie that this library listed itself; None of tables, whose paths are not trusted.
    """

    name: str
    table: Any
    image_column: str
    labels: list[int]
    folder: Path | None = None

    def cells(self, begin: int = 0) -> Iterator[dict[str, Any]]:
        """Image cells ``{"bytes", "path", "file"}`` in order, from row ``begin``; ``path`` is a name for people."""
        if begin >= len(self.labels):  # an empty selection is refused
            return
        table = self.table.select_columns([self.image_column])
        table = table.select(range(begin, len(table))) if begin else table
        for batch in table.iter(batch_size=64):
            for cell in batch[self.image_column]:
                yield self._cell(cell)

    def sample(self, count: int) -> RawSplit:
        """Every so-manieth row, ``count`` at most.

        Raises:
            DataError: there are no rows.
        """
        if not self.labels:
            raise DataError(f"split {self.name!r} has no rows")
        rows = range(0, len(self.labels), -(-len(self.labels) // count))
        labels = [self.labels[row] for row in rows]
        return RawSplit(self.name, self.table.select(rows), self.image_column, labels, self.folder)

    def _cell(self, cell: dict[str, Any] | None) -> dict[str, Any]:
        content, path = (cell or {}).get("bytes"), (cell or {}).get("path")
        if self.folder is None or path is None:
            return {"bytes": content, "path": None if path is None else Path(path).name, "file": None}
        return {"bytes": content, "path": str(Path(path).relative_to(self.folder)), "file": path}


@dataclass(frozen=True)
class RawDataset:
    """A data set found, not yet decoded; ``test`` None where it has none."""

    train: RawSplit
    test: RawSplit | None
    classes: tuple[str, ...]
    license: str | None
    notes: tuple[str, ...] = ()
