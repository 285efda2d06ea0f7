"""How a run's students compute: in which precision, compiled or operation by operation, in turn or side by side.

Each is decided once, at the first step, and kept in the state: a run that was begun in one way goes on in it, since
another would end at other bytes.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.distill.loop import DistillTask, outer_step
from distillkit.distill.state import OuterState
from distillkit.distill.step_functions import (
    CompiledFunctions,
    CompileError,
    EagerFunctions,
    FunctionalLoss,
    InnerLoss,
    StepFunctions,
    TogetherLoss,
    Wanted,
    compiling,
    compiling_pays,
    sweep_flop,
    trace_bytes,
    try_functions,
)
from distillkit.errors import ConfigError
from distillkit.networks.functional import FlatNetwork
from distillkit.precision import AGREEMENT, arithmetic, available, candidates, in_precision
from distillkit.settings import DistillSettings
from distillkit.stages.context import Prepared, Run


def settled(run: Run, prepared: Prepared, task: DistillTask, network: FlatNetwork, state: OuterState) -> DistillTask:
    """``task``, whose functions are eager float32 ones, with the functions that it will run with.

    Raises:
        ConfigError: the settings ask for something that cannot be had here.
    """
    if state.step >= task.settings.outer_steps:
        return task
    compiles = _compiles(prepared, task.settings, network, state)
    chosen_now = state.precision is None
    if state.precision is None:
        fused = compiles and _is_large(prepared, network, task, state)
        state.precision = _precision(run, task, network, state, fused)
    formed = _in_form(run, task, network, state, compiles)
    if chosen_now and not state.compiled and not _pays(run, state.precision, fused=False):
        run.progress.note("without a compiler float32 is faster than bfloat16; distilling in float32")
        state.precision, state.kept = "fp32", None
        formed = _in_form(run, task, network, state, False)
    return formed


def _in_form(run: Run, task: DistillTask, network: FlatNetwork, state: OuterState, compiles: bool) -> DistillTask:
    precision = state.precision or "fp32"
    loss = InnerLoss(_network_in(network, precision), task.labels)
    with arithmetic(precision, run.device):
        return _formed(run, task, loss, state, compiles)


LOW_PRECISION_FROM_FLOP = 3e8
"""Work of an inner step from which bfloat16 pays on a CPU: a hundred digits, or three CIFAR images at width 32."""


def _pays(run: Run, precision: str, *, fused: bool) -> bool:
    """On a CPU bfloat16 is faster than float32 only in large steps that are compiled: the rounding is fused then."""
    return fused or run.settings.precision != "auto" or run.device.type != "cpu" or precision == "fp32"


def _is_large(prepared: Prepared, network: FlatNetwork, task: DistillTask, state: OuterState) -> bool:
    batch = min(task.settings.batch_size or len(state.images), len(state.images))
    flop = sweep_flop(network, prepared.image_shape, state.images.device) * batch
    return flop >= LOW_PRECISION_FROM_FLOP


def _network_in(network: FlatNetwork, precision: str) -> FlatNetwork:
    return network if precision == "fp32" else FlatNetwork(in_precision(copy.deepcopy(network.module), precision))


def _precision(run: Run, task: DistillTask, network: FlatNetwork, state: OuterState, fused: bool) -> str:
    """The fastest of those allowed whose hypergradient of the first step agrees with that of float32."""
    asked = run.settings.precision
    allowed = candidates(asked, run.device)
    if not _pays(run, allowed[0], fused=fused) or allowed[0] == "fp32":
        return "fp32"
    if asked not in ("auto", *available(run.device)):
        run.progress.note(f"{asked} is not what this machine computes fast; --precision auto would not take it")
    reference = _direction(run, "fp32", task, state)
    for precision in allowed:
        if precision == "fp32":
            break
        lower = replace(task, functions=EagerFunctions(InnerLoss(_network_in(network, precision), task.labels)))
        cosine = float(F.cosine_similarity(_direction(run, precision, lower, state), reference, dim=0))
        state.agreement[precision] = cosine
        run.progress.note(f"{precision}: cosine of its hypergradient with that of float32 is {cosine:.5f}")
        if precision == asked or cosine >= AGREEMENT:
            return precision
    run.progress.note(f"no faster precision agrees with float32 to {AGREEMENT}; distilling in float32")
    return "fp32"


def _direction(run: Run, precision: str, task: DistillTask, state: OuterState) -> Tensor:
    with arithmetic(precision, run.device):
        result = outer_step(task, state)
    return torch.cat([part.flatten().double() for part in (result.images, result.labels) if part is not None])


def _formed(run: Run, task: DistillTask, loss: InnerLoss, state: OuterState, compiles: bool) -> DistillTask:
    """In turn or side by side; a GPU whose memory does not hold the students side by side takes them in turn.

    Raises:
        ConfigError: the settings ask for something that cannot be had here.
    """
    settings, count = task.settings, task.settings.segments
    maker = _Maker(run, settings, state, compiles)
    if _side_by_side(settings, run.device, state):
        together = TogetherLoss(loss, count)
        trial = _trial(task, state, loss.network.size, count)
        try:
            functions = maker.functions(together, CompiledFunctions(together, backend=None), trial)
            state.together = True
            return replace(task, functions=functions, together=True, kept=state.kept or 0)
        except torch.OutOfMemoryError as error:
            if settings.together == "always":
                raise ConfigError(f"distill.together=always, but {count} students do not fit into memory") from error
            run.progress.note(f"{count} students at once do not fit into memory; taking them in turn")
            state.kept = None  # that was of another form
    state.together = False
    functions = maker.functions(loss, EagerFunctions(loss), _trial(task, state, loss.network.size, 1))
    return replace(task, functions=functions, kept=state.kept or 0)


def _side_by_side(settings: DistillSettings, device: torch.device, state: OuterState) -> bool:
    if state.together is not None:
        return state.together
    wanted = settings.together == "always" or (settings.together == "auto" and device.type == "cuda")
    return wanted and settings.segments > 1


def _compiles(prepared: Prepared, settings: DistillSettings, network: FlatNetwork, state: OuterState) -> bool:
    """Whether a compiled step is asked for, or pays over the whole run, resumed or not."""
    if state.compiled is not None:
        return state.compiled
    if settings.compile != "auto":
        return settings.compile == "always"
    steps = settings.outer_steps * settings.inner_steps * settings.segments
    batch = min(settings.batch_size or len(state.images), len(state.images))
    return compiling_pays(network, prepared.image_shape, batch, steps)


CALLS_UNTIL_RECORDED = 2
"""A CUDA graph warms up at the first call of a function and is recorded at the second."""
DEFAULT_KEPT = 1.0
"""GiB for kept graphs on a CPU: a fixed number, so that a run repeats to the byte."""
Trial = tuple[int, Tensor, Tensor, Wanted]
"""What step functions are tried with: the number of parameters, a batch and its labels, which derivatives."""


def _trial(task: DistillTask, state: OuterState, size: int, count: int) -> Trial:
    batch = min(task.settings.batch_size or len(state.images), len(state.images))
    seen, labels = (part[:batch].repeat(count, *[1] * (part.ndim - 1)) for part in (state.images, state.labels))
    return count * size, seen, labels, Wanted(task.labels.learned, task.settings.hypergradient == "exact")


@dataclass(frozen=True)
class _Maker:
    """Makes step functions, compiled if ``compiles``."""

    run: Run
    settings: DistillSettings
    state: OuterState
    compiles: bool

    def functions(self, loss: FunctionalLoss, eager: StepFunctions, trial: Trial) -> StepFunctions:
        """Compiled; or ``eager``, with a line that says why where compiling does not work.

        Raises:
            ConfigError: it must be compiled, and cannot be.
            OutOfMemoryError: it does not fit.
        """
        if not self.compiles:
            return self._eager(loss, eager, trial)
        note = self.run.progress.note
        note("compiling the student's step (a minute or two the first time; the compiler keeps a cache)")
        graphs = self.settings.cuda_graphs and self.run.device.type == "cuda"
        compiled = CompiledFunctions(loss, cuda_graphs=graphs)
        try:
            if graphs:  # which are replayed in place: nothing of them can be kept
                kept = 0
            else:
                with compiling():
                    kept = self._keepable(compiled, 1, trial)
            if kept < self.settings.inner_steps:
                for _ in range(CALLS_UNTIL_RECORDED if graphs else 1):
                    try_functions(compiled, *trial)
        except CompileError as error:
            self._refuse_if_it_must(error)
            note(f"the student's step cannot be compiled here ({error}); distilling eagerly")
            return self._eager(loss, eager, trial)
        self.state.compiled, self.state.kept = True, kept
        return compiled

    def _eager(self, loss: FunctionalLoss, eager: StepFunctions, trial: Trial) -> StepFunctions:
        """Operation by operation."""
        self.state.compiled = False
        one, count = (loss.loss, loss.count) if isinstance(loss, TogetherLoss) else (loss, 1)
        self.state.kept = self._keepable(EagerFunctions(one), count, trial)
        if isinstance(loss, TogetherLoss):
            try_functions(eager, *trial)  # does it fit?
        return eager

    def _keepable(self, functions: StepFunctions, count: int, trial: Trial) -> int:
        """Inner steps whose graphs the memory holds: that many are kept instead of being made anew, which saves time.

        ``functions`` are those of one of ``count`` students. As told before, in a run that goes on.
        """
        size, seen, labels, wanted = trial
        part = slice(len(seen) // count)
        if self.state.kept == 0 or self.settings.keep_gib == 0:
            return 0
        held = count * trace_bytes(functions, size // count, seen[part], labels[part], wanted)
        fitting = min(self.settings.inner_steps, int(self._memory() / max(1, held)))
        return fitting if self.state.kept is None else self.state.kept

    def _memory(self) -> float:
        """Bytes that kept graphs may fill."""
        if self.settings.keep_gib is not None:
            return self.settings.keep_gib * 2**30
        if self.run.device.type == "cuda":
            return torch.cuda.mem_get_info(self.run.device)[0] / 2
        return DEFAULT_KEPT * 2**30

    def _refuse_if_it_must(self, error: CompileError) -> None:
        if self.state.compiled:
            raise ConfigError(
                f"this run was begun with a compiled step, which cannot be compiled here now: {error}; mend that, or "
                "begin anew with --yes --set distill.compile=never"
            ) from error
        if self.settings.compile == "always":
            raise ConfigError(
                f"distill.compile=always, but the student's step cannot be compiled here: {error}"
            ) from error
