"""Experts in training on the disk: a killed one goes on after its last epoch, a finished one can be made longer.

A group that is trained side by side has a folder, ``training-0000-0003``, in that of its store: ``epoch-0007`` holds
what each member's builders remember of epoch 7, ``standing`` where all of them stand, and is written last. The group is
one, since on a CPU the bytes of an expert depend on who is trained beside it. The folder goes when its members are
stored; of a stored expert ``stored_standing`` keeps what a longer wish goes on from.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from distillkit import storage
from distillkit.errors import StorageError
from distillkit.training.standing import Standing

Items = dict[str, Tensor]
"""What one builder remembers, by name."""


def _tensors_of(standing: Standing) -> dict[str, Tensor]:
    memory = {f"memory/{name}": value for name, value in standing.memory.items()}
    buffers = {f"buffer/{name}": value for name, value in standing.buffers.items()}
    return {"parameters": standing.parameters, **memory, **buffers}


def _standing_of(tensors: Mapping[str, Tensor], epoch: int, curve: dict[str, list[float]]) -> Standing:
    return Standing(epoch, tensors["parameters"], _under("memory/", tensors), _under("buffer/", tensors), curve)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class Unfinished:
    """The experts ``members``, which are trained side by side in the store's ``folder``."""

    folder: Path
    members: tuple[int, ...]

    @staticmethod
    def all_in(folder: Path) -> list[Unfinished]:
        """Those that a kill left in a store's folder."""
        found = []
        for path in sorted(folder.glob("training-*/standing.safetensors")):
            try:
                members = storage.read_metadata(path)["members"]
                found.append(Unfinished(folder, tuple(int(member) for member in members)))
            except (StorageError, KeyError, TypeError, ValueError):
                continue  # damaged: what it says is not known, its experts begin anew
        return found

    @property
    def path(self) -> Path:
        """Its own folder."""
        return self.folder / f"training-{self.members[0]:04d}-{self.members[-1]:04d}"

    def save(self, standings: Sequence[Standing], remembered: Sequence[Sequence[Items]]) -> None:
        """After an epoch of all members: where each stands, and of each what its builders remember of the epoch."""
        epoch = standings[0].epoch
        self.keep(epoch, remembered)
        tensors = {
            f"{member}/{name}": value
            for member, standing in zip(self.members, standings, strict=True)
            for name, value in _tensors_of(standing).items()
        }
        about = {"members": self.members, "epoch": epoch, "curves": [standing.curve for standing in standings]}
        storage.write_tensors(self.path / "standing.safetensors", tensors, about, sealed=True)

    def keep(self, epoch: int, remembered: Sequence[Sequence[Items]]) -> None:
        """What the builders of each member remember of an epoch; 0 is the initialisation, or all before."""
        items = {
            f"{member}/{position}/{name}": value.clone()  # two builders may keep the same vector
            for member, builders in zip(self.members, remembered, strict=True)
            for position, own in enumerate(builders)
            for name, value in own.items()
        }
        storage.write_tensors(self.path / f"epoch-{epoch:04d}.safetensors", items, sealed=True)

    def load(self, builders: int) -> tuple[list[Standing], list[list[Items]]]:
        """Where each member stands, and what each of its so many builders remembers.

        Raises:
            StorageError: nothing there, or damaged.
        """
        tensors, about = storage.read_tensors(self.path / "standing.safetensors")
        try:
            epoch, curves = int(about["epoch"]), about["curves"]
            standings = [
                _standing_of(_under(f"{member}/", tensors), epoch, curve)
                for member, curve in zip(self.members, curves, strict=True)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{self.path} is damaged") from error
        items: Items = {}
        for path in sorted(self.path.glob("epoch-*.safetensors")):
            if int(path.stem.removeprefix("epoch-")) <= epoch:
                items |= storage.read_tensors(path)[0]
        remembered = [[_under(f"{m}/{position}/", items) for position in range(builders)] for m in self.members]
        return standings, remembered

    def clear(self) -> None:
        """Forget them: they are stored."""
        shutil.rmtree(self.path, ignore_errors=True)


def stored_standing(standing: Standing, rest: Items) -> bytes:
    """The file of where a stored expert stands; ``rest``: what its builder remembers besides its trajectory."""
    tensors = _tensors_of(standing) | {f"rest/{name}": value for name, value in rest.items()}
    return storage.tensor_bytes(tensors, {"epoch": standing.epoch, "curve": standing.curve})


def read_stored(path: Path, sha256: Any) -> tuple[Standing, Items]:
    """The inverse of ``stored_standing``.

    Raises:
        StorageError: not there, damaged, or not the file of that SHA-256.
    """
    if not path.is_file() or storage.sha256_file(path) != sha256:
        raise StorageError(f"{path} is damaged")
    tensors, about = storage.read_tensors(path)
    return _standing_of(tensors, int(about["epoch"]), about["curve"]), _under("rest/", tensors)
