"""The outer loop (MTT Alg. 1). It knows no method: every choice is a part in ``DistillTask``."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distillkit.distill.objective import Descent, Objective
from distillkit.distill.outer_optimizers import OuterOptimizer, rate_share
from distillkit.distill.state import Best, OuterState
from distillkit.distill.unroll import Hypergradient
from distillkit.errors import DivergenceError
from distillkit.records import LabelKind, SyntheticSet
from distillkit.settings import DistillSettings

MAX_SKIPPED_IN_A_ROW = 10
NORM_DECAY = 0.9


@dataclass(frozen=True)
class DistillTask:
    """What an outer step is made of: the objective that it descends, and how."""

    settings: DistillSettings
    objective: Objective
    optimizer: OuterOptimizer


class OuterTask(Protocol):
    """What the loop asks of a task, however its students are made."""

    @property
    def settings(self) -> DistillSettings:
        """Of the loop."""

    @property
    def objective(self) -> Descent:
        """What an outer step descends."""

    @property
    def optimizer(self) -> OuterOptimizer:
        """How."""


@dataclass(frozen=True)
class StepRecord:
    """What happened in an outer step; ``skipped`` counts the steps so far whose loss was not finite, ``gated`` those
    whose loss exceeded ``distill.gate``, ``wild`` those whose gradient exceeded ``distill.gate_norm``.
    """

    step: int
    loss: float
    lr: float
    gradient_norm: float
    skipped: int
    gated: int
    wild: int
    seconds: float


class Observer(Protocol):
    """Who looks on: the pipeline writes metrics, checkpoints and pictures, and evaluates."""

    def select(self, synthetic: SyntheticSet, step: int) -> float | None:
        """Validation accuracy of a candidate, None if there is nothing to tell it by; may raise to stop, then the
        selection is made again.
        """

    def on_step(self, record: StepRecord, state: OuterState) -> None:
        """After every step, before a selection that is due; may raise to stop."""

    def on_selection(self, accuracy: float | None, state: OuterState) -> None:
        """After every selection."""


def distill(task: OuterTask, state: OuterState, observer: Observer) -> OuterState:
    """Run the outer loop from ``state.step`` to ``outer_steps``, changing ``state``; the best set is ``state.best``.

    The set is evaluated every ``select_every`` steps and at the last one, on validation data; step 0 (the initial
    images) takes part, so distillation never returns less than it was given. Without such data the last step is kept.

    Raises:
        DivergenceError: ten steps in a row had no finite loss or gradient, or all of fewer.
    """
    settings = task.settings
    while True:
        if state.selection_due:
            _select(state, observer, settings.select_margin)
        if state.step >= settings.outer_steps:
            _stop_if_nothing_moved(state)
            return state
        begin = time.perf_counter()
        loss, norm = _advance(task, state)
        _stop_if_diverged(state)
        state.selection_due = state.step % settings.select_every == 0 or state.step == settings.outer_steps
        seconds = time.perf_counter() - begin
        counts = (state.skipped, state.gated, state.wild)
        observer.on_step(StepRecord(state.step, loss, state.lr, norm, *counts, seconds), state)


def _advance(task: OuterTask, state: OuterState) -> tuple[float, float]:
    """One outer step; the set stays as it is if the loss or a gradient is not finite, or one exceeds its gate.

    Returns loss and norm of the image gradient.
    """
    result = outer_step(task, state)
    labels = result.lr if result.labels is None else result.labels
    told = [result.loss, result.images.norm(), result.lr, torch.isfinite(labels).all().to(result.lr.dtype)]
    loss, norm, grad_lr, labels_are_finite = torch.stack(told).tolist()  # the one time that a step waits for a GPU
    finite = math.isfinite(loss) and math.isfinite(norm) and math.isfinite(grad_lr) and bool(labels_are_finite)
    state.skipped_in_a_row = 0 if finite else state.skipped_in_a_row + 1
    if not finite:
        state.skipped += 1
    elif task.settings.gate is not None and loss > task.settings.gate:
        state.gated += 1
    else:
        bound = task.settings.gate_norm
        usual = state.usual_norm or norm  # the first gradient, or the first after nothing but zeros, is a usual one
        if bound is not None:
            state.usual_norm = next_usual(usual, norm, bound)
        if bound is not None and norm > bound * usual:
            state.wild += 1
        else:
            share = rate_share(task.settings, state.step)
            state.apply(
                _gradients(result, grad_lr), task.optimizer, task.objective.labels.project, task.settings.ema, share
            )
    state.carried = result.carried if finite else None  # a network that diverged is not gone on with
    state.step += 1
    return loss, norm


def next_usual(usual: float, norm: float, bound: float) -> float:
    """The running mean n of gradients' norms after another: n ← 0.9 n + 0.1 min(norm, bound n).

    A wild gradient, whatever its length, raises it by 0.1 (bound - 1) at most: a third, where the bound is 4.
    """
    return NORM_DECAY * usual + (1 - NORM_DECAY) * min(norm, bound * usual)


def _gradients(result: Hypergradient, grad_lr: float) -> dict[str, Tensor]:
    found = {"images": result.images, "lr": torch.tensor(grad_lr, dtype=torch.float64)}
    return found if result.labels is None else {**found, "labels": result.labels}


def outer_step(task: OuterTask, state: OuterState) -> Hypergradient:
    """The hypergradient of outer step ``state.step``, averaged over its S students.

    Their numbers, step * S .. step * S + S - 1, name all their randomness.
    """
    count = task.settings.segments
    return task.objective.gradient(state, range(state.step * count, (state.step + 1) * count))


def _select(state: OuterState, observer: Observer, margin: float) -> None:
    candidate = state.synthetic()
    score = observer.select(candidate, state.step)
    best = state.best
    # of equals, the one that learned longer; but the initial images give way to a clear improvement only
    if best is None or score is None or best.accuracy is None or score >= best.accuracy + margin * (best.step == 0):
        state.best = Best(state.step, score, candidate)
    state.selection_due = False
    observer.on_selection(score, state)


def _stop_if_diverged(state: OuterState) -> None:
    if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise DivergenceError(
            f"{state.skipped_in_a_row} outer steps in a row had no finite loss (step {state.step}, student lr "
            f"{state.lr:.3g}); "
            "lower distill.lr_img or distill.lr_lr, or distill.lr_init"
        )


def _stop_if_nothing_moved(state: OuterState) -> None:
    """Of runs too short for ``MAX_SKIPPED_IN_A_ROW``."""
    if state.step and state.skipped == state.step:
        raise DivergenceError(
            f"none of the {state.step} outer steps had a finite loss (student lr {state.lr:.3g}); lower "
            "distill.lr_init, or distill.lr_img or distill.lr_lr"
        )


def start_state(images: Tensor, class_ids: Tensor, initial_labels: Tensor, kind: LabelKind, lr: float) -> OuterState:
    """The state before the first step, from initial ``images`` [S, C, H, W] and labels [S, K] on the loop's device."""
    return OuterState(images, initial_labels, class_ids, kind, lr)
