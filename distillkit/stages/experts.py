"""The expert stage: data to trajectories in the cache."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from distillkit.distill.segments import PlannedTrajectories
from distillkit.errors import ConfigError, TrajectoryError
from distillkit.experts.difficulty import find_score
from distillkit.experts.recipe import RANKED, Ranking, expert_recipe
from distillkit.experts.train import ExpertData, ExpertRun, Keep
from distillkit.experts.train import train_experts as train_experts_of
from distillkit.precision import arithmetic, in_precision
from distillkit.records import TrajectorySource
from distillkit.settings import DatasetSettings, ExpertSettings, RunSettings
from distillkit.stages.context import Prepared, Run
from distillkit.stages.difficulty import ranking
from distillkit.stages.training_form import expert_form
from distillkit.training.stack import Form
from distillkit.trajectories.forms import Builder, RawBuilder, find_form
from distillkit.trajectories.store import TrajectoryStore, experts_root


def data_setup(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Everything that determines training on the real data but the recipe and the seed."""
    settings = run.settings
    return {
        "format": 1,
        "dataset": Path(settings.dataset.name).name,  # a word for people: the fingerprint says which data
        "data": prepared.data.info.fingerprint,
        "preprocessing": [settings.dataset.preprocessing, settings.dataset.zca_eps, *_given(settings.dataset)],
        "augmentation": settings.dataset.augmentation,
        "network": prepared.network.model_dump(mode="json"),
        "precision": run.fastest_precision,
        "device": run.device.type,
    }


