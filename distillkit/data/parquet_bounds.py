"""What a parquet file may unpack to, looked at before anything reads it.

A megabyte can stand for terabytes: by compression, or as a dictionary of few values for many rows. The footer says
what it claims, and where that leaves a doubt the columns are counted a little at a time, never as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from distillkit.errors import DataError

LARGEST_ROWS = 50_000_000
"""Rows of a data set; ImageNet-21k has 14 million."""
SMALL = 1 << 30
"""Bytes that any data set may unpack to."""
LARGEST_RATIO = 20
"""Unpacked bytes for each byte of the files, beyond ``SMALL``; images are compressed already, so it is near 1."""
AT_ONCE = 1 << 28
"""Bytes that are unpacked at a time to count them."""


def may_hold_images(path: Path) -> bool:
    """Whether a column of a parquet file can be of images, which are bytes: not where all are numbers and words. One
    that cannot be read may be anything.
    """
    import pyarrow as pa

    try:
        schema = _footer(path).schema.to_arrow_schema()
    except (pa.ArrowException, OSError, UnicodeError):
        return True
    return any(_has_bytes(field.type) for field in schema)


def _has_bytes(kind: Any) -> bool:
    """Whether bytes are somewhere in a column of this type."""
    import pyarrow as pa

    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return True
    return any(_has_bytes(kind.field(place).type) for place in range(kind.num_fields))


def check_parquet(files: Iterable[Path]) -> list[Path]:
    """Refuse files that unpack to far more than they hold; returns those without rows.

    Raises:
        DataError: too many rows or bytes, none at all, or a file that is no parquet file.
    """
    import pyarrow as pa

    rows, claimed, stored, doubtful, empty = 0, 0, 0, False, list[Path]()
    listed = list(files)
    for path in listed:
        try:
            about = _footer(path)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path.name} is no parquet file, or is damaged") from error
        if not about.num_rows:
            empty.append(path)
        rows += about.num_rows
        stored += path.stat().st_size
        for chunk in _chunks(about):
            claimed += chunk.total_uncompressed_size
            doubtful = doubtful or _has_dictionary(chunk)
    allowed = max(SMALL, LARGEST_RATIO * stored)
    if rows > LARGEST_ROWS:
        raise DataError(f"the parquet files have {rows:,} rows, more than the {LARGEST_ROWS:,} that are read")
    if claimed > allowed:
        raise DataError(_too_much(stored, allowed))
    if doubtful and _most(listed) > allowed:
        _count(listed, stored, allowed)
    if listed and not rows:
        raise DataError(f"{listed[0].name}{' and the others have' if len(listed) > 1 else ' has'} no rows")
    return empty


def _footer(path: Path) -> Any:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.metadata


def _chunks(about: Any) -> Iterable[Any]:
    for group in range(about.num_row_groups):
        for column in range(about.num_columns):
            yield about.row_group(group).column(column)


def _has_dictionary(chunk: Any) -> bool:
    return bool(chunk.has_dictionary_page)


def _most(files: Iterable[Path]) -> int:
    """The bytes that they cannot exceed: each value of a dictionary as large as the whole chunk."""
    return sum(
        chunk.total_uncompressed_size * (max(1, chunk.num_values) if _has_dictionary(chunk) else 1)
        for path in files
        for chunk in _chunks(_footer(path))
    )


def _count(files: Iterable[Path], stored: int, allowed: int) -> None:
    """Unpack all in small batches, keeping none, until it is too much; no value is larger than its chunk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    total = 0
    for path in files:
        try:
            with pq.ParquetFile(path) as file:
                largest = max((chunk.total_uncompressed_size for chunk in _chunks(file.metadata)), default=1)
                rows = min(1024, max(1, AT_ONCE // max(1, largest)))
                for batch in file.iter_batches(batch_size=rows, use_threads=False):
                    total += batch.nbytes
                    if total > allowed:
                        raise DataError(_too_much(stored, allowed))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path.name} is no parquet file, or is damaged") from error


def _too_much(stored: int, allowed: int) -> str:
    return (
        f"parquet files of {stored:,} bytes unpack to more than {allowed:,}, which no images do; "
        "whoever made them may mean harm"
    )
