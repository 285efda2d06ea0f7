"""How a run's students compute: in which precision, compiled or operation by operation, in turn or side by side.

Each is decided once, at the first step: a run that was begun in one way goes on in it, since another would end at
other bytes. Nothing here changes the state; what was chosen is returned with the task, and the caller keeps it.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.distill.loop import DistillTask
from distillkit.distill.state import EngineChoice, OuterState
from distillkit.distill.step_functions import compiling_pays, sweep_flop
from distillkit.networks.functional import FlatNetwork
from distillkit.precision import AGREEMENT, ROUNDING, arithmetic, available, candidates, rounding_share
from distillkit.stages.context import Prepared, Run
from distillkit.stages.engine_trials import Made, Trials, eager_engine, engine_tried, network_in, work_of

LOW_PRECISION_FROM_FLOP = 3e8
"""Work of an inner step from which bfloat16 pays on a CPU: a hundred digits, or three CIFAR images at width 32."""


def choose_engine(
    run: Run, prepared: Prepared, task: DistillTask, network: FlatNetwork, state: OuterState, begun: EngineChoice
) -> Made:
    """``task``, whose engine is an eager float32 one, with the engine that it will run by, and what was chosen.

    Args:
        run: whose students compute.
        prepared: its data.
        task: what an outer step is made of.
        network: of the students, in float32.
        state: the set that is learned, on which engines are tried; it is not changed.
        begun: what the run chose before; what is None in it is chosen now.

    Raises:
        ConfigError: the settings ask for something that cannot be had here.
    """
    if state.step >= task.settings.outer_steps:
        return task, begun
    compiles = _compiles(prepared, task, network, state, begun)
    choice = begun
    if begun.precision is None:
        fused = compiles and _is_large(prepared, network, task, state)
        precision, agreement = _precision(run, task, network, state, fused)
        choice = replace(begun, precision=precision, agreement={**begun.agreement, **agreement})
    formed, found = engine_tried(Trials(run, task, network, state, choice, compiles))
    if begun.precision is None and not found.compiled and not _pays(run, found.precision or "fp32", fused=False):
        run.progress.note("without a compiler float32 is faster than bfloat16; distilling in float32")
        slower = replace(found, precision="fp32", kept=None)
        return engine_tried(Trials(run, task, network, state, slower, False))
    return formed, found


def _pays(run: Run, precision: str, *, fused: bool) -> bool:
    """On a CPU bfloat16 is faster than float32 only in large steps that are compiled: the rounding is fused then."""
    return fused or run.settings.precision != "auto" or run.device.type != "cpu" or precision == "fp32"


def _is_large(prepared: Prepared, network: FlatNetwork, task: DistillTask, state: OuterState) -> bool:
    flop = sweep_flop(network, prepared.image_shape, state.images.device) * work_of(task, state).batch
    return flop >= LOW_PRECISION_FROM_FLOP


def _precision(
    run: Run, task: DistillTask, network: FlatNetwork, state: OuterState, fused: bool
) -> tuple[str, dict[str, float]]:
    """The fastest of those allowed whose hypergradient of the first step agrees with that of float32, or differs from
    it by little, beside what another draw of the step's students changes; and the cosines by precision.
    """
    agreement: dict[str, float] = {}
    asked = run.settings.precision
    allowed = candidates(asked, run.device)
    if not _pays(run, allowed[0], fused=fused) or allowed[0] == "fp32":
        return "fp32", agreement
    if asked not in ("auto", *available(run.device)):
        run.progress.note(f"{asked} is not what this machine computes fast; `precision=auto` would not take it")
    reference = _direction(run, "fp32", task, state)
    for precision in allowed:
        if precision == "fp32":
            break
        engine = eager_engine(network_in(network, precision), task.objective.labels)
        lower = replace(task, objective=task.objective.run_by(engine))
        found = _direction(run, precision, lower, state)
        cosine = float(F.cosine_similarity(found, reference, dim=0))
        if not math.isfinite(cosine):
            run.progress.note(f"{precision} cannot be compared: the first step has no finite gradient")
            if precision == asked:
                return precision, agreement
            continue
        agreement[precision] = cosine
        run.progress.note(f"{precision}: cosine of its hypergradient with that of float32 is {cosine:.5f}")
        if precision == asked or cosine >= AGREEMENT:
            return precision, agreement
        share = rounding_share(found, reference, _direction(run, "fp32", task, state, after=1))
        if share <= ROUNDING:
            run.progress.note(f"{precision} is taken: rounding adds {share:.1%} to the variance between draws")
            return precision, agreement
    run.progress.note(
        f"no faster precision agrees with float32 (cosine {AGREEMENT}, or {ROUNDING:.0%} of the variance between "
        "draws); distilling in float32"
    )
    return "fp32", agreement


def _direction(run: Run, precision: str, task: DistillTask, state: OuterState, after: int = 0) -> Tensor:
    """The hypergradient [n] of the set as it is, float64, by the students of the present outer step or of one that is
    ``after`` it.
    """
    count = task.settings.segments
    first = (state.step + after) * count
    with arithmetic(precision, run.device):
        result = task.objective.gradient(state, range(first, first + count))
    return torch.cat([part.flatten().double() for part in (result.images, result.labels) if part is not None])


def _compiles(
    prepared: Prepared, task: DistillTask, network: FlatNetwork, state: OuterState, begun: EngineChoice
) -> bool:
    """Whether a compiled step is asked for, or pays over the whole run, resumed or not."""
    settings = task.settings
    if begun.compiled is not None:
        return begun.compiled
    if settings.compile != "auto":
        return settings.compile == "always"
    work = work_of(task, state)
    steps = settings.outer_steps * max(1, work.steps) * settings.segments
    return compiling_pays(network, prepared.image_shape, work.batch, steps)
