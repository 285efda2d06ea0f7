"""Where a run works: its folder, or in every process but the leader a private copy, so that all read the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from distillkit import storage
from distillkit.run_folder import RunFolder
from distillkit.stages.context import Run


@contextmanager
def workplace(run: Run, out: Path, identity: dict[str, Any], replace: bool) -> Iterator[RunFolder]:
    """The run's folder, held. The other processes of a run get what lies in it when they come, and keep their copy to
    themselves: the leader alone writes into ``out``.

    Raises:
        ConfigError: ``out`` holds another run or other files (and ``replace`` is not set), or is in use.
    """
    if run.world.leads:
        folder = RunFolder(out)
        with folder.claimed(identity, replace):
            if run.world.size > 1:
                run.world.sent(lambda: (_content(folder), None))
            yield folder
        return
    own = storage.cache_root() / "ranks" / f"{storage.fingerprint([str(out.absolute()), identity])}-{run.world.rank}"
    files, _ = run.world.sent(lambda: ({}, None))  # once the leader holds the folder: another run may not have ended
    shutil.rmtree(own, ignore_errors=True)
    try:
        for name, content in files.items():
            storage.write_bytes(own / name, content.numpy().tobytes())
        folder = RunFolder(own)
        with folder.claimed(identity, replace):
            yield folder
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _content(folder: RunFolder) -> dict[str, torch.Tensor]:
    """The bytes of its files by name, uint8."""
    return {
        name: torch.frombuffer(bytearray(content), dtype=torch.uint8)
        for name in folder.files()
        if (content := (folder.out / name).read_bytes())
    }
