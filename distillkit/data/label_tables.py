"""Images whose labels a table beside them tells: ``metadata.csv`` (or ``.jsonl``, ``.parquet``) with a column
``file_name``, as ``datasets``' imagefolder has it, or any CSV of image names and labels.

A table names images, it opens none: a name is looked up among the images found below the folder.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillkit.data.class_folders import kind_of
from distillkit.data.columns import is_label_name, plain
from distillkit.data.listing import files_below, first_part, folders_in, is_hidden, is_image, split_called
from distillkit.data.parquet_bounds import check_parquet
from distillkit.errors import DataError

Columns = dict[str, list[Any]]
NAME_COLUMNS = (
    *("file_name", "filename", "file", "path", "filepath", "file_path", "filepaths", "image_path", "image_name"),
    *("image", "img", "image_id", "id", "name"),
)
"""Usual names of a column of image names, as ``plain`` writes them."""
SPLIT_COLUMNS = ("split", "set", "subset", "partition", "data_set", "dataset")
LARGEST_TABLE = 1 << 30
"""Bytes of a table that is read."""
LOOKED_AT = 50
"""Rows that tell which column has the image names."""


@dataclass
class _Images:
    """The images below a folder, by path relative to it, and by name with and without its suffix, whatever its case."""

    folder: Path
    by_path: dict[str, str] = field(default_factory=dict)
    by_name: dict[str, list[str]] = field(default_factory=dict)

    def add(self, path: str) -> None:
        self.by_path[path.replace(os.sep, "/")] = path
        whole = path.rpartition(os.sep)[2].casefold()
        for name in {whole, whole.rpartition(".")[0]}:
            self.by_name.setdefault(name, []).append(path)

    def split(self, path: str, asked: frozenset[str]) -> str | None:
        folder = first_part(path)
        return None if folder is None else split_called(folder, asked)

    def find(self, name: str, beside: Path, split: str | None, asked: frozenset[str]) -> str | None:
        """The image that a table in ``beside`` calls ``name``: by its path, or by a name that only one has."""
        clean = name.strip().replace("\\", "/").removeprefix("./")
        place = beside.relative_to(self.folder)
        for path in ((place / clean).as_posix(), clean):
            if path in self.by_path:
                return self.by_path[path]
        found = self.by_name.get(clean.rsplit("/", 1)[-1].casefold(), [])
        if len(found) > 1:
            found = [path for path in found if self.split(path, asked) == split]
        return found[0] if len(found) == 1 else None


def read_label_tables(
    folder: Path, image: str | None, label: str | None, asked: frozenset[str], notes: list[str]
) -> dict[str, Columns] | None:
    """Columns by split, ``image`` (paths) among them; None where no table tells the labels.

    Args:
        folder: of images and tables.
        image: the column of image names, where it was named.
        label: the label column, where it was named.
        asked: names of splits that were asked for.
        notes: hear what was left out.

    Raises:
        DataError: a table names none of the images, or is too large.
    """
    tables = _tables(folder)
    conventional = [path for path in tables if path.stem == "metadata"]
    if not conventional and not (tables and _is_flat(folder, asked)):
        return None
    images = _Images(folder)
    for name in files_below(folder):
        if is_image(name):
            images.add(name)
    used: set[str] = set()
    splits: dict[str, Columns] = {}
    for path in conventional or tables:
        columns = _read(path)
        named = _name_column(columns, path, images, image, asked)
        if columns and (path in conventional or named is not None):
            _collect(path, columns, named, images, asked, splits, used, notes)
    if not any(_has_label(columns, label) for columns in splits.values()):
        return _without_labels(conventional or tables, splits, label, _is_flat(folder, asked), notes)
    left = len(images.by_path) - len(used)
    if left:
        notes.append(f"{left} images are in no row of {', '.join(path.name for path in conventional or tables)}")
    return {split: _typed(columns) for split, columns in splits.items()}


def _without_labels(
    tables: Sequence[Path], splits: dict[str, Columns], label: str | None, alone: bool, notes: list[str]
) -> dict[str, Columns] | None:
    """Columns where no table has a label column: the only column beside the names is one; ``alone``: nothing else, such
    as class folders, tells the labels. None where something else may.

    Raises:
        DataError: there are several columns, or other ones than that which was named.
    """
    names = ", ".join(path.name for path in tables)
    columns = [name for name in dict.fromkeys(name for found in splits.values() for name in found) if name != "image"]
    if not columns:
        notes.append(f"{names} beside the images names none of them")
        return None
    if len(columns) == 1 and label is None and alone:
        notes.append(f"labels are the column {columns[0]!r} of {names}, its only one beside the images' names")
        return {
            split: _typed({"image": own["image"], "label": own.get(columns[0], [None] * len(own["image"]))})
            for split, own in splits.items()
        }
    asked = "" if label is None else f" called {label!r}"
    words = f"{names} beside the images has no column of labels{asked} ({', '.join(columns)}); name one with"
    if alone:
        raise DataError(f"{words} `dataset.label_column`")
    notes.append(f"{words} `dataset.label_column`")
    return None


def _tables(folder: Path) -> list[Path]:
    """Tables that may tell of images: ``metadata`` up to three levels down, any CSV here or one level down."""
    found = {path for level in ("", "*/", "*/*/") for path in folder.glob(f"{level}metadata.*")}
    found = {path for path in found if path.suffix.lower() in (".csv", ".tsv", ".jsonl", ".parquet")}
    found |= {path for level in ("", "*/") for suffix in (".csv", ".tsv") for path in folder.glob(f"{level}*{suffix}")}
    return sorted(path for path in found if path.is_file() and not is_hidden(path, folder))


def _is_flat(folder: Path, asked: frozenset[str]) -> bool:
    """Whether the folders say nothing of classes: images here, in splits, or in a single folder."""
    if any(path.is_file() and is_image(path.name) for path in folder.iterdir()):
        return True
    kinds = {path: kind_of(path) for path in folders_in(folder)}
    holders = [path for path, kind in kinds.items() if kind != "empty"]
    if any(kinds[path] == "classes" for path in holders):
        return False
    return len(holders) == 1 or all(split_called(path.name, asked) for path in holders)


def _has_label(columns: Columns, label: str | None) -> bool:
    return label in columns if label is not None else any(is_label_name(name) for name in columns)


# rows


def _read(path: Path) -> Columns:
    """A table's columns as they are written: texts of a CSV, scalars of JSON lines and parquet."""
    if path.stat().st_size > LARGEST_TABLE:
        raise DataError(f"{path.name} has more than {LARGEST_TABLE:,} bytes, too many for a table of labels")
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        check_parquet([path])
        return dict(pq.read_table(path).to_pydict())
    rows = list(_json_rows(path) if path.suffix == ".jsonl" else _csv_rows(path))
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _csv_rows(path: Path) -> Iterator[dict[str, Any]]:
    text = re.sub(r"\A(?:[ \t]*\r?\n)+", "", _text(path))  # blank lines above the names of the columns
    delimiter = max("\t;,", key=text.partition("\n")[0].count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = [name.strip() for name in reader.fieldnames or () if name and name.strip()]
        if twice := [name for name, count in Counter(names).items() if count > 1 and _is_asked_for(name)]:
            raise DataError(f"{path.name} has two columns {twice[0]!r}; rename one of them")
        for row in reader:
            yield {name.strip(): _cell(value) for name, value in row.items() if name and isinstance(name, str)}
    except csv.Error as error:
        raise DataError(f"{path.name} is no table of labels: {error}") from error


def _is_asked_for(name: str) -> bool:
    """Whether labels, or the images' names, may be looked for in a column of this name."""
    return is_label_name(name) or plain(name) in NAME_COLUMNS


def _cell(value: str | None) -> str | None:
    """Without the blanks around it; None of an empty one."""
    return (value.strip() or None) if value is not None else None


def _text(path: Path) -> str:
    """A table of UTF-8 or, with its mark, UTF-16.

    Raises:
        DataError: it is neither.
    """
    content = path.read_bytes()
    wide = content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"line {line} of {path.name} is not UTF-8; save the table as UTF-8") from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"line {number} of {path.name} is not JSON") from error
        if not isinstance(row, dict):
            raise DataError(f"line {number} of {path.name} is not an object of columns")
        yield {str(name): value for name, value in row.items() if not isinstance(value, (dict, list))}


