"""A repository of the Hub as it is: public or not, its branches and tags, a commit's files and their hashes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from distillkit.errors import AuthError, NotFoundError
from distillkit.hub.address import Address
from distillkit.hub.client import KIND, Cache, Token, api_of, retried
from distillkit.hub.download import fetch_file
from distillkit.hub.failures import translated


def is_public(repo: str) -> bool:
    """Whether anybody may know of a data set: it is not private, nor gone.

    Raises:
        NetworkError: the Hub is out of reach.
    """
    try:
        with translated(repo):
            return not retried(lambda: api_of(False).repo_info(repo, repo_type=KIND)).private
    except (AuthError, NotFoundError):
        return False


@dataclass(frozen=True)
class RemoteState:
    """A branch as it is: its commit, its files by content hash and by size, whether the repository is private."""

    head: str
    files: dict[str, str] = field(default_factory=dict)
    private: bool = False
    sizes: dict[str, int] = field(default_factory=dict)


def content_hashes(content: bytes) -> tuple[str, str]:
    """What the Hub may call a file: the Git blob id (small files), the SHA-256 (large ones)."""
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return blob, hashlib.sha256(content).hexdigest()


def remote_state(repo: str, revision: str | None, token: Token) -> RemoteState:
    """The newest commit of a branch, or the commit of a tag."""
    api = api_of(token)
    with translated(str(Address(repo, revision))):
        info = retried(lambda: api.repo_info(repo, repo_type=KIND, revision=revision))
        tree = retried(lambda: list(api.list_repo_tree(repo, recursive=True, revision=info.sha, repo_type=KIND)))
        files = [entry for entry in tree if hasattr(entry, "blob_id")]
        hashes, sizes = {entry.path: _hash(entry) for entry in files}, {entry.path: int(entry.size) for entry in files}
        return RemoteState(str(info.sha), hashes, bool(info.private), sizes)


def _hash(entry: Any) -> str:
    return str(entry.lfs.sha256 if getattr(entry, "lfs", None) else entry.blob_id)


def remote_file(repo: str, name: str, commit: str, token: Token) -> bytes | None:
    """The content of a small file, or None where there is none."""
    try:
        return fetch_file(Address(repo), commit, name, Cache(token)).read_bytes()
    except NotFoundError:
        return None


@dataclass(frozen=True)
class References:
    """Commits by tag, by branch, and by pull request (``refs/pr/1``)."""

    tags: dict[str, str]
    branches: dict[str, str]
    pull_requests: dict[str, str]


def references(repo: str, token: Token) -> References:
    """All references of a repository."""
    api = api_of(token)
    with translated(repo):
        refs = retried(lambda: api.list_repo_refs(repo, repo_type=KIND, include_pull_requests=True))
        return References(
            {ref.name: ref.target_commit for ref in refs.tags},
            {ref.name: ref.target_commit for ref in refs.branches},
            {ref.ref: ref.target_commit for ref in refs.pull_requests or []},
        )


def repository_url(repo: str, pull_request: str | None = None) -> str:
    """The page of a data set repository, or of a pull request (``refs/pr/1``) to it."""
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/datasets/{repo}"
    return page if pull_request is None else f"{page}/discussions/{pull_request.rsplit('/', 1)[1]}"
