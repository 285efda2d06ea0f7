"""What a data set's name means: embedded data, a folder or file of this machine, or a data set of the Hub."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distillkit import licenses, storage
from distillkit.data.listing import (
    escaped,
    files_below,
    first_part,
    is_image,
    part_not_utf8,
    suffix_of,
    version_of,
)
from distillkit.data.parquet_bounds import may_hold_images
from distillkit.data.registry import DATASETS, KnownDataset
from distillkit.errors import ConfigError, DataError, DistillkitError, NetworkError, NotFoundError, StorageError
from distillkit.hub.address import is_folder, mistyped, similar_folder
from distillkit.hub.sources import cached_source, source_revision
from distillkit.paths import expanded
from distillkit.settings import DatasetSettings
from distillkit.words import did_you_mean

LARGEST_CARD = 1_000_000
"""Bytes of a card that is looked at."""
LONGEST_NAME = 4096
TABLES = (".parquet", ".tar", ".arrow")
"""Suffixes of files that hold images."""
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
READABLE = (
    "expected a folder of class folders, of parquet files, of images with a metadata.csv, of webdataset tars, or one "
    "of datasets' save_to_disk; a single .parquet or .tar file; or a Hub id"
)
ARCHIVES = {
    ".zip": "unzip {0} -d {1}",
    ".tgz": "mkdir {1} && tar xf {0} -C {1}",
    ".gz": "mkdir {1} && tar xf {0} -C {1}",
    ".bz2": "mkdir {1} && tar xf {0} -C {1}",
    ".xz": "mkdir {1} && tar xf {0} -C {1}",
    ".7z": "7z x {0} -o{1}",
    ".rar": "unrar x {0} {1}/",
}
"""Suffixes of archives, and the line that unpacks one ({0}) into a folder ({1})."""


@dataclass(frozen=True)
class Location:
    """Where a data set is: ``kind`` is ``embedded``, ``folder`` (images as files), ``parquet``, ``webdataset``,
    ``saved`` (by ``datasets``' ``save_to_disk``) or ``hub``; ``version`` pins it; ``license`` is what its card states.
    """

    kind: str
    source: str
    version: Any
    known: KnownDataset | None
    license: str | None = None


def locate(settings: DatasetSettings) -> Location:
    """Find out what ``settings.name`` means.

    Raises:
        ConfigError: neither a registered name, nor a folder or file that can be read, nor a Hub id.
        DataError: a file that would be read, or a folder above it, has a name that is not UTF-8.
        NotFoundError: a path that does not exist, or a folder without images.
        NetworkError: a data set of the Hub that is not in the cache, and no network.
    """
    name = settings.name
    if not name.strip():
        raise ConfigError("the name of the data set is empty; for the folder here say .")
    known = DATASETS.get(name)
    if known is not None and known.hub_id is None:
        _refuse_choices(settings)
        return Location("embedded", known.embedded_as, "1", known)
    if known is not None and settings.data_root is not None:
        folder = Path(expanded(settings.data_root)) / name
        if not folder.is_dir():
            raise NotFoundError(
                f"`dataset.data_root` has no folder {folder}; expected a local copy of {known.hub_id} there"
            )
        return _without_versions(_of_folder(folder, known), folder, settings)
    if known is None and is_folder(name):
        return _without_versions(_of_folder(Path(name), None), name, settings)
    if known is None and _is_file(name):
        return _without_versions(_of_file(Path(name)), name, settings)
    if known is None and not HUB_ID.fullmatch(name):
        _raise_unknown(name)
    return _of_hub(name, known, settings.revision)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long for a path, or not fit to be one
        return False


def _without_versions(found: Location, name: str | Path, settings: DatasetSettings) -> Location:
    """What was found on this machine, which has no versions, and configurations only where it is tables by folders.

    Raises:
        ConfigError: one is chosen; a choice without effect would be a lie.
    """
    if settings.revision is not None:
        raise ConfigError(f"{name} lies on this machine and has no dataset.revision to choose; leave it out")
    by_folders = found.kind in ("parquet", "webdataset") and Path(found.source).is_dir()
    if settings.config_name is not None and not by_folders:
        raise ConfigError(f"{name} has no configurations, and dataset.config_name names one; leave it out")
    return found


def _refuse_choices(settings: DatasetSettings) -> None:
    """Embedded data have nothing to choose of these."""
    choices = ("image_column", "label_column", "train_split", "test_split", "config_name", "revision")
    for choice in choices:
        if getattr(settings, choice) is not None:
            raise ConfigError(f"{settings.name} is embedded and has no dataset.{choice} to choose; leave it out")


def _raise_unknown(name: str) -> None:
    if "/" in name or name.startswith("."):
        raise NotFoundError(f"there is no folder {name}{similar_folder(name)}")
    if len(name) > LONGEST_NAME:
        raise ConfigError(f"the name of the data set has {len(name):,} characters; no path or Hub id is so long")
    hint = did_you_mean(name, DATASETS) or "; 'distillkit datasets' lists them"
    raise ConfigError(f"data set {name!r} is neither a registered name, a folder nor a Hub id org/name{hint}")


# folders and files


def _of_folder(folder: Path, known: KnownDataset | None) -> Location:
    files = files_below(folder)
    kind = _kind(folder, files)
    if kind != "folder" and set(str(folder.resolve())) & set("*?[]"):
        raise ConfigError(f"{folder} has one of *?[] in its path, a pattern to 'datasets'; rename the folder")
    _check_names(folder, [path for path in files if (is_image(path) if kind == "folder" else path.endswith(TABLES))])
    version, stated = version_of(folder, files), _card_license(folder / "README.md")
    return Location(kind, str(folder.resolve()), version, known, stated)


def _check_names(folder: Path, files: Sequence[str]) -> None:
    """The tables that ``datasets`` makes of paths are UTF-8."""
    for path in (str(folder.resolve()), *files):
        odd = part_not_utf8(path)
        if odd is not None:
            raise DataError(f"the name of {escaped(str(folder / odd))} is not UTF-8 and cannot be read; rename it")


def _kind(folder: Path, files: Sequence[str]) -> str:
    here = {path for path in files if first_part(path) is None}
    if "dataset_dict.json" in here or {"dataset_info.json", "state.json"} <= here:
        return "saved"
    images = any(is_image(path) for path in files)
    tables = [folder / path for path in files if path.endswith(".parquet")]
    if any(not images or (path.name != "metadata.parquet" and may_hold_images(path)) for path in tables):
        return "parquet"  # metadata.parquet, and tables of numbers and words, tell of images
    if images:
        return "folder"
    if any(path.endswith(".tar") for path in files):
        return "webdataset"
    archive = next((folder / path for path in files if suffix_of(path) in ARCHIVES), None)
    if archive is not None:
        raise ConfigError(f"{folder} holds no images but archives; unpack them first: {_unpacking(archive)}")
    raise NotFoundError(f"{folder} holds no images; {READABLE}")


def _of_file(path: Path) -> Location:
    suffix = path.suffix.lower()
    if suffix in ARCHIVES:
        raise ConfigError(f"{path} is an archive; unpack it first and name its folder: {_unpacking(path)}")
    if suffix in (".csv", ".tsv", ".json", ".jsonl"):
        raise ConfigError(f"{path} is one file of a data set; name the folder that it lies in with its images")
    if suffix == ".arrow":
        raise ConfigError(f"{path} is one file of datasets' save_to_disk; name its folder")
    if suffix not in (".parquet", ".tar"):
        raise ConfigError(f"{path} is a file of a kind that is not read; {READABLE}")
    if set(str(path.resolve())) & set("*?[]"):
        raise ConfigError(f"{path} has one of *?[] in its path, a pattern to 'datasets'; rename it")
    _check_names(path, [])
    stat = path.stat()
    version = [[path.name, stat.st_size, stat.st_mtime_ns]]
    return Location("parquet" if suffix == ".parquet" else "webdataset", str(path.resolve()), version, None)


def _unpacking(archive: Path) -> str:
    folder = archive.with_suffix("").with_suffix("") if archive.name.endswith(".tar" + archive.suffix) else None
    return ARCHIVES[archive.suffix.lower()].format(archive, folder or archive.with_suffix(""))


def _card_license(card: Path) -> str | None:
    """The licence in the YAML head of a data set card, as on the Hub."""
    if not card.is_file() or card.stat().st_size > LARGEST_CARD:
        return None
    head = re.match(r"---\r?\n(.*?)\r?\n---", card.read_text(encoding="utf-8", errors="replace"), re.S)
    try:
        values = yaml.safe_load(head[1]) if head else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    return licenses.stated(values) if isinstance(values, dict) else None


# the Hub


def _of_hub(name: str, known: KnownDataset | None, wanted: str | None) -> Location:
    hub_id = known.hub_id if known is not None else name
    assert hub_id is not None
    try:
        revision, stated = _hub_revision(hub_id, wanted)
    except (NetworkError, NotFoundError) as error:
        raise _with_hint(error, name, known) from error
    return Location("hub", hub_id, revision, known, stated)


def _with_hint(error: DistillkitError, name: str, known: KnownDataset | None) -> DistillkitError:
    """The Hub's reason, and what else may have been meant."""
    if known is not None:
        hint = "; for a local copy pass `dataset.data_root`" if isinstance(error, NetworkError) else ""
        hint += f"; for the folder here say ./{name}" if is_folder(name) else ""
    else:
        if isinstance(error, NetworkError) and (slip := mistyped(name, error)) is not None:
            return slip
        said = "" if isinstance(error, NotFoundError) else f"; and there is no folder {name} here"
        hint = f"{said}{similar_folder(name)}"
    return type(error)(f"{error}{hint}")


def _hub_revision(hub_id: str, wanted: str | None) -> tuple[str, str | None]:
    """The commit of ``wanted`` (branch, tag or commit; default the newest) and the licence that its card states;
    offline, what was seen last, or what the Hub's own cache holds.
    """
    memory = storage.cache_root() / "data" / "revisions.json"
    seen: dict[str, Any] = _remembered(memory)
    key = f"{hub_id}@{wanted or ''}"
    try:
        found = source_revision(hub_id, wanted)
    except NetworkError:
        if key in seen:
            return tuple(seen[key])
        cached = cached_source(hub_id, wanted)
        if cached is None:
            raise
        return cached.name, _card_license(cached / "README.md")
    if seen.get(key) != [*found]:
        with contextlib.suppress(StorageError):  # a cache that is read only: it is asked again next time
            remember(memory, {**seen, key: [*found]})
    return found


def remember(memory: Path, seen: dict[str, Any]) -> None:
    """Keep the revisions that were seen."""
    storage.write_sealed_json(memory, {"of": memory.name, "seen": seen})


def _remembered(memory: Path) -> dict[str, Any]:
    """Revisions that were seen; none if the file is absent, damaged or of an older version."""
    try:
        found = storage.read_sealed_json(memory)
        return dict(found["seen"]) if found["of"] == memory.name else {}
    except (StorageError, KeyError, TypeError, ValueError):
        return {}
