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
from distillkit.errors import DamagedError, StorageError
from distillkit.training.standing import Standing

Items = dict[str, Tensor]
"""What one builder remembers, by name."""


def _place(path: Path) -> str:
    """Store, group and name of a file."""
    return "/".join(path.parts[-3:])


def _epoch_name(epoch: int) -> str:
    return f"epoch-{epoch:04d}"


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
                group = Unfinished(folder, tuple(int(member) for member in members))
            except (StorageError, KeyError, TypeError, ValueError):
                continue  # damaged: what it says is not known, its experts begin anew
            if members and group.path == path.parent:  # else it was copied from another group's
                found.append(group)
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
        self._write("standing", tensors, about)

    def keep(self, epoch: int, remembered: Sequence[Sequence[Items]], until: int = 0) -> None:
        """What the builders of each member remember of an epoch; of 0, the initialisation, and all up to ``until``."""
        items = {
            f"{member}/{position}/{name}": value.clone()  # two builders may keep the same vector
            for member, builders in zip(self.members, remembered, strict=True)
            for position, own in enumerate(builders)
            for name, value in own.items()
        }
        self._write(_epoch_name(epoch), items, {"until": until})

    def _write(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
        """A file that says where it belongs: the same names lie in the folders of other groups."""
        path = self.path / f"{name}.safetensors"
        storage.write_tensors(path, tensors, {**about, "of": _place(path)}, sealed=True)

    def _read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The inverse of ``_write``.

        Raises:
            StorageError: not there, damaged, or another group's.
        """
        path = self.path / f"{name}.safetensors"
        tensors, about = storage.read_tensors(path, sealed=True)
        if not isinstance(about, dict) or about.get("of") != _place(path):
            raise DamagedError(f"{path} is not what was written there")
        return tensors, about

    def load(self, builders: int) -> tuple[list[Standing], list[list[Items]]]:
        """Where each member stands, and what each of its so many builders remembers.

        Raises:
            StorageError: nothing there, or damaged.
        """
        tensors, about = self._read("standing")
        try:
            epoch, curves = int(about["epoch"]), about["curves"]
            standings = [
                _standing_of(_under(f"{member}/", tensors), epoch, curve)
                for member, curve in zip(self.members, curves, strict=True)
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{self.path} is damaged") from error
        items, first = self._read(_epoch_name(0))
        for number in range(int(first.get("until", 0)) + 1, epoch + 1):
            items |= self._read(_epoch_name(number))[0]
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
