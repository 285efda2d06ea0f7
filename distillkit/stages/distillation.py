"""The distillation stage: trajectories to a synthetic set."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from distillkit import plots, storage
from distillkit.artifact.views import preview_png
from distillkit.distill.dealt import Dealt
from distillkit.distill.labels import label_part
from distillkit.distill.loop import DistillTask, OuterTask, StepRecord, distill, start_state
from distillkit.distill.objectives import Resources, needs, objective
from distillkit.distill.outer_optimizers import outer_optimizer
from distillkit.distill.real import Available, RealImages, all_images, scheduled_images
from distillkit.distill.state import EngineChoice, OuterState
from distillkit.distill.synthetic_init import RealData
from distillkit.errors import ConfigError, DamagedError
from distillkit.evaluation.protocol import Examination, evaluate_networks, scores_by_epoch
from distillkit.evaluation.recipe import evaluation_recipe
from distillkit.experts.recipe import is_ranked
from distillkit.experts.report import expert_report
from distillkit.experts.schedule import check_schedule, schedule_of, seen_shares
from distillkit.networks.functional import FlatNetwork
from distillkit.precision import arithmetic
from distillkit.records import EvalReport, SyntheticSet, TrajectorySource
from distillkit.run_folder import RunFolder
from distillkit.settings import NetworkSettings
from distillkit.stages.architectures import student_pool
from distillkit.stages.backing_off import backing_off
from distillkit.stages.checks import needs_experts
from distillkit.stages.context import Prepared, Run, training_set
from distillkit.stages.difficulty import ranked
from distillkit.stages.experts import (
    check_parameters,
    data_setup,
    expert_seed,
    pulled_from,
    train_experts,
)
from distillkit.stages.initial_set import initial_set, real_data
from distillkit.stages.length import chosen_length
from distillkit.stages.pool import pooled_task, student
from distillkit.stages.reach import expert_reach
from distillkit.stages.student import eager_engine, settled
from distillkit.stages.training_form import evaluation_form
from distillkit.tracking import Tracker, open_tracker
from distillkit.trajectories.forms import open_trajectories
from distillkit.trajectories.store import TrajectoryStore

COLLAPSED = 100
"""A learned lr of less than such a part of the initial one teaches nothing."""


def distilled(run: Run, prepared: Prepared, folder: RunFolder) -> tuple[SyntheticSet, dict[str, Any]]:
    """The selected set and how it was selected; trains experts and distils if that is not done yet."""
    done = folder.load_synthetic()
    if done is not None:
        return done
    store = None
    if needs_experts(run.settings):
        with folder.timed("experts"):
            store = train_experts(run, prepared)
        _report_experts(run, store, folder)
    with folder.timed("distill"):
        synthetic, selection = distill_set(run, prepared, store, folder)
        if run.settings.evaluate.lengths:
            selection |= {"epochs": chosen_length(run, prepared, synthetic)}
    folder.save_synthetic(synthetic, selection)
    return synthetic, selection


def _report_experts(run: Run, store: TrajectoryStore, folder: RunFolder) -> None:
    numbers = expert_reach(run.settings).trained
    report = expert_report([store.record(index) for index in numbers])
    storage.write_json(folder.experts_report, {**report, "pulled_from": pulled_from(store, numbers)})
    storage.write_bytes(folder.path / "experts.png", plots.experts_png({run.settings.method: report["experts"]}))
    if is_ranked(store.setup["recipe"]["order"]):
        recipe = store.setup["recipe"]
        shares = seen_shares(schedule_of(recipe), store.most_epochs)
        storage.write_bytes(folder.path / "schedule.png", plots.schedule_png(shares))


def distill_set(
    run: Run, prepared: Prepared, store: TrajectoryStore | None, folder: RunFolder
) -> tuple[SyntheticSet, dict[str, Any]]:
    """Run the outer loop, from its checkpoint if there is one; the set with the best validation accuracy.

    A method of no outer steps (a coreset) returns its initial images.
    """
    trajectories, network = student_network(run, prepared, store)
    state = _load_or_start(run, prepared, folder, real_data(run, prepared, trajectories, network))
    if run.settings.distill.outer_steps == 0:
        return state.synthetic(), {"split": "nothing: this method has no checkpoints to choose from"}
    settings = run.settings.distill
    task = distill_task(run, prepared, trajectories, network, state)
    asked = run.tracker if run.world.leads else None
    tracker = open_tracker(asked, folder.path, run.settings.model_dump(mode="json"))
    run.progress.stage("distilling", settings.outer_steps, state.step)
    try:
        with arithmetic(state.precision or "fp32", run.device):
            state = distill(
                backing_off(run, task) if isinstance(task, DistillTask) else task,
                state,
                _Recorder(run, prepared, folder, tracker),
            )
    finally:
        tracker.close()
    best = state.best
    assert best is not None
    if state.gated > state.step / 2:
        run.progress.note(
            f"{state.gated} of {state.step} steps were skipped, since their loss exceeded "
            f"distill.gate={settings.gate:g}; raise it, or lower distill.lr_init"
        )
    _tell_of_standstill(run, state)
    held_out = f"the validation split ({prepared.data.info.validation_split})"
    selection = {
        "split": held_out if best.accuracy is not None else "nothing: no images are held out, so the last step is kept",
        "images": len(prepared.data.validation),
        "step": best.step,
        "validation_accuracy": best.accuracy,
        "networks": settings.select_networks,
        "outer_steps": state.step,
        "skipped_steps": state.skipped,
        "gated_steps": state.gated,
        "last_lr": state.lr,
        "precision": state.precision or "fp32",
        "cosine_to_fp32": state.agreement,
        "compiled": bool(state.compiled),
        **({"pool": _pool_json(run, state)} if state.forms else {}),
    }
    return best.synthetic, selection


def _pool_json(run: Run, state: OuterState) -> list[dict[str, Any]]:
    """How students of each architecture computed, where they took turns."""
    return [
        {"network": name, "precision": form["precision"] or "fp32", "compiled": bool(form["compiled"])}
        for name, form in zip(run.settings.network.pool, state.forms, strict=True)
    ]


def _tell_of_standstill(run: Run, state: OuterState) -> None:
    """A run that learned nothing, or hardly anything, says so."""
    note, begun = run.progress.note, run.settings.distill.lr_init
    if state.best is not None and state.best.step == 0:
        note("no step was better on validation data than the initial images: these are kept, nothing was learned")
    if state.skipped > state.step / 2:
        note(f"{state.skipped} of {state.step} steps had no finite loss and changed nothing; lower distill.lr_img")
    if state.lr < begun / COLLAPSED:
        note(f"the learning rate fell from {begun:g} to {state.lr:.2g}; lower distill.lr_lr")


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
    return settled(run, prepared, task, network, state, state.choice)


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
        task, choice = settled(run, prepared, task, network, state, choice)
    shared = world.decided(choice.shared)
    if not world.leads:
        task, choice = settled(run, prepared, task, network, state, replace(choice, **shared))
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


def student_network(
    run: Run, prepared: Prepared, store: TrajectoryStore | None
) -> tuple[TrajectorySource | None, FlatNetwork]:
    """The network of the students (the first, where several take turns), and the experts' trajectories if there are
    any.

    Raises:
        TrajectoryError: the trajectories are those of another network.
    """
    network = student(run, prepared, student_pool(run, prepared)[0])
    if store is None:
        return None, network
    until = run.settings.experts.epochs if run.settings.experts.source is None else None
    trajectories = open_trajectories(store, run.settings.experts.count, until)
    check_parameters(trajectories, network.size, expert_reach(run.settings).trained[0])
    return trajectories, network


def _load_or_start(run: Run, prepared: Prepared, folder: RunFolder, real: RealData) -> OuterState:
    found = _last_state(run, folder)
    if found is not None:
        folder.truncate_metrics(found.step, keep_selection=not found.selection_due)
        run.progress.note(f"continuing from step {found.step}")
        return found
    folder.truncate_metrics(-1, keep_selection=False)
    first = _first_set(run, prepared, real)
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


class _Recorder:
    """Watches the outer loop: validation accuracy, metrics, checkpoints, pictures, stopping."""

    def __init__(self, run: Run, prepared: Prepared, folder: RunFolder, tracker: Tracker) -> None:
        self._run, self._prepared, self._folder, self._tracker = run, prepared, folder, tracker
        self._owner = folder.identity()

    def select(self, synthetic: SyntheticSet, step: int) -> float | None:
        """Mean validation accuracy of fresh networks, the same ones at every step; None if no images are held out."""
        held_out = len(self._prepared.validation.labels)
        if self._run.world.size > 1:
            self._run.world.agree(f"synthetic set at step {step}", _digest(synthetic))
        with arithmetic(self._run.steady_precision, self._run.device):
            if self._run.settings.evaluate.paper_protocol:
                self._folder.add_test_checkpoint(step, self._on_test(synthetic, step))
            return self._trained(synthetic, step, self._prepared.validation).mean if held_out else None

    def _on_test(self, synthetic: SyntheticSet, step: int) -> float:
        """The test accuracy of a checkpoint as the method's paper reads it: of its last epoch, or the best of some."""
        exam, evaluate = self._prepared.test(self._run.device), self._run.settings.evaluate
        if evaluate.peak_every is None and not evaluate.lengths:
            return self._trained(synthetic, step, exam).mean
        longest = max(evaluate.lengths, default=evaluate.epochs)
        every = evaluate.peak_every or 1
        read = sorted({*(evaluate.lengths or range(every, longest + 1, every)), longest})

        def scores(index: int) -> list[float]:
            found = scores_by_epoch(
                self._prepared.build(self._prepared.network, self._run.settings.seed, "select"),
                training_set(synthetic, self._run.device),
                exam,
                evaluation_recipe(
                    evaluate.model_copy(update={"epochs": longest}), synthetic.lr, self._prepared.augmentation
                ),
                self._run.settings.seed,
                index,
                read,
                lambda: self._run.stop.check(f"while testing step {step}, with a checkpoint"),
            )
            return [found[epoch] for epoch in read]

        found = self._run.world.each(range(self._run.settings.distill.select_networks), scores)
        if evaluate.lengths:  # one length for all networks
            return float(max(sum(own) / len(found) for own in zip(*found, strict=True)))
        return sum(max(own) for own in found) / len(found)

    def _trained(self, synthetic: SyntheticSet, step: int, exam: Examination) -> EvalReport:
        settings = self._run.settings
        recipe = evaluation_recipe(settings.evaluate, synthetic.lr, self._prepared.augmentation)
        return evaluate_networks(
            self._prepared.build(self._prepared.network, settings.seed, "select"),
            training_set(synthetic, self._run.device),
            exam,
            recipe,
            settings.seed,
            settings.distill.select_networks,
            after_epoch=lambda: self._run.stop.check(f"while validating step {step}, with a checkpoint"),
            form=evaluation_form(self._run, recipe, len(synthetic.images), settings.distill.select_networks),
            world=self._run.world,
        )

    def on_step(self, record: StepRecord, state: OuterState) -> None:
        """Write the metrics line; checkpoint and picture when due; stop if asked to."""
        settings = self._run.settings.distill
        row = {name: _finite(value) for name, value in asdict(record).items()}
        self._write(row)
        gated = {"gated": record.gated / record.step} if record.gated else {}
        self._run.progress.advance(1, loss=record.loss, lr=record.lr, **gated)
        if record.step % settings.picture_every == 0:
            picture = preview_png(state.synthetic(), self._prepared.preprocess)
            storage.write_bytes(self._folder.path / "images" / f"step-{record.step:06d}.png", picture)
        stopping = self._run.world.any(bool(self._run.stop))
        if stopping or state.selection_due or record.step % settings.checkpoint_every == 0:
            self._save(state)
        if stopping:
            self._run.stop.follow()
            self._run.stop.raise_if_asked(f"after outer step {record.step}, with a checkpoint")

    def on_selection(self, accuracy: float | None, state: OuterState) -> None:
        """Write the accuracy as a metrics line of its own."""
        if accuracy is not None:
            self._write({"step": state.step, "validation_accuracy": accuracy})
            self._run.progress.advance(0, validation=accuracy)
        self._save(state)

    def _save(self, state: OuterState) -> None:
        """The checkpoint; the one before it is kept beside it."""
        if self._folder.checkpoint.exists():
            storage.copy_file(self._folder.checkpoint, self._folder.older_checkpoint)
        state.save(self._folder.checkpoint, self._owner)

    def _write(self, row: dict[str, Any]) -> None:
        self._folder.append_metrics(row)
        numbers = {name: value for name, value in row.items() if value is not None and name != "step"}
        self._tracker.log(numbers, row["step"])


def _digest(synthetic: SyntheticSet) -> str:
    digest = hashlib.sha256(repr(synthetic.lr).encode())
    for tensor in (synthetic.images, synthetic.labels):
        storage.sha256_tensor(digest, tensor)
    return digest.hexdigest()[:16]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
