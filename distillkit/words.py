"""Words of messages and cards that depend on what they say: numbers with their nouns, errors, mistyped names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def counted(number: int, noun: str) -> str:
    """``1 image``, ``2 images``, ``1,000 images``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def signed(number: float) -> str:
    """With one digit and its sign; what rounds to nothing is ``+0.0``."""
    return f"{round(number, 1) + 0.0:+.1f}"


def first_line(error: BaseException, most: int = 300) -> str:
    """The first line of an error's text, of so many characters at most; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:most]


def meant(name: str, known: Iterable[str]) -> str:
    """The known name most like ``name``, which was probably meant; empty where none is alike."""
    names = list(known)
    same = [one for one in names if one.lower() == name.lower()]
    return next(iter(same or difflib.get_close_matches(name, names, 1)), "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'NAME'?`` for the end of a message; empty where no known name is like ``name``."""
    close = meant(name, known)
    return f"; did you mean {close!r}?" if close else ""
