"""The ``run`` folder inside an output folder: what a run needs to continue, and what a person may want to look at.

``config.json``  the effective settings with a checksum: another run is not continued by mistake
``checkpoint.safetensors``  the outer loop's state, ``checkpoint-before.safetensors`` the one before
``synthetic.safetensors``  the selected set, once distillation is over
``evaluation.json``  rows of the results table that are done
``seconds.json``  wall time of each stage, summed over interruptions
``experts.json``, ``experts.png``  accuracy and parameter change of each expert
``schedule.png``  which images an epoch of the experts saw, where a data scheduler chose them
``metrics.jsonl``  a line per outer step, and one per validation
``earlier.json``  the runs that made what this one began with, if any did
``test_checkpoints.json``  test accuracies of checkpoints, under ``--paper-protocol`` only
``images/``  pictures of the synthetic images as they form
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from distillkit import metrics_file, storage
from distillkit.artifact.layout import RUN_FILES
from distillkit.errors import ConfigError, DamagedError, DistillkitError, StorageError
from distillkit.identities import (
    completed,
    same_but_for_length,
    same_run,
    with_contents_of,
)
from distillkit.locks import BusyError, locked
from distillkit.records import EvalReport, SyntheticSet
from distillkit.run_folder.contents import FolderContents
from distillkit.run_folder.ownership import is_of_another, remove_run

TIME_KEPT_EVERY = 5.0


@dataclass(frozen=True)
class RunFolder(FolderContents):
    """``out`` is the artifact's folder; the run's own files lie in ``out/run``. ``seen_as``: the identity of the run
    that looks at it without claiming it.
    """

    seen_as: dict[str, Any] | None = None
    _running: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Stages that are being timed, and since when."""

    def stored_settings(self) -> dict[str, Any] | None:
        """The settings of the run that the folder holds, if it holds one; as it is to be now, if it was longer or
        shorter before.
        """
        if not self.run_config.is_file():
            return None
        known, last = self.stored_identity(), self.identities()[:1]
        stored = (last[0] if last and same_but_for_length(known, last[0]) else known).get("settings")
        return stored if isinstance(stored, dict) else None

    def identity(self) -> dict[str, Any]:
        """Of the run that the folder is claimed for, or looked at for."""
        if self.seen_as is not None:
            return self.seen_as
        return completed(storage.read_sealed_json(self.run_config, or_plain=True))

    def is_own(self, about: Any, of_the_end: bool = False) -> bool:
        """Whether a file, from what it says of itself, is this run's; those of older versions do not say it. One that
        is not ``of_the_end`` may be from when more or fewer outer steps were asked for.
        """
        owner = about.get("owner") if isinstance(about, dict) else None
        if owner is None or same_run(completed(owner), self.identity()):
            return True
        return not of_the_end and same_but_for_length(completed(owner), self.identity())

    @contextlib.contextmanager
    def claimed(self, identity: dict[str, Any], replace: bool) -> Iterator[None]:
        """Hold the folder for the run called ``identity``; continue it if it is that run's already, or that of the same
        run with more or fewer outer steps to make, no more than these being made.

        Raises:
            ConfigError: the folder holds another run or other files (and ``replace`` is not set), or is in use.
        """
        is_of_another(self, identity, replace)  # before anything is written into a folder of somebody else's
        storage.make_folder(self.path)
        try:
            with locked(self.lock):
                if is_of_another(self, identity, replace):
                    remove_run(self)
                for folder in (self.out, self.out / "data", self.path, self.path / "images"):
                    storage.remove_leftovers(folder)
                before = self.stored_identity() if self.run_config.is_file() else {}
                storage.write_sealed_json(self.run_config, with_contents_of(identity, before))
                yield
        except BusyError:
            raise self._in_use() from None
        except PermissionError as error:
            if isinstance(error, DistillkitError):
                raise
            raise StorageError(f"cannot write in {self.path}: {(error.strerror or str(error)).lower()}") from error

    def _check_free(self) -> None:
        """Writes nothing.

        Raises:
            ConfigError: another process is working in the folder.
        """
        if not self.lock.is_file():
            return
        try:
            with locked(self.lock):
                pass
        except BusyError:
            raise self._in_use() from None

    def _in_use(self) -> ConfigError:
        return ConfigError(f"another process is working in {self.out}; wait for it or choose another `out`")

    def holds(self, identity: dict[str, Any], replace: bool) -> bool:
        """Whether the folder holds the run called ``identity``, which ``claimed`` would go on with; writes nothing.

        Raises:
            ConfigError, StorageError: ``claimed`` would refuse it.
        """
        self._check_free()
        begun = self.run_config.is_file()
        return not is_of_another(self, identity, replace) and begun

    # metrics

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add a line."""
        storage.append_text(self.metrics, metrics_file.line_of(row))

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines; one that was torn by a kill, or is damaged, is left out."""
        if not self.metrics.exists():
            return []
        with storage.storage_errors(self.metrics, "read"):
            return metrics_file.rows_of(self.metrics.read_bytes())

    def truncate_metrics(self, step: int, *, keep_selection: bool) -> None:
        """Drop what came after the checkpoint at ``step``, and its selection if that is due; they are made again."""
        rows = [row for row in self.read_metrics() if row["step"] <= step]
        kept = [
            metrics_file.line_of(row)
            for row in rows
            if keep_selection or row["step"] < step or "validation_accuracy" not in row
        ]
        storage.write_bytes(self.metrics, "".join(kept).encode())

    # results

    def add_test_checkpoint(self, step: int, accuracy: float) -> None:
        """Keep a checkpoint's test accuracy (paper protocol); it is shown, never chosen by."""
        self._write_own(RUN_FILES.test_checkpoints, {**self.test_checkpoints(), str(step): accuracy})

    def test_checkpoints(self) -> dict[str, float]:
        """Test accuracies by outer step, under the paper protocol only."""
        return self._numbers_of(RUN_FILES.test_checkpoints)

    def keep_earlier_runs(self, runs: list[dict[str, Any]]) -> None:
        """Remember who made what this run begins with: its artifact may be gone when this one is packed."""
        self._write_own(RUN_FILES.earlier_runs, {"runs": runs})

    def earlier_runs(self) -> list[dict[str, Any]]:
        """What ``keep_earlier_runs`` was told, oldest first; none of a run that began with real images or noise."""
        found = self._read_own(RUN_FILES.earlier_runs).get("runs", [])
        return found if isinstance(found, list) else []

    def save_synthetic(self, synthetic: SyntheticSet, selection: dict[str, Any]) -> None:
        """Keep the selected set; distillation is over."""
        tensors = {"images": synthetic.images, "labels": synthetic.labels, "class_ids": synthetic.class_ids}
        numbers = {"lr": synthetic.lr, "label_kind": synthetic.label_kind, "selection": selection}
        about = {**numbers, "owner": self.identity()}
        storage.write_tensors(self.synthetic, tensors, about, sealed=True)

    def load_synthetic(self) -> tuple[SyntheticSet, dict[str, Any]] | None:
        """The selected set and how it was selected; None before distillation is over, or if the file is damaged or
        another run's.

        Raises:
            StorageError: it cannot be read now; another try may.
        """
        if not self.synthetic.exists():
            return None
        try:
            tensors, numbers = storage.read_tensors(self.synthetic)
        except DamagedError:
            return None  # the checkpoint of the last step gives it again
        if not isinstance(numbers, dict) or not self.is_own(numbers, of_the_end=True):
            return None
        try:
            images, labels, ids = (tensors[name].clone() for name in ("images", "labels", "class_ids"))
            return SyntheticSet(images, labels, ids, numbers["lr"], numbers["label_kind"]), numbers["selection"]
        except KeyError:
            return None  # another file in its place

    def has_lost_its_set(self) -> bool:
        """Whether a selected set is there that ``load_synthetic`` does not give; not where it is that of this run after
        fewer outer steps, or more.
        """
        if not self.synthetic.exists() or self.load_synthetic() is not None:
            return False
        try:
            return not same_but_for_length(completed(storage.read_metadata(self.synthetic)["owner"]), self.identity())
        except (DamagedError, KeyError, TypeError):
            return True

    def rows(self) -> dict[str, EvalReport]:
        """Rows of the results table that are done; none if the file is damaged."""
        try:
            return {name: EvalReport.from_json(row) for name, row in self._read_own(RUN_FILES.evaluation, True).items()}
        except (KeyError, TypeError, IndexError, AttributeError):
            return {}  # another file in its place

    def add_row(self, name: str, report: EvalReport) -> None:
        """Keep a row."""
        rows = {**self.rows(), name: report}
        self._write_own(RUN_FILES.evaluation, {key: row.to_json() for key, row in rows.items()})

    # time

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the block's wall time to ``stage``, also when it is interrupted."""
        self._running[stage] = time.perf_counter()
        try:
            yield
        finally:
            self._add_time(stage)
            del self._running[stage]

    def keep_time(self) -> None:
        """Add the time so far of blocks that are being timed, if ``TIME_KEPT_EVERY`` seconds have passed: called after
        each piece of work, so that a kill loses those seconds, or one longer piece.
        """
        for stage, begin in self._running.items():
            if time.perf_counter() - begin > TIME_KEPT_EVERY:
                self._add_time(stage)

    def _add_time(self, stage: str) -> None:
        now, seconds = time.perf_counter(), self.seconds()
        seconds[stage] = round(seconds.get(stage, 0.0) + now - self._running[stage], 3)
        self.save_seconds(seconds)
        self._running[stage] = now

    def save_seconds(self, seconds: dict[str, float]) -> None:
        """Keep wall times by stage."""
        self._write_own(RUN_FILES.seconds, seconds)

    def seconds(self) -> dict[str, float]:
        """Wall time by stage; what a damaged file said is lost."""
        return self._numbers_of(RUN_FILES.seconds)

    # experts

    def save_experts_report(self, report: dict[str, Any]) -> None:
        """Keep what became of the experts, under ``pulled_from`` where they came from, and under ``precision`` in which
        they were trained.
        """
        self._write_own(RUN_FILES.experts, report)

    def expert_origins(self) -> list[str] | None:
        """The Hub revisions that the run's experts came from; None if its report is not there, or damaged."""
        found = self._read_own(RUN_FILES.experts).get("pulled_from")
        return found if isinstance(found, list) and all(isinstance(one, str) for one in found) else None

    def expert_precision(self) -> str | None:
        """In which arithmetic the run's experts were trained; None if its report is not there, damaged or older."""
        found = self._read_own(RUN_FILES.experts).get("precision")
        return found if isinstance(found, str) else None

    def _write_own(self, name: str, content: dict[str, Any]) -> None:
        """A JSON object that is a part of this run's result."""
        storage.write_sealed_json(self.path / name, {"owner": self.identity(), "of": name, "content": content})

    def _read_own(self, name: str, of_the_end: bool = False) -> dict[str, Any]:
        """What ``_write_own`` wrote; empty if it is absent, damaged or another run's.

        Raises:
            StorageError: it cannot be read now; another try may.
        """
        if not (self.path / name).exists():
            return {}
        try:
            found = storage.read_sealed_json(self.path / name)
        except DamagedError:
            return {}
        if not isinstance(found, dict) or not self.is_own(found, of_the_end) or found.get("of", name) != name:
            return {}
        content = found.get("content")
        return content if isinstance(content, dict) else {}

    def _numbers_of(self, name: str) -> dict[str, float]:
        """What ``_write_own`` wrote, if it is numbers by name."""
        found = self._read_own(name)
        return found if all(type(value) in (int, float) for value in found.values()) else {}
