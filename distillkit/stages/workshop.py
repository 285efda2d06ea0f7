"""Where experts are made: trained, gone on with, or converted from raw trajectories; and stored."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit import storage
from distillkit.data.inputs import Inputs
from distillkit.errors import StorageError
from distillkit.experts.recipe import Ranking, expert_recipe
from distillkit.experts.train import LOWER_LR, ExpertData, ExpertRun, fit_experts
from distillkit.locks import BusyError
from distillkit.precision import in_precision
from distillkit.stages.context import Prepared, Run
from distillkit.stages.expert_precision import expert_precision
from distillkit.training.memory import give_back, needed_for
from distillkit.training.stack import TrainingForm
from distillkit.training.standing import Standing
from distillkit.trajectories.forms import FORMS, Builder, RawBuilder
from distillkit.trajectories.store import TrajectoryStore, facts_of
from distillkit.trajectories.unfinished import Items, Unfinished, read_stored, stored_standing

Remembered = list[list[Items]]
"""Of each expert, what each of its builders remembers."""


@dataclass(frozen=True)
class Workshop:
    """Makes experts for ``store``: those that are ``convertible`` from ``raw_store``, the others by training.

    ``missing``: by number, how many epochs are wanted; ``seed``: the experts' root seed; ``form``: how many are trained
    at a time, and how; ``ranking``: of the images, where their order asks for one.
    """

    run: Run
    prepared: Prepared
    store: TrajectoryStore
    raw_store: TrajectoryStore
    missing: dict[int, int]
    convertible: frozenset[int]
    seed: int
    form: TrainingForm
    ranking: Ranking | None
    fitting: dict[str, int] = field(default_factory=dict, compare=False)
    """``together``: how many were found to fit into a GPU's memory, where they were fewer than ``form`` says."""

    @property
    def is_raw(self) -> bool:
        """Whether the raw form is the one that is wanted."""
        return self.store.folder == self.raw_store.folder

    def make_all(self) -> None:
        """Make what is missing, first what a kill left unfinished: in a run of several processes the own share, then
        what others have not begun, where all share a cache. An expert that another process makes is waited for last.
        """
        world = self.run.world
        groups = [tuple(group) for group in world.decided(self._disjoint)]
        own = [group for group in groups if world.owns(group[0] // self.form.size)]
        shared = world.size > 1 and self._cache_is_shared()
        busy = [group for group in own if not self._make_group(group)]
        if shared:
            for group in groups:
                if group not in own and not all(self._seems_done(index) for index in group):
                    self._make_group(group)
        if busy:
            self.run.progress.note("waiting for experts that another process is making")
        for group in busy:
            while not self._make_group(group):
                self.run.stop.check("while another process made an expert that this one waited for")
                time.sleep(0.2)

    def _seems_done(self, index: int) -> bool:
        """Whether an expert has all its epochs, by its record alone."""
        try:
            return int(self.store.record(index)["epochs"]) >= self.missing[index]
        except (StorageError, KeyError, TypeError, ValueError):
            return False

    def _disjoint(self) -> list[tuple[int, ...]]:
        """The groups, each expert in the first of its groups."""
        done: set[int] = set()
        found = []
        for group in self._groups():
            left = tuple(index for index in group if index not in done)
            done |= {*left}
            if left:
                found.append(left)
        return found

    def _cache_is_shared(self) -> bool:
        """Whether every process of the run sees the leader's cache."""
        world, folder = self.run.world, storage.make_folder(self.store.folder)
        mark = folder / world.decided(lambda: _left_mark(folder))
        shared = not world.any(not mark.exists())
        if world.leads:
            mark.unlink()
        return shared

    def _groups(self) -> Iterator[tuple[int, ...]]:
        """Experts that are made together: those left unfinished together, then as many as fit of equal length."""
        for unfinished in Unfinished.all_in(self.store.folder):
            if all(member in self.missing or self.store.state(member) == "good" for member in unfinished.members):
                yield unfinished.members
        for epochs in dict.fromkeys(self.missing.values()):
            same = [index for index, wanted in self.missing.items() if wanted == epochs]
            for begin in range(0, len(same), self.form.size):
                yield tuple(same[begin : begin + self.form.size])

    def _make_group(self, group: Sequence[int]) -> bool:
        """Make those of the experts ``group`` that are missing; False if another run is making one of them now."""
        with ExitStack() as locks:
            try:
                for index in sorted(group):  # in ascending order, as every run does
                    locks.enter_context(self.store.lock(index, wait=False))
            except BusyError:
                return False
            wanted = [index for index in group if index in self.missing]
            left = [index for index in wanted if self.store.state(index, self.missing[index]) != "good"]
            self.run.progress.advance(sum(self.missing[index] for index in wanted if index not in left))
            trained = [index for index in left if index not in self.convertible]
            for index in left:
                if index not in trained:
                    self._convert(index)
            unfinished = self._unfinished(group, trained)
            if unfinished is not None:
                self._train(unfinished.members, *unfinished.load(self._builders_each))
                return True
            for standings, remembered, same in self._begun(trained):
                self._train(same, standings, remembered)
        return True

    def _unfinished(self, group: Sequence[int], trained: Sequence[int]) -> Unfinished | None:
        """What a kill left of ``group``, if some of it are still to be ``trained``."""
        for unfinished in Unfinished.all_in(self.store.folder):
            if unfinished.members == tuple(group):
                try:
                    unfinished.load(self._builders_each)
                    if trained:
                        return unfinished
                except StorageError as error:
                    self.run.progress.note(f"unfinished experts cannot be used ({error}); training them from the start")
                unfinished.clear()
        return None

    def _begun(self, indices: Sequence[int]) -> Iterator[tuple[list[Standing], Remembered, tuple[int, ...]]]:
        """Experts with where they stand, those of the same epoch together; nothing for those that begin."""
        found = {index: self._stored(index) for index in indices}
        for epoch in dict.fromkeys(standing.epoch if standing else 0 for standing, _ in found.values()):
            same = [index for index, (one, _) in found.items() if (one.epoch if one else 0) == epoch]
            standings = [one for index in same if (one := found[index][0]) is not None]
            yield standings, [[found[index][1]] for index in same] if standings else [], tuple(same)

    def _stored(self, index: int) -> tuple[Standing | None, Items]:
        """Where a stored expert that is too short stands, and what its builder remembers; None if it must begin anew.

        One that keeps a raw copy too begins anew: the copy may not be there.
        """
        if self.store.state(index, self.missing[index]) != "short" or self._builders_each > 1:
            return None, {}
        try:
            standing, rest = read_stored(self.store.state_path(index), self.store.record(index).get("state_sha256"))
        except StorageError:
            return None, {}  # pulled, or of an older version
        return standing, storage.read_tensors(self.store.tensors_path(index))[0] if self.is_raw else rest

    @property
    def _builders_each(self) -> int:
        return 2 if self.run.settings.trajectories.keep_raw and not self.is_raw else 1

    def _builder(self, trained: int) -> Builder:
        settings, network = self.run.settings, self.prepared.build(self.prepared.network, 0, "sizes")(0)
        sizes = tuple(parameter.numel() for parameter in network.parameters())
        form = FORMS.chosen(settings)
        return form.builder(settings.trajectories, sizes, settings.experts.epochs, trained)

    def _convert(self, index: int) -> None:
        epochs = self.missing[index]
        builder, raw = self._builder(epochs), self.raw_store.raw(index)
        for epoch in range(epochs + 1):
            builder.keep(epoch, raw(epoch))
        kept, record = builder.finish(), self.raw_store.record(index)
        facts = facts_of(record)
        facts["curve"] = {name: values[:epochs] for name, values in record["curve"].items()}
        if record["epochs"] != epochs:
            facts["test_accuracy"] = None  # it is that of the last epoch
        self.store.write(index, kept.tensors, epochs, {**facts, **kept.facts})
        self.run.progress.advance(epochs)

    def _train(self, indices: Sequence[int], standings: list[Standing], remembered: Remembered) -> None:
        """Train experts to where the run reads them, from where they stand."""
        begun = standings[0].epoch if standings else 0
        self.run.progress.advance(sum(min(begun, self.missing.get(index, 0)) for index in indices))
        self._train_fitting(tuple(indices), standings, remembered)

    def _train_fitting(self, indices: tuple[int, ...], standings: list[Standing], remembered: Remembered) -> None:
        """All side by side; half of them after the other where a GPU's memory does not hold all.

        Raises:
            ConfigError: it does not hold a single one.
        """
        group = Unfinished(self.store.folder, indices)
        if len(indices) <= max(1, self.fitting.get("together", len(indices))):
            with needed_for("the training of an expert", "lower experts.batch_size or network.width"):
                try:
                    return self._train_together(group, standings, remembered)
                except torch.OutOfMemoryError:
                    if len(indices) == 1 and (self._form(1).plain or self.form.must):
                        raise
            give_back(self.run.device, compiled=self.form.compiled)
            fitting = self.fitting["together"] = len(indices) // 2
            said = f"{fitting}" if fitting else "it operation by operation, which takes half"
            self.run.progress.note(f"{len(indices)} experts at once do not fit into memory; taking {said}")
            with contextlib.suppress(StorageError):  # else no epoch is over
                standings, remembered = group.load(self._builders_each)
            if not fitting:
                return self._train_fitting(indices, standings, remembered)
        middle = -(-len(indices) // 2)
        for part in (slice(middle), slice(middle, None)):
            self._train_fitting(indices[part], standings[part], remembered[part])
        return group.clear()  # not before all are stored: a kill would take what they had learned

    def _form(self, count: int) -> TrainingForm:
        """Of so many experts; of one whose compiled step did not fit, plain: it frees as it goes back."""
        plain = count == 1 and self.fitting.get("together") == 0
        return TrainingForm(note=self.form.note) if plain and not self.form.must else replace(self.form, size=count)

    def _train_together(self, group: Unfinished, standings: list[Standing], remembered: Remembered) -> None:
        settings, prepared, indices = self.run.settings, self.prepared, group.members
        begun = standings[0].epoch if standings else 0
        epochs = max(begun, *(self.missing.get(index, 0) for index in indices))
        each = [[self._builder(epochs), *([RawBuilder()] if self._builders_each > 1 else [])] for _ in indices]
        for builders, own, standing in zip(each, remembered, standings, strict=False):  # none of those that begin
            for builder, items in zip(builders, own, strict=True):
                builder.restore(items, standing.parameters)
        self.store.describe()
        if begun and not group.path.is_dir():
            group.keep(0, remembered, until=begun)
        journals = [_Journal(builders) for builders in each]
        last = list(standings)

        def save(now: list[Standing]) -> None:
            last[:] = now
            if now[0].epoch == 1:
                group.keep(0, [journal.take(0) for journal in journals])
            group.save(now, [journal.take(now[0].epoch) for journal in journals])

        runs = fit_experts(
            indices,
            self._data(),
            prepared.network,
            replace(expert_recipe(settings.experts, prepared.augmentation, self.ranking), epochs=epochs),
            self.seed,
            [journal.keep for journal in journals],
            self._after_epoch,
            self._form(len(indices)),
            lambda module: in_precision(module, expert_precision(self.run, prepared)),
            standings,
            save,
            advice_of(expert_precision(self.run, prepared)),
        )
        for index, builders, result, standing in zip(indices, each, runs, last, strict=True):
            self._store(index, builders, result, standing)
        group.clear()

    def _store(self, index: int, builders: Sequence[Builder], result: ExpertRun, standing: Standing) -> None:
        info, epochs = self.prepared.data.info, standing.epoch
        facts: dict[str, Any] = {"curve": result.curve, "test_accuracy": result.test_accuracy}
        facts |= {"source": Path(info.source).name if info.source.startswith("/") else info.source}
        facts |= {"license": info.license}
        kept, *raw = (builder.finish() for builder in builders)
        for parts in raw:
            with self.raw_store.lock(index):
                self.raw_store.write(index, parts.tensors, epochs, facts, stored_standing(standing, {}))
        longer = stored_standing(standing, kept.rest) if self.is_raw or kept.rest else None
        self.store.write(index, kept.tensors, epochs, {**facts, **kept.facts}, longer)

    def _data(self) -> ExpertData:
        prepared, device = self.prepared, self.run.device

        def test() -> tuple[Inputs, Tensor]:
            exam = prepared.test(device)
            return exam.images, exam.labels

        return ExpertData(
            prepared.train_images,
            prepared.train_labels,
            prepared.validation.images,
            prepared.validation.labels,
            prepared.num_classes,
            test,
        )

    def _after_epoch(self, loss: float, accuracy: float | None) -> None:
        self.run.progress.advance(1, loss=loss, **({} if accuracy is None else {"validation": accuracy}))
        self.run.stop.check("between two epochs of an expert, which goes on from there")


def advice_of(precision: str) -> str:
    """What to do if an expert that is trained in ``precision`` diverges: arithmetic is doubted before the lr is."""
    if precision == "fp32":
        return LOWER_LR
    return f"it was trained in {precision}: take `precision=fp32`, and {LOWER_LR} if it diverges there too"


def _left_mark(folder: Path) -> str:
    """The name of a file that was just made."""
    name = f".seen-{secrets.token_hex(8)}"
    (folder / name).touch()
    return name


class _Journal:
    """Tells an expert's builders of its epochs, and hands out what they remember of each."""

    def __init__(self, builders: Sequence[Builder]) -> None:
        self._builders = builders
        self._new: dict[int, list[Items]] = {}

    def keep(self, epoch: int, parameters: Tensor) -> None:
        self._new[epoch] = [builder.keep(epoch, parameters) for builder in self._builders]

    def take(self, epoch: int) -> list[Items]:
        """Of an epoch, once."""
        return self._new.pop(epoch)
