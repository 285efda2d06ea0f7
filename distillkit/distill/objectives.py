"""The objectives by name, and what they are built from. A new one is a file of its own and a line in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from distillkit.data.augment import Augmentation
from distillkit.distill.distribution_matching import DistributionMatching
from distillkit.distill.gradient_matching import GRADIENT_MASKS, GradientMatching
from distillkit.distill.inner_optimizers import INNER_OPTIMIZERS
from distillkit.distill.labels import LABELS, LabelPart
from distillkit.distill.matching import MATCHING, matching_part
from distillkit.distill.objective import Engine, Objective
from distillkit.distill.outer_optimizers import OUTER_OPTIMIZERS
from distillkit.distill.real import REAL_ORDERS, Available, ClassBatches, RealBatches, RealImages
from distillkit.distill.segments import SEGMENTS
from distillkit.distill.start import STARTS, StudentStart, at_a_fresh_network, at_an_expert, check_start
from distillkit.distill.synthetic_init import INITS
from distillkit.distill.unrolled import UnrolledStudents
from distillkit.errors import ConfigError
from distillkit.networks.functional import FlatNetwork
from distillkit.parts import Need, Part, Seam, chosen_parts
from distillkit.records import TrajectorySource
from distillkit.settings import DistillSettings


@dataclass(frozen=True)
class Resources:
    """What objectives are built from; ``build`` makes a fresh network by number, trajectories are there if needed."""

    settings: DistillSettings
    network: FlatNetwork
    engine: Engine
    build: Callable[[int], nn.Module]
    labels: LabelPart
    augmentation: Augmentation | None
    seed: int
    real: RealImages
    available: Available
    trajectories: TrajectorySource | None = None

    @property
    def student_augmentation(self) -> Augmentation | None:
        """Of synthetic batches."""
        return self.augmentation if self.settings.augment else None

    def class_batches(self) -> ClassBatches:
        """Images of one class, for a draw of an outer step."""
        settings = self.settings
        return ClassBatches(self.real, self.available, settings.real_per_class, self.seed, settings.segments)


def _start(resources: Resources) -> StudentStart:
    settings, trajectories = resources.settings, resources.trajectories
    if settings.start == "fresh":
        return at_a_fresh_network(settings, resources.build, resources.seed)
    if trajectories is None:
        raise ConfigError("distill.start=expert needs experts")
    return at_an_expert(settings, trajectories, resources.network, resources.seed)


def unrolled_students(resources: Resources) -> UnrolledStudents:
    """Students that are unrolled, whatever they begin at and are asked.

    Raises:
        ConfigError: a part is unknown or does not fit.
    """
    settings = resources.settings
    augmentation = resources.augmentation if settings.real_augment else None
    real = RealBatches(
        resources.real, resources.available, settings.real_batch, augmentation, resources.seed, settings.segments
    )
    return UnrolledStudents(
        settings=settings,
        engine=resources.engine,
        begin=_start(resources),
        matching=matching_part(settings),
        labels=resources.labels,
        augmentation=resources.student_augmentation,
        seed=resources.seed,
        trajectories=resources.trajectories,
        real=real if "real batches" in MATCHING.chosen(settings).needs else None,
    )


def gradient_matching(resources: Resources) -> GradientMatching:
    """The objective of gradient matching (DSA)."""
    return GradientMatching(
        resources.settings,
        resources.engine,
        resources.build,
        resources.class_batches(),
        resources.labels,
        resources.student_augmentation,
        resources.seed,
    )


def distribution_matching(resources: Resources) -> DistributionMatching:
    """The objective of distribution matching (DM)."""
    return DistributionMatching(
        resources.settings,
        resources.engine,
        resources.build,
        resources.class_batches(),
        resources.labels,
        resources.student_augmentation,
        resources.seed,
    )


_REAL: frozenset[Need] = frozenset({"real batches"})
OBJECTIVES: Seam[Part[Callable[[Resources], Objective]]] = Seam(
    "distill.objective",
    {
        "unroll": Part(
            unrolled_students,
            seams=(STARTS, MATCHING, INNER_OPTIMIZERS),
            reads=("distill.inner_steps", "distill.hypergradient", "distill.lr_lr"),
        ),
        "gradients": Part(
            gradient_matching,
            needs=_REAL,
            seams=(GRADIENT_MASKS, REAL_ORDERS),
            reads=(
                "distill.real_per_class",
                "distill.student",
                "distill.restart_every",
                "distill.network_epochs",
                "distill.network_lr",
            ),
        ),
        "embeddings": Part(
            distribution_matching,
            needs=_REAL,
            seams=(REAL_ORDERS,),
            reads=("distill.real_per_class", "distill.student"),
        ),
    },
)


def objective(resources: Resources) -> Objective:
    """The part that ``settings.objective`` names.

    Raises:
        ConfigError: unknown, or one of its parts does not fit.
    """
    settings = resources.settings
    return OBJECTIVES.chosen(settings).build(resources)


def needs(settings: DistillSettings) -> frozenset[Need]:
    """What the chosen parts need; without outer steps only initial images and labels count.

    Raises:
        ConfigError: a part is unknown.
    """
    return frozenset[Need]().union(*(part.needs for part in chosen_parts(set_seams(settings), settings)))


INITIAL_SEAMS: tuple[Seam[Any], ...] = (INITS, LABELS)
"""Uppermost seams of where a set begins."""
LEARNING_SEAMS: tuple[Seam[Any], ...] = (*INITIAL_SEAMS, OBJECTIVES, OUTER_OPTIMIZERS)
"""Uppermost seams of a set that is learned: where it begins, and what an outer step does."""


def set_seams(settings: DistillSettings) -> tuple[Seam[Any], ...]:
    """The uppermost seams that count: a set that is not learned only begins."""
    return LEARNING_SEAMS if settings.outer_steps else INITIAL_SEAMS


def _check_what_is_learned(settings: DistillSettings) -> None:
    """Does an outer step have a gradient of everything that should move?"""
    if not settings.outer_steps:
        return
    labels, objective = LABELS.chosen(settings).build(settings), settings.objective
    if objective != "unroll" and settings.lr_lr:
        raise ConfigError(
            f"distill.lr_lr={settings.lr_lr:g}, but distill.objective={objective} has no student whose learning rate "
            "could be learned; `distill.lr_lr=0`"
        )
    if objective == "embeddings" and labels.learned:
        raise ConfigError(
            f"distill.objective=embeddings does not look at labels, so distill.labels={settings.labels} cannot be "
            "learned; `distill.labels=hard`"
        )
    if labels.learned and not settings.lr_label:
        raise ConfigError(
            f"distill.labels={settings.labels} are learned, but distill.lr_label=0; set it above 0 (datm's quick "
            "preset: 0.2), or take distill.labels=hard"
        )


def check_objective(settings: DistillSettings) -> None:
    """Do the parts of an outer step exist, and fit each other?

    Raises:
        ConfigError: no; which, and what to set.
    """
    OBJECTIVES.chosen(settings)
    check_start(settings)
    _check_what_is_learned(settings)
    if settings.real_order != "shuffle" and "real batches" not in needs(settings):
        raise ConfigError(
            f"distill.real_order={settings.real_order} applies only to methods that use real images in every outer "
            "step; for experts take experts.order"
        )
    if settings.objective == "embeddings" and settings.mask != "none":
        raise ConfigError(
            f"distill.mask={settings.mask} leaves out parameters, and distill.objective=embeddings compares none; "
            "`distill.mask=none`"
        )
    if settings.objective == "gradients":
        GRADIENT_MASKS.chosen(settings)
    if settings.objective != "unroll":
        return
    matching_part(settings)
    matched = "trajectories" in MATCHING.chosen(settings).needs
    if matched and settings.start != "expert":
        raise ConfigError(
            f"distill.matching={settings.matching} compares students with the experts that they begin at; with "
            f"distill.start={settings.start} take distill.matching=real-loss"
        )
    if settings.start == "expert":
        SEGMENTS.chosen(settings)
