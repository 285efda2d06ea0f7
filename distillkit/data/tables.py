"""Data sets that ``datasets`` reads: parquet, webdataset tars, folders of ``save_to_disk``, and those of the Hub."""

from __future__ import annotations

import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distillkit.data.columns import is_label_name
from distillkit.data.listing import files_below, first_part, split_called
from distillkit.data.locate import Location
from distillkit.data.parquet_bounds import check_parquet
from distillkit.errors import ConfigError, DataError, NetworkError, NotFoundError
from distillkit.hub.sources import cached_source, source_token
from distillkit.settings import DatasetSettings
from distillkit.words import first_line

ROWS_AT_ONCE = 1000
"""Where a file has no rows: the reader takes as many at a time as its first group has, unless it is told."""
OF_SHARDS = re.compile(r"(.*)-\d{5}-of-(\d{5})\.")


def load_tables(location: Location, settings: DatasetSettings) -> dict[str, Any]:
    """Tables by the name of the split; images stay encoded.

    Raises:
        NotFoundError: nothing there that can be read.
        ConfigError: several configurations, and none was named.
        DataError: a file is damaged, or unpacks to far more than it holds.
        NetworkError: it must be fetched, and cannot be.
    """
    import datasets

    datasets.disable_progress_bars()
    try:
        with _quiet():
            loaded = _READERS[location.kind](location, settings)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as error:
        raise NotFoundError(f"{location.source} cannot be read: {_first_line(error)}") from error
    except ValueError as error:
        raise _of_value_error(error, location, settings.config_name) from error
    except ConnectionError as error:
        raise NetworkError(f"{location.source} cannot be fetched: {_first_line(error)}") from error
    except datasets.exceptions.DatasetsError as error:
        raise DataError(f"{location.source} cannot be read: {_first_line(error)}") from error
    except (tarfile.TarError, LookupError, TypeError, AttributeError, EOFError, OSError) as error:
        words = f"{type(error).__name__}: {_first_line(error)}"
        raise DataError(f"{location.source} is damaged, or not what its name says ({words})") from error
    if isinstance(loaded, datasets.Dataset):
        return {str(loaded.split or "train"): loaded}
    return dict(loaded)


@contextmanager
def _quiet() -> Iterator[None]:
    """``datasets`` without its own lines on errors that it raises as well."""
    from datasets.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def release_unused() -> None:
    """Give back to the system what tables took that are gone; nothing where none was read."""
    if (arrow := sys.modules.get("pyarrow")) is not None:
        arrow.default_memory_pool().release_unused()


def _of_value_error(error: ValueError, location: Location, config: str | None) -> Exception:
    import pyarrow as pa

    if isinstance(error, (ConfigError, DataError)):
        return error
    if isinstance(error, pa.ArrowException):
        return DataError(f"{location.source} is damaged: {_first_line(error)}")
    several = re.search(r"[Aa]vailable(?: configs)?: (\[.*?\])", str(error))
    if several is None:
        return ConfigError(f"{location.source} cannot be read: {_first_line(error)}")
    what = "several configurations," if config is None else f"no configuration {config!r} but"
    return ConfigError(f"{location.source} has {what} {several.group(1)}; name one with `dataset.config_name=NAME`")


def _first_line(error: BaseException) -> str:
    """Of what caused it, if that is known: ``datasets`` wraps what it meets."""
    return first_line(error.__cause__ or error)


def _parquet(location: Location, settings: DatasetSettings) -> Any:
    import datasets

    source = Path(location.source)
    if source.is_file():
        check_parquet([source])
        return datasets.load_dataset("parquet", data_files={"train": [str(source)]})
    files = [path for path in files_below(source) if path.endswith(".parquet")]
    if lacking := _lacking(files):
        raise DataError(
            f"{source} is incomplete: {lacking}; fetch the others, or give those that are to be all names without -of-"
        )
    empty = check_parquet(source / path for path in files)
    given = _of_folder("parquet", source, files, settings)
    if not empty:
        return datasets.load_dataset(**given)
    builder = datasets.load_dataset_builder(**given, batch_size=ROWS_AT_ONCE)
    builder.download_and_prepare()
    return _with_rows(builder)


