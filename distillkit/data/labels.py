"""From what a label column holds (numbers, words, truth values) to class ids and class names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from distillkit.data.registry import KnownDataset
from distillkit.errors import ConfigError, DataError
from distillkit.settings import DatasetSettings
from distillkit.words import did_you_mean

Value = int | str
SHOWN = 10
"""Names that a message lists."""


@dataclass(frozen=True)
class Labelling:
    """``classes``: names by class id; ``ids``: which stored value is which class id; ``declared``: all values that have
    a class in the data set, whether it is used here or not.
    """

    classes: tuple[str, ...]
    ids: dict[Value, int]
    declared: dict[Value, str]


def read_labels(table: Any, column: str) -> list[Value | None]:
    """The labels of all rows: whole numbers, or text; None of rows that have none.

    Truth values are the texts False and True, floats without a fraction whole numbers, and -1 is no label where a
    column declares its classes.

    Raises:
        DataError: something that cannot be a class.
    """
    declared = getattr(table.features[column], "names", None)
    values = [_value(stored, column) for stored in table[column][:]]
    if declared is None:
        return values
    for value in values:
        if isinstance(value, int) and value >= len(declared):
            raise DataError(f"column {column!r} holds label {value}, but declares {len(declared)} classes")
    return [None if isinstance(value, int) and value < 0 else value for value in values]


def _value(stored: Any, column: str) -> Value | None:
    if isinstance(stored, (list, tuple)) and len(stored) == 1:
        stored = stored[0]
    if isinstance(stored, bytes):
        stored = stored.decode("utf-8", errors="replace")
    if stored is None or stored == "" or (isinstance(stored, (float, Decimal)) and math.isnan(stored)):
        return None
    if isinstance(stored, (bool, str)):
        return str(stored)
    if isinstance(stored, int):
        return stored
    if isinstance(stored, (float, Decimal)) and math.isfinite(stored) and stored == int(stored):
        return int(stored)
    several = isinstance(stored, (list, tuple))
    what = "one label an image" if several else "whole numbers, words or class labels"
    raise DataError(
        f"labels in column {column!r} must be {what}, found {str(stored)[:60]!r}; "
        "convert them or name another column with `dataset.label_column`"
    )


def in_order(values: Iterable[Value]) -> list[Value]:
    """Sorted: numbers by size (2 before 10), numbers written as text too, other text by its letters."""
    found = list(values)
    if any(isinstance(value, str) and not value.isdecimal() for value in found):
        return sorted(found, key=str)
    return sorted(found, key=lambda value: (int(value), str(value)))


def labelling(
    labels: Sequence[Value | None],
    declared: Sequence[str] | None,
    settings: DatasetSettings,
    known: KnownDataset | None,
    notes: list[str],
) -> Labelling:
    """Which classes there are, from the labels of the training split.

    Args:
        labels: as ``read_labels`` gives them.
        declared: class names by label, where the column has them.
        settings: names for the classes, and which of them are wanted.
        known: a registered data set, which may be some classes of another.
        notes: hear which classes were left out.

    Raises:
        ConfigError: names that are not one for each class, or choices that are no classes.
        DataError: no row has a label, or each has one of its own.
    """
    _check_repeated(labels, declared)
    present = {value for value in labels if value is not None}
    values = _declared_values(present, declared)
    if known is not None and known.class_indices is not None and len(values) != len(known.class_indices):
        if len(values) <= max(known.class_indices):
            count = f"{len(values)} classes; expected {len(known.class_indices)} or all 1000"
            raise ConfigError(f"the local copy of {known.name} has {count}")
        values = [*known.class_indices]
    found = [declared[value] if declared is not None and isinstance(value, int) else str(value) for value in values]
    names = named_classes(found, settings)
    chosen = chosen_classes(names, settings)
    empty = [position for position in chosen if values[position] not in present]
    if empty:
        listed = some([names[position] for position in empty])
        if settings.classes is not None:
            raise ConfigError(f"no training image is of class {listed}; leave it out of dataset.classes")
        notes.append(f"classes without training images are left out: {listed}")
    used = [position for position in chosen if values[position] in present]
    return Labelling(
        tuple(names[position] for position in used),
        {values[position]: class_id for class_id, position in enumerate(used)},
        dict(zip(values, names, strict=True)),
    )


def _check_repeated(labels: Sequence[Value | None], declared: Sequence[str] | None) -> None:
    found = [value for value in labels if value is not None]
    if not found and labels:
        raise DataError("the training images have no labels; name another column with `dataset.label_column`")
    if declared is None and len(found) > 2 and len(set(found)) == len(found):
        raise DataError(
            f"each of the {len(found)} training images has a label of its own ({some([str(v) for v in found[:3]])}, "
            "...): these are no classes; name another column with `dataset.label_column`"
        )


def _declared_values(present: set[Value], declared: Sequence[str] | None) -> list[Value]:
    """The values that are classes: all that are declared, else all that occur.

    -1 is no label by custom, unless it is one of two (-1 and +1) or of several negative numbers.
    """
    if declared is not None:
        return [*range(len(declared))]
    negative = [value for value in present if isinstance(value, int) and value < 0]
    hidden = negative == [-1] and len(present) > 2
    return in_order(present - {-1} if hidden else present)


def named_classes(found: Sequence[str], settings: DatasetSettings) -> tuple[str, ...]:
    """The class names that were given, or else those ``found``.

    Raises:
        ConfigError: not one for each class, one that is empty or given twice, or the data set's own in another order.
    """
    given = settings.class_names
    if given is not None and (twice := [name for name, count in Counter(given).items() if count > 1 or not name]):
        what = "two classes are called" if twice[0] else "a class is called"
        raise ConfigError(f"`dataset.class_names`: {what} {twice[0]!r}; give each a name of its own")
    if given is not None and len(given) != len(found):
        raise ConfigError(f"{len(given)} class names were given, the data set has {len(found)} classes")
    if given is not None and (
        moved := [own for own, name in zip(found, given, strict=True) if own in given and own != name]
    ):
        raise ConfigError(
            f"`dataset.class_names` calls another class {moved[0]!r}, one of the data set's own names, whose order is "
            f"{some([str(name) for name in found])} (`dataset.classes` orders them)"
        )
    return tuple(given or found)


def check_same_classes(wanted: Sequence[str], found: Sequence[str]) -> None:
    """Are these the same names, each once, in whatever order?

    Raises:
        ConfigError: no; the first few that are missing or too many are named.
    """
    missing, further = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
    if missing or further or len(set(found)) != len(found):
        words = [
            f"{what} {', '.join(map(repr, names[:5]))}"
            for what, names in (("without", missing), ("with", further))
            if names
        ]
        raise ConfigError(f"these images have other classes than the set: {' and '.join(words) or 'names twice'}")


def chosen_classes(names: Sequence[str], settings: DatasetSettings) -> list[int]:
    """Positions in ``names`` of the classes that are wanted: ``dataset.classes``, in that order, or all of them,
    without ``dataset.without_classes``.

    Raises:
        ConfigError: a name that is no class, or twice.
    """
    asked, without = settings.classes, settings.without_classes or ()
    for setting, given in (("classes", asked or ()), ("without_classes", without)):
        for name in given:
            if names.count(name) != 1:
                raise ConfigError(_no_class(setting, name, names))
        if len(set(given)) != len(given):
            raise ConfigError(f"dataset.{setting} names a class twice")
    wanted = [names.index(name) for name in asked] if asked is not None else list(range(len(names)))
    left = [position for position in wanted if names[position] not in without]
    if len(left) < 2 and (asked is not None or without):
        raise ConfigError("dataset.classes and dataset.without_classes leave fewer than two classes")
    return left


def _no_class(setting: str, name: str, names: Sequence[str]) -> str:
    if name in names:
        own = "give them names of their own (`dataset.class_names`)"
        return f"dataset.{setting}: several classes are called {name!r}; {own}"
    hint = did_you_mean(name, names) or f"; there are {some(names)}"
    return f"dataset.{setting}: there is no class {name!r}{hint}"


def some(names: Sequence[str]) -> str:
    """The names, or the first of many, for a message."""
    listed = ", ".join(repr(name) for name in names[:SHOWN])
    return listed if len(names) <= SHOWN else f"{listed} and {len(names) - SHOWN} others"
