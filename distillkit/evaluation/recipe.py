"""The evaluation recipe (MTT's released ``evaluate_synset``) from settings; also what recipe.json records."""

from __future__ import annotations

from typing import Any

from distillkit.data.augment import Augmentation, CutMix, parse_augmentation
from distillkit.settings import EvaluateSettings
from distillkit.training.batches import batch_sizes
from distillkit.training.recipe import (
    ADAM_BETAS,
    ADAM_EPS,
    Adam,
    AdamW,
    OptimizerPart,
    Recipe,
    Sgd,
    cross_entropy,
    shuffle,
)

FULL_BATCH = 256
"""Most images of a batch where all training data are learned from: the field's batch."""
SMALL_FULL_BATCH = 128
"""And where few images are passed over again and again to make enough steps: half the images trained on, and nothing
lost (``examples/benchmarks/full_row.py``); 64 lost three points by SGD."""


def default_drop(epochs: int) -> tuple[int, ...]:
    """The first epoch of the lower lr: 502 of 1001, as the released loop drops it *after* epoch index 501."""
    return ((epochs - 1) // 2 + 2,)


def evaluation_recipe(settings: EvaluateSettings, lr: float, augmentation: Augmentation | None) -> Recipe:
    """How a fresh network is trained on a synthetic set whose lr is ``lr`` (``settings.lr`` wins if set)."""
    drops = default_drop(settings.epochs) if settings.lr_drop_epochs is None else settings.lr_drop_epochs
    return Recipe(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr or lr,
        optimizer=_optimizer(settings.optimizer, settings.momentum, settings.weight_decay),
        loss=cross_entropy,
        order=shuffle,
        augmentation=augmentation if settings.augment else None,
        lr_drop_epochs=drops,
        lr_drop_factor=settings.lr_drop_factor,
        later_optimizer=_later(_momentum_after_drop(settings), settings.weight_decay),
    )


def _momentum_after_drop(settings: EvaluateSettings) -> float | None:
    """Of SGD; Adam has none, and stays Adam."""
    return settings.momentum_after_drop if settings.optimizer == "sgd" else None


def _later(momentum: float | None, weight_decay: float) -> OptimizerPart | None:
    return None if momentum is None else Sgd(momentum, weight_decay)


def _optimizer(name: str, momentum: float, weight_decay: float) -> OptimizerPart:
    if name == "adamw":
        return AdamW(weight_decay)
    return Adam() if name == "adam" else Sgd(momentum, weight_decay)


def full_data_recipe(settings: EvaluateSettings, augmentation: Augmentation | None, images: int) -> Recipe:
    """The same recipe on the full training data, of so many ``images``: fewer passes (they are longer) that make
    ``full_steps`` steps at the least, another lr than the learned one, and batches of ``full_batch``.
    """
    batch = full_batch(settings, images)
    shorter = settings.model_copy(
        update={
            "epochs": max(settings.full_epochs, -(-settings.full_steps // len(batch_sizes(images, batch)))),
            "batch_size": batch,
            "lr": settings.full_lr,
            "lr_drop_epochs": None,
        }
    )
    return evaluation_recipe(shorter, settings.full_lr, augmentation)


def full_batch(settings: EvaluateSettings, images: int) -> int:
    """Images of a batch of all training data: the recipe's, but ``FULL_BATCH`` at most (one that holds all of a small
    set would leave few steps a pass); fewer where ``full_epochs`` passes do not make ``full_steps`` steps of so many,
    down to ``SMALL_FULL_BATCH``.
    """
    for_steps = -(-images * settings.full_epochs // settings.full_steps)
    return min(settings.batch_size, FULL_BATCH, max(for_steps, SMALL_FULL_BATCH))


def recipe_json(
    recipe: Recipe, settings: EvaluateSettings, augmentation: str, architecture: dict[str, Any]
) -> dict[str, Any]:
    """recipe.json: everything that someone without distillkit needs to train on the set."""
    later = _momentum_after_drop(settings)
    return {
        "architecture": architecture,
        "optimizer": _optimizer_json(settings),
        "lr": recipe.lr,
        "schedule": {
            "epochs": recipe.epochs,
            "lr_drop_epochs": list(recipe.lr_drop_epochs),
            "lr_drop_factor": recipe.lr_drop_factor,
            "new_optimizer_at_drop": True,
            **({} if later is None else {"momentum_after_drop": later}),
        },
        "batch_size": recipe.batch_size,
        "loss": "cross-entropy with label probabilities, mean over the batch",
        "augmentation": dsa_json(augmentation) if recipe.augmentation else {"name": "none", "strategy": "none"},
    }


def _optimizer_json(settings: EvaluateSettings) -> dict[str, Any]:
    if settings.optimizer == "adam":
        return {"name": "adam", "betas": list(ADAM_BETAS), "eps": ADAM_EPS, "momentum": 0.0, "weight_decay": 0.0}
    return {"name": "sgd", "momentum": settings.momentum, "weight_decay": settings.weight_decay}


def dsa_json(strategy: str) -> dict[str, Any]:
    """DSA with its parameters, as recipe.json records it."""
    from distillkit.data import augment

    return {
        "name": "dsa",
        "strategy": strategy,
        "law": "one operation drawn per batch, parameters drawn per image",
        "crop_ratio": augment.CROP_RATIO,
        "cutout_ratio": augment.CUTOUT_RATIO,
        "scale_ratio": augment.SCALE_RATIO,
        "rotate_degrees": augment.ROTATE_DEGREES,
        "brightness": 1.0,
        "saturation": 2.0,
        "contrast": 0.5,
    }


def recipe_words(value: dict[str, Any]) -> str:
    """A recipe in half a line, for people."""
    optimizer, mixing = value["optimizer"].get("name", "sgd"), value["augmentation"].get("mixing", "none")
    mixed = "" if mixing == "none" else f", {mixing}"
    strategy = value["augmentation"].get("strategy", "none")
    return f"{optimizer}, lr {value['lr']:g}, {value['schedule']['epochs']} epochs, augmentation {strategy}{mixed}"


def recipe_from_json(value: dict[str, Any]) -> Recipe:
    """The inverse of ``recipe_json``."""
    optimizer, schedule, augmentation = value["optimizer"], value["schedule"], value["augmentation"]
    strategy = augmentation.get("strategy", "none")
    later = schedule.get("momentum_after_drop") if optimizer.get("name", "sgd") == "sgd" else None  # Adam stays Adam
    return Recipe(
        epochs=int(schedule["epochs"]),
        batch_size=int(value["batch_size"]),
        lr=float(value["lr"]),
        optimizer=_optimizer(
            optimizer.get("name", "sgd"), float(optimizer["momentum"]), float(optimizer["weight_decay"])
        ),
        loss=cross_entropy,
        order=shuffle,
        augmentation=parse_augmentation(strategy),
        mixing=CutMix() if augmentation.get("mixing") == "cutmix" else None,
        cosine=bool(schedule.get("cosine", False)),
        lr_drop_epochs=tuple(int(epoch) for epoch in schedule["lr_drop_epochs"]),
        lr_drop_factor=float(schedule["lr_drop_factor"]),
        later_optimizer=_later(later, float(optimizer["weight_decay"])),
    )
