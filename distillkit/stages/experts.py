"""The expert stage: data to trajectories in the cache."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit import storage
from distillkit.distill.segments import PlannedTrajectories
from distillkit.distributed import World
from distillkit.errors import ConfigError, LostError, StorageError, TrajectoryError
from distillkit.experts.difficulty import SCORES
from distillkit.experts.recipe import expert_recipe, is_ranked, unread
from distillkit.precision import arithmetic
from distillkit.records import TrajectorySource
from distillkit.settings import DatasetSettings, ExpertSettings, NetworkSettings, RunSettings
from distillkit.stages.context import Prepared, Run, own_code
from distillkit.stages.difficulty import check_ranking, ranking
from distillkit.stages.expert_precision import expert_precision
from distillkit.stages.reach import expert_reach
from distillkit.stages.training_form import compiling_pays, expert_form
from distillkit.stages.workshop import Workshop
from distillkit.training.stack import Form
from distillkit.trajectories.forms import FORMS
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
        "network": _network(prepared.network),
        "precision": expert_precision(run, prepared),
        "device": run.device.type,
    }


def _network(settings: NetworkSettings) -> dict[str, Any]:
    """Without ``replace_norm=keep``, so that fingerprints from before that setting existed still match."""
    return settings.model_dump(mode="json", exclude={"replace_norm"} if settings.replace_norm == "keep" else set())


def expert_setup(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Everything that determines an epoch of expert trajectories; how many experts and epochs are not part of it."""
    settings = run.settings
    if settings.experts.source is not None:
        return _given_store(settings.experts.source).setup
    form = FORMS.chosen(settings).setup(settings.trajectories, settings.experts.epochs)
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
        form = FORMS.chosen(settings)
        form.check(settings.trajectories, settings.experts.epochs)
        return PlannedTrajectories(count, settings.experts.epochs, form.continuous)
    store = _given_store(settings.experts.source)
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


def check_parameters(trajectories: TrajectorySource, size: int, expert: int = 0) -> None:
    """Are the trajectories, that of ``expert`` for one, those of a network of ``size`` parameters?

    Raises:
        TrajectoryError: no.
    """
    found = trajectories.point(expert, 0).numel()
    if found != size:
        raise TrajectoryError(f"the experts have {found} parameters, the student's network {size}")


def raw_setup(run: Run, prepared: Prepared) -> dict[str, Any]:
    """What determines the training of the experts, whatever form their trajectories are kept in."""
    settings = run.settings
    experts = settings.experts
    recipe = experts.model_dump(mode="json", exclude=NOT_OF_THE_RECIPE | _no_matter(experts))
    if is_ranked(experts.order) and experts.ranking is not None:
        recipe["ranking"] = storage.sha256_file(Path(experts.ranking))
    setup = {**data_setup(run, prepared), "recipe": recipe, "seed": expert_seed(settings)}
    return setup | _computed(run, prepared) | own_code(run)


def _computed(run: Run, prepared: Prepared) -> dict[str, Any]:
    """A CPU promises bytes, and these forms make other ones; a GPU promises numbers to the tolerance of floats."""
    experts = run.settings.experts
    if run.device.type == "cpu" and ((experts.together or 1) > 1 or experts.compile == "always"):
        return {"computed": [experts.together, experts.compile]}
    low = run.device.type == "cpu" and expert_precision(run, prepared) == "bf16" and experts.compile == "auto"
    return {"computed": [1, "always"]} if low and compiling_pays(run, prepared, 1) else {}


NOT_OF_THE_RECIPE = {"count", "seed", "source", "together", "compile", "epochs", "train_to", "opinions", "ranking"}
"""Which experts and how much of them, and how they are computed: the same epochs to the tolerance of floats."""


def expert_seed(settings: RunSettings) -> int:
    """The root seed of the experts."""
    return settings.seed if settings.experts.seed is None else settings.experts.seed


def _no_matter(settings: ExpertSettings) -> set[str]:
    """Settings that make no other experts."""
    standard = settings.clipping == ExpertSettings().clipping  # older folders do not say it
    return unread(settings) | ({"clipping"} if standard else set())


def _given(settings: DatasetSettings) -> list[Any]:
    return [] if settings.mean is None else [list(settings.mean), list(settings.std or ())]


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
    form = Form(chosen[0], chosen[1], run.progress.note, chosen[2])
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
                    facts = {key: value for key, value in record.items() if key not in OF_THE_FILES}
                    store.adopt(index, content["file"].numpy().tobytes(), record["epochs"], facts)


OF_THE_FILES = ("sha256", "state_sha256", "epochs")
"""What a record says of files, and not of the expert."""


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
            facts = {key: value for key, value in older.record(index).items() if key not in ("sha256", "epochs")}
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
