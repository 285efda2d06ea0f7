"""The command as it is recorded in an artifact."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

# What decides where things are and what is shown, not what comes out: the record leaves it away, paths above all.
_LOCAL = ("--out", "--data-root", "--tracker", "--token")
_LOCAL_KEY = "dataset.data_root="
_LOCAL_FLAGS = ("--yes", "-y", "--json", "--quiet", "-q", "--debug")


def command_line() -> str:
    """The command as typed, without options that have no influence on the result and with names instead of paths."""
    kept, words = ["distillkit"], [part for word in sys.argv[1:] for part in _set_apart(word)]
    skip = False
    for word, after in zip(words, [*words, ""][1:], strict=True):
        option, _, value = word.partition("=")
        dropped = skip or word in _LOCAL_FLAGS or option in _LOCAL or (word == "--set" and after.startswith(_LOCAL_KEY))
        skip = not skip and (word in _LOCAL or (word == "--set" and after.startswith(_LOCAL_KEY)))
        if not dropped:
            kept.append(f"{option}={_without_folders(value)}" if value else _without_folders(word))
    return shlex.join(kept)


def _set_apart(word: str) -> list[str]:
    """``--set=KEY=VALUE`` as ``--set KEY=VALUE``; any other word as it is."""
    option, equals, value = word.partition("=")
    return [option, value] if option == "--set" and equals else [word]


def _without_folders(word: str) -> str:
    """The last part of a path; what names no file here (a Hub id, an architecture) as it is."""
    path = Path(word.strip("\"'"))  # as --set takes it, a text may be quoted
    try:
        local = path.is_absolute() or word.startswith((".", "~")) or path.exists()
    except (OSError, ValueError):
        return word
    return (path.name or word) if local and "/" in word else word
