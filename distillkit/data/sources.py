"""Finding a data set and reading its undecoded rows: embedded, local folder or Hub, the latter two by ``datasets``.

The only module of ``data`` that may use the network (through ``datasets`` and ``huggingface_hub``).
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distillkit import storage
from distillkit.data.listing import files_below, first_part, is_hidden, suffix_of, version_of
from distillkit.data.registry import DATASETS, KnownDataset
from distillkit.errors import ConfigError, DataError, NetworkError, NotFoundError, StorageError
from distillkit.hub.client import source_revision
from distillkit.settings import DatasetSettings

PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".avif", ".jp2", ".tga")
IMAGE_SUFFIXES = frozenset({*PHOTOGRAPHS, ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"})
SPLIT_FOLDERS = {
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
TEST_SPLITS = ("test", "validation", "valid", "val", "eval")
LARGEST_CARD = 1_000_000
"""Bytes of a card that is looked at."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class Location:
    """Where a data set is: ``kind`` is ``embedded``, ``parquet``, ``folder`` or ``hub``; ``version`` pins it;
    ``license`` is what its card states.
    """

    kind: str
    source: str
    version: Any
    known: KnownDataset | None
    license: str | None = None


@dataclass(frozen=True)
class RawSplit:
    """Undecoded rows of a split: a ``datasets`` table with an image and an integer label column.

    ``folder``: where the images lie that this library listed itself; None of tables, whose paths are not trusted.
    """

    name: str
    table: Any
    image_column: str
    labels: list[int]
    folder: Path | None = None

    def cells(self, begin: int = 0) -> Iterator[dict[str, Any]]:
        """Image cells ``{"bytes", "path", "file"}`` in order, from row ``begin``; ``path`` is a name for people."""
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


def locate(settings: DatasetSettings) -> Location:
    """Find out what ``settings.name`` means.

    Raises:
        ConfigError: neither a registered name, nor a folder, nor a Hub id.
        NotFoundError: a path that does not exist, or a folder without images.
    """
    name = settings.name
    known = DATASETS.get(name)
    if known is not None and known.hub_id is None:
        return Location("embedded", f"scikit-learn: {name}", "1", known)
    if known is not None and settings.data_root is not None:
        folder = Path(settings.data_root) / name
        if not folder.is_dir():
            raise NotFoundError(f"--data-root has no folder {folder}; expected a local copy of {known.hub_id} there")
        return _locate_folder(folder, known)
    if known is None and Path(name).is_dir():
        return _locate_folder(Path(name), None)
    if known is None and not HUB_ID.fullmatch(name):
        _raise_unknown(name)
    hub_id = known.hub_id if known is not None else name
    assert hub_id is not None
    revision, stated = _hub_revision(hub_id, settings.revision)
    return Location("hub", hub_id, revision, known, stated)


def _raise_unknown(name: str) -> None:
    if "/" in name or name.startswith("."):
        raise NotFoundError(f"there is no folder {name}")
    close = difflib.get_close_matches(name, DATASETS, 1)
    hint = f"did you mean {close[0]!r}?" if close else "'distillkit datasets' lists them"
    raise ConfigError(f"data set {name!r} is neither a registered name, a folder nor a Hub id org/name; {hint}")


def _locate_folder(folder: Path, known: KnownDataset | None) -> Location:
    files = files_below(folder)
    suffixes = {suffix_of(path) for path in files}
    kind = "parquet" if ".parquet" in suffixes else "folder"
    if kind == "folder" and not suffixes & IMAGE_SUFFIXES:
        raise NotFoundError(f"{folder} holds no images: expected parquet files, or a folder of images for each class")
    if kind == "parquet" and set(str(folder.resolve())) & set("*?[]"):
        raise ConfigError(f"{folder} has one of *?[] in its path, a pattern to 'datasets'; rename the folder")
    version, stated = version_of(folder, files), _card_license(folder / "README.md")
    return Location(kind, str(folder.resolve()), version, known, stated)


def _card_license(card: Path) -> str | None:
    """The licence in the YAML head of a data set card, as on the Hub."""
    if not card.is_file() or card.stat().st_size > LARGEST_CARD:
        return None
    head = re.match(r"---\r?\n(.*?)\r?\n---", card.read_text(encoding="utf-8", errors="replace"), re.S)
    try:
        values = yaml.safe_load(head[1]) if head else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    stated = values.get("license") if isinstance(values, dict) else None
    parts = stated if isinstance(stated, list) else [stated]
    return ", ".join(map(str, parts)) if stated else None