def _collect(
    path: Path,
    columns: Columns,
    named: str | None,
    images: _Images,
    asked: frozenset[str],
    splits: dict[str, Columns],
    used: set[str],
    notes: list[str],
) -> None:
    """Lay the rows of one table into ``splits``; rows that name no image are counted."""
    if named is None:
        raise DataError(
            f"no column of {path.name} names the images beside it; expected a column file_name with paths from its "
            "folder, such as train/0001.png"
        )
    own = _split_of_table(path, images.folder, asked)
    by_row = next((name for name in columns if plain(name) in SPLIT_COLUMNS), None)
    others = [name for name in columns if name not in (named, by_row, "image")]
    missing: list[str] = []
    again = 0
    for row, name in enumerate(columns[named]):
        said = columns[by_row][row] if by_row else None
        split = (split_called(str(said), asked) or str(said)) if said else own
        found = images.find(str(name), path.parent, split, asked) if name is not None else None
        if found is None:
            missing.append(str(name))
            continue
        if found in used:
            again += 1
            continue
        used.add(found)
        cells = splits.setdefault(split or images.split(found, asked) or "train", {})
        count = len(cells.setdefault("image", []))
        cells["image"].append(str(images.folder / found))
        for other in others:
            kept = cells.setdefault(other, [None] * count)
            kept.append(columns[other][row])
        for kept in cells.values():  # columns that only other tables have
            kept.extend([None] * (count + 1 - len(kept)))
    if again:
        notes.append(f"{again} rows of {path.name} name an image once more; the first row of each counts")
    if missing:
        notes.append(f"{len(missing)} rows of {path.name} name no image here ({missing[0]}), and are left out")