def _of_folder(reader: str, source: Path, files: Sequence[str], settings: DatasetSettings) -> dict[str, Any]:
    """What ``datasets`` is to load of ``source``: the folder, or its files by split where it sees no splits."""
    named = None if settings.config_name is not None else _capitalised_splits(files)
    if named is None:
        return {"path": str(source), "name": settings.config_name}
    return {
        "path": reader,
        "data_files": {split: [str(source / path) for path in own] for split, own in named.items()},
    }


def _capitalised_splits(files: Sequence[str]) -> dict[str, list[str]] | None:
    """Files by split where all are of splits by their folder or name, in letters that ``datasets`` takes for none
    (``Train.parquet``, ``TEST/0.parquet``); None of others, which are left to it.
    """
    found: dict[str, list[str]] = {}
    odd = False
    for path in files:
        word = first_part(path) or re.split(r"[-_. ]", path)[0]
        split = split_called(word)
        if split is None:
            return None
        found.setdefault(split, []).append(path)
        odd = odd or word != word.lower()
    return found if odd else None


def _with_rows(builder: Any) -> dict[str, Any]:
    """The splits that have rows, of a builder that is prepared: it refuses those that have none."""
    return {name: builder.as_dataset(split=name) for name, about in builder.info.splits.items() if about.num_examples}


def _webdataset(location: Location, settings: DatasetSettings) -> Any:
    """Members of a tar that share a name are a row; those in JSON become columns of their own (``json.label``).

    A tar of class folders has no labels but these: its folders become the column ``label``.
    """
    import datasets

    source = Path(location.source)
    if source.is_file():
        loaded = datasets.load_dataset("webdataset", data_files={"train": [str(source)]})
    else:
        tars = [path for path in files_below(source) if path.endswith(".tar")]
        loaded = datasets.load_dataset(**_of_folder("webdataset", source, tars, settings))
    return {name: _with_folders(_flat(table)) for name, table in loaded.items()}


def _flat(table: Any) -> Any:
    """JSON members beside the images, as columns; image columns stay as they are."""
    import datasets

    images = {name: feature for name, feature in table.features.items() if isinstance(feature, datasets.Image)}
    records = [name for name, feature in table.features.items() if isinstance(feature, dict)]
    if not records:
        return table
    flat = table.select_columns(records).flatten()
    kept = table.remove_columns(records)
    assert images.keys() <= set(kept.column_names)
    return datasets.concatenate_datasets([kept, flat], axis=1)


def _with_folders(table: Any) -> Any:
    if any(is_label_name(name) for name in table.column_names):
        return table
    names = [Path(key).parent.name for key in table["__key__"][:]]
    return table.add_column("label", names) if all(names) else table


def _saved(location: Location, settings: DatasetSettings) -> Any:
    import datasets

    return datasets.load_from_disk(location.source)


def _hub(location: Location, settings: DatasetSettings) -> Any:
    import datasets

    config = settings.config_name or (location.known.config_name if location.known else None)
    try:
        builder = datasets.load_dataset_builder(
            location.source, config, revision=location.version, token=source_token()
        )
        if not Path(builder.cache_dir).exists():
            if check_parquet(_fetched_parquet(builder)):
                builder.config.batch_size = ROWS_AT_ONCE
            builder.download_and_prepare()
        return _with_rows(builder)
    except ConnectionError:
        folder = cached_source(location.source, location.version)
        if folder is None or _lacking([str(path.relative_to(folder)) for path in folder.rglob("*.parquet")]) != "":
            raise
        return _parquet(Location("parquet", str(folder), location.version, location.known), settings)


def _fetched_parquet(builder: Any) -> list[Path]:
    """The parquet files that ``builder`` is about to read, fetched into the cache where it will find them."""
    import datasets

    files = [file for part in (builder.config.data_files or {}).values() for file in part if ".parquet" in str(file)]
    access = datasets.DownloadConfig(token=source_token())
    manager = datasets.DownloadManager(dataset_name=builder.dataset_name, download_config=access)
    return [Path(path) for path in manager.download(files)] if files else []


def _lacking(files: Sequence[str]) -> str | None:
    """Which shards of parquet files are not there, in words: of ``train-00000-of-00003.parquet`` there are 3. Empty if
    all are, None if there are no files.
    """
    shards = Counter((found[1], int(found[2])) for path in files if (found := OF_SHARDS.match(path)) is not None)
    short = [f"{count} of the {total} files of {name}" for (name, total), count in shards.items() if count < total]
    return ", ".join(short) if files else None


_READERS = {"parquet": _parquet, "webdataset": _webdataset, "saved": _saved, "hub": _hub}
