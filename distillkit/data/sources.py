"""Finding a data set and reading its undecoded rows: where it lies (``locate``), its tables (``class_folders``,
``label_tables``, ``tables``), which splits and columns (``columns``), and what its labels mean (``labels``).

The only part of ``data`` that may use the network (through ``datasets`` and ``hub.sources``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillkit.data.class_folders import Classes, read_class_folders
from distillkit.data.columns import (
    NO_SPLIT,
    check_image_column,
    image_column,
    label_column,
    pick_test,
    pick_train,
    unused_splits,
)
from distillkit.data.label_tables import read_label_tables
from distillkit.data.labels import Labelling, in_order, labelling, named_classes, read_labels, some
from distillkit.data.listing import SPLIT_NAMES
from distillkit.data.locate import Location, locate
from distillkit.data.raw import RawDataset, RawSplit
from distillkit.data.registry import KnownDataset
from distillkit.data.tables import load_tables
from distillkit.errors import DataError
from distillkit.settings import DatasetSettings

__all__ = ["Location", "RawDataset", "RawSplit", "locate", "named_classes", "read"]


def read(location: Location, settings: DatasetSettings) -> RawDataset:
    """Read the rows of a location that is not embedded; images stay encoded.

    Raises:
        ConfigError: a split or column that was named, or must be, is not there.
        DataError: labels that cannot be classes.
    """
    notes: list[str] = []
    known = location.known
    if location.kind == "folder":
        tables = _folder_tables(Path(location.source), settings, notes)
    else:
        tables = load_tables(location, settings)
    train_name = pick_train(_split_name(settings.train_split, known.train_split if known else None, tables), tables)
    first = tables[train_name]
    image = image_column(settings.image_column or _usual(known, "image_column", location, first), first)
    label = label_column(settings.label_column or _usual(known, "label_column", location, first), first, notes)
    test_name = pick_test(
        _split_name(settings.test_split, known.test_split if known else None, tables), tables, train_name, label, notes
    )
    notes += unused_splits(tables, train_name, test_name, label)
    stored = read_labels(first, label)
    classes = labelling(stored, getattr(first.features[label], "names", None), settings, known, notes)
    folder = Path(location.source) if location.kind == "folder" else None
    train = _split(train_name, first, image, stored, classes, folder, notes)
    test = None
    if test_name is not None:
        table = tables[test_name]
        test = _split(test_name, table, image, read_labels(table, label), classes, folder, notes)
    return RawDataset(train, test, classes.classes, _license(first, known), tuple(notes))


def _split_name(asked: str | None, usual: str | None, tables: dict[str, Any]) -> str | None:
    """The split that somebody asks for, or that a registered data set has on the Hub; ``val`` finds ``validation``."""
    wanted = asked or usual
    if wanted is None or wanted in tables or wanted.lower() == NO_SPLIT:
        return wanted
    meant = SPLIT_NAMES.get(wanted.lower(), wanted)
    return meant if meant in tables else wanted


def _usual(known: KnownDataset | None, which: str, location: Location, table: Any) -> str | None:
    """The column of a registered data set; a local copy may have other names."""
    name: str | None = getattr(known, which, None)
    return name if location.kind == "hub" or name in table.column_names else None


def _folder_tables(folder: Path, settings: DatasetSettings, notes: list[str]) -> dict[str, Any]:
    """Tables of a folder of images by split: labelled by a table beside them, else by the folders that they are in."""
    import datasets

    given = (settings.train_split, settings.test_split)
    asked = frozenset(name for name in given if name is not None and name.lower() != NO_SPLIT)
    labelled = read_label_tables(folder, settings.image_column, settings.label_column, asked, notes)
    if labelled is None:
        try:
            return _class_tables(read_class_folders(folder, asked, notes))
        except DataError as error:
            raise DataError("; ".join([str(error), *notes])) from error
    found = {}
    for split, columns in labelled.items():
        table = datasets.Dataset.from_dict(columns)
        found[split] = table.cast_column("image", datasets.Image())
        if settings.image_column not in (None, "image"):  # of names in the table, of images from here on
            found[split] = found[split].rename_column("image", settings.image_column)
    return found


def _class_tables(splits: dict[str, Classes]) -> dict[str, Any]:
    import datasets

    names = [str(name) for name in in_order({name for images in splits.values() for name in images})]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    ids, tables = {name: number for number, name in enumerate(names)}, {}
    for split, images in splits.items():
        labels = [ids[name] for name, paths in images.items() for _ in paths]
        columns = {"image": [path for paths in images.values() for path in paths], "label": labels}
        tables[split] = datasets.Dataset.from_dict(columns, features=features)
    return tables


def _split(
    name: str,
    table: Any,
    image: str,
    labels: list[Any],
    classes: Labelling,
    folder: Path | None,
    notes: list[str],
) -> RawSplit:
    """The rows of a split that are of a class, and their class ids; ``notes`` hears how many are not, and why."""
    import datasets

    check_image_column(table, image)
    keep = [row for row, value in enumerate(labels) if value in classes.ids]
    if not keep and labels:
        raise DataError(f"split {name!r} has no image of the wanted classes")
    if len(keep) < len(labels):
        notes += _left_out(name, labels, classes)
        table = table.select(keep)
    table = table.cast_column(image, datasets.Image(decode=False))
    return RawSplit(name, table, image, [classes.ids[labels[row]] for row in keep], folder)


def _left_out(name: str, labels: list[Any], classes: Labelling) -> list[str]:
    out = [value for value in labels if value not in classes.ids]
    others = sorted({classes.declared.get(value, str(value)) for value in out if not _is_hidden(value, classes)})
    of_others = sum(not _is_hidden(value, classes) for value in out)
    notes = []
    if len(out) > of_others:
        notes.append(
            f"{len(out) - of_others} of {len(labels)} images of split {name!r} have no class, and are left out"
        )
    if of_others:
        words = f"are of classes that are not used ({some(others)}), and are left out"
        notes.append(f"{of_others} of {len(labels)} images of split {name!r} {words}")
    return notes


def _is_hidden(value: Any, classes: Labelling) -> bool:
    return value is None or (value == -1 and value not in classes.declared)


def _license(table: Any, known: KnownDataset | None) -> str | None:
    stated = getattr(table.info, "license", None) or None
    return (known.license if known else None) or stated
