"""How a run's students compute: in which precision, compiled or operation by operation, in turn or side by side.

Each is decided once, at the first step: a run that was begun in one way goes on in it, since another would end at
other bytes. Nothing here changes the state; what was chosen is returned with the task, and the caller keeps it.
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
from distillkit.distill.state import EngineChoice, OuterState
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
from distillkit.stages.context import Prepared, Run
from distillkit.training.memory import give_back


def eager_engine(network: FlatNetwork, labels: LabelPart) -> Engine:
    """Operation by operation, in the precision of ``network``."""
    return Engine(network, EagerFunctions(InnerLoss(network, labels)), EagerFunctions(InnerLoss(network, HardLabels())))


def choose_engine(
    run: Run, prepared: Prepared, task: DistillTask, network: FlatNetwork, state: OuterState, begun: EngineChoice
) -> tuple[DistillTask, EngineChoice]:
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
    formed, found = _engine_tried(_Trials(run, task, network, state, choice, compiles))
    if begun.precision is None and not found.compiled and not _pays(run, found.precision or "fp32", fused=False):
        run.progress.note("without a compiler float32 is faster than bfloat16; distilling in float32")
        slower = replace(found, precision="fp32", kept=None)
        return _engine_tried(_Trials(run, task, network, state, slower, False))
    return formed, found


def _work(task: DistillTask, state: OuterState) -> Work:
    return task.objective.work(len(state.images))


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
        engine = eager_engine(_network_in(network, precision), task.objective.labels)
        lower = replace(task, objective=task.objective.run_by(engine))
        found = _direction(run, precision, lower, state)
        cosine = float(F.cosine_similarity(found, reference, dim=0))
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
    work = _work(task, state)
    steps = settings.outer_steps * max(1, work.steps) * settings.segments
    return compiling_pays(network, prepared.image_shape, work.batch, steps)


CALLS_UNTIL_RECORDED = 2
"""A CUDA graph warms up at the first call of a function and is recorded at the second."""
DEFAULT_KEPT = 1.0
"""GiB for kept graphs on a CPU: a fixed number, so that a run repeats to the byte."""
Trial = tuple[int, Tensor, Tensor, Wanted]
"""What step functions are tried with: the number of parameters, a batch and its labels, which derivatives."""
Made = tuple[DistillTask, EngineChoice]
"""A task with an engine that was tried, and what was chosen for it."""


def _engine_tried(trials: _Trials) -> Made:
    """With an engine in the precision of the choice, tried in that arithmetic.

    Raises:
        ConfigError: the settings ask for something that cannot be had here.
    """
    precision = trials.begun.precision or "fp32"
    own = replace(trials, network=_network_in(trials.network, precision))
    with arithmetic(precision, trials.run.device):
        return own.without_sweep() if own.work.steps == 0 else own.unrolled()


@dataclass(frozen=True)
class _Trials:
    """Tries engines for ``task``, compiled if ``compiles``, on the set of ``state``, and takes the first that works.

    ``begun`` is what the run has chosen before, and its precision, which is that of ``network``.
    """

    run: Run
    task: DistillTask
    network: FlatNetwork
    state: OuterState
    begun: EngineChoice
    compiles: bool

    @property
    def work(self) -> Work:
        """Of an outer step."""
        return _work(self.task, self.state)

    def without_sweep(self) -> Made:
        """An objective of first order: nothing to keep, and one function of its own to compile.

        Raises:
            ConfigError: it must be compiled, and cannot be.
        """
        eager = eager_engine(self.network, self.task.objective.labels)
        choice = replace(self.begun, together=False, kept=0)
        if self.compiles:
            compiled = self._run_by(replace(eager, compiled=True))
            try:
                with compiling():
                    outer_step(compiled, self.state)
                return compiled, replace(choice, compiled=True)
            except CompileError as error:
                self._say_why_not(error)
        return self._run_by(eager), replace(choice, compiled=False)

    def unrolled(self) -> Made:
        """In turn or side by side; a GPU whose memory does not hold the students side by side takes them in turn.

        Raises:
            ConfigError: the settings ask for something that cannot be had here.
        """
        if not self._side_by_side():
            return self._in_turn()
        try:
            return self._together()
        except torch.OutOfMemoryError as error:
            students = self.work.students
            if self.task.settings.together == "always":
                raise ConfigError(f"distill.together=always, but {students} students do not fit into memory") from error
            self.run.progress.note(f"{students} students at once do not fit into memory; taking them in turn")
        give_back(self.run.device, compiled=True)
        return replace(self, begun=replace(self.begun, kept=None))._in_turn()  # what was kept was of all

    def _side_by_side(self) -> bool:
        if self.begun.together is not None:
            return self.begun.together
        asked = self.task.settings.together
        return (asked == "always" or (asked == "auto" and self.run.device.type == "cuda")) and self.work.students > 1

    def _together(self) -> Made:
        """With all students of an outer step as one.

        Raises:
            OutOfMemoryError: they do not fit.
        """
        loss = TogetherLoss(self._loss(), self.work.students)
        own = replace(self, begun=replace(self.begun, together=True))
        return own._with_engine(*own._functions(loss, CompiledFunctions(loss, backend=None), own._trial(loss.count)))

    def _in_turn(self) -> Made:
        """With one student after the other; operation by operation if a compiled step does not fit into memory."""
        loss, own = self._loss(), replace(self, begun=replace(self.begun, together=False))
        try:
            return own._with_engine(*own._functions(loss, EagerFunctions(loss), own._trial(1)))
        except torch.OutOfMemoryError:
            if not self.compiles:
                raise
            self.run.progress.note("the compiled step does not fit into memory; distilling operation by operation")
        give_back(self.run.device, compiled=True)
        return replace(own, compiles=False, begun=replace(own.begun, kept=None))._in_turn()

    def _loss(self) -> InnerLoss:
        return InnerLoss(self.network, self.task.objective.labels)

    def _run_by(self, engine: Engine) -> DistillTask:
        return replace(self.task, objective=self.task.objective.run_by(engine))

    def _with_engine(self, inner: StepFunctions, choice: EngineChoice) -> Made:
        """The task with these functions, and with a compiled loss on real images where it can be compiled too."""
        real = InnerLoss(self.network, HardLabels())
        eager = EagerFunctions(real)
        made = Engine(self.network, inner, eager, bool(choice.together), choice.kept or 0, bool(choice.compiled))
        task = self._run_by(made)
        if self.work.real and choice.compiled:
            faster = replace(made, real=CompiledFunctions(real, cuda_graphs=self._records))
            task = self._tried(self._run_by(faster), task)
        return task, choice

    def _tried(self, task: DistillTask, otherwise: DistillTask) -> DistillTask:
        """``task`` after an outer step, in which the loss on real images is compiled; ``otherwise`` if it cannot be."""
        try:
            with compiling():
                for _ in range(CALLS_UNTIL_RECORDED if self._records else 1):
                    outer_step(task, self.state)
        except CompileError as error:
            self.run.progress.note(f"the loss on real images cannot be compiled here ({error}); it is computed eagerly")
            return otherwise
        return task

    def _trial(self, count: int) -> Trial:
        parts = (self.state.images, self.state.labels)
        seen, labels = (part[: self.work.batch].repeat(count, *[1] * (part.ndim - 1)) for part in parts)
        return count * self.network.size, seen, labels, Wanted(self.task.objective.labels.learned, self.work.theta)

    @property
    def _records(self) -> bool:
        """Whether compiled functions are recorded as CUDA graphs."""
        return self.task.settings.cuda_graphs and self.run.device.type == "cuda"

    def _functions(
        self, loss: FunctionalLoss, eager: StepFunctions, trial: Trial
    ) -> tuple[StepFunctions, EngineChoice]:
        """Compiled; or ``eager``, with a line that says why where compiling does not work.

        Raises:
            ConfigError: it must be compiled, and cannot be.
            OutOfMemoryError: it does not fit.
        """
        if not self.compiles:
            return self._eager(loss, eager, trial)
        self.run.progress.note(
            "compiling the student's step (a minute or two the first time; the compiler keeps a cache)"
        )
        graphs = self._records
        compiled = CompiledFunctions(loss, cuda_graphs=graphs)
        try:
            if graphs:  # which are replayed in place: nothing of them can be kept
                kept = 0
            else:
                with compiling():
                    kept = self._keepable(compiled, 1, trial)
            if kept < self.work.steps:
                for _ in range(CALLS_UNTIL_RECORDED if graphs else 1):
                    try_functions(compiled, *trial)
        except CompileError as error:
            self._say_why_not(error)
            return self._eager(loss, eager, trial)
        return compiled, replace(self.begun, compiled=True, kept=kept)

    def _eager(self, loss: FunctionalLoss, eager: StepFunctions, trial: Trial) -> tuple[StepFunctions, EngineChoice]:
        """Operation by operation."""
        one, count = (loss.loss, loss.count) if isinstance(loss, TogetherLoss) else (loss, 1)
        kept = self._keepable(EagerFunctions(one), count, trial)
        if isinstance(loss, TogetherLoss):
            try_functions(eager, *trial)  # does it fit?
        return eager, replace(self.begun, compiled=False, kept=kept)

    def _keepable(self, functions: StepFunctions, count: int, trial: Trial) -> int:
        """How many steps' graphs the memory holds: they are kept instead of being made anew.

        ``functions`` compute one of ``count`` students. A run that goes on keeps as many as before.
        """
        size, seen, labels, wanted = trial
        part = slice(len(seen) // count)
        if self.begun.kept == 0 or self.task.settings.keep_gib == 0:
            return 0
        try:
            held = count * trace_bytes(functions, size // count, seen[part], labels[part], wanted)
        except torch.OutOfMemoryError:
            return 0
        fitting = min(self.work.steps, int(self._memory() / max(1, held)))
        return fitting if self.begun.kept is None else self.begun.kept

    def _memory(self) -> float:
        """Bytes that kept graphs may fill."""
        if self.task.settings.keep_gib is not None:
            return self.task.settings.keep_gib * 2**30
        if self.run.device.type == "cuda":
            return torch.cuda.mem_get_info(self.run.device)[0] / 2
        return DEFAULT_KEPT * 2**30

    def _say_why_not(self, error: CompileError) -> None:
        """Compiling does not work; the run goes on without, unless it must not.

        Raises:
            ConfigError: it must.
        """
        if self.begun.compiled:
            raise ConfigError(
                f"this run was begun with a compiled step, which cannot be compiled here now: {error}; mend that, or "
                "begin anew with `replace=True` and `distill.compile=never`"
            ) from error
        if self.task.settings.compile == "always":
            raise ConfigError(
                f"distill.compile=always, but the student's step cannot be compiled here: {error}"
            ) from error
        self.run.progress.note(f"the student's step cannot be compiled here ({error}); distilling eagerly")
