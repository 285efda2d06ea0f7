"""Source data sets on the Hub: whose token reads them, which commit a revision is, where the cache holds one.

(Their files come through ``datasets``, see ``data.locate``, which asks here.)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from distillkit import licenses
from distillkit.hub.address import REVISION, Address
from distillkit.hub.client import KIND, Token, api_of, clean_token, retried
from distillkit.hub.failures import translated

_SOURCE_TOKEN: ContextVar[Token] = ContextVar("distillkit_source_token", default=None)


@contextlib.contextmanager
def sources_read_with(token: Token) -> Iterator[None]:
    """Inside the block, source data sets are read from the Hub with this token (None: the saved one)."""
    before = _SOURCE_TOKEN.set(clean_token(token))
    try:
        yield
    finally:
        _SOURCE_TOKEN.reset(before)


def source_token() -> Token:
    """What source data sets are read with."""
    return _SOURCE_TOKEN.get()


def source_revision(repo: str, revision: str | None) -> tuple[str, str | None]:
    """The commit of a source data set that ``revision`` stands for, and the licence that its card states.

    Raises:
        DistillkitError: as ``translated`` says.
    """
    with translated(str(Address(repo, revision))):
        info = retried(lambda: api_of(source_token()).dataset_info(repo, revision=revision))
    return str(info.sha), None if info.card_data is None else licenses.stated(info.card_data.to_dict())


def cached_source(repo: str, revision: str | None) -> Path | None:
    """The folder of a source data set in the Hub's cache: of ``revision``, or else ``main``, or of the newest commit
    that is there; None where there is none. No network is used.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        return None
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=KIND)
    reference = folder / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else revision
    if commit is not None:
        snapshot = folder / "snapshots" / commit
        return snapshot if snapshot.is_dir() else None
    found = [path for path in (folder / "snapshots").glob("*") if path.is_dir()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)
