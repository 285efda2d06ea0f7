"""What lies in an output folder of an artifact and its run, and of which run its files say they are."""

from __future__ import annotations

import contextlib
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.artifact.layout import FILES, PUBLISHED, RUN_FILES
from distillkit.errors import ConfigError, DamagedError, StorageError
from distillkit.identities import completed

OWN_FILES = tuple(name for name in astuple(RUN_FILES) if name != RUN_FILES.config)
"""What a run keeps in its folder, but for its config and pictures."""


@dataclass(frozen=True)
class FolderContents:
    """``out`` is the artifact's folder; the run's own files lie in ``out/run``."""

    out: Path

    @property
    def path(self) -> Path:
        """The ``run`` folder."""
        return self.out / FILES.run

    @property
    def checkpoint(self) -> Path:
        """The outer loop's state."""
        return self.path / RUN_FILES.checkpoint

    @property
    def older_checkpoint(self) -> Path:
        """The state before that one."""
        return self.path / RUN_FILES.older_checkpoint

    @property
    def metrics(self) -> Path:
        """A JSON line per outer step."""
        return self.path / RUN_FILES.metrics

    @property
    def synthetic(self) -> Path:
        """The selected set, once distillation is over."""
        return self.path / RUN_FILES.synthetic

    @property
    def run_config(self) -> Path:
        """The run's identity: its effective settings and data."""
        return self.path / RUN_FILES.config

    @property
    def lock(self) -> Path:
        """Held by the process that works in the folder."""
        return self.path / ".lock"

    def files(self) -> list[str]:
        """Names in ``out`` of what is there of an artifact and of what its run goes on from, but for pictures."""
        own = [f"{FILES.run}/{name}" for name in (*OWN_FILES, RUN_FILES.config)]
        recipes = [f"{FILES.recipes}/{path.name}" for path in (self.out / FILES.recipes).glob("*.json")]
        return [name for name in (*PUBLISHED, *recipes, *own) if (self.out / name).is_file()]

    def stored_identity(self) -> dict[str, Any]:
        """Of the run that the folder holds, as most of its files say, the config first; empty if none can be read.

        Raises:
            StorageError: the config cannot be read now; another try may.
        """
        said = self.identities()
        return max(said, key=said.count, default={})

    def identities(self) -> list[dict[str, Any]]:
        """As the config, the checkpoints and the selected set say, of those that can be read."""
        said = []
        with contextlib.suppress(DamagedError):
            said.append(completed(storage.read_sealed_json(self.run_config, or_plain=True)))
        for path in (self.checkpoint, self.older_checkpoint, self.synthetic):
            with contextlib.suppress(StorageError, KeyError, TypeError):  # absent, damaged, or of an older version
                said.append(completed(storage.read_metadata(path)["owner"]))
        return [identity for identity in said if identity]

    def check_possible(self) -> None:
        """Writes nothing.

        Raises:
            ConfigError: there is a file in its place.
            StorageError: it, or a file in it, cannot be made.
        """
        with storage.storage_errors(self.out, "look at"):
            if self.out.exists() and not self.out.is_dir():
                raise ConfigError(f"`out` {self.out} is a file; expected a folder")
            for folder in (self.out, self.path):
                storage.check_creatable(folder)