def expert_setup(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Everything that determines expert trajectories; their number is not part of it."""
    settings = run.settings
    if settings.experts.source is not None:
        return _given_store(settings.experts.source).setup
    form = find_form(settings.trajectories.form).setup(settings.trajectories)
    return {**raw_setup(run, prepared), **form}


def _given_store(fingerprint: str) -> TrajectoryStore:
    if not re.fullmatch(r"[0-9a-f]{16}", fingerprint):
        raise ConfigError(
            f"experts.source={fingerprint!r} is no fingerprint of 16 hex digits; 'distillkit experts list' shows them"
        )
    return TrajectoryStore.open(experts_root() / fingerprint)


def planned_trajectories(settings: RunSettings) -> PlannedTrajectories:
    """What the trajectories will be, before there are any: enough to check the other settings against.

    Raises:
        ConfigError: the form does not fit the experts, or the experts of ``experts.source`` are too few.
        NotFoundError: there are no trajectories of that fingerprint.
    """
    count = settings.experts.count
    if settings.experts.source is None:
        form = find_form(settings.trajectories.form)
        form.check(settings.trajectories, settings.experts.epochs)
        return PlannedTrajectories(count, settings.experts.epochs, form.continuous)
    store = _given_store(settings.experts.source)
    there = len(store.experts())
    if there < count:
        raise ConfigError(
            f"experts.source={store.folder.name} holds {there} experts, experts.count asks for {count}; "
            f"--set experts.count={there}"
        )
    return PlannedTrajectories(count, int(store.record(0)["epochs"]), find_form(store.form).continuous)


def check_experts(settings: RunSettings) -> None:
    """Everything that can be wrong with how experts are made, before one is trained for hours.

    Raises:
        ConfigError: an unknown part, a schedule or waypoints that do not fit, or no experts.
    """
    if settings.experts.count == 0:
        raise ConfigError(
            "experts.count=0, but a part of this run matches or asks experts; one is the least: --set experts.count=1"
        )
    expert_recipe(settings.experts, None)
    find_score(settings.experts.difficulty)
    planned_trajectories(settings)


def check_parameters(trajectories: TrajectorySource, size: int) -> None:
    """Are the trajectories those of a network of ``size`` parameters?

    Raises:
        TrajectoryError: no.
    """
    found = trajectories.point(0, 0).numel()
    if found != size:
        raise TrajectoryError(f"the experts have {found} parameters, the student's network {size}")


def raw_setup(run: Run, prepared: Prepared) -> dict[str, Any]:
    """The same whatever the form: what determines the training of the experts."""
    settings = run.settings
    experts = settings.experts
    recipe = experts.model_dump(mode="json", exclude=NOT_OF_THE_RECIPE | _unused(experts))
    setup = {**data_setup(run, prepared), "recipe": recipe, "seed": expert_seed(settings)}
    own_form = run.device.type == "cpu" and ((experts.together or 1) > 1 or experts.compile == "always")
    # a CPU promises bytes, and these are other ones; a GPU promises numbers to the tolerance of floats
    return setup | ({"computed": [experts.together, experts.compile]} if own_form else {})


NOT_OF_THE_RECIPE = {"count", "seed", "source", "together", "compile"}
"""Which experts, and how they are computed: the same experts to the tolerance of floats."""


def expert_seed(settings: RunSettings) -> int:
    """The root seed of the experts."""
    return settings.seed if settings.experts.seed is None else settings.experts.seed


def _unused(settings: ExpertSettings) -> set[str]:
    """Settings that this recipe does not read: they make no other experts."""
    unused = set() if "penalty" in settings.loss else {"penalty", "penalty_weight"}
    unused |= set() if settings.optimizer == "gsam" else {"sharpness_radius", "gap_weight", "adaptive"}
    return unused if settings.order in RANKED else unused | SCHEDULE_SETTINGS


SCHEDULE_SETTINGS = {
    "difficulty",
    "difficulty_networks",
    "difficulty_epochs",
    "easy_fraction",
    "add_end_epoch",
    "remove_epochs",
    "remove_fractions",
}


def _given(settings: DatasetSettings) -> list[Any]:
    return [] if settings.mean is None else [list(settings.mean), list(settings.std or ())]


def train_experts(run: Run, prepared: Prepared) -> TrajectoryStore:
    """Train the experts that the cache lacks; a damaged one is trained again, a good one never.

    A form that is built from raw trajectories takes those that are cached instead of training anew.

    Raises:
        TrajectoryError: an expert diverged, or its trajectory does not fit the form.
    """
    settings = run.settings.experts
    store = TrajectoryStore.for_setup(expert_setup(run, prepared))
    states = {index: store.state(index) for index in range(settings.count)}
    if settings.source is not None:
        _check_given(store, states, data_setup(run, prepared))
    origins = pulled_from(store, [index for index, state in states.items() if state == "good"])
    if origins:
        run.progress.note(f"experts were not trained here but pulled from {', '.join(origins)}")
    if settings.source is not None:
        return store
    for index, state in states.items():
        if state == "damaged":
            run.progress.note(f"expert {index} in the cache is damaged; training it again")
    missing = [index for index, state in states.items() if state != "good"]
    if not missing:
        return store
    raw_store = TrajectoryStore.for_setup(raw_setup(run, prepared))
    workshop = _Workshop(run, prepared, store, raw_store, len(missing))
    if any(workshop.must_train(index) for index in missing):
        _ = workshop.ranking  # a stage of its own, before this one begins
    run.progress.stage(
        "training experts",
        settings.count * settings.epochs,
        (settings.count - len(missing)) * settings.epochs,
    )
    size = workshop.form.size
    for begin in range(0, len(missing), size):
        _make_group(workshop, missing[begin : begin + size])
    return store


def _make_group(workshop: _Workshop, group: Sequence[int]) -> None:
    """Make those of the experts ``group`` that no other run makes meanwhile."""
    run, store = workshop.run, workshop.store
    with ExitStack() as locks:
        for index in group:  # in ascending order, as every run does
            locks.enter_context(store.lock(index))
        left = [index for index in group if store.state(index) != "good"]
        if len(left) < len(group):
            run.progress.advance(run.settings.experts.epochs * (len(group) - len(left)))
        with arithmetic(run.fastest_precision, run.device):
            workshop.make(left)


def pulled_from(store: TrajectoryStore, experts: Iterable[int]) -> list[str]:
    """The Hub revisions that these experts came from; none for those that were trained here."""
    return sorted({str(origin) for index in experts if (origin := store.record(index).get("pulled_from"))})


def _check_given(store: TrajectoryStore, states: dict[int, str], wanted: dict[str, Any]) -> None:
    """Do the trajectories of ``experts.source`` fit this run, and are they whole?"""
    words = {"data": "other data (or another split of them)", "preprocessing": "another preprocessing"}
    words["network"] = "another network"
    for key, what in words.items():
        if store.setup.get(key) != wanted[key]:
            raise ConfigError(
                f"experts.source={store.folder.name} was trained with {what}: {store.setup.get(key)}, "
                f"this run has {wanted[key]}"
            )
    for index, state in states.items():
        if state != "good":
            raise TrajectoryError(f"expert {index} of experts.source={store.folder.name} is {state}; pull it again")


@dataclass(frozen=True)
class _Workshop:
    """Makes experts for ``store``, by conversion from ``raw_store`` where they lie there, else by training."""

    run: Run
    prepared: Prepared
    store: TrajectoryStore
    raw_store: TrajectoryStore
    missing: int

    @cached_property
    def form(self) -> Form:
        """How many experts are trained at a time, and how."""
        return expert_form(self.run, self.prepared, self.missing)

    @cached_property
    def ranking(self) -> Ranking | None:
        """Asked for when the first expert is trained; one that is converted needs none."""
        return ranking(self.run, self.prepared, data_setup(self.run, self.prepared), expert_seed(self.run.settings))

    @property
    def is_raw(self) -> bool:
        return self.store.folder == self.raw_store.folder

    def must_train(self, index: int) -> bool:
        return self.is_raw or self.raw_store.state(index) != "good"

    def make(self, indices: Sequence[int]) -> None:
        trained = [index for index in indices if self.must_train(index)]
        for index in indices:
            if index not in trained:
                self.convert(index)
        if trained:
            self.train(trained)

    def builder(self) -> Builder:
        settings, network = self.run.settings, self.prepared.build(self.prepared.network, 0, "sizes")(0)
        sizes = tuple(parameter.numel() for parameter in network.parameters())
        return find_form(settings.trajectories.form).builder(settings.trajectories, sizes, settings.experts.epochs)

    def convert(self, index: int) -> None:
        builder, raw, epochs = self.builder(), self.raw_store.raw(index), self.run.settings.experts.epochs
        for epoch in range(epochs + 1):
            builder.keep(epoch, raw(epoch))
        kept, record = builder.finish(), self.raw_store.record(index)
        facts: dict[str, Any] = {key: value for key, value in record.items() if key not in ("sha256", "epochs")}
        self.store.write(index, kept.tensors, epochs, {**facts, **kept.facts})
        self.run.progress.advance(epochs)

    def train(self, indices: Sequence[int]) -> None:
        settings, prepared = self.run.settings, self.prepared
        twice = settings.trajectories.keep_raw and not self.is_raw
        builders = [[self.builder(), *([RawBuilder()] if twice else [])] for _ in indices]
        recipe = expert_recipe(settings.experts, prepared.augmentation, self.ranking)
        runs = train_experts_of(
            indices,
            self.data(),
            prepared.network,
            recipe,
            expert_seed(settings),
            [_keeper(own) for own in builders],
            self.after_epoch,
            self.form,
            lambda module: in_precision(module, self.run.fastest_precision),
        )
        for index, own, result in zip(indices, builders, runs, strict=True):
            self.store_expert(index, own, result)

    def store_expert(self, index: int, builders: Sequence[Builder], result: ExpertRun) -> None:
        info, epochs = self.prepared.data.info, self.run.settings.experts.epochs
        facts: dict[str, Any] = {"curve": result.curve, "test_accuracy": result.test_accuracy}
        facts |= {"source": Path(info.source).name if info.source.startswith("/") else info.source}
        facts |= {"license": info.license}
        kept, *raw = (builder.finish() for builder in builders)
        for parts in raw:
            with self.raw_store.lock(index):
                self.raw_store.write(index, parts.tensors, epochs, facts)
        self.store.write(index, kept.tensors, epochs, {**facts, **kept.facts})

    def data(self) -> ExpertData:
        prepared, device = self.prepared, self.run.device

        def test() -> tuple[Tensor, Tensor]:
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

    def after_epoch(self, loss: float, accuracy: float) -> None:
        self.run.progress.advance(1, loss=loss, validation=accuracy)
        self.run.stop.check("between two epochs of an expert (experts that were finished before are kept)")


def _keeper(builders: Sequence[Builder]) -> Keep:
    def keep(epoch: int, parameters: Tensor) -> None:
        for builder in builders:
            builder.keep(epoch, parameters)

    return keep
