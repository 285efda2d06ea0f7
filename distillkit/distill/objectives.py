"""The objectives by name, and what they are built from. A new one is a file of its own and a line in the table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from distillkit.data.augment import Augmentation
from distillkit.distill.distribution_matching import DistributionMatching
from distillkit.distill.gradient_matching import GRADIENT_MASKS, GradientMatching
from distillkit.distill.labels import LABELS, LabelPart
from distillkit.distill.matching import MATCHING, matching_part
from distillkit.distill.objective import Engine, Objective
from distillkit.distill.parts import Need, Part, look_up
from distillkit.distill.real import REAL_ORDERS, Available, ClassBatches, RealBatches, RealImages
from distillkit.distill.segments import SEGMENTS
from distillkit.distill.start import STARTS, StudentStart, at_a_fresh_network, at_an_expert, check_start
from distillkit.distill.synthetic_init import INITS
from distillkit.distill.unrolled import UnrolledStudents
from distillkit.errors import ConfigError
from distillkit.networks.functional import FlatNetwork
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
        real=real if "real batches" in look_up(MATCHING, "distill.matching", settings.matching).needs else None,
    )


def gradient_matching(resources: Resources) -> GradientMatching:
    """DSA's."""
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
    """DM's."""
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
OBJECTIVES: dict[str, Part[Callable[[Resources], Objective]]] = {
    "unroll": Part(unrolled_students),
    "gradients": Part(gradient_matching, _REAL),
    "embeddings": Part(distribution_matching, _REAL),
}


def objective(resources: Resources) -> Objective:
    """The part that ``settings.objective`` names.

    Raises:
        ConfigError: unknown, or one of its parts does not fit.
    """
    settings = resources.settings
    return look_up(OBJECTIVES, "distill.objective", settings.objective).build(resources)


def needs(settings: DistillSettings) -> frozenset[Need]:
    """What the chosen parts need; those of an outer step count where there is one.

    Raises:
        ConfigError: a part is unknown.
    """
    parts: list[Part[object]] = [
        look_up(INITS, "distill.init", settings.init),
        look_up(LABELS, "distill.labels", settings.labels),
    ]
    if settings.outer_steps:
        parts.append(look_up(OBJECTIVES, "distill.objective", settings.objective))
        if settings.objective == "unroll":
            parts += [look_up(STARTS, "distill.start", settings.start)]
            parts += [look_up(MATCHING, "distill.matching", settings.matching)]
    found = frozenset[Need]().union(*(part.needs for part in parts))
    if "real batches" in found:
        found |= look_up(REAL_ORDERS, "distill.real_order", settings.real_order).needs
    return found


def _check_what_is_learned(settings: DistillSettings) -> None:
    """Does an outer step have a gradient of everything that should move?"""
    if not settings.outer_steps:
        return
    labels, objective = look_up(LABELS, "distill.labels", settings.labels).build(settings), settings.objective
    if objective != "unroll" and settings.lr_lr:
        raise ConfigError(
            f"distill.lr_lr={settings.lr_lr:g}, but distill.objective={objective} has no student whose learning rate "
            "could be learned; --set distill.lr_lr=0"
        )
    if objective == "embeddings" and labels.learned:
        raise ConfigError(
            f"distill.objective=embeddings does not look at labels, so distill.labels={settings.labels} cannot be "
            "learned; --set distill.labels=hard"
        )
    if settings.labels == "weights" and not settings.lr_label:
        raise ConfigError(
            "distill.labels=weights are learned, but distill.lr_label=0; --set distill.lr_label=0.001, or labels=hard"
        )


def check_objective(settings: DistillSettings) -> None:
    """Do the parts of an outer step exist, and fit each other?

    Raises:
        ConfigError: no; which, and what to set.
    """
    look_up(OBJECTIVES, "distill.objective", settings.objective)
    check_start(settings)
    _check_what_is_learned(settings)
    if settings.init_from is not None and settings.init != "artifact":
        raise ConfigError(f"distill.init_from={settings.init_from} is read with distill.init=artifact alone")
    if settings.real_order != "shuffle" and "real batches" not in needs(settings):
        raise ConfigError(
            f"distill.real_order={settings.real_order} is of methods that see real images in every outer step; for "
            "experts take experts.order"
        )
    if settings.objective == "embeddings" and settings.mask != "none":
        raise ConfigError(
            f"distill.mask={settings.mask} leaves out parameters, and distill.objective=embeddings compares none; "
            "--set distill.mask=none"
        )
    if settings.objective == "gradients":
        look_up(GRADIENT_MASKS, "distill.mask", settings.mask)
    if settings.objective != "unroll":
        return
    matching_part(settings)
    matched = "trajectories" in look_up(MATCHING, "distill.matching", settings.matching).needs
    if matched and settings.start != "expert":
        raise ConfigError(
            f"distill.matching={settings.matching} compares students with the experts that they begin at; with "
            f"distill.start={settings.start} take distill.matching=real-loss"
        )
    if settings.start == "expert":
        look_up(SEGMENTS, "distill.sampler", settings.sampler)
