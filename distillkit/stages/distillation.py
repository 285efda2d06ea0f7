"""The distillation stage: trajectories to a synthetic set."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit import plots, storage
from distillkit.artifact.read import read_artifact
from distillkit.artifact.views import preview_png
from distillkit.distill.inner_optimizers import inner_optimizer
from distillkit.distill.labels import label_part, labels_ask_experts
from distillkit.distill.loop import DistillTask, StepRecord, distill, start_state
from distillkit.distill.objectives import Resources, check_objective, needs, objective
from distillkit.distill.outer_optimizers import outer_optimizer
from distillkit.distill.parts import OF_EXPERTS, Need
from distillkit.distill.real import Available, RealImages, all_images, scheduled_images
from distillkit.distill.segments import segment_sampler
from distillkit.distill.state import OuterState
from distillkit.distill.synthetic_init import ARTIFACT, RealData, check_init, initial_images
from distillkit.errors import ConfigError, StorageError
from distillkit.evaluation.protocol import Examination, evaluate_networks, scores_by_epoch
from distillkit.evaluation.recipe import evaluation_recipe
from distillkit.experts.recipe import RANKED
from distillkit.experts.report import expert_report
from distillkit.experts.schedule import check_schedule, schedule_of, seen_shares
from distillkit.networks.build import parse_architecture
from distillkit.networks.convnet import default_depth
from distillkit.networks.functional import FlatNetwork
from distillkit.precision import arithmetic
from distillkit.records import EvalReport, SyntheticSet, TrajectorySource
from distillkit.run_folder import RunFolder
from distillkit.settings import DistillSettings, NetworkSettings, RunSettings
from distillkit.stages.context import Prepared, Run, training_set
from distillkit.stages.difficulty import check_ranking, ranked
from distillkit.stages.experts import (
    check_experts,
    check_parameters,
    data_setup,
    expert_seed,
    planned_trajectories,
    pulled_from,
    train_experts,
)
from distillkit.stages.student import eager_engine, settled
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
        if run.settings.evaluate.lengths:
            selection |= {"epochs": chosen_length(run, prepared, synthetic)}
    folder.save_synthetic(synthetic, selection)
    return synthetic, selection


def chosen_length(run: Run, prepared: Prepared, synthetic: SyntheticSet) -> dict[str, Any]:
    """Validation accuracy by number of epochs, and the number with the highest: it goes into the recipe."""
    settings = run.settings
    lengths = settings.evaluate.lengths
    longest = settings.evaluate.model_copy(update={"epochs": max(lengths)})
    recipe = evaluation_recipe(longest, synthetic.lr, prepared.augmentation)
    run.progress.note(f"choosing among {', '.join(map(str, lengths))} epochs on validation data")
    with arithmetic(run.steady_precision, run.device):
        found = [
            scores_by_epoch(
                prepared.build(prepared.network, settings.seed, "select"),
                training_set(synthetic, run.device),
                prepared.validation,
                recipe,
                settings.seed,
                index,
                lengths,
                lambda: run.stop.check("while the number of epochs is chosen, with a checkpoint"),
            )
            for index in range(settings.distill.select_networks)
        ]
    means = {length: sum(one[length] for one in found) / len(found) for length in lengths}
    return {"chosen": max(means, key=means.__getitem__), "validation_accuracy": {str(k): v for k, v in means.items()}}


def with_chosen_length(run: Run, selection: dict[str, Any]) -> Run:
    """The run with the number of epochs that validation data chose, if they were asked."""
    if "epochs" not in selection:
        return run
    settings = run.settings
    evaluate = settings.evaluate.model_copy(update={"epochs": int(selection["epochs"]["chosen"])})
    origins = run.origins | {"evaluate.epochs": "validation data, of evaluate.lengths"}
    return replace(run, settings=settings.model_copy(update={"evaluate": evaluate}), origins=origins)


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
    check_init(settings.distill.init)
    check_objective(settings.distill)
    inner_optimizer(settings.distill)
    outer_optimizer(settings.distill)
    _check_lengths(settings)
    wanted = needs(settings.distill)
    _check_student(settings, wanted)
    if "ranking" in wanted:
        check_ranking(settings.experts)
    if not wanted & OF_EXPERTS:
        return
    check_experts(settings)
    if "trajectories" in wanted:
        segment_sampler(settings.distill, planned_trajectories(settings), settings.seed)


def _check_student(settings: RunSettings, wanted: frozenset[Need]) -> None:
    if settings.distill.student is None:
        return
    parse_architecture(settings.distill.student, settings.network)
    if wanted & OF_EXPERTS:
        raise ConfigError(
            "distill.student is of students that begin fresh; those that are matched with experts have the experts' "
            "network: leave it out, or --set network.width and the like"
        )


def _check_lengths(settings: RunSettings) -> None:
    if settings.evaluate.lengths and settings.evaluate.lr_drop_epochs != ():
        raise ConfigError(
            "evaluate.lengths are read on the way of one training, so its lr must not depend on the length: "
            "--set evaluate.lr_drop_epochs=[]"
        )


def needs_experts(settings: RunSettings) -> bool:
    """Whether a part matches experts' trajectories, or asks experts about the initial images or labels."""
    return bool(needs(settings.distill) & OF_EXPERTS)


