"""The section of a card that belongs to its user: what stands between two marker lines is never rewritten."""

from __future__ import annotations

import hashlib

from distillkit.errors import ConfigError

BEGIN = "<!-- your own section begins here: distillkit keeps what you write between these two lines -->"
END = "<!-- your own section ends here -->"


def wrap(text: str) -> str:
    """``text`` between the markers."""
    return f"{BEGIN}\n{text.strip()}\n{END}" if text.strip() else f"{BEGIN}\n\n{END}"


def find(card: str, whose: str = "the card") -> str:
    """What the user wrote in a card, stripped; empty if nothing, or if the card has no such section.

    Raises:
        ConfigError: the markers are damaged, so nobody can tell what is the user's; ``whose`` names the card.
    """
    card = card.replace("\r\n", "\n")
    begins, ends = card.count(BEGIN), card.count(END)
    if begins == 0 and ends == 0:
        return ""
    if begins != 1 or ends != 1 or card.index(END) < card.index(BEGIN):
        raise ConfigError(
            f"{whose} has {begins} lines {BEGIN!r} and {ends} lines {END!r}, expected one of each in this order; "
            "mend them, so that your section is not lost"
        )
    return card.split(BEGIN)[1].split(END)[0].strip()


def digest(text: str) -> str:
    """SHA-256 of a section, hex."""
    return hashlib.sha256(text.strip().encode()).hexdigest()


def merge(ours: str, theirs: str, last_pushed: str | None, *, ours_wins: bool) -> str:
    """The section to publish, from the folder's and the Hub's; ``last_pushed`` is the digest both came from.

    Raises:
        ConfigError: both were changed.
    """
    if ours == theirs or ours_wins:
        return ours
    if last_pushed is None and not (ours and theirs):
        return ours or theirs
    if last_pushed == digest(ours):
        return theirs
    if last_pushed == digest(theirs):
        return ours
    raise ConfigError(
        "your own section of the card differs between the folder and the Hub, and both were changed; "
        "copy what you want to keep into the folder's README.md and push with `replace=True`"
    )
