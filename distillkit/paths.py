"""Paths as people write them."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def expanded(text: str | os.PathLike[str]) -> str:
    """``text`` with the home folder in place of a leading ``~``, which shells leave in ``--out=~/set`` and in quotes;
    all else as it is.
    """
    word = os.fspath(text)
    if word.startswith("~"):
        with contextlib.suppress(RuntimeError):  # nobody of that name is known here
            return str(Path(word).expanduser())
    return word
