"""The one module that talks to the Hub about artifacts: resolve, peek, fetch, create, upload, tag.

(Source data sets come through ``datasets``, see ``data.locate``, which asks here for their revision.)
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from distillkit.errors import ArtifactError, AuthError, ConfigError, NetworkError, NotFoundError
from distillkit.hub.address import REVISION, Address
from distillkit.hub.failures import LOGIN, is_transient, status_code, translated
from distillkit.version import __version__

KIND = "dataset"
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)  # waits before the second to the fifth attempt
Token = str | bool | None
T = TypeVar("T")


def _api(token: Token) -> Any:
    from huggingface_hub import HfApi

    return HfApi(library_name="distillkit", library_version=__version__, token=clean_token(token))


def clean_token(token: Token) -> Token:
    """A token without the white space around it that files and shells add.

    Raises:
        AuthError: it has characters that no token has; they are not shown, nor sent.
    """
    if not isinstance(token, str):
        return token
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise AuthError(f"the token that was given is empty or has characters that no token has; {LOGIN}")
    return token


def _no_bars() -> None:
    """The client's own bars would stand between our lines."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()


def retried(action: Callable[[], T], before_retry: Callable[[], T | None] = lambda: None) -> T:
    """``action()``, again after 429, 5xx and broken connections: the client does not repeat a commit by itself.

    ``before_retry`` may find that the first attempt did succeed, and gives its result.
    """
    for seconds in RETRY_SECONDS:
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
        time.sleep(seconds)
        with contextlib.suppress(NetworkError):  # out of order too: the next attempt will tell
            found = before_retry()
            if found is not None:
                return found
    return action()


# reading

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
        info = retried(lambda: _api(source_token()).dataset_info(repo, revision=revision))
    stated = None if info.card_data is None else info.card_data.get("license")
    return str(info.sha), ", ".join(map(str, stated)) if isinstance(stated, list) else stated


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


@dataclass(frozen=True)
class Cache:
    """How to read: whose token, which cache folder (default the Hub's own), whether the network may be used."""

    token: Token = None
    folder: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    def __post_init__(self) -> None:
        """Refuse to fetch again what must not be asked for."""
        if self.local_files_only and self.force_download:
            raise ConfigError("force_download=True asks the Hub and local_files_only=True forbids it; give one of them")


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
        found = retried(
            lambda: _api(cache.token).resolve_revision(
                address.repo,
                repo_type=KIND,
                revision=address.revision,
                cache_dir=cache.folder,
                local_files_only=cache.local_files_only,
            )
        )
        return str(found.resolved)


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

    _no_bars()
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
        api = _api(cache.token)
        found = retried(lambda: api.get_paths_info(address.repo, list(names), revision=commit, repo_type=KIND))
        return {entry.path: int(entry.size) for entry in found if entry.path in names and hasattr(entry, "size")}


def fetch(address: Address, commit: str, names: Sequence[str], cache: Cache) -> Path:
    """Those of ``names`` that a commit has, and no other file, in the cache; returns the snapshot folder."""
    from huggingface_hub import snapshot_download

    _no_bars()
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
            api = _api(token)
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


# writing


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


