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

from distillkit.distill.labels import HardLabels, LabelPart
from distillkit.distill.loop import DistillTask, outer_step
from distillkit.distill.objective import Engine, Work
from distillkit.distill.recorded import RecordingError, cannot_record
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
from distillkit.precision import (
    AGREEMENT,
    ROUNDING,
    arithmetic,
    available,
    candidates,
    in_precision,
    rounding_share,
)
from distillkit.settings import DistillSettings
from distillkit.stages.context import Prepared, Run
from distillkit.training.memory import give_back


def eager_engine(network: FlatNetwork, labels: LabelPart) -> Engine:
    """Operation by operation, in the precision of ``network``."""
    return Engine(network, EagerFunctions(InnerLoss(network, labels)), EagerFunctions(InnerLoss(network, HardLabels())))


def settled(run: Run, prepared: Prepared, task: DistillTask, network: FlatNetwork, state: OuterState) -> DistillTask:
    """``task``, whose engine is an eager float32 one, with the engine that it will run by.

    Raises:
        ConfigError: the settings ask for something that cannot be had here.
    """
    if state.step >= task.settings.outer_steps:
        return task
    compiles = _compiles(prepared, task, network, state)
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
    own = _network_in(network, precision)
    with arithmetic(precision, run.device):
        if _work(task, state).steps == 0:
            return _without_sweep(run, task, own, state, compiles)
        return _formed(run, task, own, state, compiles)


def _work(task: DistillTask, state: OuterState) -> Work:
    return task.objective.work(len(state.images))


def _without_sweep(run: Run, task: DistillTask, network: FlatNetwork, state: OuterState, compiles: bool) -> DistillTask:
    """An objective of first order: nothing to keep, and one function of its own to compile.

    Raises:
        ConfigError: it must be compiled, and cannot be.
    """
    eager = eager_engine(network, task.objective.labels)
    state.together, state.kept = False, 0
    maker = _Maker(run, task.settings, state, compiles)
    if compiles:
        compiled = replace(task, objective=task.objective.run_by(replace(eager, compiled=True)))
        try:
            with compiling():
                outer_step(compiled, state)
            state.compiled = True
            return compiled
        except CompileError as error:
            maker.say_why_not(error)
    state.compiled = False
    return replace(task, objective=task.objective.run_by(eager))


LOW_PRECISION_FROM_FLOP = 3e8
"""Work of an inner step from which bfloat16 pays on a CPU: a hundred digits, or three CIFAR images at width 32."""


def _pays(run: Run, precision: str, *, fused: bool) -> bool:
    """On a CPU bfloat16 is faster than float32 only in large steps that are compiled: the rounding is fused then."""
    return fused or run.settings.precision != "auto" or run.device.type != "cpu" or precision == "fp32"


def _is_large(prepared: Prepared, network: FlatNetwork, task: DistillTask, state: OuterState) -> bool:
    flop = sweep_flop(network, prepared.image_shape, state.images.device) * _work(task, state).batch
    return flop >= LOW_PRECISION_FROM_FLOP


def _network_in(network: FlatNetwork, precision: str) -> FlatNetwork:
    return network if precision == "fp32" else FlatNetwork(in_precision(copy.deepcopy(network.module), precision))


def _precision(run: Run, task: DistillTask, network: FlatNetwork, state: OuterState, fused: bool) -> str:
    """The fastest of those allowed whose hypergradient of the first step agrees with that of float32, or differs from
    it by little, beside what another draw of the step's students changes.
    """
    asked = run.settings.precision
    allowed = candidates(asked, run.device)
    if not _pays(run, allowed[0], fused=fused) or allowed[0] == "fp32":
        return "fp32"
    if asked not in ("auto", *available(run.device)):
        run.progress.note(f"{asked} is not what this machine computes fast; `precision=auto` would not take it")
    reference = _direction(run, "fp32", task, state)
    for precision in allowed:
        if precision == "fp32":
            break
        engine = eager_engine(_network_in(network, precision), task.objective.labels)
        lower = replace(task, objective=task.objective.run_by(engine))
        found = _direction(run, precision, lower, state)
        cosine = float(F.cosine_similarity(found, reference, dim=0))
        state.agreement[precision] = cosine
        run.progress.note(f"{precision}: cosine of its hypergradient with that of float32 is {cosine:.5f}")
        if precision == asked or cosine >= AGREEMENT:
            return precision
        share = rounding_share(found, reference, _direction(run, "fp32", task, state, after=1))
        if share <= ROUNDING:
            run.progress.note(f"{precision} is taken: rounding adds {share:.1%} to the variance between draws")
            return precision
    run.progress.note(
        f"no faster precision agrees with float32 (cosine {AGREEMENT}, or {ROUNDING:.0%} of the variance between "
        "draws); distilling in float32"
    )
    return "fp32"


