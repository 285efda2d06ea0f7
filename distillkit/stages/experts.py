"""The expert stage: data to trajectories in the cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from distillkit import storage
from distillkit.distill.segments import PlannedTrajectories
from distillkit.distributed import World
from distillkit.errors import ConfigError, LostError, StorageError, TrajectoryError
from distillkit.experts.difficulty import SCORES
from distillkit.experts.recipe import expert_recipe, is_ranked
from distillkit.precision import arithmetic
from distillkit.settings import RunSettings
from distillkit.stages.context import Prepared, Run
from distillkit.stages.difficulty import check_ranking, ranking
from distillkit.stages.expert_precision import expert_precision
from distillkit.stages.fingerprints import data_setup, expert_seed, expert_setup, given_store, raw_setup
from distillkit.stages.reach import expert_reach
from distillkit.stages.training_form import expert_form
from distillkit.stages.workshop import Workshop
from distillkit.training.stack import TrainingForm
from distillkit.trajectories.forms import FORMS
from distillkit.trajectories.store import TrajectoryStore, facts_of


def planned_trajectories(settings: RunSettings) -> PlannedTrajectories:
    """What the trajectories will be, before there are any: enough to check the other settings against.

    Raises:
        ConfigError: the form does not fit the experts, or the experts of ``experts.source`` are too few.
        NotFoundError: there are no trajectories of that fingerprint.
    """
    count = settings.experts.count
    if settings.experts.source is None:
        form = FORMS.chosen(settings)
        form.check(settings.trajectories, settings.experts.epochs)
        return PlannedTrajectories(count, settings.experts.epochs, form.continuous)
    store = given_store(settings.experts.source)
    there = len(store.experts())
    if there < count:
        raise ConfigError(
            f"experts.source={store.folder.name} holds {there} experts, experts.count asks for {count}; "
            f"`experts.count={there}`"
        )
    return PlannedTrajectories(count, min(store.ends(count)), FORMS.named(store.form).continuous)


def check_experts(settings: RunSettings) -> None:
    """Everything that can be wrong with how experts are made, before one is trained for hours.

    Raises:
        ConfigError: an unknown part, a schedule or waypoints that do not fit, or no experts.
    """
    if settings.experts.count == 0:
        raise ConfigError(
            "experts.count=0, but a part of this run matches or asks experts; one is the least: `experts.count=1`"
        )
    expert_recipe(settings.experts, None)
    SCORES.chosen(settings.experts)
    if is_ranked(settings.experts.order):
        check_ranking(settings.experts)
    planned_trajectories(settings)


def train_experts(run: Run, prepared: Prepared) -> TrajectoryStore:
    """Train the experts that the cache lacks, as far as the run reads them; a damaged one is trained again, a short one
    goes on, a good one is left as it is.

    A form that is built from raw trajectories takes those that are cached instead of training anew.

    Raises:
        TrajectoryError: an expert diverged, or its trajectory does not fit the form.
    """
    settings = run.settings.experts
    store = TrajectoryStore.for_setup(expert_setup(run, prepared))
    if settings.source is not None:
        states = {index: store.state(index) for index in range(settings.count)}
        _check_given(store, states, data_setup(run, prepared))
        _check_alike(run.world, store, range(settings.count))
        _tell_origins(run, store, states)
        return store
    raw_store = TrajectoryStore.for_setup(raw_setup(run, prepared))
    wanted = {index: epochs for index, epochs in enumerate(expert_reach(run.settings).epochs) if epochs}
    for one in (store, raw_store):
        adopt_older(one, settings.epochs, wanted)
    states = {index: store.state(index, epochs) for index, epochs in wanted.items()}
    _tell_origins(run, store, states)
    for index, state in states.items():
        if state == "damaged":
            run.progress.note(f"expert {index} in the cache is damaged; training it again")
    lacking = run.world.shared({run.world.rank: [index for index, state in states.items() if state != "good"]})
    missing = {index: epochs for index, epochs in wanted.items() if all(index in own for own in lacking.values())}
    if missing:
        _make_missing(run, prepared, store, raw_store, wanted, missing)
    if run.world.size > 1 and any(lacking.values()):
        _exchange(run.world, store, wanted)
    _check_alike(run.world, store, wanted)
    for one in (store, raw_store):
        one.forget_finished()
    return store


def _check_alike(world: World, store: TrajectoryStore, experts: Iterable[int]) -> None:
    """Caches of several hosts may hold the same experts from runs that ended at other bytes, as GPUs do.

    Raises:
        LostError: they do.
    """
    if world.size == 1:
        return
    records = [(index, store.record(index)) for index in experts]
    found = world.shared({world.rank: [[index, record["epochs"], record["sha256"]] for index, record in records]})
    firsts = {(index, epochs): sha256 for index, epochs, sha256 in found[0]}
    for rank, own in found.items():
        other = next((row for row in own if firsts.get((row[0], row[1]), row[2]) != row[2]), None)
        if other is not None:
            raise LostError(
                f"process {rank + 1} of {world.size} has another expert {other[0]} in its cache than the first; "
                f"'distillkit experts clear {store.folder.name}' on one of the hosts, and it is sent"
            )


def _make_missing(
    run: Run,
    prepared: Prepared,
    store: TrajectoryStore,
    raw_store: TrajectoryStore,
    wanted: dict[int, int],
    missing: dict[int, int],
) -> None:
    """Make the experts that no process of the run has, each its share.

    Raises:
        StorageError: there is no room for them.
    """
    check_room(run, prepared, store, missing)
    is_raw, seed = store.folder == raw_store.folder, expert_seed(run.settings)
    there = () if is_raw else (index for index in missing if raw_store.state(index, missing[index]) == "good")
    convertible = frozenset(there)
    order = None
    if run.world.any(len(convertible) < len(missing)):  # a stage of its own, before this one begins
        order = ranking(run, prepared, data_setup(run, prepared), seed)
    chosen = run.world.decided(lambda: _chosen_form(run, prepared, missing))
    form = TrainingForm(chosen[0], chosen[1], run.progress.note, chosen[2])
    workshop = Workshop(run, prepared, store, raw_store, missing, convertible, seed, form, order)
    run.progress.stage("training experts", sum(wanted.values()), sum(wanted.values()) - sum(missing.values()))
    with arithmetic(expert_precision(run, prepared), run.device):
        workshop.make_all()


def expert_bytes(run: Run, prepared: Prepared, missing: Mapping[int, int]) -> int:
    """What experts of so many epochs, by number, take on the disk."""
    settings = run.settings
    parameters = sum(one.numel() for one in prepared.build(prepared.network, 0, "sizes")(0).parameters())
    form, most = FORMS.chosen(settings), settings.experts.epochs
    return sum(form.size(settings.trajectories, most, epochs, parameters) for epochs in missing.values())


def check_room(run: Run, prepared: Prepared, store: TrajectoryStore, missing: Mapping[int, int]) -> None:
    """Is there room on the disk for the experts that are missing?

    Raises:
        StorageError: no.
    """
    wanted, free = expert_bytes(run, prepared, missing), storage.free_bytes(store.folder)
    if wanted > free:
        raise StorageError(
            f"{len(missing)} experts take {wanted / 1e9:.2f} GB, {store.folder.parent} has {free / 1e9:.2f} GB left; "
            "make room, `experts.count=N` or trajectories.form=convex for less, or put the cache elsewhere with "
            "DISTILLKIT_CACHE=FOLDER"
        )


def _chosen_form(run: Run, prepared: Prepared, missing: dict[int, int]) -> tuple[int, bool, bool]:
    """Experts at a time, whether compiled, and whether it must be; what the leader's machine holds goes for all."""
    form = expert_form(run, prepared, len(missing), max(missing.values()))
    return form.size, form.compiled, form.must


