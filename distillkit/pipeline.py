"""The stages of ``distillkit compress`` as functions: data, experts, distillation, evaluation, artifact.

Each stage leaves a file that the next one takes up, so an interrupted run continues where it stopped:

    data -> [experts] -> trajectories -> [distill] -> synthetic set -> [evaluate] -> rows -> [package] -> artifact
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillkit import plots, storage
from distillkit.artifact.layout import FILES
from distillkit.artifact.views import eight_bit, preview_png
from distillkit.artifact.write import ArtifactContent, write_artifact
from distillkit.config import Composed, compose, find_method
from distillkit.data.augment import Augmentation
from distillkit.data.coresets import select_coreset
from distillkit.data.load import load_data
from distillkit.data.preprocess import Preprocess, fit, to_inputs
from distillkit.distill.labels import label_part
from distillkit.distill.loop import DistillTask, StepRecord, distill, start_state
from distillkit.distill.matching import matching_loss
from distillkit.distill.segments import segment_sampler
from distillkit.distill.state import OuterState
from distillkit.distill.synthetic_init import RealData, initial_images
from distillkit.distilled import DistilledDataset, load_distilled
from distillkit.environment import hardware, resolve_device, set_precision, versions
from distillkit.errors import ConfigError, StorageError
from distillkit.evaluate.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.evaluate.recipe import evaluation_recipe, full_data_recipe, recipe_from_json, recipe_json
from distillkit.experts.recipe import expert_recipe
from distillkit.experts.train import ExpertData, train_expert
from distillkit.interrupt import StopRequest
from distillkit.methods import Layer
from distillkit.networks.build import build_network, parse_architecture
from distillkit.networks.convnet import default_depth
from distillkit.networks.functional import FlatNetwork
from distillkit.networks.timm_models import prepare_model
from distillkit.progress import Progress, Silent
from distillkit.records import EvalReport, SourceData, SyntheticSet
from distillkit.run_folder import RunFolder
from distillkit.settings import NetworkSettings, RunSettings
from distillkit.tracking import NoTracker, Tracker, open_tracker
from distillkit.trajectories.forms import open_trajectories
from distillkit.trajectories.store import TrajectoryStore
from distillkit.version import FORMAT_VERSION, __version__


@dataclass(frozen=True)
class Run:
    """What every stage needs: settings, where to compute, where to write, who listens, who may stop it."""

    settings: RunSettings
    origins: dict[str, str]
    device: torch.device
    progress: Progress = field(default_factory=Silent)
    stop: StopRequest = field(default_factory=StopRequest)
    command: str = ""
    tracker: str | None = None


@dataclass(frozen=True)
class Prepared:
    """Data as the networks see them: inputs float32 on the device, labels there too."""

    data: SourceData
    preprocess: Preprocess
    augmentation: Augmentation | None
    network: NetworkSettings
    train_images: Tensor
    train_labels: Tensor
    validation: Examination

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.data.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        return self.data.image_shape

    def build(self, settings: NetworkSettings, seed: int, use: str) -> Callable[[int], nn.Module]:
        """A factory of freshly initialised networks by number."""
        return lambda index: build_network(settings, self.image_shape, self.num_classes, seed, use, index, "init")


def compress(
    dataset: str,
    *,
    ipc: int,
    method: str = "mtt",
    preset: str = "quick",
    out: str | Path | None = None,
    device: str = "auto",
    overrides: Sequence[Layer] = (),
    settings: dict[str, Any] | None = None,
    replace: bool = False,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    command: str | None = None,
    tracker: str | None = None,
) -> DistilledDataset:
    """Distil a data set: what ``distillkit compress`` does.

    Args:
        dataset: registered name, Hub id or folder.
        ipc: images per class.
        method: see ``METHODS``.
        preset: ``smoke``, ``quick`` or ``paper``.
        out: artifact folder; default ``runs/<dataset>-ipc<N>-<method>``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        overrides: layers of settings from a config file or the command line.
        settings: more of them by dotted key, ``{"distill.outer_steps": 100}``.
        replace: overwrite another run in ``out``.
        progress: listener.
        stop: request that stops the run at the next safe place.
        command: the command line that asked for it, for the record.
        tracker: ``tensorboard`` or ``wandb``.

    Returns:
        The artifact, loaded from ``out``.

    Raises:
        DistillkitError: see ``distillkit.errors``; the run can be continued by the same call.
    """
    place = resolve_device(device)
    layers = [*overrides, *([Layer("argument", settings)] if settings else [])]
    composed = compose(dataset, ipc, method, preset, place.type, layers)
    folder = Path(out) if out is not None else default_out(dataset, ipc, method)
    words = command or f"distillkit compress {dataset} --ipc {ipc} --method {method} --preset {preset}"
    run = make_run(composed, place, progress, stop, words, tracker)
    return run_all(run, folder, replace=replace)


def default_out(dataset: str, ipc: int, method: str) -> Path:
    """``runs/<dataset>-ipc<N>-<method>``."""
    return Path("runs") / f"{Path(dataset).name}-ipc{ipc}-{method}"


def make_run(
    composed: Composed,
    device: torch.device,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    command: str = "",
    tracker: str | None = None,
) -> Run:
    """A run of composed settings on a device; sets the arithmetic that they ask for."""
    set_precision(composed.settings.precision, device)
    listener, request = progress or Silent(), stop or StopRequest()
    return Run(composed.settings, composed.origins, device, listener, request, command, tracker)


def run_all(run: Run, out: Path, *, replace: bool = False) -> DistilledDataset:
    """All stages into ``out``; those that are done are not done again."""
    prepared = prepare(run)
    folder = RunFolder(out)
    with folder.claimed(run_identity(run, prepared), replace):
        if (out / FILES.config).is_file() and folder.load_synthetic() is not None:
            run.progress.note(f"{out} is finished already; nothing to do")
            return load_distilled(out)
        synthetic, selection = _distilled(run, prepared, folder)
        rows = evaluate_rows(run, prepared, synthetic, folder)
        package(run, prepared, folder, synthetic, selection, rows)
    return load_distilled(out)


def prepare(run: Run) -> Prepared:
    """Load the data, check them against the settings, fit the preprocessing on the training images."""
    settings = run.settings
    data = load_data(settings.dataset, run.progress)
    for note in data.info.notes:
        run.progress.note(note)
    _check_ipc(data, settings.ipc)
    preprocess = fit(settings.dataset.preprocessing, data.train.images, settings.dataset.zca_eps)
    network = settings.network
    if network.name == "convnet" and network.depth is None:
        network = network.model_copy(update={"depth": default_depth(min(data.image_shape[1:]))})
    validation = Examination(
        to_inputs(preprocess, data.validation.images, run.device), data.validation.labels.to(run.device)
    )
    return Prepared(
        data=data,
        preprocess=preprocess,
        augmentation=Augmentation.parse(settings.dataset.augmentation),
        network=network,
        train_images=to_inputs(preprocess, data.train.images, run.device),
        train_labels=data.train.labels.to(run.device),
        validation=validation,
    )


def _check_ipc(data: SourceData, ipc: int) -> None:
    counts = data.train.class_counts()
    fewest = min(range(len(counts)), key=counts.__getitem__)
    if counts[fewest] < ipc:
        raise ConfigError(
            f"--ipc {ipc} is more than class {data.classes[fewest]!r} has: {counts[fewest]} training images "
            "(the validation split is held out of them)"
        )


def run_identity(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Everything that determines a run's result: two runs with the same identity make the same bytes."""
    settings = run.settings.model_dump(mode="json")
    settings["dataset"].pop("data_root")
    return {
        "dataset": run.settings.dataset.name,
        "method": run.settings.method,
        "ipc": run.settings.ipc,
        "settings": settings,
        "data": prepared.data.info.fingerprint,
        "device": run.device.type,
        "format": FORMAT_VERSION,
    }


