"""Publish a folder (an artifact, or expert trajectories): one commit to a Hub data set repository, and a tag on it.

    folder -> [validate] -> [content: card with its real address, the user's section] -> [one commit] -> [tag]

The card inside a commit cannot name that commit, so it names a tag; without ``tag`` that is the next free ``v<n>``.
What is on the Hub already is found by content hashes, so a repeated push makes neither a commit nor a tag.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from distillkit import storage
from distillkit.artifact.layout import FILES
from distillkit.errors import ConfigError, DistillkitError, StorageError
from distillkit.hub import repository, upload
from distillkit.hub.client import Token
from distillkit.hub.repository import References, RemoteState
from distillkit.hub.upload import Commit
from distillkit.sharing.publication import Publication, PushOptions, PushReport, check_names
from distillkit.sharing.remote_card import RemoteCard, merged_section, remote_card

OF_THE_HUB = (".gitattributes",)  # what a fresh repository holds


@dataclass(frozen=True)
class _Push:
    """One push: what, where it goes, whose token, the user's section, and the Hub as it was found."""

    publication: Publication
    repo: str
    options: PushOptions
    token: Token
    own: str
    remote: RemoteState
    known: References
    card: RemoteCard

    def content(self, revision: str | None) -> dict[str, bytes]:
        """The files with a card that names ``revision`` and keeps what the owner wrote into the one on the Hub."""
        files = self.publication.content(self.repo, revision, self.own)
        return {**files, FILES.card: self.card.kept(files[FILES.card].decode(), self.options).encode()}


def plan_publication(publication: Publication, repo: str, options: PushOptions) -> dict[str, int]:
    """What would be uploaded: bytes by file name; needs no network and no token.

    Raises:
        ConfigError: a name, tag or branch is not acceptable.
    """
    repo = check_names(repo, options)
    revision = None if options.create_pr else options.tag or "v1"
    return _sizes(publication.content(repo, revision, publication.own_section))


def publish(
    publication: Publication, repo: str, options: PushOptions, token: Token = None, *, update_folder: bool = True
) -> PushReport:
    """Publish; the folder's own card and config then name the repository too, if ``update_folder``.

    Raises:
        ConfigError: a name is not acceptable, the tag exists on another commit, the repository is public though a
            private one was asked for, it holds something else, or the user's section was changed here and there.
        AuthError, NotFoundError, NetworkError: the Hub refuses, has no such thing, or is out of reach; nothing was
            published then, or the message says what was.
    """
    repo = check_names(repo, options)
    created = upload.create_repository(repo, options.private, token)
    try:
        one = _looked_at(publication, repo, options, token)
        report = _unchanged_request(one) if options.create_pr else _unchanged(one)
        report = report or _publish(one)
    except DistillkitError as error:
        left = _left_empty(repo, token) if created else ""
        raise type(error)(f"{error}{left}") from error
    if update_folder and not options.create_pr:
        publication.settle(repo, report.revision, one.own)
    return report


def _looked_at(publication: Publication, repo: str, options: PushOptions, token: Token) -> _Push:
    """The push, with the Hub as it is now; the branch is there then."""
    known = repository.references(repo, token)
    _check_references(repo, options, known)
    if options.branch is not None and not options.create_pr:
        upload.create_branch(repo, options.branch, token)
    remote = repository.remote_state(repo, options.branch, token)
    _check_repository(publication, repo, remote, options)
    card = remote_card(publication, repo, remote, options, token)
    own = merged_section(publication, repo, card, options)
    shown = publication if remote.private else publication.in_public(options)
    return _Push(shown, repo, options, token, own, remote, known, card)


def _left_empty(repo: str, token: Token) -> str:
    """What to say of a repository that was created for a push that failed."""
    try:
        empty = set(repository.remote_state(repo, None, token).files) <= set(OF_THE_HUB)
    except DistillkitError:
        empty = False
    return f"; {repo} was created for it and is empty: push again, or delete it on the Hub" if empty else ""


def _check_references(repo: str, options: PushOptions, known: References) -> None:
    """A name is that of a tag or of a branch: the Hub resolves one that is both to either.

    Raises:
        ConfigError: it would be both.
    """
    if options.branch is not None and options.branch in known.tags:
        raise ConfigError(f"{repo} has a tag {options.branch}; choose another branch")
    if options.tag is not None and options.tag in known.branches:
        raise ConfigError(f"{repo} has a branch {options.tag}; choose another `tag`")


def _check_repository(publication: Publication, repo: str, remote: RemoteState, options: PushOptions) -> None:
    """A repository that somebody fills with other things is not silently made ours."""
    others = sorted(name for name in remote.files if name not in OF_THE_HUB)
    if others and publication.marker not in remote.files and not options.replace:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise ConfigError(
            f"{repo} is there and is not {publication.what}: it holds {shown}; choose another name, or `replace=True` "
            "to push among them (its README.md would be replaced)"
        )


def _sizes(content: dict[str, bytes]) -> dict[str, int]:
    return {name: len(value) for name, value in content.items()}