def _hub_revision(hub_id: str, wanted: str | None) -> tuple[str, str | None]:
    """The commit of ``wanted`` (branch, tag or commit; default the newest) and the licence that its card states;
    offline, what was seen last.
    """
    memory = storage.cache_root() / "data" / "revisions.json"
    seen: dict[str, Any] = _remembered(memory)
    key = f"{hub_id}@{wanted or ''}"
    try:
        found = _ask_hub(hub_id, wanted)
    except NetworkError:
        if key not in seen:
            raise
        last = seen[key]
        return (last, None) if isinstance(last, str) else (last[0], last[1])  # older versions knew no licence
    if seen.get(key) != [*found]:
        with contextlib.suppress(StorageError):  # a cache that is read only: it is asked again next time
            storage.write_json(memory, {**seen, key: [*found]})
    return found


def _remembered(memory: Path) -> dict[str, Any]:
    """Revisions that were seen; none if the file is absent or damaged."""
    try:
        found = storage.read_json(memory)
    except StorageError:
        return {}
    return found if isinstance(found, dict) else {}


def _ask_hub(hub_id: str, wanted: str | None) -> tuple[str, str | None]:
    try:
        return source_revision(hub_id, wanted)
    except NetworkError as error:
        raise NetworkError(f"{error}; for a local copy pass --data-root or its folder") from error


def read(location: Location, settings: DatasetSettings) -> RawDataset:
    """Read the rows of a ``parquet``, ``folder`` or ``hub`` location; images stay encoded.

    Raises:
        ConfigError: a split or column that was named, or must be, is not there.
        DataError: labels that are no integers, or not in range.
    """
    notes: list[str] = []
    tables = _load_tables(location, settings, notes)
    known = location.known
    train_asked, test_asked = (
        _split_name(name, location, tables) for name in (settings.train_split, settings.test_split)
    )
    train_name = _pick_train(train_asked or (known.train_split if known else None), tables)
    first = tables[train_name]
    image = _image_column(settings.image_column or (known.image_column if known else None), first)
    label = _label_column(settings.label_column or (known.label_column if known else None), first)
    test_name = _pick_test(test_asked or (known.test_split if known else None), tables, train_name, label)
    classes, values = _classes(first, label, settings, known)
    folder = Path(location.source) if location.kind == "folder" else None
    train = _split(train_name, first, image, label, values, folder, notes)
    test = _split(test_name, tables[test_name], image, label, values, folder, notes) if test_name else None
    return RawDataset(train, test, classes, _license(first, known), tuple(notes))


def _split_name(asked: str | None, location: Location, tables: dict[str, Any]) -> str | None:
    """The split that somebody asks for: a folder called ``val`` is the split ``validation`` here."""
    if asked is None or asked in tables or location.kind != "folder":
        return asked
    return SPLIT_FOLDERS.get(asked.lower(), asked)


def _load_tables(location: Location, settings: DatasetSettings, notes: list[str]) -> dict[str, Any]:
    import datasets

    datasets.disable_progress_bars()
    known = location.known
    config = settings.config_name or (known.config_name if known else None)
    if location.kind == "folder":
        return _folder_tables(Path(location.source), settings, notes)
    try:
        if location.kind == "parquet":
            loaded = datasets.load_dataset(location.source, settings.config_name)
        else:
            loaded = datasets.load_dataset(location.source, config, revision=location.version)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
        raise NotFoundError(f"{location.source} cannot be read: {_first_line(error)}") from error
    except ValueError as error:
        several = re.search(r"available configs: (\[.*?\])", str(error))
        if several is not None:
            raise ConfigError(
                f"{location.source} has several configurations, {several.group(1)}; name one with "
                "--set dataset.config_name=NAME"
            ) from error
        raise ConfigError(f"{location.source} cannot be read: {_first_line(error)}") from error
    except ConnectionError as error:
        raise NetworkError(f"{location.source} cannot be fetched: {_first_line(error)}") from error
    except datasets.exceptions.DatasetsError as error:
        raise DataError(f"{location.source} cannot be read: {_first_line(error)}") from error
    return dict(loaded)


