"""Students that take turns, each architecture in the form of computing that suits it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from distillkit.distill.loop import DistillTask
from distillkit.distill.pooled import Member, Pooled, PooledTask, steps_each
from distillkit.distill.state import OuterState
from distillkit.networks.functional import FlatNetwork
from distillkit.settings import NetworkSettings
from distillkit.stages.architectures import student_pool
from distillkit.stages.context import Prepared, Run

MakeTask = Callable[[NetworkSettings, FlatNetwork, OuterState], DistillTask]
"""The task with students of one architecture, in a form of computing that it writes into the state."""
UNDECIDED: dict[str, Any] = {"compiled": None, "precision": None, "together": None, "kept": None, "agreement": {}}


def pooled_task(run: Run, prepared: Prepared, network: FlatNetwork, state: OuterState, make: MakeTask) -> PooledTask:
    """The outer steps of a run whose students take turns; ``network`` is that of the first of them.

    How each computes is decided once and kept in ``state.forms``, in the order of the pool.
    """
    pool, settings = student_pool(run, prepared), run.settings.distill
    made, forms = [], []
    for place, architecture in enumerate(pool):
        own = network if place == 0 else student(run, prepared, architecture)
        form = state.forms[place] if state.forms else {**UNDECIDED, "agreement": {}}
        view = replace(state, **form, carried=None, forms=[])
        made.append(make(architecture, own, view))
        forms.append({name: getattr(view, name) for name in UNDECIDED})
    state.forms = forms
    state.take_form({name: forms[0][name] for name in ("precision", "compiled", "agreement")})
    members = tuple(Member(one.objective, form["precision"] or "fp32") for one, form in zip(made, forms, strict=True))
    return PooledTask(settings, Pooled(members, steps_each(settings)), made[0].optimizer)


def student(run: Run, prepared: Prepared, architecture: NetworkSettings) -> FlatNetwork:
    """A network of the students as a function, on the device of the run."""
    return FlatNetwork(prepared.build(architecture, 0, "student")(0).to(run.device))
