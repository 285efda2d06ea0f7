"""The distillation stage: trajectories to a synthetic set."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from distillkit import plots, storage
from distillkit.artifact.views import preview_png
from distillkit.distill.labels import LabelPart, label_part
from distillkit.distill.loop import DistillTask, StepRecord, distill, start_state
from distillkit.distill.matching import matching_part
from distillkit.distill.segments import segment_sampler
from distillkit.distill.start import INNER_SCALES, PERTURBATIONS, check_start
from distillkit.distill.state import OuterState
from distillkit.distill.step_functions import EagerFunctions, InnerLoss
from distillkit.distill.synthetic_init import ASK_EXPERTS, RealData, check_init, initial_images
from distillkit.errors import StorageError
from distillkit.evaluation.protocol import Examination, evaluate_networks
from distillkit.evaluation.recipe import evaluation_recipe
from distillkit.experts.recipe import RANKED
from distillkit.experts.report import expert_report
from distillkit.experts.schedule import schedule_of, seen_shares
from distillkit.networks.functional import FlatNetwork
from distillkit.precision import arithmetic
from distillkit.records import EvalReport, SyntheticSet, TrajectorySource
from distillkit.run_folder import RunFolder
from distillkit.settings import RunSettings
from distillkit.stages.context import Prepared, Run, training_set
from distillkit.stages.experts import (
    check_experts,
    check_parameters,
    planned_trajectories,
    pulled_from,
    train_experts,
)
from distillkit.stages.student import settled
from distillkit.stages.training_form import evaluation_form
from distillkit.tracking import Tracker, open_tracker
from distillkit.trajectories.forms import open_trajectories
from distillkit.trajectories.store import TrajectoryStore


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
    folder.save_synthetic(synthetic, selection)
    return synthetic, selection


def _report_experts(run: Run, store: TrajectoryStore, folder: RunFolder) -> None:
    numbers = range(run.settings.experts.count)
    report = expert_report([store.record(index) for index in numbers])
    storage.write_json(folder.experts_report, {**report, "pulled_from": pulled_from(store, numbers)})
    storage.write_bytes(folder.path / "experts.png", plots.experts_png({run.settings.method: report["experts"]}))
    if store.setup["recipe"]["order"] in RANKED:
        recipe = store.setup["recipe"]
        shares = seen_shares(schedule_of(recipe), recipe["epochs"])
        storage.write_bytes(folder.path / "schedule.png", plots.schedule_png(shares))


def check_distillation(settings: RunSettings) -> None:
    """Everything that can be wrong with the settings, before experts are trained for hours.

    Raises:
        ConfigError: an unknown part, no experts, or trajectories too short for the segments.
    """
    label_part(settings.distill)
    matching_part(settings.distill)
    check_init(settings.distill.init)
    check_start(settings.distill)
    if not needs_experts(settings):
        return
    check_experts(settings)
    if settings.distill.outer_steps > 0:
        segment_sampler(settings.distill, planned_trajectories(settings), settings.seed)


def needs_experts(settings: RunSettings) -> bool:
    """Whether there is anything to match, or a part asks experts about the initial images or labels."""
    distill = settings.distill
    return distill.outer_steps > 0 or distill.init in ASK_EXPERTS or label_part(distill).asks_experts


def distill_set(
    run: Run, prepared: Prepared, store: TrajectoryStore | None, folder: RunFolder
) -> tuple[SyntheticSet, dict[str, Any]]:
    """Run the outer loop, from its checkpoint if there is one; the set with the best validation accuracy.

    A method of no outer steps (a coreset) returns its initial images and needs no trajectories.
    """
    trajectories, network = (None, None) if store is None else matched(run, prepared, store)
    state = _load_or_start(run, prepared, folder, real_data(prepared, trajectories, network))
    if trajectories is None or network is None or run.settings.distill.outer_steps == 0:
        return state.synthetic(), {"split": "nothing: this method has no checkpoints to choose from"}
    settings = run.settings.distill
    task = distill_task(run, prepared, trajectories, network, state)
    tracker = open_tracker(run.tracker, folder.path, run.settings.model_dump(mode="json"))
    run.progress.stage("distilling", settings.outer_steps, state.step)
    try:
        with arithmetic(state.precision or "fp32", run.device):
            state = distill(task, state, _Recorder(run, prepared, folder, tracker))
    finally:
        tracker.close()
    best = state.best
    assert best is not None
    if state.gated > state.step / 2:
        run.progress.note(
            f"{state.gated} of {state.step} steps were skipped, since their loss exceeded "
            f"distill.gate={settings.gate:g}; raise it, or lower distill.lr_init"
        )
    selection = {
        "split": f"the validation split ({prepared.data.info.validation_split})",
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
    }
    return best.synthetic, selection


def distill_task(
    run: Run, prepared: Prepared, trajectories: TrajectorySource, network: FlatNetwork, state: OuterState
) -> DistillTask:
    """What the outer steps of the run are made of, in the precision and form that they will run in."""
    settings = run.settings.distill
    task = DistillTask(
        settings=settings,
        functions=EagerFunctions(InnerLoss(network, label_part(settings))),
        trajectories=trajectories,
        segments=segment_sampler(settings, trajectories, run.settings.seed),
        matching=matching_part(settings),
        labels=label_part(settings),
        augmentation=prepared.augmentation,
        seed=run.settings.seed,
        perturb=PERTURBATIONS[settings.perturbation](settings, network, run.settings.seed),
        inner_scale=INNER_SCALES[settings.inner_scale](settings),
    )
    return settled(run, prepared, task, network, state)


def matched(run: Run, prepared: Prepared, store: TrajectoryStore) -> tuple[TrajectorySource, FlatNetwork]:
    """The trajectories of the run's experts, and the network that goes with them.

    Raises:
        TrajectoryError: they are those of another network.
    """
    trajectories = open_trajectories(store, run.settings.experts.count)
    network = FlatNetwork(prepared.build(prepared.network, run.settings.seed, "student")(0).to(run.device))
    check_parameters(trajectories, network.size)
    return trajectories, network


def real_data(prepared: Prepared, trajectories: TrajectorySource | None, network: FlatNetwork | None) -> RealData:
    """The training images, and what the last point of each expert says of them."""
    images = prepared.train_images
    if trajectories is None or network is None:
        return RealData(images, prepared.train_labels, prepared.num_classes)

    @torch.no_grad()
    def logits(expert: int, indices: Tensor | None) -> Tensor:
        point = trajectories.point(expert, trajectories.final_epoch).to(images.device)
        chosen = images if indices is None else images[indices.to(images.device)]
        return torch.cat([network(point, part) for part in chosen.split(512)]).cpu()

    return RealData(images, prepared.train_labels, prepared.num_classes, trajectories.count, logits)


def initial_labels(part: LabelPart, real: RealData, class_ids: Tensor, indices: Tensor) -> Tensor:
    """The part's labels [S, K] of the real images at ``indices`` [S]."""
    logits = None
    if part.asks_experts and real.logits is not None:
        logits = torch.stack([real.logits(expert, indices) for expert in range(real.experts)])
    return part.initial(class_ids, real.num_classes, logits)