def _folder_tables(folder: Path, settings: DatasetSettings, notes: list[str]) -> dict[str, Any]:
    """Tables of a folder of class folders, or of split folders of them; ``notes`` hears what was left out.

    ``datasets``' own ``imagefolder`` reads paths as patterns (brackets in a name hide the images) and drops the labels
    of a set of one class.
    """
    import datasets

    splits = {name: _class_images(path, notes) for name, path in _split_folders(folder, settings, notes).items()}
    splits = splits or {"train": _class_images(folder, notes)}
    found = {name for images in splits.values() for name in images}
    names = sorted(found, key=int) if all(name.isdecimal() for name in found) else sorted(found)  # 2 before 10
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    ids, tables = {name: number for number, name in enumerate(names)}, {}
    for split, images in splits.items():
        labels = [ids[name] for name, paths in images.items() for _ in paths]
        columns = {"image": [path for paths in images.values() for path in paths], "label": labels}
        tables[split] = datasets.Dataset.from_dict(columns, features=features)
    return tables


def _split_folders(folder: Path, settings: DatasetSettings, notes: list[str]) -> dict[str, Path]:
    """The sub-folders that are splits, by the name of the split; none where the sub-folders are classes.

    A split holds class folders. Sub-folders are splits if all that hold images are called like splits (or asked for as
    such), and one of them is the training split; otherwise ``train`` may be a class beside ``bus`` and ``car``.
    """
    asked = {settings.train_split, settings.test_split} - {None}
    parts = [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path, folder)]
    kinds = {path: _kind_of(path) for path in parts}
    known = {path: path.name if path.name in asked else SPLIT_FOLDERS.get(path.name.lower()) for path in parts}
    splits = {name: path for path, name in known.items() if name is not None and kinds[path] == "classes"}
    others = [path.name for path in parts if known[path] is None and kinds[path] != "empty"]
    bare = [path.name for path in parts if known[path] is not None and kinds[path] == "images"]
    named = asked & {path.name for path in parts}
    if not splits or (others and not named) or ("train" not in splits and len(splits) > 1 and not named):
        return {}
    if bare and "train" not in splits and not named:
        return {}
    for name in bare:
        notes.append(f"{name}/ holds images but no class folders: it has no labels, and was passed over")
    if others:
        notes.append(f"passed over beside the splits: {', '.join(others[:5])}")
    return splits


def _kind_of(folder: Path) -> str:
    """``classes`` (sub-folders with images), ``images`` (images alone), or ``empty``."""
    images = [path for path in files_below(folder) if suffix_of(path) in IMAGE_SUFFIXES]
    if not images:
        return "empty"
    below = {first_part(path) for path in images} - {None}
    return "classes" if below and below != {"images"} else "images"


def _class_images(folder: Path, notes: list[str]) -> dict[str, list[str]]:
    """Images below each sub-folder, sorted; folders without images are no classes. What is no image is counted."""
    found, others = {}, Counter[str]()
    for part in sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path, folder)):
        images, some = [], False
        for path in files_below(part):
            suffix, some = suffix_of(path), True
            if suffix in IMAGE_SUFFIXES:
                images.append(str(part / path))
            else:
                others[suffix or "no suffix"] += 1
        if images:
            found[part.name] = images
        elif some:
            notes.append(f"class folder {part.name!r} holds no images and is no class")
    if not found:
        raise DataError(f"{folder} has no class folders with images; expected {folder.name}/<class>/<image>")
    if others:
        words = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        notes.append(f"files that are no images, left out: {words}")
    return found


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0][:300]


def _pick_train(wanted: str | None, tables: dict[str, Any]) -> str:
    if wanted is not None and wanted in tables:
        return wanted
    if wanted is not None and wanted != "train":
        raise ConfigError(f"there is no split {wanted!r}; the data set has {', '.join(tables)}")
    if "train" in tables:
        return "train"
    if len(tables) == 1:
        return next(iter(tables))
    raise ConfigError(f"name the split to learn from with --train-split; the data set has {', '.join(tables)}")


def _pick_test(wanted: str | None, tables: dict[str, Any], train: str, label: str) -> str | None:
    if wanted is not None and wanted not in tables:
        raise ConfigError(f"there is no split {wanted!r}; the data set has {', '.join(tables)}")
    if wanted == train:
        raise ConfigError(f"--test-split and --train-split are both {train!r}; test images must not be trained on")
    if wanted is not None:
        return wanted
    for name in TEST_SPLITS:
        if name in tables and name != train and label in tables[name].column_names:
            values = tables[name][label][:1000]
            if not all(isinstance(value, int) and value < 0 for value in values):  # hidden labels are -1 by custom
                return name
    return None


