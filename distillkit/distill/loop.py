"""The outer loop (MTT Alg. 1). It knows no method: every choice is a part in ``DistillTask``."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch

from distillkit import rng
from distillkit.data.augment import Augmentation
from distillkit.distill.labels import LabelPart
from distillkit.distill.matching import MatchingLoss
from distillkit.distill.segments import SegmentSampler
from distillkit.distill.state import Best, OuterState
from distillkit.distill.student import StudentLoss, plan_inner_steps
from distillkit.distill.unroll import Hypergradient, MatchingTerm, Unroll
from distillkit.errors import DivergenceError
from distillkit.networks.functional import FlatNetwork
from distillkit.records import SyntheticSet, TrajectorySource
from distillkit.settings import DistillSettings

MAX_SKIPPED_IN_A_ROW = 10


@dataclass(frozen=True)
class DistillTask:
    """What an outer step is made of."""

    settings: DistillSettings
    network: FlatNetwork
    trajectories: TrajectorySource
    segments: SegmentSampler
    matching: MatchingLoss
    labels: LabelPart
    augmentation: Augmentation | None
    seed: int


@dataclass(frozen=True)
class StepRecord:
    """What happened in an outer step; a line of metrics.jsonl. ``validation_accuracy`` only where it was measured."""

    step: int
    loss: float
    lr: float
    gradient_norm: float
    skipped: int
    seconds: float
    validation_accuracy: float | None = None


class Observer(Protocol):
    """Who looks on: the pipeline writes metrics, checkpoints and pictures, and evaluates."""

    def select(self, synthetic: SyntheticSet, step: int) -> float:
        """Validation accuracy of a candidate."""

    def on_step(self, record: StepRecord, state: OuterState) -> None:
        """After every step; may raise to stop."""


def distill(task: DistillTask, state: OuterState, observer: Observer) -> OuterState:
    """Run the outer loop from ``state.step`` to ``outer_steps``, changing ``state``; the best set is ``state.best``.

    The set is evaluated every ``select_every`` steps and at the last one, on validation data; step 0 (the initial
    images) takes part, so distillation never returns less than it was given.

    Raises:
        DivergenceError: ten steps in a row had no finite loss or gradient.
    """
    settings = task.settings
    if state.best is None:
        _select(task, state, observer)
    while state.step < settings.outer_steps:
        begin = time.perf_counter()
        result = outer_step(task, state)
        norm = float(result.images.norm())
        loss = float(result.loss)
        if math.isfinite(loss) and math.isfinite(norm) and math.isfinite(float(result.lr)):
            state.apply(result.images, float(result.lr), settings)
            state.skipped_in_a_row = 0
        else:
            state.skipped += 1
            state.skipped_in_a_row += 1
        state.step += 1
        _stop_if_diverged(state)
        selected = state.step % settings.select_every == 0 or state.step == settings.outer_steps
        score = _select(task, state, observer) if selected else None
        seconds = time.perf_counter() - begin
        observer.on_step(StepRecord(state.step, loss, state.lr, norm, state.skipped, seconds, score), state)
    return state


def outer_step(task: DistillTask, state: OuterState) -> Hypergradient:
    """The hypergradient of outer step ``state.step``; all its randomness is named by that number."""
    settings, device = task.settings, state.images.device
    segment = task.segments(state.step)
    start = task.trajectories.point(segment.expert, segment.start).to(device)
    target = task.trajectories.point(segment.expert, segment.target).to(device)
    channels, height, width = (int(size) for size in state.images.shape[1:])
    steps = plan_inner_steps(
        settings.inner_steps,
        len(state.images),
        settings.batch_size,
        (channels, height, width),
        task.augmentation if settings.augment else None,
        rng.generator(task.seed, "distill", "inner", state.step),
    )
    unroll = Unroll(StudentLoss(task.network, task.labels), steps, settings.inner_momentum)
    terms = [MatchingTerm(len(steps), lambda student: task.matching(student, start, target))]
    lr = torch.tensor(state.lr, dtype=start.dtype, device=device)
    return unroll.hypergradient(start, state.images, state.labels, lr, terms, learn_labels=task.labels.learned)


def _select(task: DistillTask, state: OuterState, observer: Observer) -> float:
    candidate = state.synthetic()
    score = observer.select(candidate, state.step)
    if state.best is None or score > state.best.accuracy:
        state.best = Best(state.step, score, candidate)
    return score


def _stop_if_diverged(state: OuterState) -> None:
    if state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
        raise DivergenceError(
            f"{state.skipped_in_a_row} outer steps in a row had no finite loss (step {state.step}, student lr "
            f"{state.lr:.3g}); "
            "lower distill.lr_img or distill.lr_lr, or distill.lr_init"
        )


def start_state(
    images: torch.Tensor, class_ids: torch.Tensor, labels: LabelPart, num_classes: int, lr_init: float
) -> OuterState:
    """The state before the first step, from initial ``images`` [S, C, H, W] on the device of the loop."""
    initial_labels = labels.initial(class_ids, num_classes).to(images.device)
    velocity = torch.zeros_like(images)
    return OuterState(images, initial_labels, class_ids, labels.kind, lr_init, image_velocity=velocity)