def _direction(run: Run, precision: str, task: DistillTask, state: OuterState, after: int = 0) -> Tensor:
    """The hypergradient [n] of the set as it is, float64, by the students of the present outer step or of one that is
    ``after`` it.
    """
    count = task.settings.segments
    first = (state.step + after) * count
    with arithmetic(precision, run.device):
        result = task.objective.gradient(state, range(first, first + count))
    return torch.cat([part.flatten().double() for part in (result.images, result.labels) if part is not None])


def _formed(run: Run, task: DistillTask, network: FlatNetwork, state: OuterState, compiles: bool) -> DistillTask:
    """In turn or side by side; a GPU whose memory does not hold the students side by side takes them in turn.

    Raises:
        ConfigError: the settings ask for something that cannot be had here.
    """
    settings, work = task.settings, _work(task, state)
    loss = InnerLoss(network, task.objective.labels)
    maker = _Maker(run, settings, state, compiles)

    def engine(inner: StepFunctions, together: bool) -> DistillTask:
        real = InnerLoss(network, HardLabels())
        made = Engine(network, inner, EagerFunctions(real), together, state.kept or 0, bool(state.compiled))
        eager = replace(task, objective=task.objective.run_by(made))
        if not work.real or not state.compiled:
            return eager
        faster = replace(made, real=CompiledFunctions(real, cuda_graphs=maker.records))
        return maker.tried(replace(task, objective=task.objective.run_by(faster)), eager)

    if _side_by_side(settings, work, run.device, state):
        together = TogetherLoss(loss, work.students)
        trial = _trial(task, state, network.size, work.students)
        try:
            functions = maker.functions(together, CompiledFunctions(together, backend=None), trial, work.steps)
            state.together = True
            return engine(functions, True)
        except torch.OutOfMemoryError as error:
            if settings.together == "always":
                raise ConfigError(
                    f"distill.together=always, but {work.students} students do not fit into memory"
                ) from error
            run.progress.note(f"{work.students} students at once do not fit into memory; taking them in turn")
            state.kept = None  # that was of another form
        give_back(run.device, compiled=True)
    state.together = False
    trial, eager = _trial(task, state, network.size, 1), EagerFunctions(loss)
    try:
        return engine(maker.functions(loss, eager, trial, work.steps), False)
    except torch.OutOfMemoryError:
        if not compiles:
            raise
        run.progress.note("the compiled step does not fit into memory; distilling operation by operation")
        state.kept = None
    give_back(run.device, compiled=True)
    return engine(replace(maker, compiles=False).functions(loss, eager, trial, work.steps), False)


def _side_by_side(settings: DistillSettings, work: Work, device: torch.device, state: OuterState) -> bool:
    if state.together is not None:
        return state.together
    wanted = settings.together == "always" or (settings.together == "auto" and device.type == "cuda")
    return wanted and work.students > 1


def _compiles(prepared: Prepared, task: DistillTask, network: FlatNetwork, state: OuterState) -> bool:
    """Whether a compiled step is asked for, or pays over the whole run, resumed or not."""
    settings = task.settings
    if state.compiled is not None:
        return state.compiled
    if settings.compile != "auto":
        return settings.compile == "always"
    work = _work(task, state)
    steps = settings.outer_steps * max(1, work.steps) * settings.segments
    return compiling_pays(network, prepared.image_shape, work.batch, steps)


CALLS_UNTIL_RECORDED = 2
"""A CUDA graph warms up at the first call of a function and is recorded at the second."""
DEFAULT_KEPT = 1.0
"""GiB for kept graphs on a CPU: a fixed number, so that a run repeats to the byte."""
Trial = tuple[int, Tensor, Tensor, Wanted]
"""What step functions are tried with: the number of parameters, a batch and its labels, which derivatives."""


def _trial(task: DistillTask, state: OuterState, size: int, count: int) -> Trial:
    work = _work(task, state)
    seen, labels = (part[: work.batch].repeat(count, *[1] * (part.ndim - 1)) for part in (state.images, state.labels))
    return count * size, seen, labels, Wanted(task.objective.labels.learned, work.theta)


