"""Where an artifact is on the Hub: ``org/name``, ``org/name@revision`` or ``hf://datasets/org/name@revision``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from distillkit.errors import ConfigError

# What the Hub allows in a name, with the account before it: everything else (.., a path, a URL) is refused here.
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[\w.][\w./-]{0,254}", re.ASCII)
SCHEME = "hf://"


@dataclass(frozen=True)
class Address:
    """A data set repository and a revision of it (branch, tag, commit or ``refs/pr/1``; None is the newest)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def is_folder(text: str) -> bool:
    """Whether ``text`` names a folder here, which goes before a repository of the same name."""
    try:
        return Path(text).is_dir()
    except (OSError, ValueError):  # too long for a path, or not fit to be one
        return False


def looks_like_address(text: str) -> bool:
    """Whether ``text`` could name a repository."""
    repo = text.partition("@")[0]
    return text.startswith(SCHEME) or REPOSITORY.fullmatch(repo) is not None


def parse_address(text: str, revision: str | None = None) -> Address:
    """Read an address; ``revision`` is one that was given beside it.

    Raises:
        ConfigError: not of one of the forms, or two different revisions.
    """
    body = text
    if text.startswith(SCHEME):
        kind, _, body = text.removeprefix(SCHEME).partition("/")
        if kind != "datasets":
            raise ConfigError(f"{text!r} names no data set repository; expected {SCHEME}datasets/org/name")
    repo, at, own = body.partition("@")
    if not REPOSITORY.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ConfigError(f"{text!r} is no Hub repository; expected org/name, org/name@revision or hf://datasets/...")
    found = own if at else revision
    if at and revision is not None and revision != own:
        raise ConfigError(f"{text!r} says revision {own!r}, the argument says {revision!r}; give one of them")
    if found is not None and (not REVISION.fullmatch(found) or ".." in found):
        raise ConfigError(f"{found!r} is no revision; expected a branch, a tag or a commit")
    return Address(repo, found)
