"""How hard the training images are: short trainings, scores, a ranking of each class; cached for all runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit import storage
from distillkit.data.ranking import of_the_kept, read_ranking
from distillkit.errors import StorageError
from distillkit.experts.difficulty import SCORES, easy_to_hard, score_images
from distillkit.experts.recipe import Ranking, is_ranked
from distillkit.experts.schedule import check_schedule, schedule_of
from distillkit.precision import arithmetic
from distillkit.settings import ExpertSettings
from distillkit.stages.context import Prepared, Run
from distillkit.training.fit import fit
from distillkit.training.recipe import Recipe, Sgd, cross_entropy, shuffle

LARGE_CLASS = 1000
"""Images of a class for which a schedule is checked before the data are there."""


def ranking(run: Run, prepared: Prepared, setup: dict[str, Any], seed: int) -> Ranking | None:
    """Of each class, its images from easy to hard; None where the experts' data order asks for none.

    Args:
        run: settings, and who listens.
        prepared: the data.
        setup: everything that determines training on them but the recipe and the seed.
        seed: root seed of the experts.
    """
    return ranked(run, prepared, setup, seed) if is_ranked(run.settings.experts.order) else None


def ranked(run: Run, prepared: Prepared, setup: dict[str, Any], seed: int) -> Ranking:
    """Of each class, its images from easy to hard: by ``experts.ranking``, or by a score.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it is no ranking of these images.
    """
    if run.settings.experts.ranking is not None:
        rows = read_ranking(Path(run.settings.experts.ranking))
        return of_the_kept(rows, prepared.train_labels.cpu(), prepared.data.train_rows)
    scores = difficulty_scores(run, prepared, setup, seed)
    return easy_to_hard(scores, prepared.train_labels.cpu(), prepared.num_classes)


def check_ranking(settings: ExpertSettings) -> None:
    """Can images be ranked so, and is the schedule in order?

    Raises:
        ConfigError: no.
    """
    SCORES.chosen(settings)
    if settings.ranking is not None:
        read_ranking(Path(settings.ranking))
    check_schedule(schedule_of(settings.model_dump()), settings.epochs, LARGE_CLASS)


def difficulty_scores(run: Run, prepared: Prepared, setup: dict[str, Any], seed: int) -> Tensor:
    """Mean scores [n] of the training images over the networks, larger is harder; from the cache if they lie there."""
    settings = run.settings.experts
    chosen = {name: getattr(settings, name) for name in _DETERMINE}
    facts = {**setup, **chosen, "seed": seed, "precision": run.steady_precision}
    path = storage.cache_root() / "difficulty" / f"{storage.fingerprint(facts)}.safetensors"
    return run.world.sent(lambda: ({"scores": _measured_scores(run, prepared, seed, path, chosen)}, None))[0]["scores"]


def _measured_scores(run: Run, prepared: Prepared, seed: int, path: Path, chosen: dict[str, Any]) -> Tensor:
    settings = run.settings.experts
    cached = cached_scores(path)
    if cached is not None:
        return cached
    run.progress.stage("scoring difficulty", settings.difficulty_networks * settings.difficulty_epochs)
    with arithmetic(run.steady_precision, run.device):
        scores = torch.stack([_scores_of(run, prepared, seed, index) for index in range(settings.difficulty_networks)])
    with suppress(StorageError):  # a cache that is read only: they are measured again next time
        keep_scores(path, scores.mean(0), {**chosen, "seed": seed})
    return scores.mean(0)


def keep_scores(path: Path, scores: Tensor, about: dict[str, Any]) -> None:
    """Write scores [n] into the cache, with the name of their file: those of other images are never taken for them."""
    storage.write_tensors(path, {"scores": scores}, {**about, "of": path.name}, sealed=True)


def cached_scores(path: Path) -> Tensor | None:
    """What ``keep_scores`` wrote; None if it is absent, damaged or another's: it is measured again."""
    try:
        tensors, about = storage.read_tensors(path, sealed=True)
        return tensors["scores"].clone() if about.get("of", path.name) == path.name else None
    except (StorageError, KeyError, AttributeError):
        return None


_DETERMINE = (
    "difficulty",
    "difficulty_networks",
    "difficulty_epochs",
    "batch_size",
    "lr",
    "momentum",
    "weight_decay",
    "augment",
)


def _scores_of(run: Run, prepared: Prepared, seed: int, index: int) -> Tensor:
    settings, score = run.settings.experts, SCORES.chosen(run.settings).build
    model = prepared.build(prepared.network, seed, "difficulty")(index).to(run.device)
    recipe = _recipe(settings, prepared)
    for summary in fit(model, prepared.train_images, prepared.train_labels, recipe, seed, "difficulty", index):
        run.progress.advance(1, loss=float(summary.loss))
        run.stop.check("while scoring the difficulty of images (it begins anew)")
    return score_images(score, model, prepared.train_images, prepared.train_labels)


def _recipe(settings: ExpertSettings, prepared: Prepared) -> Recipe:
    """Plain training: the scores are of the images, not of the method."""
    return Recipe(
        epochs=settings.difficulty_epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        optimizer=Sgd(settings.momentum, settings.weight_decay),
        loss=cross_entropy,
        order=shuffle,
        augmentation=prepared.augmentation if settings.augment else None,
    )
