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
from distillkit.distill.state import OuterState
from distillkit.distill.step_functions import EagerFunctions, InnerLoss
from distillkit.distill.unroll import Hypergradient
from distillkit.stages.context import Run
from distillkit.training.memory import give_back, needed_for

ADVICE = "lower distill.batch_size, distill.inner_steps or network.width"


class BackingOff:
    """``objective``, which after ``torch.OutOfMemoryError`` is computed again with half as many kept graphs, with real
    images in smaller pieces, and with its students in turn; ``note`` hears of each. The state remembers it.
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
                    smaller = _smaller(self._objective, state)
                    if smaller is None:
                        raise
            was_compiled = engine_of(self._objective).compiled
            self._objective, what = smaller
            self._note(f"an outer step does not fit into memory; {what}")
            give_back(self._device, compiled=was_compiled and not engine_of(self._objective).compiled)


def backing_off(run: Run, task: DistillTask) -> DistillTask:
    """``task``, that backs off on a GPU."""
    if run.device.type != "cuda":
        return task
    return replace(task, objective=BackingOff(task.objective, run.device, run.progress.note))


def _smaller(objective: Objective, state: OuterState) -> tuple[Objective, str] | None:
    """The same computed in less memory, and what is done; None if nothing is left."""
    inner: Any = objective.whole if isinstance(objective, Dealt) else objective
    engine, settings = engine_of(objective), inner.settings
    if engine.kept:
        kept = engine.kept // 2
        state.kept = kept
        return objective.run_by(replace(engine, kept=kept)), f"keeping the graphs of {kept} steps"
    if getattr(inner, "real", None) is not None and settings.objective == "unroll" and settings.real_piece > 1:
        piece = min(settings.real_piece, settings.real_batch) // 2 or 1
        smaller = replace(inner, settings=settings.model_copy(update={"real_piece": piece}))
        return _inside(objective, smaller), f"taking {piece} real images at a time"
    if engine.together and not isinstance(objective, Dealt):  # other processes would not know
        state.together, state.compiled = False, False
        loss = EagerFunctions(InnerLoss(engine.network, objective.labels))
        return objective.run_by(
            replace(engine, inner=loss, together=False, compiled=False)
        ), "taking the students in turn"
    return None


def engine_of(objective: Objective) -> Engine:
    """That which computes ``objective``, dealt to processes or not."""
    inner: Any = objective.whole if isinstance(objective, Dealt) else objective
    engine: Engine = inner.engine
    return engine


def _inside(objective: Objective, inner: Objective) -> Objective:
    return replace(objective, whole=inner) if isinstance(objective, Dealt) else inner