# experts


def expert_setup(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Everything that determines expert trajectories; their number is not part of it."""
    settings = run.settings
    return {
        "format": 1,
        "dataset": settings.dataset.name,
        "data": prepared.data.info.fingerprint,
        "preprocessing": [settings.dataset.preprocessing, settings.dataset.zca_eps],
        "augmentation": settings.dataset.augmentation,
        "network": prepared.network.model_dump(mode="json"),
        "recipe": settings.experts.model_dump(mode="json", exclude={"count"}),
        "seed": settings.seed,
        "precision": settings.precision,
        "device": run.device.type,
    }


def train_experts(run: Run, prepared: Prepared) -> TrajectoryStore:
    """Train the experts that the cache lacks; a damaged one is trained again, a good one never."""
    settings = run.settings.experts
    store = TrajectoryStore.for_setup(expert_setup(run, prepared))
    states = {index: store.state(index) for index in range(settings.count)}
    for index, state in states.items():
        if state == "damaged":
            run.progress.note(f"expert {index} in the cache is damaged; training it again")
    missing = [index for index, state in states.items() if state != "good"]
    if not missing:
        return store
    recipe = expert_recipe(settings, prepared.augmentation)
    data = ExpertData(
        prepared.train_images,
        prepared.train_labels,
        prepared.validation.images,
        prepared.validation.labels,
        prepared.num_classes,
    )
    run.progress.stage("training experts", settings.count * settings.epochs, (settings.count - len(missing)) * settings.epochs)

    def after_epoch(loss: float, accuracy: float) -> None:
        run.progress.advance(1, loss=loss, validation=accuracy)
        run.stop.check("between two epochs of an expert (finished experts are kept)")

    for index in missing:
        with store.lock(index):
            if store.state(index) == "good":  # another run made it while this one waited
                run.progress.advance(settings.epochs)
                continue
            result = train_expert(index, data, prepared.network, recipe, run.settings.seed, after_epoch)
            store.write(index, result.snapshots, result.curve)
    return store


# distillation


def _distilled(run: Run, prepared: Prepared, folder: RunFolder) -> tuple[SyntheticSet, dict[str, Any]]:
    done = folder.load_synthetic()
    if done is not None:
        return done
    store = None
    if run.settings.distill.outer_steps > 0:
        with folder.timed("experts"):
            store = train_experts(run, prepared)
    with folder.timed("distill"):
        synthetic, selection = distill_set(run, prepared, store, folder)
    folder.save_synthetic(synthetic, selection)
    return synthetic, selection


def distill_set(
    run: Run, prepared: Prepared, store: TrajectoryStore | None, folder: RunFolder
) -> tuple[SyntheticSet, dict[str, Any]]:
    """Run the outer loop, from its checkpoint if there is one; the set with the best validation accuracy.

    A method of no outer steps (a coreset) returns its initial images and needs no trajectories.
    """
    state = _load_or_start(run, prepared, folder)
    if store is None:
        return state.synthetic(), {"split": "nothing: this method has no checkpoints to choose from"}
    settings = run.settings.distill
    trajectories = open_trajectories(run.settings.trajectories.form, store, run.settings.experts.count)
    network = prepared.build(prepared.network, run.settings.seed, "student")(0).to(run.device)
    task = DistillTask(
        settings=settings,
        network=FlatNetwork(network),
        trajectories=trajectories,
        segments=segment_sampler(settings, trajectories, run.settings.seed),
        matching=matching_loss(settings.matching),
        labels=label_part(settings.labels),
        augmentation=prepared.augmentation,
        seed=run.settings.seed,
    )
    tracker = open_tracker(run.tracker, folder.path, run.settings.model_dump(mode="json")) if run.tracker else NoTracker()
    run.progress.stage("distilling", settings.outer_steps, state.step)
    try:
        state = distill(task, state, _Recorder(run, prepared, folder, tracker))
    finally:
        tracker.close()
    best = state.best
    assert best is not None
    selection = {
        "split": f"the validation split ({prepared.data.info.validation_split}; {len(prepared.data.validation)} images)",
        "step": best.step,
        "validation_accuracy": best.accuracy,
        "networks": settings.select_networks,
        "outer_steps": state.step,
        "skipped_steps": state.skipped,
        "last_lr": state.lr,
    }
    return best.synthetic, selection


def _load_or_start(run: Run, prepared: Prepared, folder: RunFolder) -> OuterState:
    settings = run.settings
    if folder.checkpoint.exists():
        try:
            state = OuterState.load(folder.checkpoint, run.device)
            folder.truncate_metrics(state.step)
            run.progress.note(f"continuing from step {state.step}")
            return state
        except (StorageError, KeyError) as error:
            run.progress.note(f"the checkpoint cannot be used ({error}); distilling from the start")
    folder.truncate_metrics(-1)
    real = RealData(prepared.train_images, prepared.train_labels, prepared.num_classes)
    images, class_ids = initial_images(settings.distill.init, real, settings.ipc, settings.seed)
    labels = label_part(settings.distill.labels)
    return start_state(images.to(run.device), class_ids, labels, prepared.num_classes, settings.distill.lr_init)


class _Recorder:
    """Watches the outer loop: validation accuracy, metrics, checkpoints, pictures, stopping."""

    def __init__(self, run: Run, prepared: Prepared, folder: RunFolder, tracker: Tracker) -> None:
        self._run, self._prepared, self._folder, self._tracker = run, prepared, folder, tracker

    def select(self, synthetic: SyntheticSet, step: int) -> float:
        """Mean validation accuracy of fresh networks, the same ones at every step."""
        settings = self._run.settings
        recipe = evaluation_recipe(settings.evaluate, synthetic.lr, self._prepared.augmentation)
        report = evaluate_networks(
            self._prepared.build(self._prepared.network, settings.seed, "select"),
            _training_set(synthetic, self._run.device),
            self._prepared.validation,
            recipe,
            settings.seed,
            settings.distill.select_networks,
            lambda accuracy: self._run.stop.check("during selection (the last checkpoint is kept)"),
        )
        return report.mean

    def on_step(self, record: StepRecord, state: OuterState) -> None:
        """Write the metrics line; checkpoint and picture when due; stop if asked to."""
        settings = self._run.settings.distill
        row = {name: _finite(value) for name, value in asdict(record).items()}
        self._folder.append_metrics(row)
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "step"}
        self._tracker.log(numbers, record.step)
        shown = {"loss": record.loss, "lr": record.lr}
        if record.validation_accuracy is not None:
            shown["validation"] = record.validation_accuracy
        self._run.progress.advance(1, **shown)
        if record.step % settings.picture_every == 0:
            picture = preview_png(state.synthetic(), self._prepared.preprocess)
            storage.write_bytes(self._folder.path / "images" / f"step-{record.step:06d}.png", picture)
        if self._run.stop or record.step % settings.checkpoint_every == 0 or record.step == settings.outer_steps:
            state.save(self._folder.checkpoint)
        self._run.stop.check(f"after outer step {record.step}, with a checkpoint")


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# evaluation


def _training_set(synthetic: SyntheticSet, device: torch.device) -> TrainingSet:
    return TrainingSet(synthetic.images.to(device), synthetic.targets().to(device))


def evaluate_rows(
    run: Run, prepared: Prepared, synthetic: SyntheticSet, folder: RunFolder
) -> dict[str, EvalReport]:
    """The rows of the results table: the set itself, its 8-bit view, and the baselines, all on test data."""
    settings = run.settings.evaluate
    wanted = ["set", *(["uint8"] if settings.uint8 else []), *settings.baselines]
    rows = folder.rows()
    networks = {name: settings.full_networks if name == "full" else settings.networks for name in wanted}
    run.progress.stage("evaluating", sum(networks.values()), sum(networks[name] for name in wanted if name in rows))
    test = prepared.data.test
    exam = Examination(to_inputs(prepared.preprocess, test.images, run.device), test.labels.to(run.device))
    for name in wanted:
        if name not in rows:
            with folder.timed("evaluate"):
                rows[name] = _row(run, prepared, synthetic, exam, name)
            folder.add_row(name, rows[name])
    return rows


def _row(run: Run, prepared: Prepared, synthetic: SyntheticSet, exam: Examination, name: str) -> EvalReport:
    settings = run.settings.evaluate
    recipe = evaluation_recipe(settings, synthetic.lr, prepared.augmentation)

    def evaluate(training: TrainingSet, lr: float | None = None) -> EvalReport:
        chosen = recipe if lr is None else evaluation_recipe(settings, lr, prepared.augmentation)
        build = prepared.build(prepared.network, run.settings.seed, "evaluate")
        return evaluate_networks(build, training, exam, chosen, run.settings.seed, settings.networks, _listen(run))

    if name == "set":
        return evaluate(_training_set(synthetic, run.device))
    if name == "uint8":
        pixels = eight_bit(synthetic, prepared.preprocess).pixels()
        view = prepared.preprocess(pixels)
        return evaluate(TrainingSet(view.to(run.device), synthetic.targets().to(run.device)))
    if name == "full":
        return _full_row(run, prepared, exam)
    training = _coreset(run, prepared, name)
    return evaluate(training, _baseline_lr(run, prepared, training, recipe.lr))


def _listen(run: Run) -> Callable[[float], None]:
    def after_network(accuracy: float) -> None:
        run.progress.advance(1, accuracy=accuracy)
        run.stop.check("during evaluation (finished rows are kept)")

    return after_network


def _coreset(run: Run, prepared: Prepared, kind: str) -> TrainingSet:
    settings = run.settings
    indices = select_coreset(
        kind, prepared.train_images, prepared.train_labels, prepared.num_classes, settings.ipc, settings.seed, "baseline", kind
    ).to(run.device)
    return TrainingSet(prepared.train_images[indices], prepared.train_labels[indices])


def _baseline_lr(run: Run, prepared: Prepared, training: TrainingSet, learned: float) -> float:
    """The learned lr was learned for other images: a baseline may have the initial one instead if validation prefers it."""
    settings = run.settings
    candidates = dict.fromkeys((learned, settings.distill.lr_init))
    if settings.evaluate.lr is not None or len(candidates) == 1:
        return learned
    build = prepared.build(prepared.network, settings.seed, "select")
    scores = {}
    for lr in candidates:
        recipe = evaluation_recipe(settings.evaluate, lr, prepared.augmentation)
        networks = settings.distill.select_networks
        scores[lr] = evaluate_networks(build, training, prepared.validation, recipe, settings.seed, networks).mean
    return max(scores, key=scores.__getitem__)


def _full_row(run: Run, prepared: Prepared, exam: Examination) -> EvalReport:
    """Training on all training images; cached, since it does not depend on the method or the ipc."""
    settings = run.settings.evaluate
    setup = {key: value for key, value in expert_setup(run, prepared).items() if key != "recipe"}
    keys = {"networks", "epochs", "lr", "lr_drop_epochs", "baselines", "uint8"}
    setup["evaluate"] = settings.model_dump(mode="json", exclude=keys)
    path = storage.cache_root() / "baselines" / f"full-{storage.fingerprint(setup)}.json"
    if path.exists():
        run.progress.advance(settings.full_networks)
        return EvalReport.from_json(storage.read_json(path))
    report = evaluate_networks(
        prepared.build(prepared.network, run.settings.seed, "evaluate"),
        TrainingSet(prepared.train_images, prepared.train_labels),
        exam,
        full_data_recipe(settings, prepared.augmentation),
        run.settings.seed,
        settings.full_networks,
        _listen(run),
    )
    storage.write_json(path, report.to_json())
    return report


# the artifact


def package(
    run: Run,
    prepared: Prepared,
    folder: RunFolder,
    synthetic: SyntheticSet,
    selection: dict[str, Any],
    rows: dict[str, EvalReport],
) -> None:
    """Write the artifact's files into the run's output folder."""
    settings = run.settings
    architecture = {**prepared.network.model_dump(mode="json"), "image_shape": list(prepared.image_shape)}
    recipe = evaluation_recipe(settings.evaluate, synthetic.lr, prepared.augmentation)
    results = {
        "architectures": {prepared.network.name: rows["set"].to_json()},
        "baselines": {name: rows[name].to_json() for name in settings.evaluate.baselines},
        "uint8": rows["uint8"].to_json() if "uint8" in rows else None,
        "selection": selection,
        "test_images": len(prepared.data.test),
    }
    levels = {"this set": rows["set"].mean, **{name: rows[name].mean for name in settings.evaluate.baselines}}
    storage.write_bytes(folder.out / FILES.curves, plots.curves_png(folder.read_metrics(), levels))
    content = ArtifactContent(
        synthetic=synthetic,
        preprocess=prepared.preprocess,
        classes=prepared.data.classes,
        config=_config_json(run, prepared, synthetic, folder.seconds()),
        recipe=recipe_json(recipe, settings.evaluate, settings.dataset.augmentation, architecture),
        results=results,
    )
    write_artifact(folder.out, content)


def _config_json(run: Run, prepared: Prepared, synthetic: SyntheticSet, seconds: dict[str, float]) -> dict[str, Any]:
    settings, data = run.settings, prepared.data
    method = find_method(settings.method)
    stored = settings.model_dump(mode="json")
    stored["dataset"]["data_root"] = None  # a path of this machine says nothing elsewhere
    experts = None
    if settings.distill.outer_steps > 0:
        experts = {"count": settings.experts.count, "fingerprint": storage.fingerprint(expert_setup(run, prepared))}
    return {
        "format_version": FORMAT_VERSION,
        "generator": f"distillkit {__version__}",
        "method": settings.method,
        "method_title": method.title,
        "citation": method.citation,
        "ipc": settings.ipc,
        "seed": settings.seed,
        "image_shape": list(prepared.image_shape),
        "classes": list(data.classes),
        "label_kind": synthetic.label_kind,
        "settings": stored,
        "origins": run.origins,
        "source": {**asdict(data.info), "train_images": len(data.train), "test_images": len(data.test)},
        "experts": experts,
        "command": run.command,
        "versions": versions(),
        "hardware": hardware(run.device),
        "wall_time_seconds": seconds,
    }


# evaluating an artifact


def evaluate(
    artifact: str | Path | DistilledDataset,
    architectures: Sequence[str] = ("convnet",),
    *,
    networks: int = 5,
    seed: int = 0,
    device: str = "auto",
    data_root: str | None = None,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
) -> dict[str, EvalReport]:
    """Train fresh networks of each architecture on an artifact by its recipe; test accuracies by architecture.

    Args:
        artifact: folder, or a loaded set.
        architectures: ``convnet``, ``convnet:width=64,depth=2`` or ``timm/<name>``.
        networks: k of each.
        seed: root seed; another one gives other networks.
        device: where.
        data_root: where local copies of registered data sets lie.
        progress: listener.
        stop: request that stops between two networks.

    Raises:
        ConfigError: an architecture is unknown or does not fit the images.
        ArtifactError: no artifact.
    """
    listener, request, place = progress or Silent(), stop or StopRequest(), resolve_device(device)
    ds = artifact if isinstance(artifact, DistilledDataset) else load_distilled(artifact)
    own = NetworkSettings.model_validate({k: v for k, v in ds.recipe["architecture"].items() if k != "image_shape"})
    parsed = {name: parse_architecture(name, own) for name in architectures}
    for name in parsed:
        if name.startswith("timm/"):
            notes = prepare_model(name, num_classes=ds.num_classes, image_size=ds.image_shape[1], channels=ds.image_shape[0])[1]
            listener.note(f"{name}: {'; '.join(notes) if notes else 'as timm makes it'}")
    test = ds.load_source(data_root=data_root).test
    exam = Examination(ds.preprocess(test.images.to(place)), test.labels.to(place))
    training = TrainingSet(ds.images.to(place), ds.targets.to(place))
    recipe = recipe_from_json(ds.recipe)
    listener.stage("evaluating", networks * len(parsed))

    def after_network(accuracy: float) -> None:
        listener.advance(1, accuracy=accuracy)
        request.check("during evaluation")

    reports = {}
    for name, network in parsed.items():

        def build(index: int, network: NetworkSettings = network) -> nn.Module:
            return build_network(network, ds.image_shape, ds.num_classes, seed, "evaluate", index, "init")

        reports[name] = evaluate_networks(build, training, exam, recipe, seed, networks, after_network)
    return reports


def save_reports(folder: Path, reports: dict[str, EvalReport]) -> None:
    """Add rows to the ``architectures`` of an artifact's results.json."""
    results = storage.read_json(folder / FILES.results)
    results["architectures"] |= {name: report.to_json() for name, report in reports.items()}
    storage.write_json(folder / FILES.results, results)
