"""How a run's students compute: in which precision, compiled or operation by operation, in turn or side by side.

Each is decided once, at the first step, and kept in the state: a run that was begun in one way goes on in it, since
another would end at other bytes.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.distill.loop import DistillTask, outer_step
from distillkit.distill.state import OuterState
from distillkit.distill.step_functions import (
    CompiledFunctions,
    CompileError,
    EagerFunctions,
    InnerLoss,
    StepFunctions,
    TogetherLoss,
    Wanted,
    compiling_pays,
    try_functions,
)
from distillkit.errors import ConfigError
from distillkit.networks.functional import FlatNetwork
from distillkit.precision import AGREEMENT, candidates, in_precision, set_arithmetic
from distillkit.stages.context import Prepared, Run


def settled(run: Run, prepared: Prepared, task: DistillTask, network: FlatNetwork, state: OuterState) -> DistillTask:
    """``task``, whose functions are eager float32 ones, with the functions that it will run with.

    Raises:
        ConfigError: the settings ask for something that cannot be had here.
    """
    if state.step >= task.settings.outer_steps:
        return task
    if state.precision is None:
        state.precision = _precision(run, task, network, state)
    set_arithmetic(state.precision, run.device)
    loss = InnerLoss(_network_in(network, state.precision), task.labels)
    return _formed(run, prepared, task, loss, state)


def _network_in(network: FlatNetwork, precision: str) -> FlatNetwork:
    return network if precision == "fp32" else FlatNetwork(in_precision(copy.deepcopy(network.module), precision))


def _precision(run: Run, task: DistillTask, network: FlatNetwork, state: OuterState) -> str:
    """The fastest of those allowed whose hypergradient of the first step agrees with that of float32."""
    asked = run.settings.precision
    allowed = candidates(asked, run.device)
    if allowed[0] == "fp32":
        return "fp32"
    set_arithmetic("fp32", run.device)
    reference = _direction(task, state)
    for precision in allowed:
        if precision == "fp32":
            break
        set_arithmetic(precision, run.device)
        lower = replace(task, functions=EagerFunctions(InnerLoss(_network_in(network, precision), task.labels)))
        cosine = float(F.cosine_similarity(_direction(lower, state), reference, dim=0))
        state.agreement[precision] = cosine
        run.progress.note(f"{precision}: cosine of its hypergradient with that of float32 is {cosine:.5f}")
        if precision == asked or cosine >= AGREEMENT:
            return precision
    run.progress.note(f"no faster precision agrees with float32 to {AGREEMENT}; distilling in float32")
    return "fp32"


def _direction(task: DistillTask, state: OuterState) -> Tensor:
    result = outer_step(task, state)
    return torch.cat([part.flatten().double() for part in (result.images, result.labels) if part is not None])


def _formed(run: Run, prepared: Prepared, task: DistillTask, loss: InnerLoss, state: OuterState) -> DistillTask:
    """In turn or side by side; a GPU whose memory does not hold the students side by side takes them in turn."""
    settings, size = task.settings, loss.network.size
    if settings.segments > 1 and (
        settings.together == "always" or (settings.together == "auto" and run.device.type == "cuda")
    ):
        together = TogetherLoss(loss, settings.segments)
        fallback = CompiledFunctions(together, backend=None)
        try:
            functions = _functions(run, prepared, task, together, settings.segments * size, state, fallback)
            return replace(task, functions=functions, together=True)
        except torch.OutOfMemoryError:
            run.progress.note(f"{settings.segments} students at once do not fit into memory; taking them in turn")
    return replace(task, functions=_functions(run, prepared, task, loss, size, state, EagerFunctions(loss)))


def _functions(
    run: Run,
    prepared: Prepared,
    task: DistillTask,
    loss: InnerLoss | TogetherLoss,
    size: int,
    state: OuterState,
    eager: StepFunctions,
) -> StepFunctions:
    """Compiled, if the settings say so or it pays; ``eager``, with a line that says why, where it does not work.

    Raises:
        ConfigError: it must be compiled, and cannot be.
        OutOfMemoryError: it does not fit.
    """
    settings, count = task.settings, loss.count if isinstance(loss, TogetherLoss) else 1
    network = loss.loss.network if isinstance(loss, TogetherLoss) else loss.network
    batch = min(settings.batch_size or len(state.images), len(state.images))
    seen, labels = (part[:batch].repeat(count, *[1] * (part.ndim - 1)) for part in (state.images, state.labels))
    wanted = Wanted(task.labels.learned, settings.hypergradient == "exact")
    total = settings.outer_steps * settings.inner_steps * settings.segments  # of the whole run, resumed or not
    pays = compiling_pays(network, prepared.image_shape, batch, total)
    if settings.compile == "never" or (settings.compile == "auto" and not pays) or state.compiled is False:
        if count > 1:
            try_functions(eager, size, seen, labels, wanted)
        state.compiled = False
        return eager
    run.progress.note("compiling the student's step (a minute or two the first time; the compiler keeps a cache)")
    compiled = CompiledFunctions(loss, cuda_graphs=settings.cuda_graphs and run.device.type == "cuda")
    try:
        try_functions(compiled, size, seen, labels, wanted)
    except CompileError as error:
        if state.compiled:
            raise ConfigError(
                f"this run was begun with a compiled step, which cannot be compiled here now: {error}; mend that, or "
                "begin anew with --yes --set distill.compile=never"
            ) from error
        if settings.compile == "always":
            raise ConfigError(
                f"distill.compile=always, but the student's step cannot be compiled here: {error}"
            ) from error
        run.progress.note(f"the student's step cannot be compiled here ({error}); distilling eagerly")
        state.compiled = False
        return eager
    state.compiled = True
    return compiled
