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
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from distillkit import metrics_file, storage
from distillkit.artifact import own_section
from distillkit.artifact.layout import FILES, PUBLISHED, RUN_FILES, missing_files
from distillkit.artifact.read import read_config
from distillkit.artifact.schema import ArtifactConfig
from distillkit.errors import ArtifactError, ConfigError, DamagedError, StorageError
from distillkit.identities import (
    but_sizes,
    completed,
    difference,
    experts_of,
    outer_steps_of,
    same_but_for_length,
    same_run,
    with_contents_of,
    with_experts,
)
from distillkit.locks import BusyError, locked
from distillkit.methods import METHODS
from distillkit.records import EvalReport, SyntheticSet

TOLD_BEFORE = {
    RUN_FILES.seconds,
    RUN_FILES.experts,
    RUN_FILES.experts_picture,
    RUN_FILES.schedule_picture,
    RUN_FILES.metrics,
    RUN_FILES.earlier_runs,
}
"""Those of them that are there before anything is learned; the experts themselves lie in the cache."""
TIME_KEPT_EVERY = 5.0
OWN_FILES = tuple(name for name in astuple(RUN_FILES) if name != RUN_FILES.config)
"""What a run keeps in its folder, but for its config and pictures."""


@dataclass(frozen=True)
class RunFolder:
    """``out`` is the artifact's folder; the run's own files lie in ``out/run``. ``seen_as``: the identity of the run
    that looks at it without claiming it.
    """

    out: Path
    seen_as: dict[str, Any] | None = None
    _running: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Stages that are being timed, and since when."""

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

    def stored_settings(self) -> dict[str, Any] | None:
        """The settings of the run that the folder holds, if it holds one; as it is to be now, if it was longer or
        shorter before.
        """
        if not self._config.is_file():
            return None
        known, last = self._stored_identity(), self._identities()[:1]
        stored = (last[0] if last and same_but_for_length(known, last[0]) else known).get("settings")
        return stored if isinstance(stored, dict) else None

    @property
    def _config(self) -> Path:
        return self.path / RUN_FILES.config

    def identity(self) -> dict[str, Any]:
        """Of the run that the folder is claimed for, or looked at for."""
        if self.seen_as is not None:
            return self.seen_as
        return completed(storage.read_sealed_json(self._config, or_plain=True))

    def _stored_identity(self) -> dict[str, Any]:
        """Of the run that the folder holds, as most of its files say, the config first; empty if none can be read.

        Raises:
            StorageError: the config cannot be read now; another try may.
        """
        said = self._identities()
        return max(said, key=said.count, default={})

    def _identities(self) -> list[dict[str, Any]]:
        """As the config, the checkpoints and the selected set say, of those that can be read."""
        said = []
        with contextlib.suppress(DamagedError):
            said.append(completed(storage.read_sealed_json(self._config, or_plain=True)))
        for path in (self.checkpoint, self.older_checkpoint, self._synthetic):
            with contextlib.suppress(StorageError, KeyError, TypeError):  # absent, damaged, or of an older version
                said.append(completed(storage.read_metadata(path)["owner"]))
        return [identity for identity in said if identity]

    @property
    def _synthetic(self) -> Path:
        """The selected set."""
        return self.path / RUN_FILES.synthetic

    def is_own(self, about: Any, of_the_end: bool = False) -> bool:
        """Whether a file, from what it says of itself, is this run's; those of older versions do not say it. One that
        is not ``of_the_end`` may be from when more or fewer outer steps were asked for.
        """
        owner = about.get("owner") if isinstance(about, dict) else None
        if owner is None or same_run(completed(owner), self.identity()):
            return True
        return not of_the_end and same_but_for_length(completed(owner), self.identity())

    def files(self) -> list[str]:
        """Names in ``out`` of what is there of an artifact and of what its run goes on from, but for pictures."""
        own = [f"{FILES.run}/{name}" for name in (*OWN_FILES, RUN_FILES.config)]
        recipes = [f"{FILES.recipes}/{path.name}" for path in (self.out / FILES.recipes).glob("*.json")]
        return [name for name in (*PUBLISHED, *recipes, *own) if (self.out / name).is_file()]

    @contextlib.contextmanager
    def claimed(self, identity: dict[str, Any], replace: bool) -> Iterator[None]:
        """Hold the folder for the run called ``identity``; continue it if it is that run's already, or that of the same
        run with more or fewer outer steps to make, no more than these being made.

        Raises:
            ConfigError: the folder holds another run or other files (and ``replace`` is not set), or is in use.
        """
        self._check_owner(identity, replace)  # before anything is written into a folder of somebody else's
        storage.make_folder(self.path)
        try:
            with locked(self._lock):
                if self._check_owner(identity, replace):
                    self._remove_run()
                for folder in (self.out, self.out / "data", self.path, self.path / "images"):
                    storage.remove_leftovers(folder)
                before = self._stored_identity() if self._config.is_file() else {}
                storage.write_sealed_json(self._config, with_contents_of(identity, before))
                yield
        except BusyError:
            raise self._in_use() from None
        except PermissionError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"cannot write in {self.path}: {(error.strerror or str(error)).lower()}") from error

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

    def _check_free(self) -> None:
        """Writes nothing.

        Raises:
            ConfigError: another process is working in the folder.
        """
        if not self._lock.is_file():
            return
        try:
            with locked(self._lock):
                pass
        except BusyError:
            raise self._in_use() from None

    def _in_use(self) -> ConfigError:
        return ConfigError(f"another process is working in {self.out}; wait for it or choose another `out`")

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    def holds(self, identity: dict[str, Any], replace: bool) -> bool:
        """Whether the folder holds the run called ``identity``, which ``claimed`` would go on with; writes nothing.

        Raises:
            ConfigError, StorageError: ``claimed`` would refuse it.
        """
        self._check_free()
        begun = self._config.is_file()
        return not self._check_owner(identity, replace) and begun

    def _check_owner(self, identity: dict[str, Any], replace: bool) -> bool:
        """True if the folder holds another run that is to be replaced."""
        self.check_possible()
        if not self._config.is_file():
            return self._check_others(replace)
        other = self._stored_identity()
        if same_run(other, identity) or (not replace and self._goes_on(other, identity)):
            return False
        if self._has_results() and not replace:
            what = f"{other.get('method', '?')} on {other.get('dataset', '?')} at ipc {other.get('ipc', '?')}"
            known = f"another run ({what}; differs in {difference(other, identity)}{self._way_on(other, identity)})"
            held = known if other else f"a run whose settings cannot be read any more ({self._config} is damaged)"
            raise ConfigError(f"{self.out} holds {held}; choose another `out`, or `replace=True` to replace it")
        return True

    def _goes_on(self, other: dict[str, Any], identity: dict[str, Any]) -> bool:
        """Whether a run goes on from the steps of the one that the folder holds, which was to be longer or shorter; not
        one of a method made in Python, whose parts nobody knows.
        """
        known = other.get("method") in METHODS and same_but_for_length(other, identity)
        return known and self._outer_steps_made(other) <= outer_steps_of(identity)

    def _outer_steps_made(self, other: dict[str, Any]) -> float:
        """Of the run that the folder holds; all that it was asked for where a file is damaged; of no end where one does
        not say whose it is, as those of older versions did not.
        """
        steps: list[float] = []
        for path in filter(Path.exists, (self._synthetic, self.checkpoint)):
            try:
                about = storage.read_metadata(path)
                asked = outer_steps_of(completed(about["owner"]))
                steps.append(asked if path == self._synthetic else about["step"])
            except StorageError:
                steps.append(outer_steps_of(other))
            except (KeyError, TypeError):
                steps.append(math.inf)
        return max(steps, default=outer_steps_of(other))

    def _way_on(self, other: dict[str, Any], identity: dict[str, Any]) -> str:
        """How to go on from a run that had another budget and is not the same run, as words."""
        if not same_run(but_sizes(other), but_sizes(identity)):
            return ""
        count = experts_of(other)
        if count is not None and self._goes_on(other, with_experts(identity, count)):
            return f"; to go on with its experts, `experts.count={count}`"
        if not (self.out / FILES.config).is_file():
            return ""
        return (
            f"; to go on from its images, `distill.init=artifact` and `distill.init_from={self.out}` in another `out`"
        )

    def _has_results(self) -> bool:
        """Whether the run that the folder is of has left anything: one that was refused at its beginning has not."""
        kept = set(OWN_FILES) - TOLD_BEFORE
        return any((self.path / name).exists() for name in kept) or any(
            (self.out / name).exists() for name in PUBLISHED
        )

    def _check_others(self, replace: bool) -> bool:
        """True if the folder, which no run is known of, holds an artifact that is to be replaced."""
        if not self.out.exists():
            return False
        if (self.out / FILES.config).is_file():
            if not replace:
                raise ConfigError(
                    f"{self.out} holds an artifact that another run made{self._lacks()}; choose another `out`, or "
                    "`replace=True` to replace it"
                )
            return True
        if self.path.exists() and any(
            path.name not in (".lock", "images") and not storage.is_leftover(path) for path in self.path.iterdir()
        ):
            raise ConfigError(f"{self.path} holds files that are no run of distillkit; choose another `out`")
        others = [path.name for path in self.out.iterdir() if path.name != FILES.run]
        taken = sorted(name for name in PUBLISHED if (self.out / name).exists() and not self._is_left_card(name))
        if taken:  # never written over, whatever was said
            raise ConfigError(f"{self.out} holds a {taken[0]} that is no artifact's; choose another `out`")
        if others and not replace:
            raise ConfigError(
                f"{self.out} holds other files; choose another `out`, or `replace=True` to write among them"
            )
        return False

    def _lacks(self) -> str:
        """Which files the artifact in ``out``, whose run is not known, should have and has not, in words."""
        try:
            about = ArtifactConfig.model_validate(read_config(self.out))
        except ArtifactError:
            return ""
        missing = ", no ".join(missing_files(self.out, about.learned))
        return f" and is incomplete (it has no {missing}, and no {FILES.run}/ to pack it from)" if missing else ""

    def _is_left_card(self, name: str) -> bool:
        """Whether a file is the card of an artifact that was being replaced: it goes on, with the user's section."""
        card = self.out / name
        return name == FILES.card and card.is_file() and own_section.BEGIN.encode() in card.read_bytes()

    def _remove_run(self) -> None:
        """Delete the other run's files, and no others, but for its config, which is written over next: a kill on the
        way leaves it its run, incomplete, and never makes it another's.
        """
        shutil.rmtree(self.path / "images", ignore_errors=True)
        for name in OWN_FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in PUBLISHED:
            if name not in (FILES.card, FILES.config):  # the card may hold the user's own section, which goes on
                (self.out / name).unlink(missing_ok=True)
        for path in self.out.glob(f"{FILES.recipes}/*.json"):
            path.unlink()
        (self.out / FILES.config).unlink(missing_ok=True)

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
        storage.write_tensors(self._synthetic, tensors, about, sealed=True)

    def load_synthetic(self) -> tuple[SyntheticSet, dict[str, Any]] | None:
        """The selected set and how it was selected; None before distillation is over, or if the file is damaged or
        another run's.

        Raises:
            StorageError: it cannot be read now; another try may.
        """
        if not self._synthetic.exists():
            return None
        try:
            tensors, numbers = storage.read_tensors(self._synthetic)
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
        if not self._synthetic.exists() or self.load_synthetic() is not None:
            return False
        try:
            return not same_but_for_length(completed(storage.read_metadata(self._synthetic)["owner"]), self.identity())
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
