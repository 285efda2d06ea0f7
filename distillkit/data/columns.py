"""Which split is learned from and which is tested on; which columns hold the images and the labels."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from distillkit.data.listing import SPLIT_NAMES
from distillkit.errors import ConfigError
from distillkit.words import counted

LABEL_NAMES = (
    *("label", "labels", "fine_label", "class", "classes", "class_name", "class_label", "category", "categories"),
    *("target", "targets", "cls", "y", "label_name", "class_id", "category_id", "label_id"),
)
"""Usual names of a label column, as ``plain`` writes them; the first two are taken although others are there."""
NO_SPLIT = "none"
LOOKED_AT = 1000
"""Labels of a split that tell whether it has any."""


def pick_train(wanted: str | None, tables: dict[str, Any]) -> str:
    """The split to learn from: the one that was named, ``train`` by any usual name, or the only one.

    Raises:
        ConfigError: there is no such split, or none stands out.
    """
    if wanted is not None and wanted in tables:
        return wanted
    if wanted is not None and wanted != "train":
        raise ConfigError(f"there is no split {wanted!r}; the data set has {', '.join(tables)}")
    called = ["train"] if "train" in tables else [name for name in tables if SPLIT_NAMES.get(name.lower()) == "train"]
    if len(called) == 1:
        return called[0]
    if len(tables) == 1:
        return next(iter(tables))
    raise ConfigError(f"name the split to learn from with `dataset.train_split`; the data set has {', '.join(tables)}")


def pick_test(wanted: str | None, tables: dict[str, Any], train: str, label: str, notes: list[str]) -> str | None:
    """The split to test on: the one that was named, else the first labelled one called like test or validation.

    None: a part of the training split is to be cut off, because ``none`` was asked for or there is no other. Splits
    that have no labels are passed over, which ``notes`` hear.

    Raises:
        ConfigError: there is no such split, it has no labels, or it is the training split.
    """
    if wanted is None:
        return _usual_test(tables, train, label, notes)
    if wanted.lower() == NO_SPLIT:
        return None
    if wanted not in tables:
        raise ConfigError(f"there is no split {wanted!r}; the data set has {', '.join(tables)}")
    if wanted == train:
        raise ConfigError(
            f"`dataset.test_split` and `dataset.train_split` are both {train!r}; test images must not be trained on"
        )
    if not _has_labels(tables[wanted], label):
        raise ConfigError(
            f"split {wanted!r} has no labels to test on; name another, or `dataset.test_split=none` to cut one "
            f"from {train!r}"
        )
    return wanted


def _usual_test(tables: dict[str, Any], train: str, label: str, notes: list[str]) -> str | None:
    for kind in ("test", "validation"):
        for name in sorted(tables, key=lambda name: name.lower() != kind):
            if name == train or SPLIT_NAMES.get(name.lower()) != kind:
                continue
            if _has_labels(tables[name], label):
                return name
            notes.append(f"split {name!r} has no labels, and was passed over")
    return None


def unused_splits(tables: dict[str, Any], train: str, test: str | None, label: str) -> list[str]:
    """A note on labelled splits that a run uses for nothing, if there are any; ``test`` is None where it is cut."""
    others = [name for name in tables if name not in (train, test) and _has_labels(tables[name], label)]
    if not others:
        return []
    if test is None:
        return [f"a test split is cut from {train!r}; `dataset.test_split` uses another: {', '.join(others)}"]
    counts = ", ".join(f"{name!r} ({counted(len(tables[name]), 'image')})" for name in others)
    return [f"not used: split {counts}; validation images are cut from {train!r}, test images are those of {test!r}"]


def _has_labels(table: Any, label: str) -> bool:
    """Whether a split has the label column, and in it anything but None and -1, which hide labels by custom."""
    if label not in table.column_names:
        return False
    values = table.select(range(min(len(table), LOOKED_AT)))[label]
    return not values or not all(_says_nothing(value) for value in values)


def _says_nothing(value: Any) -> bool:
    if isinstance(value, float) and math.isnan(value):
        return True
    return value in (None, "", -1)


def image_column(wanted: str | None, table: Any) -> str:
    """The column of the images: the one that was named, or the only one that holds any.

    Raises:
        ConfigError: there is no such column, several, or none.
    """
    if wanted is not None:
        return _named(wanted, table)
    found: list[str] = [name for name, feature in table.features.items() if _is_image(feature)]
    found = found or [
        name for name, feature in table.features.items() if holds_bytes(feature) and not is_label_name(name)
    ]
    if len(found) == 1:
        return found[0]
    what = "several image columns" if found else "no image column"
    names = ", ".join(found or table.column_names)
    raise ConfigError(f"the data set has {what} ({names}); name one with `dataset.image_column`")


def _is_image(feature: Any) -> bool:
    import datasets

    return isinstance(feature, datasets.Image)


def holds_bytes(feature: Any) -> bool:
    """Whether cells of a column may be image files: bytes, or ``{"bytes", "path"}``."""
    return "bytes" in str(feature) or "binary" in str(feature)


def check_image_column(table: Any, column: str) -> None:
    """Refuse a column of anything but image files.

    Raises:
        ConfigError: it holds something else; the message has the line that converts pixels or file names.
    """
    feature = table.features[column]
    if _is_image(feature) or holds_bytes(feature):
        return
    kind = str(feature)
    if "string" in kind and "List" not in kind:
        raise ConfigError(
            f"column {column!r} holds text, not images, and files that a table names are not opened; put them into it: "
            f'table.cast_column("{column}", datasets.Image()).save_to_disk("images"), or name another column with '
            "`dataset.image_column`"
        )
    if any(word in kind for word in ("Array", "List", "Sequence")):
        raise ConfigError(
            f"column {column!r} holds numbers ({kind[:60]}), not image files; make them so: "
            f'table.map(lambda row: {{"picture": PIL.Image.fromarray(numpy.uint8(row["{column}"]))}}, '
            f'remove_columns="{column}").save_to_disk("images"), or name another column with `dataset.image_column`'
        )
    raise ConfigError(f"column {column!r} holds {kind[:60]}, not images; name another with `dataset.image_column`")


def label_column(wanted: str | None, table: Any, notes: list[str]) -> str:
    """The column of the labels: the one that was named, the only one of classes, or one of a usual name.

    Raises:
        ConfigError: there is no such column, several, or none.
    """
    import datasets

    if wanted is not None:
        return _named(wanted, table)
    found: list[str] = [name for name, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
    found = found or [name for name in table.column_names if is_label_name(name)]
    if len(found) == 1:
        return found[0]
    plain = _plainest(found)
    if plain is not None:
        others = ", ".join(name for name in found if name != plain)
        notes.append(f"labels are those of column {plain!r}, not of {others} (`dataset.label_column` names another)")
        return plain
    what = "several label columns" if found else "no label column that could be found"
    names = ", ".join(found or table.column_names)
    raise ConfigError(f"the data set has {what} ({names}); name one with `dataset.label_column`")


def is_label_name(name: str) -> bool:
    """Whether a column is called as those of labels are, in a record too (``json.label``)."""
    return plain(name).rsplit(".", 1)[-1] in LABEL_NAMES


def plain(name: str) -> str:
    """A column's name in lower case, with ``_`` for spaces and dashes: ``Class Name`` is ``class_name``."""
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _plainest(names: Sequence[str]) -> str | None:
    for wanted in LABEL_NAMES[:2]:
        for name in names:
            if name.lower() == wanted:
                return name
    return None


def _named(wanted: str, table: Any) -> str:
    if wanted not in table.column_names:
        raise ConfigError(f"there is no column {wanted!r}; the data set has {', '.join(table.column_names)}")
    return wanted