def _name_column(
    columns: Columns, path: Path, images: _Images, wanted: str | None, asked: frozenset[str]
) -> str | None:
    """The column whose first values are images: usual names first, then, of tables of no convention, any other."""
    if wanted in columns:
        return wanted
    usual = sorted(
        (name for name in columns if plain(name) in NAME_COLUMNS), key=lambda name: NAME_COLUMNS.index(plain(name))
    )
    split = _split_of_table(path, images.folder, asked)
    others = [name for name in columns if name not in usual and not is_label_name(name)]
    for name in usual if path.stem == "metadata" else usual + others:
        values = [str(value) for value in columns[name][:LOOKED_AT] if value is not None]
        found = sum(images.find(value, path.parent, split, asked) is not None for value in values)
        if values and 2 * found >= len(values):
            return name
    return None


def _split_of_table(path: Path, folder: Path, asked: frozenset[str]) -> str | None:
    """The split that a table tells of by its own place or name: ``test/metadata.csv``, ``train_labels.csv``."""
    parts = path.relative_to(folder).parts
    if len(parts) > 1:
        return split_called(parts[0], asked)
    return split_called(path.stem, asked) or split_called(re.split(r"[^A-Za-z]", path.stem)[0], asked)


# types


def _typed(columns: Columns) -> Columns:
    return {name: values if name == "image" else _numbers(values) for name, values in columns.items()}


def _numbers(values: Sequence[Any]) -> list[Any]:
    """Texts as the numbers that all of them write; otherwise as they are, and all as text if they are of many kinds."""
    texts = [value for value in values if value is not None]
    if not all(isinstance(value, str) for value in texts):
        same = len({type(value) for value in texts}) == 1
        return list(values) if same else [None if value is None else str(value) for value in values]
    if all(re.fullmatch(r"-?(0|[1-9]\d{0,17})", text) for text in texts):
        return [None if value is None else int(value) for value in values]
    if all(re.fullmatch(r"-?\d+\.\d*", text) for text in texts):
        return [None if value is None else float(value) for value in values]
    return list(values)