def _exchange(world: World, store: TrajectoryStore, wanted: dict[int, int]) -> None:
    """Send experts to the processes whose caches lack them: hosts may have a cache each.

    Raises:
        TrajectoryError: an expert is nowhere.
    """
    world.any(False)  # all are done
    own = [index for index, epochs in wanted.items() if store.state(index, epochs) != "good"]
    lacking = world.shared({world.rank: own})
    for index in sorted({index for some in lacking.values() for index in some}):
        source = next((rank for rank in range(world.size) if index not in lacking[rank]), None)
        if source is None:
            raise TrajectoryError(f"expert {index} was made by no process of the run")
        content, record = world.of(source, lambda index=index: _as_message(store, index))  # type: ignore[misc]
        if index in own:
            with store.lock(index):
                if store.state(index, wanted[index]) != "good":
                    facts = facts_of(record)
                    store.adopt(index, content["file"].numpy().tobytes(), record["epochs"], facts)


def _as_message(store: TrajectoryStore, index: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    content = bytearray(store.tensors_path(index).read_bytes())
    return {"file": torch.frombuffer(content, dtype=torch.uint8)}, store.record(index)


def _tell_origins(run: Run, store: TrajectoryStore, states: dict[int, str]) -> None:
    origins = pulled_from(store, [index for index, state in states.items() if state == "good"])
    if origins:
        run.progress.note(f"experts were not trained here but pulled from {', '.join(origins)}")


def adopt_older(store: TrajectoryStore, epochs: int, wanted: Iterable[int]) -> None:
    """Take over what ``store`` lacks from the folder of an older version, whose experts were all of ``epochs`` epochs
    and told apart by that.
    """
    setup = {**store.setup, "recipe": {**store.setup["recipe"], "epochs": epochs}}
    setup.pop("epochs", None)
    older = TrajectoryStore.for_setup(setup)
    if not older.folder.is_dir():
        return
    for index in wanted:
        if store.state(index) == "absent" and older.state(index) == "good":
            facts = facts_of(older.record(index))
            with store.lock(index):
                store.adopt(index, older.tensors_path(index).read_bytes(), epochs, facts)


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
