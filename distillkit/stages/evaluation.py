"""The evaluation stage: the rows of the results table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.artifact.encoding import as_stored
from distillkit.data.coresets import select_coreset
from distillkit.data.preprocess import Standardise, UnitDct
from distillkit.distill.labels import labels_ask_experts
from distillkit.distill.synthetic_init import RealData
from distillkit.errors import StorageError
from distillkit.evaluation.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.evaluation.recipe import FULL_BATCH, evaluation_recipe, full_data_recipe
from distillkit.precision import arithmetic
from distillkit.records import EvalReport, SyntheticSet
from distillkit.run_folder import RunFolder
from distillkit.settings import RunSettings, StoredDtype
from distillkit.stages.context import Prepared, Run, training_set
from distillkit.stages.fingerprints import data_setup
from distillkit.stages.initial_set import initial_labels
from distillkit.stages.training_form import evaluation_form
from distillkit.stages.validation import that_select

ROW_DTYPES: dict[str, StoredDtype] = {"set": "float32", "float16": "float16", "uint8": "uint8"}
"""Rows of the set itself: how its images are stored."""
Opinions = Callable[[], RealData]
"""Gives the training images with what the experts of the run say of them."""

BASELINE_LRS = 3
"""Learning rates that each baseline of real images is validated at."""
BASELINE_NETWORKS = 3
"""Fresh networks that validate each of them, if a row has so many. One alone chose a rate that cost k-means digits two
points in two of four draws, where ten did not; three still do in one of these, and random images gain by them."""
HARD, RANDOM_SOFT = "hard", "random-soft"
"""Rows beside a set of soft labels: its images with hard labels; random real images with the experts' labels."""


def label_rows(settings: RunSettings, synthetic: SyntheticSet) -> list[str]:
    """The rows that a set of learned labels is measured beside: without them nobody knows what the images are worth."""
    if synthetic.label_kind == "probabilities" or not settings.evaluate.label_rows:
        return []
    return [HARD, *([RANDOM_SOFT] if labels_ask_experts(settings.distill) else [])]


def stored_row(settings: RunSettings) -> str:
    """The row of the images as they are stored: what whoever loads them will see."""
    return {dtype: name for name, dtype in ROW_DTYPES.items()}[settings.artifact.dtype]


def set_rows(settings: RunSettings) -> list[str]:
    """The rows of the set itself that are wanted: float32, as it will be stored, and the 8-bit view."""
    return list(dict.fromkeys(["set", stored_row(settings), *(["uint8"] if settings.evaluate.uint8 else [])]))


def evaluate_rows(
    run: Run, prepared: Prepared, synthetic: SyntheticSet, folder: RunFolder, opinions: Opinions
) -> dict[str, EvalReport]:
    """The rows of the results table: the set itself, its 8-bit view, and the baselines, all on test data.

    Args:
        run: whose.
        prepared: its data.
        synthetic: the set.
        folder: where finished rows are kept.
        opinions: gives the training images and what the run's experts say of them; called if a row asks experts.
    """
    settings = run.settings.evaluate
    wanted = [*set_rows(run.settings), *label_rows(run.settings, synthetic), *settings.baselines]
    rows = folder.rows()
    pieces = {name: full_passes(run, prepared) if name == "full" else settings.networks for name in wanted}
    exam = prepared.test(run.device)
    for name in wanted:
        if name not in rows:
            run.progress.stage(f"evaluating {name}", pieces[name])
            with folder.timed("evaluate"), arithmetic(run.steady_precision, run.device):
                rows[name] = _row(run, prepared, synthetic, exam, name, opinions)
            folder.add_row(name, rows[name])
    return rows