def create_repository(repo: str, private: bool | None, token: Token) -> bool:
    """Create the repository unless it is there; returns whether it was not.

    Raises:
        AuthError: there is no token.
        ConfigError: it is there and public, although a private one was asked for.
        DistillkitError: as ``translated`` says.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if token is False or (token is None and get_token() is None):
        raise AuthError(f"there is no token for the Hub; {LOGIN}")
    api, created = _api(token), False
    with translated(repo):
        try:
            found = retried(lambda: api.repo_info(repo, repo_type=KIND))
        except RepositoryNotFoundError:
            retried(lambda: api.create_repo(repo, repo_type=KIND, private=private, exist_ok=True))
            created, found = True, retried(lambda: api.repo_info(repo, repo_type=KIND)) if private else None
        if private and not found.private:
            raise ConfigError(f"{repo} is there already and public; make it private on the Hub, or leave out `private`")
    return created


def is_public(repo: str) -> bool:
    """Whether anybody may know of a data set: it is not private, nor gone.

    Raises:
        NetworkError: the Hub is out of reach.
    """
    try:
        with translated(repo):
            return not retried(lambda: _api(False).repo_info(repo, repo_type=KIND)).private
    except (AuthError, NotFoundError):
        return False


def create_branch(repo: str, branch: str, token: Token) -> None:
    """Create the branch unless it is there."""
    api = _api(token)
    with translated(f"{repo}@{branch}"):
        refs = retried(lambda: api.list_repo_refs(repo, repo_type=KIND))
        if branch not in {ref.name for ref in refs.branches}:
            retried(lambda: api.create_branch(repo, branch=branch, repo_type=KIND, exist_ok=True))


def remote_state(repo: str, revision: str | None, token: Token) -> RemoteState:
    """The newest commit of a branch, or the commit of a tag."""
    api = _api(token)
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
    api = _api(token)
    with translated(repo):
        refs = retried(lambda: api.list_repo_refs(repo, repo_type=KIND, include_pull_requests=True))
        return References(
            {ref.name: ref.target_commit for ref in refs.tags},
            {ref.name: ref.target_commit for ref in refs.branches},
            {ref.ref: ref.target_commit for ref in refs.pull_requests or []},
        )


@dataclass(frozen=True)
class Commit:
    """A commit as it was made; ``pull_request`` its reference (``refs/pr/3``), where it is one."""

    commit: str
    url: str
    pull_request: str | None = None


def upload(
    folder: Path,
    repo: str,
    message: str,
    *,
    branch: str | None,
    parent: str,
    create_pr: bool,
    obsolete: Sequence[str],
    token: Token,
    is_there: Callable[[], Commit | None],
) -> Commit:
    """Everything in ``folder`` as one commit on top of ``parent``.

    Args:
        folder: what to upload, whole.
        repo: the repository.
        message: the commit's message.
        branch: where to; None is the main branch.
        parent: the branch's commit that was looked at; if it has moved since, nothing is written.
        create_pr: open a pull request instead.
        obsolete: files to delete.
        token: whose.
        is_there: asked before a retry, since a commit may have been made although its answer was lost.
    """
    api = _api(token)
    _no_bars()

    def attempt() -> Commit:
        info = api.upload_folder(
            repo_id=repo,
            repo_type=KIND,
            folder_path=folder,
            commit_message=message,
            revision=branch,
            create_pr=create_pr,
            parent_commit=parent,
            delete_patterns=list(obsolete) or None,
        )
        return Commit(str(info.oid), str(info.pr_url or info.commit_url), info.pr_revision)

    with translated(repo):
        try:
            return retried(attempt, is_there)
        except Exception as error:
            found = is_there() if status_code(error) == 412 else None  # somebody else may have pushed the very same
            if found is None:
                raise
            return found


def create_tag(repo: str, tag: str, commit: str, token: Token) -> None:
    """Tag a commit; it may have this tag already.

    Raises:
        ConfigError: the tag is there on another commit; it is never moved.
        DistillkitError: as ``translated`` says.
    """
    api = _api(token)

    def there() -> bool | None:
        return True if references(repo, token).tags.get(tag) == commit else None

    with translated(f"tag {tag} of {repo}"):
        try:
            retried(lambda: api.create_tag(repo, tag=tag, revision=commit, repo_type=KIND, exist_ok=False), there)
        except Exception as error:
            if status_code(error) != 409 or not there():
                raise


def repository_url(repo: str, pull_request: str | None = None) -> str:
    """The page of a data set repository, or of a pull request (``refs/pr/1``) to it."""
    from huggingface_hub import constants

    page = f"{constants.ENDPOINT}/datasets/{repo}"
    return page if pull_request is None else f"{page}/discussions/{pull_request.rsplit('/', 1)[1]}"
