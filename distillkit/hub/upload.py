"""Writing to the Hub: repositories, branches, one commit a folder, tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillkit.errors import AuthError, ConfigError
from distillkit.hub.client import KIND, Token, api_of, no_bars, retried
from distillkit.hub.failures import LOGIN, status_code, translated
from distillkit.hub.repository import references


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
    api, created = api_of(token), False
    with translated(repo):
        try:
            found = retried(lambda: api.repo_info(repo, repo_type=KIND))
        except RepositoryNotFoundError:
            retried(lambda: api.create_repo(repo, repo_type=KIND, private=private, exist_ok=True))
            created, found = True, retried(lambda: api.repo_info(repo, repo_type=KIND)) if private else None
        if private and not found.private:
            raise ConfigError(f"{repo} is there already and public; make it private on the Hub, or leave out `private`")
    return created


def create_branch(repo: str, branch: str, token: Token) -> None:
    """Create the branch unless it is there."""
    api = api_of(token)
    with translated(f"{repo}@{branch}"):
        refs = retried(lambda: api.list_repo_refs(repo, repo_type=KIND))
        if branch not in {ref.name for ref in refs.branches}:
            retried(lambda: api.create_branch(repo, branch=branch, repo_type=KIND, exist_ok=True))


@dataclass(frozen=True)
class Commit:
    """A commit as it was made; ``pull_request`` its reference (``refs/pr/3``), where it is one."""

    commit: str
    url: str
    pull_request: str | None = None


def commit_folder(
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
    api = api_of(token)
    no_bars()

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
    api = api_of(token)

    def there() -> bool | None:
        return True if references(repo, token).tags.get(tag) == commit else None

    with translated(f"tag {tag} of {repo}"):
        try:
            retried(lambda: api.create_tag(repo, tag=tag, revision=commit, repo_type=KIND, exist_ok=False), there)
        except Exception as error:
            if status_code(error) != 409 or not there():
                raise