def _row(
    run: Run, prepared: Prepared, synthetic: SyntheticSet, exam: Examination, name: str, opinions: Opinions
) -> EvalReport:
    settings = run.settings.evaluate
    recipe = evaluation_recipe(settings, synthetic.lr, prepared.augmentation)

    def evaluate(training: TrainingSet | Callable[[int], TrainingSet], lr: float | None = None) -> EvalReport:
        chosen = recipe if lr is None else evaluation_recipe(settings, lr, prepared.augmentation)
        build = prepared.build(prepared.network, run.settings.seed, "evaluate")
        form = evaluation_form(run, chosen, len(synthetic.images), settings.networks)
        listeners = (_listen(run), _stopper(run))
        return evaluate_networks(
            build, training, exam, chosen, run.settings.seed, settings.networks, *listeners, form, run.world
        )

    if name in ROW_DTYPES:
        return evaluate(training_set(as_stored(synthetic, prepared.preprocess, ROW_DTYPES[name]), run.device))
    if name == HARD:
        stored = as_stored(synthetic, prepared.preprocess, run.settings.artifact.dtype)
        return evaluate(TrainingSet(stored.images.to(run.device), synthetic.class_ids.to(run.device)))
    if name == "full":
        return _full_row(run, prepared, exam)
    training = _softly_labelled(run, prepared, opinions()) if name == RANDOM_SOFT else _coreset(run, prepared, name)
    return evaluate(training, _baseline_lr(run, prepared, training, recipe.lr))


def full_passes(run: Run, prepared: Prepared) -> int:
    """Passes over all images of the networks of the ``full`` row: one may take as long as all other rows together."""
    settings = run.settings.evaluate
    recipe = full_data_recipe(settings, prepared.augmentation, len(prepared.train_labels))
    return recipe.epochs * settings.full_networks


def _listen(run: Run) -> Callable[[float], None]:
    def after_network(accuracy: float) -> None:
        run.progress.advance(1, accuracy=accuracy)
        _stopper(run)()

    return after_network


def _stopper(run: Run) -> Callable[[], None]:
    return lambda: run.stop.check("during evaluation (finished rows are kept)")


def _coreset(run: Run, prepared: Prepared, kind: str) -> Callable[[int], TrainingSet]:
    """Real images: another random subset for each network (one may be lucky), one k-means coreset for all."""
    settings, images, labels = run.settings, prepared.train_images, prepared.train_labels

    def choose(index: int) -> TrainingSet:
        draw = index if kind == "random" else 0
        chosen = select_coreset(kind, images, labels, prepared.num_classes, settings.ipc, settings.seed, draw)
        return TrainingSet(images[chosen.to(run.device)], labels[chosen.to(run.device)])

    return choose if kind == "random" else _constant(choose(0))


def _softly_labelled(run: Run, prepared: Prepared, real: RealData) -> Callable[[int], TrainingSet]:
    """Random real images, others for each network, with the labels that the run's experts would give them."""
    settings, labels = run.settings, prepared.train_labels

    def choose(index: int) -> TrainingSet:
        images = prepared.train_images
        chosen = select_coreset("random", images, labels, prepared.num_classes, settings.ipc, settings.seed, index)
        soft = initial_labels(settings, real, labels.cpu()[chosen], chosen).softmax(1)
        return TrainingSet(images[chosen.to(run.device)], soft.to(run.device))

    return choose


def _constant(training: TrainingSet) -> Callable[[int], TrainingSet]:
    return lambda index: training


def _baseline_lr(run: Run, prepared: Prepared, training: Callable[[int], TrainingSet], learned: float) -> float:
    """The learned lr was learned for other images: a baseline takes it, the initial one or thrice that, whichever
    validation prefers (the initial one where there is no validation), so that no set looks good beside a baseline that
    was trained too slowly.
    """
    settings = run.settings
    if settings.evaluate.lr is not None:
        return learned
    initial = settings.distill.lr_init
    if not len(prepared.validation.labels):
        return initial
    candidates, networks = dict.fromkeys((learned, initial, 3 * initial)), baseline_networks(settings)
    images, exam = settings.ipc * prepared.num_classes, prepared.validation
    scores = {
        lr: that_select(run, prepared, training, images, lr, networks, exam, prepared.network, _stopper(run)).mean
        for lr in candidates
    }
    return max(scores, key=scores.__getitem__)