@dataclass(frozen=True)
class _Maker:
    """Makes step functions, compiled if ``compiles``."""

    run: Run
    settings: DistillSettings
    state: OuterState
    compiles: bool

    def functions(self, loss: FunctionalLoss, eager: StepFunctions, trial: Trial, steps: int) -> StepFunctions:
        """Of ``steps`` steps. Compiled; or ``eager``, with a line that says why where compiling does not work.

        Raises:
            ConfigError: it must be compiled, and cannot be.
            OutOfMemoryError: it does not fit.
        """
        if not self.compiles:
            return self._eager(loss, eager, trial, steps)
        note = self.run.progress.note
        note("compiling the student's step (a minute or two the first time; the compiler keeps a cache)")
        compiled = CompiledFunctions(loss, cuda_graphs=self.records)
        try:
            return self._compiled(compiled, trial, steps)
        except CompileError as error:
            self.say_why_not(error)
            return self._eager(loss, eager, trial, steps)
        except RecordingError as error:
            note(cannot_record(error))
            return self._compiled(compiled.unrecorded(), trial, steps)

    def _compiled(self, compiled: CompiledFunctions, trial: Trial, steps: int) -> StepFunctions:
        """``compiled``, after the calls in which it is compiled and recorded.

        Raises:
            CompileError: it cannot be compiled.
            RecordingError: it cannot be recorded.
            OutOfMemoryError: it does not fit.
        """
        if compiled.recorded:  # which is replayed in place: nothing of it can be kept
            kept = 0
        else:
            with compiling():
                kept = self._keepable(compiled, 1, trial, steps)
        if kept < steps:
            for _ in range(CALLS_UNTIL_RECORDED if compiled.recorded else 1):
                try_functions(compiled, *trial)
        self.state.compiled, self.state.kept = True, kept
        return compiled

    @property
    def records(self) -> bool:
        """Whether compiled functions are recorded as CUDA graphs."""
        return self.settings.cuda_graphs and self.run.device.type == "cuda"

    def tried(self, task: DistillTask, otherwise: DistillTask) -> DistillTask:
        """``task`` after an outer step, in which the loss on real images is compiled; ``otherwise`` if it cannot be."""
        try:
            with compiling():
                for _ in range(CALLS_UNTIL_RECORDED if self.records else 1):
                    outer_step(task, self.state)
        except CompileError as error:
            self.run.progress.note(f"the loss on real images cannot be compiled here ({error}); it is computed eagerly")
            return otherwise
        except RecordingError as error:
            self.run.progress.note(cannot_record(error))
            return otherwise
        return task

    def say_why_not(self, error: CompileError) -> None:
        """Compiling does not work; the run goes on without, unless it must not.

        Raises:
            ConfigError: it must.
        """
        self._refuse_if_it_must(error)
        self.run.progress.note(f"the student's step cannot be compiled here ({error}); distilling eagerly")

    def _eager(self, loss: FunctionalLoss, eager: StepFunctions, trial: Trial, steps: int) -> StepFunctions:
        """Operation by operation."""
        self.state.compiled = False
        one, count = (loss.loss, loss.count) if isinstance(loss, TogetherLoss) else (loss, 1)
        self.state.kept = self._keepable(EagerFunctions(one), count, trial, steps)
        if isinstance(loss, TogetherLoss):
            try_functions(eager, *trial)  # does it fit?
        return eager

    def _keepable(self, functions: StepFunctions, count: int, trial: Trial, steps: int) -> int:
        """How many of ``steps`` steps' graphs the memory holds: they are kept instead of being made anew.

        ``functions`` are those of one of ``count`` students. As told before, in a run that goes on.
        """
        size, seen, labels, wanted = trial
        part = slice(len(seen) // count)
        if self.state.kept == 0 or self.settings.keep_gib == 0:
            return 0
        try:
            held = count * trace_bytes(functions, size // count, seen[part], labels[part], wanted)
        except torch.OutOfMemoryError:
            return 0
        fitting = min(steps, int(self._memory() / max(1, held)))
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
                "begin anew with `replace=True` and `distill.compile=never`"
            ) from error
        if self.settings.compile == "always":
            raise ConfigError(
                f"distill.compile=always, but the student's step cannot be compiled here: {error}"
            ) from error
