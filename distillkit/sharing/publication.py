"""What can be published, how, and what is told of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from distillkit.artifact.schema import Home
from distillkit.errors import ConfigError
from distillkit.hub.address import parse_address

TAG = re.compile(r"[A-Za-z0-9_](?:[\w-]|\.(?!\.))*(?<!\.)(?<!\.lock)", re.ASCII)
LONGEST_TAG = 200
"""Characters; the name of the file that Git keeps it in has room for no more than 255."""
BRANCH_WORDS = ("main", "HEAD")


class Publication(Protocol):
    """What can be published: checked content with a card that names its own address.

    Card and content hold no path of this machine, and nothing but what the kind consists of.
    """

    @property
    def what(self) -> str:
        """The kind in words, with its article."""

    @property
    def marker(self) -> str:
        """Name of the file that says what a repository is."""

    @property
    def message(self) -> str:
        """Commit message, unless another is given."""

    @property
    def own_section(self) -> str:
        """The user's part of the folder's card."""

    @property
    def home(self) -> Home | None:
        """Where the folder says it was pushed to."""

    def metadata(self, marker: bytes) -> dict[str, Any]:
        """The card's metadata as they are generated for a repository whose marker file is ``marker``.

        Raises:
            ValueError: that is not such a file.
        """

    def owns(self, name: str) -> bool:
        """Whether a file of this name in the repository is part of the publication, to be deleted when it has none."""

    def content(self, repo: str, revision: str | None, own: str) -> dict[str, bytes]:
        """Exactly what is to be published, by file name: the card names ``repo`` and ``revision``, holds ``own``."""

    def in_public(self, options: PushOptions) -> Publication:
        """What is published where anybody may read it: nothing that says more of a private source than it must.

        Raises:
            ConfigError: it cannot be published so without being told to.
        """

    def settle(self, repo: str, revision: str | None, own: str) -> None:
        """Let the folder say where it is published, if it can be written."""


@dataclass(frozen=True)
class PushOptions:
    """How to push.

    ``private``: create the repository as a private one (None: as the account's settings say); ``branch``: where to
    (None is main); ``tag``: on the commit, never moved (None: the next free v<n>); ``create_pr``: open a pull request
    instead, with no tag; ``replace``: also into a repository that holds something else, and the folder's section of the
    card wins where both were changed.
    """

    private: bool | None = None
    branch: str | None = None
    tag: str | None = None
    create_pr: bool = False
    message: str | None = None
    replace: bool = False


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


def check_names(repo: str, options: PushOptions) -> str:
    """Are repository, branch and tag acceptable together? Returns the repository as ``org/name``.

    Raises:
        ConfigError: no.
    """
    address = parse_address(repo)
    if address.revision is not None:
        raise ConfigError(f"push expects org/name, got {repo!r}; name a branch with `revision`, a tag with `tag`")
    if options.branch is not None:
        parse_address(address.repo, options.branch)
    if options.tag is not None and (
        len(options.tag) > LONGEST_TAG or not TAG.fullmatch(options.tag) or options.tag in BRANCH_WORDS
    ):
        raise ConfigError(
            f"{options.tag[:100]!r} is no tag; use letters, digits, dash, underscore and single dots, at most "
            f"{LONGEST_TAG} of them"
        )
    if options.tag is not None and options.create_pr:
        raise ConfigError("a pull request has no tag; leave out `tag`, and tag it after it is merged")
    return address.repo
