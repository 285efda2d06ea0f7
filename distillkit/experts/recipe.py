"""The parts of an expert's recipe by name. A method brings a new part by adding a line to one of the tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from distillkit.data.augment import Augmentation
from distillkit.experts.gsam import Gsam
from distillkit.experts.schedule import EasyToHard, check_schedule, schedule_of
from distillkit.experts.smooth import PENALTIES, Clipping, SmoothLoss
from distillkit.parts import SCHEDULE_SETTINGS, Part, Seam, all_parts, chosen_parts
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

Loss = tuple[LossPart, Callable[[int], float]]
"""A loss, and the factor of its cross-entropy in each epoch."""


def _plain(settings: ExpertSettings) -> Loss:
    return cross_entropy, constant_scale


def _clipped(settings: ExpertSettings) -> Loss:
    return cross_entropy, Clipping(settings.clipping)


def _smooth(settings: ExpertSettings) -> LossPart:
    return SmoothLoss(PENALTIES.chosen(settings).build, settings.penalty_weight)


OPTIMIZERS: Seam[Part[Callable[[ExpertSettings], OptimizerPart]]] = Seam(
    "experts.optimizer",
    {
        "sgd": Part(lambda settings: Sgd(settings.momentum, settings.weight_decay)),
        "gsam": Part(
            lambda settings: Gsam(
                Sgd(settings.momentum, settings.weight_decay),
                settings.sharpness_radius,
                settings.gap_weight,
                settings.adaptive,
            ),
            reads=("experts.sharpness_radius", "experts.gap_weight", "experts.adaptive"),
        ),
    },
)
_CLIPPING, _WEIGHT = "experts.clipping", "experts.penalty_weight"
LOSSES: Seam[Part[Callable[[ExpertSettings], Loss]]] = Seam(
    "experts.loss",
    {
        "cross-entropy": Part(_plain),
        "clipping": Part(_clipped, reads=(_CLIPPING,)),
        "gradient-penalty": Part(
            lambda settings: (_smooth(settings), constant_scale), reads=(_WEIGHT,), seams=(PENALTIES,)
        ),
        "clipping-gradient-penalty": Part(
            lambda settings: (_smooth(settings), Clipping(settings.clipping)),
            reads=(_CLIPPING, _WEIGHT),
            seams=(PENALTIES,),
        ),
    },
)
Ranking = tuple[Tensor, ...]
"""Of each class, the indices of its images from easy to hard."""


def _easy_to_hard(settings: ExpertSettings, ranking: Ranking | None) -> OrderPart:
    schedule = schedule_of(settings.model_dump())
    smallest = min((len(order) for order in ranking), default=0) if ranking is not None else 1000
    check_schedule(schedule, settings.epochs, smallest)
    return EasyToHard(schedule, ranking or ())


ORDERS: Seam[Part[Callable[[ExpertSettings, Ranking | None], OrderPart]]] = Seam(
    "experts.order",
    {
        "shuffle": Part(lambda settings, ranking: shuffle),
        "easy-to-hard": Part(
            _easy_to_hard, needs=frozenset({"ranking"}), reads=(*SCHEDULE_SETTINGS, "experts.ranking")
        ),
    },
)
EXPERT_SEAMS: tuple[Seam[Any], ...] = (OPTIMIZERS, LOSSES, ORDERS)
"""Uppermost seams of how an expert is trained."""


def is_ranked(order: str) -> bool:
    """Whether there is a data order called ``order`` that needs a ranking of the images by difficulty."""
    return order in ORDERS and "ranking" in ORDERS[order].needs


def unread(settings: ExpertSettings) -> set[str]:
    """Expert settings that no chosen part reads though another part would: the experts' fingerprint leaves them out."""
    owned = {key for _, _, part in all_parts(EXPERT_SEAMS) for key in part.owns}
    read = {key for part in chosen_parts(EXPERT_SEAMS, settings) for key in part.owns}
    return {key.removeprefix("experts.") for key in owned - read}


def expert_recipe(
    settings: ExpertSettings, augmentation: Augmentation | None, ranking: Ranking | None = None
) -> Recipe:
    """The recipe that ``settings`` describe; ``ranking`` of the images, for orders that need one.

    Raises:
        ConfigError: a part is unknown, or the data scheduler leaves nothing of a class.
    """
    loss, scale = LOSSES.chosen(settings).build(settings)
    return Recipe(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        lr=settings.lr,
        optimizer=OPTIMIZERS.chosen(settings).build(settings),
        loss=loss,
        order=ORDERS.chosen(settings).build(settings, ranking),
        augmentation=augmentation if settings.augment else None,
        lr_drop_epochs=settings.lr_drop_epochs,
        lr_drop_factor=settings.lr_drop_factor,
        loss_scale=scale,
    )
