"""From the Hub to here: a look at an artifact, the artifact in the Hub's cache, or a copy of it in a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from distillkit import storage
from distillkit.artifact.layout import FILES, LOADED, PUBLISHED, check_format, is_published, recipe_files
from distillkit.artifact.read import MAX_JSON, Artifact, largest_sizes, read_artifact, read_config
from distillkit.artifact.schema import ArtifactConfig, Identity
from distillkit.errors import ArtifactError, ConfigError, DistillkitError, NetworkError, StorageError
from distillkit.hub import download
from distillkit.hub.address import Address, mistyped
from distillkit.hub.client import Cache


@dataclass(frozen=True)
class Fetched:
    """A checked artifact in the Hub's cache, and the commit it is of."""

    artifact: Artifact
    commit: str


@dataclass(frozen=True)
class Glance:
    """What the header of an artifact's tensors says: its identity, and dtype and shape of each tensor."""

    identity: Identity
    tensors: dict[str, tuple[str, tuple[int, ...]]]


def glance(address: Address, cache: Cache) -> Glance:
    """Look at an artifact on the Hub by one ranged request; out of its reach, at what the cache holds.

    Raises:
        ArtifactError: no artifact, of a newer format, or one that contradicts itself.
        AuthError, NotFoundError, NetworkError: the Hub refuses, has no such thing, or is out of reach.
    """
    try:
        metadata, tensors = download.tensor_header(address, FILES.tensors, cache.token)
    except NetworkError as error:
        metadata, tensors = _cached_header(address, cache, mistyped(address.repo, error) or error)
    try:
        stored = json.loads(metadata.get(storage.METADATA_KEY, "null"))
        check_format(stored.get("format_version") if isinstance(stored, dict) else None, FILES.tensors)
        identity = Identity.model_validate_json(json.dumps(stored), strict=True)
    except (ValueError, RecursionError, ValidationError) as error:
        raise ArtifactError(
            f"{address} is not a distillkit artifact: {FILES.tensors} does not say what it is"
        ) from error
    _check_shapes(address, identity, tensors)
    return Glance(identity, tensors)


def _cached_header(
    address: Address, cache: Cache, error: DistillkitError
) -> tuple[dict[str, str], dict[str, tuple[str, tuple[int, ...]]]]:
    """As ``download.tensor_header``, of the file in the cache; ``error`` where it is not there."""
    local = replace(cache, local_files_only=True)
    try:
        path = download.fetch_file(address, download.resolve(address, local), FILES.tensors, local)
    except NetworkError:
        raise error from None
    try:
        with storage.open_tensors(path) as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            tensors = {name: (str(one.get_dtype()), tuple(one.get_shape())) for name, one in slices.items()}
            return dict(file.metadata() or {}), tensors
    except StorageError as damage:
        raise ArtifactError(f"{address} is damaged in the cache: {damage}") from damage


