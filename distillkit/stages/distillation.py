"""The distillation stage: trajectories to a synthetic set."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from distillkit import plots, storage
from distillkit.artifact.layout import RUN_FILES
from distillkit.distill.dealt import Dealt
from distillkit.distill.labels import label_part
from distillkit.distill.loop import DistillTask, OuterTask, distill, start_state
from distillkit.distill.objectives import Resources, needs, objective
from distillkit.distill.outer_optimizers import outer_optimizer
from distillkit.distill.real import Available, RealImages, all_images, scheduled_images
from distillkit.distill.state import Best, EngineChoice, OuterState
from distillkit.distill.synthetic_init import ARTIFACT, RealData
from distillkit.errors import ConfigError, DamagedError
from distillkit.experts.recipe import is_ranked
from distillkit.experts.report import expert_report
from distillkit.experts.schedule import check_schedule, schedule_of, seen_shares
from distillkit.networks.functional import FlatNetwork
from distillkit.precision import arithmetic
from distillkit.records import SyntheticSet, TrajectorySource
from distillkit.run_folder import RunFolder
from distillkit.settings import DistillSettings, NetworkSettings
from distillkit.stages.architectures import experts_and_network, first_student, selecting_networks, student_pool
from distillkit.stages.backing_off import backing_off
from distillkit.stages.checks import needs_experts
from distillkit.stages.context import Prepared, Run
from distillkit.stages.difficulty import ranked
from distillkit.stages.earlier import LEARNED, earlier_runs
from distillkit.stages.engine import choose_engine
from distillkit.stages.engine_trials import eager_engine
from distillkit.stages.experts import pulled_from, train_experts
from distillkit.stages.fingerprints import data_setup, expert_seed
from distillkit.stages.image_length import as_long_as_real
from distillkit.stages.initial_set import check_artifact, initial_set, real_data
from distillkit.stages.length import chosen_length
from distillkit.stages.pool import pooled_task
from distillkit.stages.reach import expert_reach
from distillkit.stages.recorder import Recorder, beyond_telling
from distillkit.tracking import open_tracker
from distillkit.trajectories.store import TrajectoryStore

COLLAPSED = 100
"""A learned lr of less than such a part of the initial one teaches nothing."""


def distilled(run: Run, prepared: Prepared, folder: RunFolder) -> tuple[SyntheticSet, dict[str, Any]]:
    """The selected set and how it was selected; trains experts and distils if that is not done yet."""
    done = folder.load_synthetic()
    if done is not None:
        return done
    if folder.has_lost_its_set():
        run.progress.note("the selected set in run/synthetic.safetensors is damaged; selecting it again")
    if not folder.checkpoint.exists():
        check_artifact(run, prepared)
    store = _experts(run, prepared, folder) if needs_experts(run.settings) else None
    with folder.timed("distill"):
        synthetic, selection = distill_set(run, prepared, store, folder)
        if run.world.decided(lambda: _are_learned(run, folder, selection)):
            synthetic, length = as_long_as_real(run, prepared, synthetic, selection)
            selection |= length
        if run.settings.evaluate.lengths:
            selection |= {"epochs": chosen_length(run, prepared, synthetic)}
    folder.save_synthetic(synthetic, selection)
    return synthetic, selection


def _experts(run: Run, prepared: Prepared, folder: RunFolder) -> TrajectoryStore:
    """The experts of the run, trained as far as the cache lacks them, with a report in the folder."""
    with folder.timed("experts"):
        store = train_experts(run, prepared)
    _report_experts(run, store, folder)
    return store


def _report_experts(run: Run, store: TrajectoryStore, folder: RunFolder) -> None:
    numbers = expert_reach(run.settings).trained
    report = expert_report([store.record(index) for index in numbers])
    trained_in = store.setup.get("precision")
    folder.save_experts_report({**report, "pulled_from": pulled_from(store, numbers), "precision": trained_in})
    curves = plots.experts_png({run.settings.method: report["experts"]})
    storage.write_bytes(folder.path / RUN_FILES.experts_picture, curves)
    if is_ranked(store.setup["recipe"]["order"]):
        recipe = store.setup["recipe"]
        shares = seen_shares(schedule_of(recipe), store.most_epochs)
        storage.write_bytes(folder.path / RUN_FILES.schedule_picture, plots.schedule_png(shares))


def _are_learned(run: Run, folder: RunFolder, selection: dict[str, Any]) -> bool:
    """Whether a run learned the images that were kept, this one or an earlier one that it went on from."""
    if run.settings.distill.outer_steps == 0 or selection.get("step", 0) > 0:
        return run.settings.distill.outer_steps > 0
    earlier = folder.earlier_runs()
    return bool(earlier) and earlier[-1].get("kind", LEARNED) == LEARNED


def distill_set(
    run: Run, prepared: Prepared, store: TrajectoryStore | None, folder: RunFolder
) -> tuple[SyntheticSet, dict[str, Any]]:
    """Run the outer loop, from its checkpoint if there is one; the set with the best validation accuracy.

    A method of no outer steps (a coreset) returns its initial images.
    """
    trajectories, network = experts_and_network(run, prepared, store)
    state = _load_or_start(run, prepared, folder, real_data(run, prepared, trajectories, network))
    if run.settings.distill.outer_steps == 0:
        return state.synthetic(), {"split": "nothing: this method has no checkpoints to choose from"}
    if run.settings.distill.student is not None:
        run.progress.note(f"students: {run.settings.distill.student}; of the set's own network: distill.student=null")
    task = distill_task(run, prepared, trajectories, first_student(run, prepared), state)
    state = _all_steps(run, prepared, folder, task, state)
    best = state.best
    assert best is not None  # the loop selects at its last step
    warnings = what_to_warn_of(run.settings.distill, state, len(prepared.data.validation))
    for warning in warnings:
        run.progress.note(warning)
    return best.synthetic, _selection(run, prepared, state, best) | ({"warnings": warnings} if warnings else {})


def _all_steps(run: Run, prepared: Prepared, folder: RunFolder, task: OuterTask, state: OuterState) -> OuterState:
    """The state after the last outer step, each recorded in the folder."""
    asked = run.tracker if run.world.leads else None
    tracker = open_tracker(asked, folder.path, run.settings.model_dump(mode="json"))
    run.progress.stage("distilling", run.settings.distill.outer_steps, state.step)
    try:
        with arithmetic(state.precision or "fp32", run.device):
            return distill(
                backing_off(run, task) if isinstance(task, DistillTask) else task,
                state,
                Recorder(run, prepared, folder, tracker),
            )
    finally:
        tracker.close()


def _selection(run: Run, prepared: Prepared, state: OuterState, best: Best) -> dict[str, Any]:
    """How the ``best`` set was selected, and how the run went, as JSON."""
    held_out = f"the validation split ({prepared.data.info.validation_split})"
    selecting = selecting_networks(run, prepared)
    others = list(selecting) if list(selecting.values()) != [prepared.network] else []
    return {
        "split": held_out if best.accuracy is not None else "nothing: no images are held out, so the last step is kept",
        "images": len(prepared.data.validation),
        "step": best.step,
        "validation_accuracy": best.accuracy,
        "networks": run.settings.distill.select_networks,
        "outer_steps": state.step,
        "skipped_steps": state.skipped,
        "gated_steps": state.gated,
        "wild_steps": state.wild,
        "last_lr": state.lr,
        "precision": state.precision or "fp32",
        "cosine_to_fp32": state.agreement,
        "compiled": bool(state.compiled),
        **({"pool": _pool_json(run, state)} if state.forms else {}),
        **({"selected_by": others} if others else {}),
    }


def _pool_json(run: Run, state: OuterState) -> list[dict[str, Any]]:
    """How students of each architecture computed, where they took turns."""
    return [
        {"network": name, "precision": form["precision"] or "fp32", "compiled": bool(form["compiled"])}
        for name, form in zip(run.settings.network.pool, state.forms, strict=True)
    ]


def what_to_warn_of(settings: DistillSettings, state: OuterState, held_out: int) -> list[str]:
    """Sentences about a run that learned nothing, or hardly anything, for the terminal and the card; none usually."""
    warnings = _wasted(settings, state)
    if state.best is not None and state.best.step == 0:
        warnings.append(
            "no step was better on validation data than the initial images: these are kept, nothing was learned"
        )
    if state.best is not None and state.best.accuracy == 1:
        warnings.append(f"networks trained on the set recognise {beyond_telling(held_out)}")
    if settings.init != ARTIFACT and state.lr < settings.lr_init / COLLAPSED:
        warnings.append(f"the learning rate fell from {settings.lr_init:g} to {state.lr:.2g}; lower distill.lr_lr")
    return warnings


def _wasted(settings: DistillSettings, state: OuterState) -> list[str]:
    """Why more than half of the steps changed nothing, if so: each reason that a quarter of those steps had."""
    why = {
        f"were skipped, since their loss exceeded distill.gate={settings.gate}; raise it, or lower "
        "distill.lr_init": state.gated,
        f"were skipped, since their gradients were longer than distill.gate_norm={settings.gate_norm} times the "
        "usual; raise it": state.wild,
        "had no finite loss and changed nothing; lower distill.lr_img": state.skipped,
    }
    wasted = sum(why.values())
    if wasted <= state.step / 2:
        return []
    return [f"{count} of {state.step} steps {reason}" for reason, count in why.items() if count >= wasted / 4]


def distill_task(
    run: Run, prepared: Prepared, trajectories: TrajectorySource | None, network: FlatNetwork, state: OuterState
) -> OuterTask:
    """What the outer steps of the run are made of, as they will be computed; that is written into ``state``."""

    def make(architecture: NetworkSettings, own: FlatNetwork, view: OuterState) -> tuple[DistillTask, EngineChoice]:
        return _task(run, prepared, trajectories, architecture, own, view)

    def make_member(*given: Any) -> tuple[DistillTask, EngineChoice]:
        task, choice = make(*given)
        return backing_off(run, task), choice

    pool = student_pool(run, prepared)
    if len(pool) == 1:
        task, choice = make(pool[0], network, state)
        state.decide(choice)
        return task
    pooled, choices = pooled_task(run, prepared, network, state, make_member)
    state.decide_each(choices)
    return pooled


def _task(
    run: Run,
    prepared: Prepared,
    trajectories: TrajectorySource | None,
    architecture: NetworkSettings,
    network: FlatNetwork,
    state: OuterState,
) -> tuple[DistillTask, EngineChoice]:
    """With students of one architecture, and how they compute."""
    settings, seed = run.settings.distill, run.settings.seed
    labels = label_part(settings)
    resources = Resources(
        settings=settings,
        network=network,
        engine=eager_engine(network, labels),
        build=prepared.build(architecture, seed, "student"),
        labels=labels,
        augmentation=prepared.augmentation,
        seed=seed,
        real=RealImages(prepared.train_images, prepared.train_labels, prepared.num_classes),
        available=_available(run, prepared),
        trajectories=trajectories,
    )
    task = DistillTask(settings, objective(resources), outer_optimizer(settings))
    if run.world.size > 1:
        return _dealt(run, prepared, task, network, state)
    return choose_engine(run, prepared, task, network, state, state.choice)


def _dealt(
    run: Run, prepared: Prepared, task: DistillTask, network: FlatNetwork, state: OuterState
) -> tuple[DistillTask, EngineChoice]:
    """The task with its students dealt to the processes of the run, which all compute as the leader chose.

    Raises:
        ConfigError: this process cannot compute in the form that the leader chose.
        LostError: another one cannot.
    """
    world, settings = run.world, task.settings
    uneven = settings.segments % world.size != 0
    if settings.together == "always" and uneven:
        raise ConfigError(
            f"distill.together=always wants equally many students in each of {world.size} processes, there are "
            f"distill.segments={settings.segments}"
        )
    choice = state.choice
    if choice.together:  # of another number of processes, which had other shares
        choice = replace(choice, kept=None, together=None if not uneven else False)
    dealt = Dealt(task.objective, world, settings.segments)
    task = replace(task, objective=dealt)
    if world.leads:
        task, choice = choose_engine(run, prepared, task, network, state, choice)
    shared = world.decided(choice.shared)
    if not world.leads:
        task, choice = choose_engine(run, prepared, task, network, state, replace(choice, **shared))
    world.agree("form of computing", storage.canonical_json(choice.shared()))
    assert isinstance(task.objective, Dealt)
    if choice.together:
        choice = replace(choice, kept=None)  # it is that of a share
    return replace(task, objective=task.objective.set_apart()), choice


def _available(run: Run, prepared: Prepared) -> Available:
    """Which real images an outer step may draw from."""
    settings = run.settings
    if "ranking" not in needs(settings.distill):
        return all_images(len(prepared.train_labels))
    ranking = ranked(run, prepared, data_setup(run, prepared), expert_seed(settings))
    schedule = schedule_of(settings.experts.model_dump())
    check_schedule(schedule, settings.experts.epochs, min(len(order) for order in ranking))
    return scheduled_images(
        lambda epoch: schedule.used(epoch, ranking), settings.experts.epochs, settings.distill.outer_steps
    )


def _load_or_start(run: Run, prepared: Prepared, folder: RunFolder, real: RealData) -> OuterState:
    found = _last_state(run, folder)
    if found is not None:
        folder.truncate_metrics(found.step, keep_selection=not found.selection_due)
        run.progress.note(f"continuing from step {found.step}")
        return found
    folder.truncate_metrics(-1, keep_selection=False)
    first = _first_set(run, prepared, real)
    if run.world.leads and (before := earlier_runs(run.settings)):
        folder.keep_earlier_runs(before)
    state = start_state(
        first.images.to(run.device), first.class_ids, first.labels.to(run.device), first.label_kind, first.lr
    )
    state.save(folder.checkpoint, folder.identity())
    return state


def _first_set(run: Run, prepared: Prepared, real: RealData) -> SyntheticSet:
    """The initial set, the leader's in every process: a clustering may end at other bytes on another machine."""

    def make() -> tuple[dict[str, Tensor], Any]:
        first = initial_set(run, prepared, real)
        tensors = {"images": first.images, "labels": first.labels, "class_ids": first.class_ids}
        return tensors, [first.lr, first.label_kind]

    tensors, (lr, kind) = run.world.sent(make)
    return SyntheticSet(tensors["images"], tensors["labels"], tensors["class_ids"], lr, kind)


def _last_state(run: Run, folder: RunFolder) -> OuterState | None:
    """The state of the last checkpoint that can be parsed, if there is one; a damaged one is set aside.

    Raises:
        StorageError: it cannot be read now (no permission, a disk that fails); another try may.
        ConfigError: another version of distillkit wrote it.
    """
    for path in (folder.checkpoint, folder.older_checkpoint):
        if not path.exists():
            continue
        try:
            if not folder.is_own(storage.read_metadata(path)):
                raise DamagedError(f"{path} is that of another run")
            return OuterState.load(path, run.device)
        except DamagedError as error:
            kept = storage.set_aside(path)
            run.progress.note(f"the checkpoint cannot be read and was kept as {kept.name} ({error})")
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} was written by another version of distillkit (it has or lacks {error}); finish the run with "
                "that version, or begin anew with `replace=True` or another `out`"
            ) from error
    return None
