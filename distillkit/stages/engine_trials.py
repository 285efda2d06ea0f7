"""Trying how students can compute here: compiled or operation by operation, in turn or side by side, what is kept."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillkit.distill.labels import HardLabels, LabelPart
from distillkit.distill.loop import DistillTask, outer_step
from distillkit.distill.objective import Engine, Work
from distillkit.distill.recorded import RecordingError, cannot_record
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
    trace_bytes,
    try_functions,
)
from distillkit.errors import ConfigError
from distillkit.networks.functional import FlatNetwork
from distillkit.precision import arithmetic, in_precision
from distillkit.stages.context import Run
from distillkit.training.memory import give_back

CALLS_UNTIL_RECORDED = 2
"""A CUDA graph warms up at the first call of a function and is recorded at the second."""
DEFAULT_KEPT = 1.0
"""GiB for kept graphs on a CPU: a fixed number, so that a run repeats to the byte."""
Trial = tuple[int, Tensor, Tensor, Wanted]
"""What step functions are tried with: the number of parameters, a batch and its labels, which derivatives."""
Made = tuple[DistillTask, EngineChoice]
"""A task with an engine that was tried, and what was chosen for it."""


def eager_engine(network: FlatNetwork, labels: LabelPart) -> Engine:
    """Operation by operation, in the precision of ``network``."""
    return Engine(network, EagerFunctions(InnerLoss(network, labels)), EagerFunctions(InnerLoss(network, HardLabels())))


def work_of(task: DistillTask, state: OuterState) -> Work:
    """Of an outer step of ``task`` on the set of ``state``."""
    return task.objective.work(len(state.images))


def network_in(network: FlatNetwork, precision: str) -> FlatNetwork:
    """``network``, which is in float32, or a copy that computes in ``precision``."""
    return network if precision == "fp32" else FlatNetwork(in_precision(copy.deepcopy(network.module), precision))


def engine_tried(trials: Trials) -> Made:
    """With an engine in the precision of the choice, tried in that arithmetic.

    Raises:
        ConfigError: the settings ask for something that cannot be had here.
    """
    precision = trials.begun.precision or "fp32"
    own = replace(trials, network=network_in(trials.network, precision))
    with arithmetic(precision, trials.run.device):
        return own.without_sweep() if own.work.steps == 0 else own.unrolled()


@dataclass(frozen=True)
class Trials:
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
        return work_of(self.task, self.state)

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
        except RecordingError as error:
            self.run.progress.note(cannot_record(error))
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
        compiled = CompiledFunctions(loss, cuda_graphs=self._records)
        try:
            return self._compiled(compiled, trial)
        except CompileError as error:
            self._say_why_not(error)
            return self._eager(loss, eager, trial)
        except RecordingError as error:
            self.run.progress.note(cannot_record(error))
            return self._compiled(compiled.unrecorded(), trial)

    def _compiled(self, compiled: CompiledFunctions, trial: Trial) -> tuple[StepFunctions, EngineChoice]:
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
                kept = self._keepable(compiled, 1, trial)
        if kept < self.work.steps:
            for _ in range(CALLS_UNTIL_RECORDED if compiled.recorded else 1):
                try_functions(compiled, *trial)
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
