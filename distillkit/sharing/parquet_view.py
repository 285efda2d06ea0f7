"""The parquet view of an artifact, checked against its tensors before it is published; it may come from anywhere.

A small parquet file can say that it holds terabytes. Its footer is read first, and its rows a few at a time, so that a
check costs no more memory than an honest file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from distillkit.artifact.layout import FILES
from distillkit.artifact.read import Artifact, largest_sizes
from distillkit.artifact.schema import ArtifactConfig
from distillkit.artifact.views import EightBit, eight_bit, to_image
from distillkit.errors import ArtifactError

COLUMNS = ("image", "label", "soft_label")
ROWS = 16
"""Read at a time: a cell can be a reference to one large value that many rows share."""
LARGEST_HEAD = 2**22
"""Bytes of a footer."""
SOFT = 1e-5
"""How far a soft label may be from that of the tensors: it is stored as float32."""


def check_view(folder: Path, artifact: Artifact, about: ArtifactConfig) -> None:
    """Whether the parquet file shows exactly the images and labels of the tensors.

    Raises:
        ArtifactError: it cannot be read, is larger than it can be, or shows another set.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, limit = folder / FILES.parquet, largest_sizes(about)[FILES.parquet]
    try:
        _check_footer(path)
        with pq.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            _check_shape(file, about, limit)
            _check_rows(_cells(file, limit), artifact)
    except _WrongError as error:
        raise ArtifactError(f"{folder} is damaged: {FILES.parquet} {error}") from None
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ArtifactError(f"{folder} is damaged: {FILES.parquet} cannot be read") from error


class _WrongError(Exception):
    """What is wrong with the file, as the end of a sentence."""


def _check_footer(path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        tail = file.read(8)
    if tail[4:] != b"PAR1" or int.from_bytes(tail[:4], "little") > min(size, LARGEST_HEAD):
        raise _WrongError("cannot be read")


def _check_shape(file: Any, about: ArtifactConfig, limit: int) -> None:
    """Rows, columns and bytes, as the footer says them."""
    footer = file.metadata
    names = file.schema_arrow.names
    if set(names) != set(COLUMNS) or len(names) != len(COLUMNS) or footer.num_rows != about.size:
        found = f"{footer.num_rows} rows of {', '.join(names)[:200]}"
        raise _WrongError(f"has {found}; expected {about.size} of image, label, soft_label")
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    if sum(group.num_rows for group in groups) != about.size:
        raise _WrongError("has parts that are not as long as the whole")
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    held = sum(max(0, chunk.total_uncompressed_size) for chunk in chunks)
    if held > limit:
        raise _WrongError(f"holds {held} bytes, it may hold {limit}")


def _cells(file: Any, limit: int) -> Iterator[tuple[Any, Any, Any]]:
    """Image cell, label, soft label, of one row after the other."""
    for batch in file.iter_batches(batch_size=ROWS, columns=list(COLUMNS), use_threads=False):
        if batch.nbytes > limit:
            raise _WrongError(f"has {ROWS} rows of {batch.nbytes} bytes, all of it may have {limit}")
        columns = [batch.column(name).to_pylist() for name in COLUMNS]
        yield from zip(*columns, strict=True)


def _check_rows(cells: Iterator[tuple[Any, Any, Any]], artifact: Artifact) -> None:
    synthetic, stored = artifact.synthetic, artifact.config["uint8_range"]
    view = eight_bit(synthetic, artifact.preprocess, (stored["low"], stored["high"]))
    targets = synthetic.targets().float()
    for row, (cell, label, soft) in enumerate(cells):
        if label != int(synthetic.class_ids[row]):
            raise _WrongError(f"is of another set: row {row} has the label {str(label)[:20]}")
        if soft is None or len(soft) != targets.shape[1] or None in soft:
            raise _WrongError(f"is of another set: row {row} has no soft label of {targets.shape[1]} classes")
        if not torch.allclose(torch.tensor(soft), targets[row], rtol=0, atol=SOFT):
            raise _WrongError(f"is of another set: row {row} has other soft labels")
        _check_cell(cell, row, view)


def _check_cell(cell: Any, row: int, view: EightBit) -> None:
    """A PNG of the image, to one 8-bit step: another machine may round otherwise."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    expected = np.asarray(to_image(view.images[row]), dtype=np.int16)
    try:
        with Image.open(io.BytesIO(content or b""), formats=["PNG"]) as image:
            if image.size != expected.shape[1::-1]:
                raise _WrongError(f"is of another set: row {row} has an image of {image.size[0]} x {image.size[1]}")
            pixels = np.asarray(image, dtype=np.int16)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError):
        raise _WrongError(f"has no PNG in row {row}") from None
    if pixels.shape != expected.shape or np.abs(pixels - expected).max() > 1:
        raise _WrongError(f"is of another set: row {row} has another image")
