"""Commits of the Hub: which one an address is, its files into the cache, the sizes and headers that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distillkit.errors import ArtifactError
from distillkit.hub.address import Address
from distillkit.hub.client import KIND, Cache, Token, api_of, clean_token, no_bars, retried
from distillkit.hub.failures import status_code, translated
from distillkit.version import __version__


def _downloads(cache: Cache) -> dict[str, Any]:
    """What every download is called with."""
    return {
        "repo_type": KIND,
        "token": clean_token(cache.token),
        "cache_dir": cache.folder,
        "local_files_only": cache.local_files_only,
        "force_download": cache.force_download,
        "library_name": "distillkit",
        "library_version": __version__,
    }


def resolve(address: Address, cache: Cache) -> str:
    """The commit of an address; from the cache when the Hub is out of reach.

    Raises:
        DistillkitError: as ``translated`` says.
    """
    with translated(str(address)):
        try:
            return retried(lambda: _resolved(address, cache))
        except Exception as error:
            if status_code(error) != 429:
                raise
            return _resolved_here(address, cache, error)


def _resolved(address: Address, cache: Cache) -> str:
    found = api_of(cache.token).resolve_revision(
        address.repo,
        repo_type=KIND,
        revision=address.revision,
        cache_dir=cache.folder,
        local_files_only=cache.local_files_only,
    )
    return str(found.resolved)


def _resolved_here(address: Address, cache: Cache, refused: Exception) -> str:
    """From the cache, with the client's own note, where the Hub refuses to be asked so often: of refusals the client
    takes those of a Hub that is out of order alone for a reason to look there.
    """
    from huggingface_hub.errors import RevisionResolutionError
    from huggingface_hub.utils import logging

    try:
        commit = _resolved(address, replace(cache, local_files_only=True, force_download=False))
    except RevisionResolutionError:
        raise refused from None
    logger = logging.get_logger("huggingface_hub.hf_api")
    logger.warning(f"Could not reach the Hub ({refused}). Using cached commit hash for '{address.repo}'.")
    return commit


def cached_folder(address: Address, commit: str, names: Sequence[str], cache: Cache) -> Path | None:
    """The snapshot folder of a commit if it holds all of ``names`` already."""
    from huggingface_hub import try_to_load_from_cache

    found = [
        try_to_load_from_cache(address.repo, name, cache_dir=cache.folder, revision=commit, repo_type=KIND)
        for name in names
    ]
    if not all(isinstance(path, str) for path in found):
        return None
    return Path(str(found[0])).parents[len(Path(names[0]).parts) - 1]


def fetch_file(address: Address, commit: str, name: str, cache: Cache) -> Path:
    """One file of a commit, in the cache.

    Raises:
        ArtifactError: the repository has no such file.
        DistillkitError: as ``translated`` says.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    no_bars()
    with translated(str(address)):
        try:
            path = retried(lambda: hf_hub_download(address.repo, name, revision=commit, **_downloads(cache)))
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise
            raise ArtifactError(f"{address} is not a distillkit artifact: it has no {name}") from error
        return Path(path)


def file_sizes(address: Address, commit: str, names: Sequence[str], cache: Cache) -> dict[str, int]:
    """Bytes of those of ``names`` that a commit has."""
    with translated(str(address)):
        api = api_of(cache.token)
        found = retried(lambda: api.get_paths_info(address.repo, list(names), revision=commit, repo_type=KIND))
        return {entry.path: int(entry.size) for entry in found if entry.path in names and hasattr(entry, "size")}


def fetch(address: Address, commit: str, names: Sequence[str], cache: Cache) -> Path:
    """Those of ``names`` that a commit has, and no other file, in the cache; returns the snapshot folder."""
    from huggingface_hub import snapshot_download

    no_bars()
    with translated(str(address)):
        options = _downloads(cache)
        return Path(
            retried(lambda: snapshot_download(address.repo, revision=commit, allow_patterns=list(names), **options))
        )


def tensor_header(address: Address, name: str, token: Token = None) -> tuple[dict[str, str], dict[str, Any]]:
    """Metadata, and dtype and shape by tensor name, of a safetensors file, by one ranged request.

    Raises:
        ArtifactError: the repository has no such file, or it is no safetensors file.
        DistillkitError: as ``translated`` says.
    """
    from huggingface_hub.errors import EntryNotFoundError, SafetensorsParsingError

    with translated(str(address)):
        try:
            api = api_of(token)
            found = retried(
                lambda: api.parse_safetensors_file_metadata(
                    address.repo, name, repo_type=KIND, revision=address.revision
                )
            )
        except EntryNotFoundError as error:
            raise ArtifactError(f"{address} is not a distillkit artifact: it has no {name}") from error
        except (SafetensorsParsingError, AttributeError, TypeError, KeyError, ValueError, RecursionError) as error:
            if isinstance(error, OSError):  # an answer of the Hub that the client takes for a ValueError as well
                raise
            raise ArtifactError(f"{address} is damaged: {name} is no safetensors file") from error
        except OSError as error:
            if status_code(error) != 416:
                raise
            raise ArtifactError(f"{address} is damaged: {name} is empty") from error
    tensors = {key: (info.dtype, tuple(info.shape)) for key, info in found.tensors.items()}
    return dict(found.metadata or {}), tensors
