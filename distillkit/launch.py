"""Whether a launcher such as ``torchrun`` started this process as one of several. Import-light: no torch."""

from __future__ import annotations

import os


def launched_as() -> tuple[int, int] | None:
    """This process's rank and the number of processes; None where it is alone, or a scheduler says only one of both."""
    try:
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return None
    return (rank, size) if size > 1 else None