def baseline_networks(settings: RunSettings) -> int:
    """Fresh networks that validate a learning rate of a baseline."""
    return max(settings.distill.select_networks, min(BASELINE_NETWORKS, settings.evaluate.networks))


def keep_row(path: Path, row: dict[str, Any]) -> None:
    """Write a row of all images into the cache, with the name of its file: another run's is never taken for it."""
    storage.write_sealed_json(path, {**row, "of": path.name})


def _cached_row(path: Path) -> dict[str, Any] | None:
    """What ``keep_row`` wrote; None if it is absent, damaged or another's: it is measured again."""
    try:
        row = storage.read_sealed_json(path)
        of = row.pop("of", path.name)  # older versions do not say it
        return EvalReport.from_json(row).to_json() if of == path.name else None
    except (StorageError, KeyError, TypeError, AttributeError):
        return None


def _full_row(run: Run, prepared: Prepared, exam: Examination) -> EvalReport:
    """Training on all training images; cached, since it does not depend on the method or the ipc."""
    settings, path = run.settings.evaluate, full_row_path(run, prepared)
    cached = run.world.decided(lambda: _cached_row(path))
    left = full_passes(run, prepared)
    if cached is not None:
        run.progress.advance(left)
        return EvalReport.from_json(cached)
    recipe = full_data_recipe(settings, prepared.augmentation, len(prepared.train_labels))
    form = evaluation_form(run, recipe, len(prepared.train_labels), settings.full_networks)
    stop = _stopper(run)

    def after_pass() -> None:
        nonlocal left
        passes = min(left, form.size)  # of so many networks side by side
        left -= passes
        run.progress.advance(passes)
        stop()

    report = evaluate_networks(
        prepared.build(prepared.network, run.settings.seed, "evaluate"),
        TrainingSet(prepared.train_images, prepared.train_labels),
        exam,
        recipe,
        run.settings.seed,
        settings.full_networks,
        lambda accuracy: run.progress.advance(0, accuracy=accuracy),
        after_pass,
        form,
        run.world,
    )
    run.progress.advance(left)  # those of other processes
    try:
        keep_row(path, report.to_json())
    except StorageError as error:  # the run's own folder keeps the row
        run.progress.note(f"other runs will train on the full data again: {error}")
    return report


def full_row_path(run: Run, prepared: Prepared) -> Path:
    """Where the cache keeps the row of training on all images, if it has been measured."""
    settings = run.settings.evaluate
    setup = data_setup(run, prepared) | {"seed": run.settings.seed, "precision": run.steady_precision}
    whitening = prepared.preprocess
    if not isinstance(whitening, Standardise):  # fitted on more images for imported sets than for others
        digest = hashlib.sha256()
        storage.sha256_tensor(digest, whitening.matrices if isinstance(whitening, UnitDct) else whitening.matrix)
        setup["zca"] = digest.hexdigest()
    keys = {
        "networks",
        "epochs",
        "lr",
        "lr_drop_epochs",
        "baselines",
        "uint8",
        "label_rows",
        "paper_protocol",
        "full_steps",
    }
    keys |= {name for name in ("together", "compile") if getattr(settings, name) in (None, "auto")}
    recipe = full_data_recipe(settings, prepared.augmentation, len(prepared.train_labels))
    own = {"full_epochs": recipe.epochs}
    if recipe.batch_size != min(settings.batch_size, FULL_BATCH):  # earlier versions had these alone
        own["full_batch"] = recipe.batch_size
    setup["evaluate"] = settings.model_dump(mode="json", exclude=keys) | own
    return storage.cache_root() / "baselines" / f"full-{storage.fingerprint(setup)}.json"
