"""Where an artifact or data set is on the Hub: ``org/name``, ``org/name@revision``, ``hf://datasets/org/name@revision``,
or the address of its page, ``https://huggingface.co/datasets/org/name/tree/revision``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from distillkit.errors import ConfigError, NotFoundError
from distillkit.words import meant

# What the Hub allows in a name, with the account before it: everything else (.., a path, a URL) is refused here.
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
REVISION = re.compile(r"[\w.][\w./-]{0,254}", re.ASCII)
SCHEME = "hf://"
PAGES = ("tree", "blob", "resolve", "raw", "commit", "commits", "viewer", "discussions", "settings", "edit")
"""What may stand behind a repository in the address of one of its pages."""
OF_A_REVISION = ("tree", "blob", "resolve", "raw", "commit", "commits")
"""Those that a revision stands behind."""
FORMS = "org/name, org/name@revision, hf://datasets/org/name or https://huggingface.co/datasets/org/name"


@dataclass(frozen=True)
class Address:
    """A data set repository and a revision of it (branch, tag, commit or ``refs/pr/1``; None is the newest)."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def is_folder(text: str) -> bool:
    """Whether ``text`` names a folder here, which takes precedence over a repository of that name."""
    try:
        return Path(text).is_dir()
    except (OSError, ValueError):  # too long for a path, or not fit to be one
        return False


def similar_folder(name: str) -> str:
    """Words on a folder or file beside ``name`` that is called almost so; empty if there is none."""
    path = Path(name)
    if not is_folder(str(path.parent)):
        return ""
    try:
        names = [found.name for found in path.parent.iterdir() if found.name != path.name]
    except OSError:  # a folder that may be entered and not listed
        return ""
    close = meant(path.name, names)
    return f"; did you mean {path.parent / close}?" if close else ""


def mistyped(name: str, error: Exception) -> NotFoundError | None:
    """What to say where the Hub cannot tell whether it has ``name`` (``error``), and a folder of its first part is
    here: a slip of the pen is more likely. None without such a folder.
    """
    if is_folder(name):
        return NotFoundError(f"{name} is a folder here, so there is nothing to fetch; and the Hub is out of reach")
    if not is_folder(str(Path(name).parent)):
        return None
    return NotFoundError(f"there is no folder {name}, and {error}{similar_folder(name)}")


def is_url(text: str) -> bool:
    """Whether ``text`` is an address with a scheme, which is never a folder."""
    return text.startswith((SCHEME, "https://", "http://"))


def looks_like_address(text: str) -> bool:
    """Whether ``text`` could name a repository."""
    repo = text.partition("@")[0]
    return is_url(text) or REPOSITORY.fullmatch(repo) is not None


def spelled(dataset: str) -> tuple[str, str | None]:
    """The name of a data set as settings have it, and the revision, where it is given by an address on the Hub.

    Raises:
        ConfigError: an address with a scheme, but not of a data set.
    """
    repo, at, _ = dataset.partition("@")
    if is_url(dataset) or (at and REPOSITORY.fullmatch(repo) and not is_folder(dataset)):
        address = parse_address(dataset)
        return address.repo, address.revision
    return dataset, None


def parse_address(text: str, revision: str | None = None) -> Address:
    """Read an address; ``revision`` is one that was given beside it.

    Raises:
        ConfigError: not of one of the forms, or two different revisions.
    """
    body, own = text, None
    if text.startswith(SCHEME):
        kind, _, body = text.removeprefix(SCHEME).partition("/")
        if kind != "datasets":
            raise ConfigError(f"{text!r} names no data set repository; expected {SCHEME}datasets/org/name")
    elif is_url(text):
        body, own = _of_page(text)
    repo, at, behind = body.partition("@")
    if not REPOSITORY.fullmatch(repo) or ".." in repo or "--" in repo:
        raise ConfigError(f"{text!r} is no Hub repository; expected {FORMS}")
    own = behind if at else own
    found = own if own is not None else revision
    if own is not None and revision is not None and revision != own:
        raise ConfigError(f"{text!r} says revision {own!r}, the argument says {revision!r}; give one of them")
    if found is not None and (not REVISION.fullmatch(found) or ".." in found):
        raise ConfigError(f"{found!r} is no revision; expected a branch, a tag or a commit")
    return Address(repo, found)


def _of_page(url: str) -> tuple[str, str | None]:
    """Repository and revision of the address of a page, as a browser shows it.

    Raises:
        ConfigError: of no data set, or of another host than the Hub that is asked.
    """
    found = next((host for host in _hosts() if url.startswith(f"{host}/")), None)
    if found is None:
        raise ConfigError(f"{url!r} is no address on the Hub; expected {FORMS}")
    path = re.split(r"[?#]", url, maxsplit=1)[0].removeprefix(f"{found}/").strip("/")
    kind, *parts = map(unquote, path.split("/"))  # a branch with a slash in its name is one part, with %2F
    if kind != "datasets":
        raise ConfigError(f"{url!r} names no data set repository; expected {found}/datasets/org/name")
    if len(parts) > 2 and parts[2] not in PAGES:
        raise ConfigError(f"{url!r} is no page of a data set repository; expected {found}/datasets/org/name")
    repo, page, behind = "/".join(parts[:2]), parts[2] if len(parts) > 2 else None, parts[3:]
    if page == "discussions" and behind and behind[0].isdecimal():
        return repo, f"refs/pr/{behind[0]}"
    if page not in OF_A_REVISION or not behind:
        return repo, None
    if behind[0] == "refs":
        return repo, "/".join(behind[:3])
    return repo, behind[0]


def _hosts() -> tuple[str, ...]:
    """The Hub's own, however it is written, and the one that this machine is set to ask (``HF_ENDPOINT``)."""
    try:
        from huggingface_hub import constants
    except ImportError:
        own: tuple[str, ...] = ()
    else:
        own = (constants.ENDPOINT,)
    return (*own, "https://huggingface.co", "http://huggingface.co", "https://hf.co", "https://www.huggingface.co")
