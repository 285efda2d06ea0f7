"""Cached expert trajectories: a folder per set-up, two files per expert, shared by all runs that agree on the set-up.

``expert-0003.safetensors`` holds what the trajectory's form keeps: the raw form one tensor [P] per epoch
(``epoch-0000`` is the initialisation), so that a point is read without the rest. ``expert-0003.json`` holds its SHA-256
and the training curve, and is written last: an expert exists when both are there and the checksum fits.
``expert-0003.state.safetensors`` is where its training stands, for a run that wants more epochs. ``setup.json`` says
what determines an epoch; how many there are is no part of it, each expert has its own.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from distillkit import storage
from distillkit.errors import DamagedError, NotFoundError, StorageError, TrajectoryError
from distillkit.locks import BusyError, locked

SETUP = "setup.json"
"""The file of a folder of trajectories that says what determines them."""
OF = "expert"
"""Key of a record: whose it is."""

OF_THE_FILES = ("sha256", "state_sha256", "epochs")
"""Keys of a record that are of its files, and not of the expert."""


def facts_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of the expert, for another file of it."""
    return {key: value for key, value in record.items() if key not in OF_THE_FILES}


def experts_root() -> Path:
    """Where all trajectory folders lie."""
    return storage.cache_root() / "experts"


@dataclass(frozen=True)
class TrajectoryStore:
    """One folder of trajectories; ``setup`` is everything that determines them, its fingerprint names the folder."""

    folder: Path
    setup: dict[str, Any]

    @staticmethod
    def for_setup(setup: dict[str, Any], root: Path | None = None) -> TrajectoryStore:
        """The store of a set-up; its folder is made when the first expert is written."""
        return TrajectoryStore((root or experts_root()) / storage.fingerprint(setup), setup)

    @staticmethod
    def open(folder: Path) -> TrajectoryStore:
        """The store in an existing folder.

        Raises:
            NotFoundError: no trajectories there.
            StorageError: the set-up is damaged, or another one's: its fingerprint is not the folder's name.
        """
        if not (folder / SETUP).is_file():
            raise NotFoundError(
                f"no expert trajectories called {folder.name}; 'distillkit experts list' shows what is there"
            )
        setup = storage.read_json(folder / SETUP)
        if not isinstance(setup, dict) or storage.fingerprint(setup) != folder.name:
            raise DamagedError(
                f"{folder / SETUP} is not the set-up of these trajectories; 'distillkit experts clear {folder.name}'"
            )
        return TrajectoryStore(folder, setup)

    @property
    def form(self) -> str:
        """Name of the trajectories' form; set-ups of the raw form, which came first, do not say it."""
        return str(self.setup.get("form", {}).get("form", "raw"))

    def tensors_path(self, expert: int) -> Path:
        """The parameters' file."""
        return self.folder / f"expert-{expert:04d}.safetensors"

    def state_path(self, expert: int) -> Path:
        """The file of where its training stands."""
        return self.folder / f"expert-{expert:04d}.state.safetensors"

    def record_path(self, expert: int) -> Path:
        """The file of checksum and curve."""
        return self.folder / f"expert-{expert:04d}.json"

    @contextlib.contextmanager
    def lock(self, expert: int, *, wait: bool = True) -> Iterator[None]:
        """Held while an expert is trained, so that two runs do not train the same one; a kill releases it.

        Raises:
            BusyError: another process holds it, and ``wait`` is not set.
        """
        storage.make_folder(self.folder)
        with contextlib.ExitStack() as held:
            try:
                name = f".expert-{expert:04d}.lock"
                held.enter_context(locked(self.folder / name, (lambda: None) if wait else None))
            except BusyError:
                raise BusyError(f"expert {expert} of {self.folder.name} is being made by another process") from None
            storage.remove_leftovers(self.folder, f"expert-{expert:04d}.*")
            yield

    def describe(self) -> None:
        """Say in the folder what determines its trajectories."""
        path = self.folder / SETUP
        if not path.exists() or self._is_damaged(path):
            storage.write_json(self.folder / SETUP, self.setup)

    def _is_damaged(self, path: Path) -> bool:
        try:
            return storage.canonical_json(storage.read_json(path)) != storage.canonical_json(self.setup)
        except DamagedError:
            return True

    def write(
        self,
        expert: int,
        tensors: Mapping[str, Tensor],
        epochs: int,
        facts: Mapping[str, Any],
        stands: bytes | None = None,
    ) -> None:
        """Keep an expert of ``epochs`` epochs: the tensors that its form makes, facts for its record, and where its
        training stands, if that is known.
        """
        self.adopt(expert, storage.tensor_bytes(tensors, {"expert": expert, "epochs": epochs}), epochs, facts, stands)

    def adopt(
        self, expert: int, content: bytes, epochs: int, facts: Mapping[str, Any], stands: bytes | None = None
    ) -> None:
        """Keep an expert whose file, ``content``, was made elsewhere."""
        self.describe()
        path, record = self.tensors_path(expert), {**facts, "epochs": epochs}
        if stands is not None:
            storage.write_bytes(self.state_path(expert), stands)
            record["state_sha256"] = storage.sha256_file(self.state_path(expert))
        storage.write_bytes(path, content)
        record |= {"sha256": storage.sha256_file(path), OF: self._name(expert)}
        storage.write_sealed_json(self.record_path(expert), record)
        if stands is None:
            self.state_path(expert).unlink(missing_ok=True)  # of a shorter one

    def state(self, expert: int, epochs: int = 0) -> str:
        """``"absent"``, ``"damaged"`` (file or record unreadable, or the checksum does not fit), ``"short"`` (of fewer
        than ``epochs`` epochs) or ``"good"``.
        """
        if not self.record_path(expert).exists():
            return "absent"
        try:
            record = self.record(expert)
            if storage.sha256_file(self.tensors_path(expert)) != record["sha256"]:
                return "damaged"
            return "short" if int(record["epochs"]) < epochs else "good"
        except (StorageError, KeyError, TypeError, ValueError):
            return "damaged"

    def ends(self, count: int, until: int | None = None) -> list[int]:
        """Of each of the first ``count`` experts the last epoch that can be asked of it, none beyond ``until``; 0 of
        those that are not there.
        """
        records = [self.record(index) if self.record_path(index).exists() else {"epochs": 0} for index in range(count)]
        ends = [int(record.get("last_point") or record["epochs"]) for record in records]
        return ends if until is None else [min(end, until) for end in ends]

    @property
    def most_epochs(self) -> int:
        """The most epochs that its experts have, or may have."""
        asked = self.setup.get("epochs") or self.setup.get("recipe", {}).get("epochs")
        return int(asked or max((int(self.record(index)["epochs"]) for index in self.experts()), default=0))

    def record(self, expert: int) -> dict[str, Any]:
        """Checksum, epochs and curve.

        Raises:
            StorageError: it cannot be read, or is not what was written.
        """
        path = self.record_path(expert)
        record = storage.read_sealed_json(path, or_plain=True)
        if not _is_record(record):
            raise DamagedError(f"{path} is damaged: it is no record of an expert")
        if record.pop(OF, self._name(expert)) != self._name(expert):
            raise DamagedError(f"{path} is the record of another expert")
        return record  # type: ignore[no-any-return]

    def _name(self, expert: int) -> str:
        """What a record says it is of; those of older versions do not."""
        return f"{self.folder.name}/{expert:04d}"

    def raw(self, expert: int) -> Callable[[int], Tensor]:
        """Parameters [P] of an expert of the raw form by whole epoch, read into memory one by one."""
        path = self.tensors_path(expert)

        def point(epoch: int) -> Tensor:
            with storage.open_tensors(path) as file:
                tensor: Tensor = file.get_tensor(f"epoch-{epoch:04d}").clone()
            return tensor

        return point

    def forget_finished(self) -> None:
        """Delete what a kill left of the training of experts that are all stored by now, as far as it went: another
        run made them, perhaps side by side with others. What somebody works on is left alone.
        """
        for folder in self.folder.glob("training-[0-9]*-[0-9]*"):
            first, last = (int(number) for number in folder.name.split("-")[1:])
            with contextlib.ExitStack() as locks, contextlib.suppress(StorageError, KeyError, TypeError, ValueError):
                for expert in range(first, last + 1):
                    locks.enter_context(self.lock(expert, wait=False))
                standing = folder / "standing.safetensors"
                reached = int(storage.read_metadata(standing)["epoch"]) if standing.exists() else 0
                if all(self.state(expert, reached) == "good" for expert in range(first, last + 1)):
                    shutil.rmtree(folder, ignore_errors=True)

    def experts(self) -> list[int]:
        """Numbers of the finished experts, ascending."""
        found = (re.fullmatch(r"expert-(\d{4,})\.json", path.name) for path in self.folder.glob("expert-*.json"))
        return sorted(int(name[1]) for name in found if name)

    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def clear(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder)