def _image_column(wanted: str | None, table: Any) -> str:
    import datasets

    if wanted is not None:
        if wanted not in table.column_names:
            raise ConfigError(f"there is no column {wanted!r}; the data set has {', '.join(table.column_names)}")
        return wanted
    found: list[str] = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
    if len(found) == 1:
        return found[0]
    what = "several image columns" if found else "no image column"
    names = ", ".join(found or table.column_names)
    raise ConfigError(f"the data set has {what} ({names}); name one with --image-column")


def _label_column(wanted: str | None, table: Any) -> str:
    import datasets

    if wanted is not None:
        if wanted not in table.column_names:
            raise ConfigError(f"there is no column {wanted!r}; the data set has {', '.join(table.column_names)}")
        return wanted
    found: list[str] = [name for name, feature in table.features.items() if isinstance(feature, datasets.ClassLabel)]
    if not found:
        found = [
            name for name in ("label", "labels", "fine_label", "class", "target", "y") if name in table.column_names
        ]
    if len(found) == 1:
        return found[0]
    what = "several label columns" if found else "no label column that could be found"
    names = ", ".join(found or table.column_names)
    raise ConfigError(f"the data set has {what} ({names}); name one with --label-column")


def _classes(
    table: Any, column: str, settings: DatasetSettings, known: KnownDataset | None
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, and which stored label value is which class id."""
    feature = table.features[column]
    _check_integers(table[column], column)
    names = list(feature.names) if hasattr(feature, "names") else None
    values = sorted(set(table[column])) if names is None else list(range(len(names)))
    values = [value for value in values if value >= 0]
    if known is not None and known.class_indices is not None and len(values) != len(known.class_indices):
        if len(values) <= max(known.class_indices):
            count = f"{len(values)} classes; expected {len(known.class_indices)} or all 1000"
            raise ConfigError(f"the local copy of {known.name} has {count}")
        values = list(known.class_indices)
    labels = [names[value] if names is not None else str(value) for value in values]
    return named_classes(labels, settings), {value: class_id for class_id, value in enumerate(values)}


def named_classes(found: Sequence[str], settings: DatasetSettings) -> tuple[str, ...]:
    """The class names that were given, or else those ``found``.

    Raises:
        ConfigError: not one for each class.
    """
    given = settings.class_names
    if given is not None and len(given) != len(found):
        raise ConfigError(f"{len(given)} class names were given, the data set has {len(found)} classes")
    return tuple(given or found)


def _check_integers(labels: Sequence[Any], column: str) -> None:
    for value in labels:
        if not isinstance(value, int) or isinstance(value, bool):
            raise DataError(
                f"labels in column {column!r} must be whole numbers or class labels, found {value!r}; "
                "convert them or name another column with --label-column"
            )


def _split(
    name: str,
    table: Any,
    image: str,
    label: str,
    values: dict[int, int],
    folder: Path | None,
    notes: list[str],
) -> RawSplit:
    import datasets

    stored = list(table[label])
    _check_integers(stored, label)
    keep = [row for row, value in enumerate(stored) if value in values]
    if len(keep) < len(stored):
        if len(values) == 0 or not keep:
            raise DataError(f"split {name!r} has no image of the wanted classes")
        table = table.select(keep)
        notes.append(
            f"{len(stored) - len(keep)} of {len(stored)} images of split {name!r} have no class, and are left out"
        )
    if not isinstance(table.features[image], datasets.Image):
        _check_image_column(table, image)
    table = table.cast_column(image, datasets.Image(decode=False))
    return RawSplit(name, table, image, [values[stored[row]] for row in keep], folder)


def _check_image_column(table: Any, column: str) -> None:
    if "bytes" not in str(table.features[column]) and "binary" not in str(table.features[column]):
        raise ConfigError(
            f"column {column!r} holds {table.features[column]}, not images; name another with --image-column"
        )


def _license(table: Any, known: KnownDataset | None) -> str | None:
    stated = getattr(table.info, "license", None) or None
    return (known.license if known else None) or stated