def distill_set(
    run: Run, prepared: Prepared, store: TrajectoryStore | None, folder: RunFolder
) -> tuple[SyntheticSet, dict[str, Any]]:
    """Run the outer loop, from its checkpoint if there is one; the set with the best validation accuracy.

    A method of no outer steps (a coreset) returns its initial images.
    """
    trajectories, network = student_network(run, prepared, store)
    state = _load_or_start(run, prepared, folder, real_data(prepared, trajectories, network))
    if run.settings.distill.outer_steps == 0:
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
    run: Run, prepared: Prepared, trajectories: TrajectorySource | None, network: FlatNetwork, state: OuterState
) -> DistillTask:
    """What the outer steps of the run are made of, in the precision and form that they will run in."""
    settings, seed = run.settings.distill, run.settings.seed
    labels = label_part(settings)
    resources = Resources(
        settings=settings,
        network=network,
        engine=eager_engine(network, labels),
        build=prepared.build(student_settings(run, prepared), seed, "student"),
        labels=labels,
        augmentation=prepared.augmentation,
        seed=seed,
        real=RealImages(prepared.train_images, prepared.train_labels, prepared.num_classes),
        available=_available(run, prepared),
        trajectories=trajectories,
    )
    task = DistillTask(settings, objective(resources), outer_optimizer(settings))
    return settled(run, prepared, task, network, state)


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


def student_settings(run: Run, prepared: Prepared) -> NetworkSettings:
    """The network of the students: that of the run, unless fresh ones are to be of another."""
    name = run.settings.distill.student
    if name is None:
        return prepared.network
    chosen = parse_architecture(name, prepared.network)
    if chosen.name == "convnet" and chosen.depth is None:
        return chosen.model_copy(update={"depth": default_depth(min(prepared.image_shape[1:]))})
    return chosen


def student_network(
    run: Run, prepared: Prepared, store: TrajectoryStore | None
) -> tuple[TrajectorySource | None, FlatNetwork]:
    """The network of the students, and the experts' trajectories if there are any.

    Raises:
        TrajectoryError: the trajectories are those of another network.
    """
    network = FlatNetwork(prepared.build(student_settings(run, prepared), 0, "student")(0).to(run.device))
    if store is None:
        return None, network
    trajectories = open_trajectories(store, run.settings.experts.count)
    check_parameters(trajectories, network.size)
    return trajectories, network


def real_data(prepared: Prepared, trajectories: TrajectorySource | None, network: FlatNetwork) -> RealData:
    """The training images, and what the last point of each expert says of them."""
    images = prepared.train_images
    if trajectories is None:
        return RealData(images, prepared.train_labels, prepared.num_classes)

    @torch.no_grad()
    def logits(expert: int, indices: Tensor | None) -> Tensor:
        point = trajectories.point(expert, trajectories.final_epoch).to(images.device)
        chosen = images if indices is None else images[indices.to(images.device)]
        return torch.cat([network(point, part) for part in chosen.split(512)]).cpu()

    return RealData(images, prepared.train_labels, prepared.num_classes, trajectories.count, logits)


def initial_labels(settings: DistillSettings, real: RealData, class_ids: Tensor, indices: Tensor | None) -> Tensor:
    """The label part's labels [S, K] of the real images at ``indices`` [S]; None: of images that are not real.

    Raises:
        ConfigError: experts are asked about images that are not real.
    """
    logits = None
    if labels_ask_experts(settings) and real.logits is not None:
        if indices is None:
            raise ConfigError(
                f"distill.labels={settings.labels} asks experts about real images; take distill.init=real"
            )
        logits = torch.stack([real.logits(expert, indices) for expert in range(real.experts)])
    return label_part(settings).initial(class_ids, real.num_classes, logits)


def _load_or_start(run: Run, prepared: Prepared, folder: RunFolder, real: RealData) -> OuterState:
    if folder.checkpoint.exists():
        try:
            state = OuterState.load(folder.checkpoint, run.device)
            folder.truncate_metrics(state.step, keep_selection=not state.selection_due)
            run.progress.note(f"continuing from step {state.step}")
            return state
        except (StorageError, KeyError, TypeError, AttributeError) as error:
            run.progress.note(f"the checkpoint cannot be used ({error}); distilling from the start")
    folder.truncate_metrics(-1, keep_selection=False)
    first = _initial_set(run, prepared, real)
    state = start_state(
        first.images.to(run.device), first.class_ids, first.labels.to(run.device), first.label_kind, first.lr
    )
    state.save(folder.checkpoint)
    return state


def _initial_set(run: Run, prepared: Prepared, real: RealData) -> SyntheticSet:
    settings = run.settings
    if settings.distill.init == ARTIFACT:
        return _set_of(run, prepared)
    first = initial_images(settings.distill.init, real, settings.ipc, settings.seed)
    labels = initial_labels(settings.distill, real, first.class_ids, first.indices)
    kind = label_part(settings.distill).kind
    return SyntheticSet(first.images, labels, first.class_ids, settings.distill.lr_init, kind)


def _set_of(run: Run, prepared: Prepared) -> SyntheticSet:
    """The set of the artifact ``distill.init_from``, as inputs of this run's networks.

    Raises:
        ConfigError: it is not of the same classes, ipc, image size and kind of labels.
    """
    settings = run.settings.distill
    if settings.init_from is None:
        raise ConfigError("distill.init=artifact needs an artifact folder: --set distill.init_from=FOLDER")
    found = read_artifact(Path(settings.init_from))
    wanted = {
        "classes": list(prepared.data.classes),
        "ipc": run.settings.ipc,
        "image_shape": list(prepared.image_shape),
        "label_kind": label_part(settings).kind,
    }
    for key, value in wanted.items():
        if found.config[key] != value:
            raise ConfigError(
                f"distill.init_from={settings.init_from} has {key} {found.config[key]}, this run has {value}"
            )
    own, theirs = prepared.preprocess.to_tensors(), found.preprocess.to_tensors()
    same = own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)
    if same:
        return found.synthetic
    run.progress.note(f"{settings.init_from} has another preprocessing; its images come by way of their pixels")
    return replace(found.synthetic, images=prepared.preprocess(found.preprocess.invert(found.synthetic.images)))


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