def _same(one: _Push, content: dict[str, bytes], remote: RemoteState) -> bool:
    """Whether every file is on the Hub with the same content, and no file of the kind is there that is not ours."""
    if {name for name in remote.files if one.publication.owns(name)} != set(content):
        return False
    return all(remote.files[name] in repository.content_hashes(value) for name, value in content.items())


def _unchanged(one: _Push) -> PushReport | None:
    """The report of a push that has nothing to add but perhaps the tag of an interrupted one."""
    home, tags, head = one.publication.home, one.known.tags, one.remote.head
    named = home.revision if home is not None and home.repo == one.repo else None
    candidates = [one.options.tag] if one.options.tag is not None else [named, *tags, _next_version(one.known)]
    for revision in dict.fromkeys(candidates):
        content = one.content(revision)
        if not _same(one, content, one.remote) or (revision is not None and tags.get(revision, head) != head):
            continue
        if revision is not None and revision not in tags:
            _tag(one, revision, head)
        return PushReport(one.repo, repository.repository_url(one.repo), head, revision, False, _sizes(content))
    return None


def _unchanged_request(one: _Push) -> PushReport | None:
    """The report of a pull request that is open already, or that has nothing to ask for."""
    content = one.content(None)
    for reference, commit in one.known.pull_requests.items():
        if _same(one, content, repository.remote_state(one.repo, reference, one.token)):
            url = repository.repository_url(one.repo, reference)
            return PushReport(one.repo, url, commit, reference, False, _sizes(content))
    return None


def _publish(one: _Push) -> PushReport:
    options, known = one.options, one.known
    if options.tag is not None and options.tag in known.tags:
        raise ConfigError(
            f"{one.repo} has a tag {options.tag} on other content, and a tag is never moved; choose another `tag`"
        )
    revision = None if options.create_pr else options.tag or _next_version(known)
    content = one.content(revision)
    published = _commit(one, content)
    _check_commit(one, content, published)
    if revision is not None:
        _tag(one, revision, published.commit)
    url = published.url if options.create_pr else repository.repository_url(one.repo)
    return PushReport(one.repo, url, published.commit, published.pull_request or revision, True, _sizes(content))


def _check_commit(one: _Push, content: dict[str, bytes], published: Commit) -> None:
    """Whether the commit holds exactly what was to be published: an ignore file may have kept files out of it.

    Raises:
        StorageError: it does not; the message names the files.
    """
    done = f"published as commit {published.commit}"
    try:
        found = repository.remote_state(one.repo, published.pull_request or published.commit, one.token)
    except DistillkitError as error:
        raise type(error)(f"{done}, but it could not be checked: {error}; push again to check and tag it") from error
    wrong = {
        "lacks": [name for name in content if name not in found.files],
        "has other bytes in": [name for name in content if name in found.files and not _is_there(name, content, found)],
        "still has": [name for name in found.files if one.publication.owns(name) and name not in content],
    }
    faults = [f"{what} {', '.join(sorted(names))}" for what, names in wrong.items() if names]
    if not faults:
        return
    ignored = [name for name in found.files if Path(name).name == ".gitignore"]
    cause = (
        f"{', '.join(ignored)} in the repository" if ignored else "an ignore file in the repository or of the account"
    )
    raise StorageError(
        f"{done}, but it {' and '.join(faults)}; the likely cause is {cause}: mend it on the Hub and push again "
        "(nothing was tagged)"
    )


def _is_there(name: str, content: dict[str, bytes], found: RemoteState) -> bool:
    """By size and checksum."""
    size = found.sizes.get(name, len(content[name]))
    return size == len(content[name]) and found.files[name] in repository.content_hashes(content[name])


def _tag(one: _Push, tag: str, commit: str) -> None:
    try:
        upload.create_tag(one.repo, tag, commit, one.token)
    except DistillkitError as error:
        words = f"published as commit {commit}, but not tagged {tag}: {error}; push again to tag it"
        raise type(error)(words) from error


def _commit(one: _Push, content: dict[str, bytes]) -> Commit:
    def is_there() -> Commit | None:
        if one.options.create_pr:
            again = _unchanged_request(replace(one, known=repository.references(one.repo, one.token)))
            return None if again is None else Commit(again.commit, again.url, again.revision)
        now = repository.remote_state(one.repo, one.options.branch, one.token)
        return Commit(now.head, repository.repository_url(one.repo)) if _same(one, content, now) else None

    with tempfile.TemporaryDirectory(prefix="distillkit-push-") as name:
        for file, value in content.items():
            storage.write_bytes(Path(name) / file, value)
        return upload.commit_folder(
            Path(name),
            one.repo,
            one.options.message or one.publication.message,
            branch=one.options.branch,
            parent=one.remote.head,
            create_pr=one.options.create_pr,
            obsolete=[name for name in one.remote.files if one.publication.owns(name) and name not in content],
            token=one.token,
            is_there=is_there,
        )


def _next_version(known: References) -> str:
    used = [int(name[1:]) for name in (*known.tags, *known.branches) if re.fullmatch(r"v\d{1,9}", name)]
    return f"v{max(used, default=0) + 1}"
