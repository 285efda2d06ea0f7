"""Training any torch module on a distilled set: the recipe with the user's numbers, the checks, the loop."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from distillkit.artifact.schema import RecipeFile
from distillkit.distilled.bar import told_to
from distillkit.errors import ConfigError, DivergenceError, FewImagesWarning
from distillkit.networks.kinds import NEEDED, BatchStatistics, needs_several
from distillkit.training.fit import fit
from distillkit.training.given import check_outputs, check_trainable, device_of, positive, whole
from distillkit.training.recipe import Recipe
from distillkit.words import counted


def overridden(
    recipe: Mapping[str, Any], lr: float | None, epochs: int | None, batch_size: int | None, augment: bool
) -> dict[str, Any]:
    """A recipe in the form of ``recipe.json`` with the numbers that were given; drops of the lr move with ``epochs``.

    Raises:
        ConfigError: a number is not positive.
    """
    value = dict(recipe)
    value["lr"] = positive("lr", lr) or value["lr"]
    value["batch_size"] = whole("batch_size", batch_size) or value["batch_size"]
    if not augment:
        value["augmentation"] = {"name": "none"}
    epochs = whole("epochs", epochs)
    if epochs is not None:
        schedule = dict(value["schedule"])
        drops = [round(drop * epochs / schedule["epochs"]) for drop in schedule["lr_drop_epochs"]]
        value["schedule"] = {**schedule, "epochs": epochs, "lr_drop_epochs": drops}
    return value


def given_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that a caller hands in.

    Raises:
        ConfigError: it has not the form of recipe.json.
    """
    try:
        plain = json.dumps(recipe, default=_plain)
        RecipeFile.model_validate_json(plain, strict=True)  # as a file is read: no truth value passes for a number
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise ConfigError(
            f"the recipe has not the form of recipe.json ({place}: {first['msg'].lower()}); ds.recipe has it"
        ) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the recipe has not the form of recipe.json ({error}); ds.recipe has it") from error
    return dict(json.loads(plain))


def _plain(value: Any) -> Any:
    """Numbers and arrays of numpy or torch, and mappings, as JSON writes them.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is nothing that JSON has")


def check_can_train(model: nn.Module, images: Tensor, num_classes: int, place: torch.device, batch_size: int) -> None:
    """Does the model, which is moved to ``place``, take ``images`` [n, C, H, W], can it be trained on such batches?

    Raises:
        ConfigError: no.
    """
    device_of(model)
    check_trainable(model)
    check_outputs(model.to(place), images[:2].to(place), num_classes)
    channels, height, width = images.shape[1:]
    if batch_size == 1 and needs_several(model, (channels, height, width)):
        raise ConfigError(
            "the model has batch normalisation on a map of one pixel, which a batch of one image gives no "
            "statistics; batch_size=2 or more"
        )


def warn_of_batch_norm(found: BatchStatistics) -> None:
    """Say, to who calls the caller, that these are too few values for batch normalisation."""
    warnings.warn(
        f"this network's batch normalisation has {counted(found.values, 'value')} a channel to learn its statistics "
        f"from and needs {NEEDED}; prepare_model(..., norm='instance') replaces it, or train on larger batches",
        FewImagesWarning,
        stacklevel=4,  # this function, ``DistilledDataset.train``, its decorator, who called it
    )


def training_targets(targets: Tensor, recipe: Recipe, num_classes: int) -> Tensor:
    """Label probabilities [n, K], or class ids [n] as they are unless the recipe mixes, which takes probabilities."""
    if recipe.mixing is not None and targets.dim() == 1:
        return F.one_hot(targets, num_classes).float()
    return targets


def train(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    recipe: Recipe,
    seed: int,
    progress: Callable[[int, float], None] | None,
) -> None:
    """Train in place on ``images`` [n, C, H, W] and ``targets`` of one device; ``progress`` hears epoch and mean loss,
    a bar on the terminal if it is None.

    Raises:
        DivergenceError: the loss did not stay finite.
    """
    finite = torch.ones((), dtype=torch.bool, device=targets.device)
    with told_to(progress, recipe.epochs) as told:
        for summary in fit(model, images, targets, recipe, seed, "train"):
            finite &= torch.isfinite(summary.loss)
            told(summary.epoch, summary.loss)
    if not finite:
        raise DivergenceError(f"the loss did not stay finite at lr {recipe.lr:g}; begin with a fresh model, and less")
