"""Publish an artifact folder: one commit to a Hub data set repository, and a tag on it.

    folder -> [validate] -> [stage: card with its real address, the user's section] -> [one commit] -> [tag]

The card inside a commit cannot name that commit, so it names a tag; without ``tag`` that is the next free ``v<n>``.
What is on the Hub already is found by content hashes, so a repeated push makes neither a commit nor a tag.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.artifact import own_section
from distillkit.artifact.card import render_card
from distillkit.artifact.layout import FILES, PUBLISHED
from distillkit.errors import ConfigError, StorageError
from distillkit.hub import client
from distillkit.hub.address import parse_address
from distillkit.hub.client import Published, RemoteState, Token
from distillkit.sharing.validate import Checked, validate

TAG = re.compile(r"[\w][\w.-]{0,99}", re.ASCII)


@dataclass(frozen=True)
class PushOptions:
    """How to push.

    ``private``: create the repository as a private one (None: as the account's settings say); ``branch``: where to
    (None is main); ``tag``: on the commit, never moved (None: the next free v<n>); ``create_pr``: open a pull request
    instead, with no tag; ``replace_own_section``: the folder's section of the card wins where both were changed.
    """

    private: bool | None = None
    branch: str | None = None
    tag: str | None = None
    create_pr: bool = False
    message: str | None = None
    replace_own_section: bool = False


@dataclass(frozen=True)
class PushReport:
    """What was published; ``changed`` is False where all of it was there before."""

    repo: str
    url: str
    commit: str
    revision: str | None
    changed: bool
    files: dict[str, int]

    @property
    def load_line(self) -> str:
        """The line that loads exactly this."""
        return f'load_distilled("{self.repo}", revision="{self.commit}")'

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {**vars(self), "load": self.load_line}


def plan_push(folder: Path, repo: str, options: PushOptions) -> dict[str, int]:
    """What would be uploaded: bytes by file name. Validates; needs no network and no token.

    Raises:
        ConfigError: a name, tag or branch is not acceptable.
        ArtifactError: the folder is not fit to be published.
    """
    _check_names(repo, options)
    checked = validate(folder)
    revision = None if options.create_pr else options.tag or "v1"
    with _staged(folder, checked, repo, revision, checked.own_section) as stage:
        return _sizes(stage)


def push(
    folder: Path, repo: str, options: PushOptions, token: Token = None, *, update_folder: bool = True
) -> PushReport:
    """Validate and publish; the folder's own card and config then name the repository too, if ``update_folder``.

    Raises:
        ConfigError: a name is not acceptable, the tag exists on another commit, the repository is public though a
            private one was asked for, or the user's section was changed here and there.
        ArtifactError: the folder is not fit to be published.
        AuthError, NotFoundError, NetworkError: the Hub refuses, has no such thing, or is out of reach; nothing was
            published then.
    """
    _check_names(repo, options)
    checked = validate(folder)
    client.create_repository(repo, options.private, token)
    if options.branch is not None and not options.create_pr:
        client.create_branch(repo, options.branch, token)
    remote = client.remote_state(repo, options.branch, token)
    theirs = client.remote_file(repo, FILES.card, remote.head, token) if FILES.card in remote.files else None
    own = _merged_section(checked, theirs, options)
    taken = client.tags(repo, token)
    report = _unchanged(folder, checked, repo, options, own, remote, taken, token)
    report = report or _publish(folder, checked, repo, options, own, remote, taken, token)
    if update_folder and not options.create_pr:
        _settle(folder, checked, report, own)
    return report


def _check_names(repo: str, options: PushOptions) -> None:
    address = parse_address(repo, options.branch)
    if "@" in repo or address.repo != repo:
        raise ConfigError(f"push expects org/name, got {repo!r}; name a branch with --revision, a tag with --tag")
    if options.tag is not None and not TAG.fullmatch(options.tag):
        raise ConfigError(f"{options.tag!r} is no tag; use letters, digits, dot, dash and underscore")
    if options.tag is not None and options.create_pr:
        raise ConfigError("a pull request has no tag; leave out --tag, and tag it after it is merged")


def _merged_section(checked: Checked, theirs: bytes | None, options: PushOptions) -> str:
    hub = own_section.find(theirs.decode("utf-8", errors="replace")) if theirs else ""
    home = checked.about.hub
    last = home.own_section if home else None
    return own_section.merge(checked.own_section, hub, last, ours_wins=options.replace_own_section)


@contextmanager
def _staged(folder: Path, checked: Checked, repo: str, revision: str | None, own: str) -> Iterator[Path]:
    """A temporary folder with exactly what is to be published."""
    config = _config_with_home(checked, repo, revision, own)
    with tempfile.TemporaryDirectory(prefix="distillkit-push-") as name:
        stage = Path(name)
        try:
            for file in checked.names:
                if file not in (FILES.card, FILES.config):
                    (stage / file).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / file, stage / file)
        except OSError as error:
            raise StorageError(f"could not copy {folder} to {stage}: {error.strerror or error}") from error
        storage.write_json(stage / FILES.config, config)
        artifact = checked.artifact
        storage.write_bytes(stage / FILES.card, render_card(config, artifact.recipe, artifact.results, own).encode())
        yield stage


def _config_with_home(checked: Checked, repo: str, revision: str | None, own: str) -> dict[str, Any]:
    home = {"repo": repo, "revision": revision, "own_section": own_section.digest(own)}
    return {**checked.artifact.config, "hub": home}


def _sizes(stage: Path) -> dict[str, int]:
    return {name: (stage / name).stat().st_size for name in PUBLISHED if (stage / name).is_file()}


def _same(stage: Path, remote: RemoteState) -> bool:
    """Whether every staged file is on the Hub with the same content, and none of ours is there that is not staged."""
    staged = {name for name in PUBLISHED if (stage / name).is_file()}
    if {name for name in PUBLISHED if name in remote.files} != staged:
        return False
    return all(remote.files[name] in client.content_hashes((stage / name).read_bytes()) for name in staged)


def _unchanged(
    folder: Path,
    checked: Checked,
    repo: str,
    options: PushOptions,
    own: str,
    remote: RemoteState,
    taken: dict[str, str],
    token: Token,
) -> PushReport | None:
    """The report of a push that has nothing to add but perhaps the tag of an interrupted one."""
    home = checked.about.hub
    named = home.revision if home is not None and home.repo == repo else None
    candidates = [options.tag] if options.tag is not None else [named, *taken, _next_version(taken)]
    for revision in dict.fromkeys(candidates):
        with _staged(folder, checked, repo, revision, own) as stage:
            if not _same(stage, remote):
                continue
            sizes = _sizes(stage)
        if revision is not None and not options.create_pr and taken.get(revision, remote.head) != remote.head:
            continue
        if revision is not None and revision not in taken and not options.create_pr:
            client.create_tag(repo, revision, remote.head, token)
        return PushReport(repo, client.repository_url(repo), remote.head, revision, False, sizes)
    return None


def _publish(
    folder: Path,
    checked: Checked,
    repo: str,
    options: PushOptions,
    own: str,
    remote: RemoteState,
    taken: dict[str, str],
    token: Token,
) -> PushReport:
    if options.tag is not None and options.tag in taken:
        raise ConfigError(
            f"{repo} has a tag {options.tag} on other content, and a tag is never moved; choose another --tag"
        )
    revision = None if options.create_pr else options.tag or _next_version(taken)
    with _staged(folder, checked, repo, revision, own) as stage:
        published = _commit(stage, checked, repo, options, remote, token)
        sizes = _sizes(stage)
    if revision is not None:
        client.create_tag(repo, revision, published.commit, token)
    url = published.url if options.create_pr else client.repository_url(repo)
    return PushReport(repo, url, published.commit, published.pull_request or revision, True, sizes)


def _commit(
    stage: Path, checked: Checked, repo: str, options: PushOptions, remote: RemoteState, token: Token
) -> Published:
    def is_there() -> Published | None:
        if options.create_pr:
            return None
        now = client.remote_state(repo, options.branch, token)
        return Published(now.head, client.repository_url(repo)) if _same(stage, now) else None

    about = checked.about
    message = f"{about.source.name}, {about.ipc} images per class, {about.method} (distillkit)"
    return client.upload(
        stage,
        repo,
        options.message or message,
        branch=options.branch,
        parent=remote.head,
        create_pr=options.create_pr,
        obsolete=[name for name in PUBLISHED if name in remote.files and not (stage / name).is_file()],
        token=token,
        is_there=is_there,
    )


def _next_version(taken: dict[str, str]) -> str:
    used = [int(tag[1:]) for tag in taken if re.fullmatch(r"v\d{1,9}", tag)]
    return f"v{max(used, default=0) + 1}"


def _settle(folder: Path, checked: Checked, report: PushReport, own: str) -> None:
    """The folder's own card and config name their repository; a folder that cannot be written stays as it is."""
    config = _config_with_home(checked, report.repo, report.revision, own)
    if config == checked.artifact.config and own == checked.own_section:
        return
    artifact = checked.artifact
    try:
        storage.write_bytes(folder / FILES.card, render_card(config, artifact.recipe, artifact.results, own).encode())
        storage.write_json(folder / FILES.config, config)
    except StorageError:
        return  # published all the same; a read-only folder is no reason to call it a failure
