"""An objective that takes less memory each time that a GPU's does not hold an outer step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from distillkit.distill.dealt import Dealt
from distillkit.distill.labels import LabelPart
from distillkit.distill.loop import DistillTask
from distillkit.distill.objective import Engine, Objective, Work
from distillkit.distill.recorded import RecordingError, cannot_record
from distillkit.distill.state import OuterState
from distillkit.distill.step_functions import CompiledFunctions, EagerFunctions, InnerLoss
from distillkit.distill.unroll import Hypergradient
from distillkit.stages.context import Run
from distillkit.training.memory import give_back, needed_for

DOES_NOT_FIT = "an outer step does not fit into memory"
ADVICE = "lower distill.batch_size, distill.inner_steps or network.width"


class BackingOff:
    """``objective``, which after ``torch.OutOfMemoryError`` is computed again with half as many kept graphs, with real
    images in smaller pieces, and with its students in turn; and without CUDA graphs where one cannot be recorded.
    ``note`` hears of each, and the state remembers what is kept and whether students run side by side.
    """

    def __init__(self, objective: Objective, device: torch.device, note: Callable[[str], None]) -> None:
        self._objective, self._device, self._note = objective, device, note

    @property
    def labels(self) -> LabelPart:
        """How labels enter the inner loss."""
        return self._objective.labels

    def work(self, size: int) -> Work:
        """Of an outer step."""
        return self._objective.work(size)

    def run_by(self, engine: Engine) -> BackingOff:
        """Computed by ``engine``."""
        return BackingOff(self._objective.run_by(engine), self._device, self._note)

    def gradient(self, state: OuterState, numbers: Sequence[int]) -> Hypergradient:
        """The same numbers, however often it takes.

        Raises:
            ConfigError: nothing is left to be halved.
        """
        while True:
            with needed_for("an outer step", ADVICE):
                try:
                    return self._objective.gradient(state, numbers)
                except torch.OutOfMemoryError:
                    changed = _smaller(self._objective, state)
                    if changed is None:
                        raise
                except (torch.AcceleratorError, RecordingError) as error:
                    changed = _unrecorded(self._objective, error)
                    if changed is None:
                        raise
            before = engine_of(self._objective)
            self._objective, what = changed
            self._note(what)
            give_back(self._device, compiled=before.compiled and engine_of(self._objective).inner is not before.inner)


def backing_off(run: Run, task: DistillTask) -> DistillTask:
    """``task``, that backs off on a GPU."""
    if run.device.type != "cuda":
        return task
    return replace(task, objective=BackingOff(task.objective, run.device, run.progress.note))


def _unrecorded(objective: Objective, error: Exception) -> tuple[Objective, str] | None:
    """The same without CUDA graphs, and why; None if there are none: then it was not their recording that failed."""
    engine = engine_of(objective)
    inner, real = (
        functions.unrecorded() if isinstance(functions, CompiledFunctions) and functions.recorded else functions
        for functions in (engine.inner, engine.real)
    )
    if inner is engine.inner and real is engine.real:
        return None
    return objective.run_by(replace(engine, inner=inner, real=real)), cannot_record(error)


def _smaller(objective: Objective, state: OuterState) -> tuple[Objective, str] | None:
    """The same computed in less memory, and what is done; None if nothing is left."""
    inner: Any = objective.whole if isinstance(objective, Dealt) else objective
    engine, settings = engine_of(objective), inner.settings
    if engine.kept:
        kept = engine.kept // 2
        state.kept = kept
        return objective.run_by(replace(engine, kept=kept)), f"{DOES_NOT_FIT}; keeping the graphs of {kept} steps"
    if getattr(inner, "real", None) is not None and settings.objective == "unroll" and settings.real_piece > 1:
        piece = min(settings.real_piece, settings.real_batch) // 2 or 1
        smaller = replace(inner, settings=settings.model_copy(update={"real_piece": piece}))
        return _inside(objective, smaller), f"{DOES_NOT_FIT}; taking {piece} real images at a time"
    if engine.together and not isinstance(objective, Dealt):  # other processes would not know
        state.together, state.compiled = False, False
        loss = EagerFunctions(InnerLoss(engine.network, objective.labels))
        return objective.run_by(
            replace(engine, inner=loss, together=False, compiled=False)
        ), f"{DOES_NOT_FIT}; taking the students in turn"
    return None


def engine_of(objective: Objective) -> Engine:
    """That which computes ``objective``, dealt to processes or not."""
    inner: Any = objective.whole if isinstance(objective, Dealt) else objective
    engine: Engine = inner.engine
    return engine


def _inside(objective: Objective, inner: Objective) -> Objective:
    return replace(objective, whole=inner) if isinstance(objective, Dealt) else inner
