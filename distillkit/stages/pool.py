"""Students that take turns, each architecture computed as suits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from distillkit.distill.loop import DistillTask
from distillkit.distill.pooled import Member, Pooled, PooledTask, steps_each
from distillkit.distill.state import EngineChoice, OuterState
from distillkit.networks.functional import FlatNetwork
from distillkit.settings import NetworkSettings
from distillkit.stages.architectures import student, student_pool
from distillkit.stages.context import Prepared, Run

MakeTask = Callable[[NetworkSettings, FlatNetwork, OuterState], tuple[DistillTask, EngineChoice]]
"""The task with students of one architecture, and how they compute."""


def pooled_task(
    run: Run, prepared: Prepared, network: FlatNetwork, state: OuterState, make: MakeTask
) -> tuple[PooledTask, list[EngineChoice]]:
    """The outer steps of a run whose students take turns, and how each computes, in the order of the pool.

    ``network`` is that of the first of them.
    """
    pool, settings = student_pool(run, prepared), run.settings.distill
    made, choices = [], []
    for place, architecture in enumerate(pool):
        own = network if place == 0 else student(run, prepared, architecture)
        view = replace(state, carried=None, forms=[])
        view.decide(state.choice_of(place))
        task, choice = make(architecture, own, view)
        made.append(task)
        choices.append(choice)
    members = tuple(Member(one.objective, own.precision or "fp32") for one, own in zip(made, choices, strict=True))
    return PooledTask(settings, Pooled(members, steps_each(settings)), made[0].optimizer), choices