def _check_shapes(address: Address, about: Identity, tensors: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Whether the tensors are as many as the header's text says."""
    size = about.ipc * about.num_classes
    expected = {"images": (size,), "labels": (size, about.num_classes), "class_ids": (size,), "lr": ()}
    for name, shape in expected.items():
        found = tensors.get(name, ("", None))[1]
        if found is None or found[: len(shape)] != shape or len(found) != (4 if name == "images" else len(shape)):
            shown = "no such tensor" if found is None else f"shape {list(found)}"
            raise ArtifactError(
                f"{address} is damaged: {FILES.tensors} says {about.ipc} images for each of {about.num_classes} "
                f"classes, and has {shown} for {name}"
            )


def fetch(address: Address, cache: Cache, *, whole: bool = False) -> Fetched:
    """Resolve the revision once, get the files into the Hub's cache, read and check them.

    The config comes first, if it is no larger than it may be, and everything is checked against it, sizes included,
    before anything else is fetched. ``whole`` asks for the pictures and the parquet view too, which loading does not
    need.

    Raises:
        ArtifactError: no artifact, of a newer format, or damaged.
        AuthError, NotFoundError, NetworkError: the Hub refuses, has no such thing, or is out of reach.
    """
    commit = _resolved(address, cache)
    names = PUBLISHED if whole else LOADED
    folder = None if cache.force_download else download.cached_folder(address, commit, names, cache)
    if folder is None or not all((folder / name).is_file() for name in _recipes_of(folder, address)):
        folder = _download(address, commit, names, cache)
        return Fetched(read_artifact(folder, str(address)), commit)
    try:
        return Fetched(read_artifact(folder, str(address)), commit)
    except ArtifactError:
        if cache.local_files_only:
            raise
    folder = _download(address, commit, names, replace(cache, force_download=True))  # what the cache had is damaged
    return Fetched(read_artifact(folder, str(address)), commit)


def _resolved(address: Address, cache: Cache) -> str:
    """The commit of an address.

    Raises:
        NotFoundError: the Hub is out of reach, and the address looks like a folder whose name was mistyped.
        NetworkError: the Hub is out of reach.
    """
    try:
        return download.resolve(address, cache)
    except NetworkError as error:
        raise mistyped(address.repo, error) or error from error


def _recipes_of(folder: Path, address: Address) -> tuple[str, ...]:
    """The files of recipes that the config in ``folder`` lists."""
    return recipe_files(ArtifactConfig.model_validate(read_config(folder, str(address))).recipes)


def _download(address: Address, commit: str, names: tuple[str, ...], cache: Cache) -> Path:
    sizes = {} if cache.local_files_only else _sizes(address, commit, names, cache)
    _check_sizes(address, {FILES.config: MAX_JSON}, sizes)
    config = download.fetch_file(address, commit, FILES.config, cache)
    about = ArtifactConfig.model_validate(read_config(config.parent, str(address)))
    for name in LOADED:
        if sizes and name not in sizes:
            raise ArtifactError(f"{address} is damaged: it has no {name}")
    recipes = recipe_files(about.recipes)
    if recipes and not cache.local_files_only:
        sizes |= _sizes(address, commit, recipes, cache)
    _check_sizes(address, largest_sizes(about), sizes)
    return download.fetch(address, commit, (*names, *recipes), cache)


def _sizes(address: Address, commit: str, names: tuple[str, ...], cache: Cache) -> dict[str, int]:
    try:
        return download.file_sizes(address, commit, names, cache)
    except NetworkError:
        return {}  # out of reach: what the cache holds is all there is to read


def _check_sizes(address: Address, limits: dict[str, int], sizes: dict[str, int]) -> None:
    for name, limit in limits.items():
        if sizes.get(name, 0) > limit:
            raise ArtifactError(f"{address} is damaged: {name} has {sizes[name]} bytes, it may have {limit}")


def plan_pull(address: Address, cache: Cache) -> tuple[str, dict[str, int]]:
    """The commit that would be fetched, and bytes by file name; fetches nothing but the config.

    Raises:
        ArtifactError: the repository is no artifact.
        AuthError, NotFoundError, NetworkError: the Hub refuses, has no such thing, or is out of reach.
    """
    commit = download.resolve(address, cache)
    sizes = download.file_sizes(address, commit, PUBLISHED, cache)
    if FILES.config not in sizes:
        raise ArtifactError(f"{address} is not a distillkit artifact: it has no {FILES.config}")
    _check_sizes(address, {FILES.config: MAX_JSON}, sizes)
    recipes = _recipes_of(download.fetch_file(address, commit, FILES.config, cache).parent, address)
    sizes |= download.file_sizes(address, commit, recipes, cache) if recipes else {}
    return commit, {name: sizes[name] for name in (*PUBLISHED, *recipes) if name in sizes}


def pull(address: Address, out: Path, cache: Cache, *, replace: bool = False) -> Fetched:
    """Copy an artifact from the Hub into ``out``, checked before the first byte is written there.

    Raises:
        ConfigError: ``out`` holds something and ``replace`` is False, or is no folder.
        StorageError: it cannot be written.
        DistillkitError: as ``fetch`` says.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; expected a folder to pull into")
    if out.exists() and any(out.iterdir()) and not replace:
        raise ConfigError(f"{out} holds files already; choose another `out`, or `replace=True` to write among them")
    fetched = fetch(address, cache, whole=True)
    copy_files(fetched.artifact.folder, out)
    return fetched


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of an artifact, and no other; the config last, so a folder with one is complete.

    Raises:
        StorageError: a file cannot be read or written.
    """
    recipes = {
        str(path.relative_to(folder).as_posix())
        for folder in (source, target)
        for path in folder.glob("recipes/*.json")
    }
    others = [name for name in (*PUBLISHED, *sorted(recipes)) if name != FILES.config and is_published(name)]
    for name in (*others, FILES.config):
        if (source / name).is_file():
            try:
                content = (source / name).read_bytes()
            except OSError as error:
                raise StorageError(f"could not read {source / name}: {error.strerror or error}") from error
            storage.write_bytes(target / name, content)
        elif (target / name).is_file():
            (target / name).unlink()