def _load_or_start(run: Run, prepared: Prepared, folder: RunFolder, real: RealData) -> OuterState:
    settings = run.settings
    if folder.checkpoint.exists():
        try:
            state = OuterState.load(folder.checkpoint, run.device)
            folder.truncate_metrics(state.step, keep_selection=not state.selection_due)
            run.progress.note(f"continuing from step {state.step}")
            return state
        except (StorageError, KeyError, TypeError, AttributeError) as error:
            run.progress.note(f"the checkpoint cannot be used ({error}); distilling from the start")
    folder.truncate_metrics(-1, keep_selection=False)
    first = initial_images(settings.distill.init, real, settings.ipc, settings.seed)
    part = label_part(settings.distill)
    labels = initial_labels(part, real, first.class_ids, first.indices)
    images, lr = first.images.to(run.device), settings.distill.lr_init
    state = start_state(images, first.class_ids, labels.to(run.device), part.kind, lr)
    state.save(folder.checkpoint)
    return state


class _Recorder:
    """Watches the outer loop: validation accuracy, metrics, checkpoints, pictures, stopping."""

    def __init__(self, run: Run, prepared: Prepared, folder: RunFolder, tracker: Tracker) -> None:
        self._run, self._prepared, self._folder, self._tracker = run, prepared, folder, tracker

    def select(self, synthetic: SyntheticSet, step: int) -> float:
        """Mean validation accuracy of fresh networks, the same ones at every step."""
        accuracy = self._score(synthetic, step, self._prepared.validation)
        if self._run.settings.evaluate.paper_protocol:
            self._folder.add_test_checkpoint(step, self._score(synthetic, step, self._prepared.test(self._run.device)))
        return accuracy

    def _score(self, synthetic: SyntheticSet, step: int, exam: Examination) -> float:
        with arithmetic(self._run.steady_precision, self._run.device):
            return self._trained(synthetic, step, exam).mean

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
        if self._run.stop or state.selection_due or record.step % settings.checkpoint_every == 0:
            state.save(self._folder.checkpoint)
        self._run.stop.check(f"after outer step {record.step}, with a checkpoint")

    def on_selection(self, accuracy: float, state: OuterState) -> None:
        """Write the accuracy as a metrics line of its own."""
        self._write({"step": state.step, "validation_accuracy": accuracy})
        self._run.progress.advance(0, validation=accuracy)
        state.save(self._folder.checkpoint)

    def _write(self, row: dict[str, Any]) -> None:
        self._folder.append_metrics(row)
        numbers = {name: value for name, value in row.items() if value is not None and name != "step"}
        self._tracker.log(numbers, row["step"])


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
