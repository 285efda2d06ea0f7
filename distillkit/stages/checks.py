"""Everything that can be wrong with the settings of a run, before anything is computed for hours."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from distillkit.distill.inner_optimizers import inner_optimizer
from distillkit.distill.labels import label_part, labels_ask_experts
from distillkit.distill.objectives import check_objective, needs
from distillkit.distill.outer_optimizers import outer_optimizer
from distillkit.distill.segments import segment_sampler
from distillkit.distill.synthetic_init import ARTIFACT, NOISE, check_init
from distillkit.errors import ConfigError
from distillkit.networks.build import check_architecture, parse_architecture
from distillkit.parts import OF_EXPERTS, Need
from distillkit.settings import DistillSettings, RunSettings
from distillkit.stages.difficulty import check_ranking
from distillkit.stages.effect import check_effect
from distillkit.stages.experts import (
    check_experts,
    planned_trajectories,
)


def check_distillation(settings: RunSettings, asked: Collection[str] = ()) -> None:
    """Everything that can be wrong with the settings, before experts are trained for hours.

    Args:
        settings: of the run.
        asked: keys of the settings that the user gave.

    Raises:
        ConfigError: an unknown part, no experts, trajectories too short for the segments, or a setting that was asked
            for and has no effect.
    """
    label_part(settings.distill)
    _check_start(settings.distill)
    check_objective(settings.distill)
    inner_optimizer(settings.distill)
    outer_optimizer(settings.distill)
    _check_lengths(settings)
    wanted = needs(settings.distill)
    _check_student(settings, wanted)
    if "ranking" in wanted:
        check_ranking(settings.experts)
    if wanted & OF_EXPERTS:
        check_experts(settings)
        if "trajectories" in wanted:
            segment_sampler(settings.distill, planned_trajectories(settings), settings.seed)
    check_effect(settings, asked)


def check_searches(settings: RunSettings, architectures: Sequence[str]) -> None:
    """Could recipes of ``architectures`` be searched for on the finished set?

    Raises:
        ConfigError: one is unknown, or no validation images are held out.
    """
    for name in architectures:
        check_architecture(name)
    if architectures and settings.dataset.validation_fraction == 0:
        raise ConfigError(
            "recipes are searched for on validation images, and dataset.validation_fraction=0 holds none out"
        )


def _check_start(settings: DistillSettings) -> None:
    check_init(settings.init)
    if settings.init == ARTIFACT and settings.init_from is None:
        raise ConfigError("distill.init=artifact needs an artifact folder: `distill.init_from=FOLDER`")
    if settings.init == NOISE and labels_ask_experts(settings):
        raise ConfigError(f"distill.labels={settings.labels} asks experts about real images; take distill.init=real")


def _check_student(settings: RunSettings, wanted: frozenset[Need]) -> None:
    pool, student = settings.network.pool, settings.distill.student
    for name in (*pool, *(() if student is None else (student,))):
        parse_architecture(name, settings.network)
    if pool and not settings.distill.outer_steps:
        raise ConfigError("network.pool is of students, and distill.outer_steps=0 has none; leave it out")
    if len(set(pool)) > 1 and settings.distill.gate_norm is not None:
        raise ConfigError(
            "distill.gate_norm compares a step with those before it, and network.pool makes students of several "
            "networks take turns, whose gradients differ in length: `distill.gate_norm=null`"
        )
    if (pool or student is not None) and "trajectories" in wanted:
        raise ConfigError(
            f"{'network.pool' if pool else 'distill.student'} is of students that begin fresh (rat, dsa, dm); those "
            "that are matched with experts have the experts' network, of one parameter shape: leave it out, or change "
            "network.width and the like"
        )


def _check_lengths(settings: RunSettings) -> None:
    if settings.evaluate.lengths and settings.dataset.validation_fraction == 0:
        raise ConfigError(
            "evaluate.lengths are chosen among by validation images, and dataset.validation_fraction=0 holds none out: "
            "`evaluate.lengths=[]`"
        )
    if settings.evaluate.lengths and settings.evaluate.lr_drop_epochs != ():
        raise ConfigError(
            "evaluate.lengths are read on the way of one training, so its lr must not depend on the length: "
            "`evaluate.lr_drop_epochs=[]`"
        )


def needs_experts(settings: RunSettings) -> bool:
    """Whether a part matches experts' trajectories, or asks experts about the initial images or labels."""
    return bool(needs(settings.distill) & OF_EXPERTS)
