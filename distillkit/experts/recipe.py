"""The parts of an expert's recipe by name. A method brings a new part by adding a line to one of the tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor

from distillkit.data.augment import Augmentation
from distillkit.errors import ConfigError
from distillkit.experts.gsam import Gsam
from distillkit.experts.schedule import EasyToHard, check_schedule, schedule_of
from distillkit.experts.smooth import PENALTIES, Clipping, Penalty, SmoothLoss
from distillkit.settings import ExpertSettings
from distillkit.training.recipe import (
    LossPart,
    OptimizerPart,
    OrderPart,
    Recipe,
    Sgd,
    constant_scale,
    cross_entropy,
    shuffle,
)


def _penalty(settings: ExpertSettings) -> Penalty:
    if settings.penalty not in PENALTIES:
        raise ConfigError(f"experts.penalty={settings.penalty!r} is unknown; known: {', '.join(PENALTIES)}")
    return PENALTIES[settings.penalty]


OPTIMIZERS: dict[str, Callable[[ExpertSettings], OptimizerPart]] = {
    "sgd": lambda settings: Sgd(settings.momentum, settings.weight_decay),
    "gsam": lambda settings: Gsam(
        Sgd(settings.momentum, settings.weight_decay),
        settings.sharpness_radius,
        settings.gap_weight,
        settings.adaptive,
    ),
}
LOSSES: dict[str, Callable[[ExpertSettings], LossPart]] = {
    "cross-entropy": lambda settings: cross_entropy,
    "clipping": lambda settings: cross_entropy,
    "gradient-penalty": lambda settings: SmoothLoss(_penalty(settings), settings.penalty_weight),
    "clipping-gradient-penalty": lambda settings: SmoothLoss(_penalty(settings), settings.penalty_weight),
}
CLIPPED = ("clipping", "clipping-gradient-penalty")
"""Losses whose cross-entropy is scaled by epoch."""
Ranking = tuple[Tensor, ...]
"""Of each class, the indices of its images from easy to hard."""


def _easy_to_hard(settings: ExpertSettings, ranking: Ranking | None) -> OrderPart:
    schedule = schedule_of(settings.model_dump())
    smallest = min((len(order) for order in ranking), default=0) if ranking is not None else 1000
    check_schedule(schedule, settings.epochs, smallest)
    return EasyToHard(schedule, ranking or ())


ORDERS: dict[str, Callable[[ExpertSettings, Ranking | None], OrderPart]] = {
    "shuffle": lambda settings, ranking: shuffle,
    "easy-to-hard": _easy_to_hard,
}
RANKED = ("easy-to-hard",)
"""Orders that need a ranking of the images by difficulty."""

Part = TypeVar("Part")


def _part(kind: str, name: str, table: Mapping[str, Part]) -> Part:
    if name not in table:
        raise ConfigError(f"experts.{kind}={name!r} is unknown; known: {', '.join(table)}")
    return table[name]


def expert_recipe(
    settings: ExpertSettings, augmentation: Augmentation | None, ranking: Ranking | None = None
) -> Recipe:
    """The recipe that ``settings`` describe; ``ranking`` of the images, for orders that need one.

    Raises:
        ConfigError: a part is unknown, or the data scheduler leaves nothing of a class.
    """
    return Recipe(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        optimizer=_part("optimizer", settings.optimizer, OPTIMIZERS)(settings),
        loss=_part("loss", settings.loss, LOSSES)(settings),
        order=_part("order", settings.order, ORDERS)(settings, ranking),
        augmentation=augmentation if settings.augment else None,
        lr_drop_epochs=settings.lr_drop_epochs,
        lr_drop_factor=settings.lr_drop_factor,
        loss_scale=Clipping(settings.clipping) if settings.loss in CLIPPED else constant_scale,
    )