class RawTrajectories:
    """The raw form of the ``TrajectorySource`` protocol: integer epochs only, read from the store when asked for."""

    continuous = False

    def __init__(self, store: TrajectoryStore, count: int, until: int | None = None) -> None:
        self._store = store
        self._files: dict[int, Any] = {}
        self._open = contextlib.ExitStack()  # files stay open as long as this object lives
        self.count = count
        self._ends = store.ends(count, until)
        self.final_epoch = min(self._ends)

    def end(self, expert: int) -> int:
        """The last epoch that can be asked of it."""
        return self._ends[expert]

    def point(self, expert: int, epoch: float) -> Tensor:
        """Flat parameters [P], float32, on the CPU.

        Raises:
            TrajectoryError: ``epoch`` is no whole number that the expert has.
        """
        if epoch != int(epoch) or not 0 <= epoch <= self._ends[expert]:
            raise TrajectoryError(
                f"the raw trajectory of expert {expert} holds epochs 0 to {self._ends[expert]}, there is no epoch "
                f"{epoch}"
            )
        if expert not in self._files:
            self._files[expert] = self._open.enter_context(storage.open_tensors(self._store.tensors_path(expert)))
        tensor: Tensor = self._files[expert].get_tensor(f"epoch-{int(epoch):04d}")
        return tensor


def _is_record(record: Any) -> bool:
    """Whether a value has what is read of every record."""
    if not isinstance(record, dict) or not isinstance(record.get("sha256"), str):
        return False
    ends = (record.get("epochs"), record.get("last_point") or 0)
    return all(type(end) is int and end >= 0 for end in ends) and isinstance(record.get("curve"), dict)
