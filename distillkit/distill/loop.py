"""The outer loop (MTT Alg. 1). It knows no method: every choice is a part in ``DistillTask``."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distillkit import rng
from distillkit.data.augment import Augmentation
from distillkit.distill.labels import LabelPart
from distillkit.distill.matching import MatchingPart, MatchingProblem
from distillkit.distill.segments import SegmentSampler
from distillkit.distill.start import InnerScale, Perturbation, unperturbed, unscaled
from distillkit.distill.state import Best, OuterState
from distillkit.distill.step_functions import StepFunctions, scaled
from distillkit.distill.student import plan_inner_steps, to_device
from distillkit.distill.students import Student, average, side_by_side
from distillkit.distill.unroll import Hypergradient, Unroll
from distillkit.errors import DivergenceError
from distillkit.records import LabelKind, SyntheticSet, TrajectorySource
from distillkit.settings import DistillSettings

MAX_SKIPPED_IN_A_ROW = 10


@dataclass(frozen=True)
class DistillTask:
    """What an outer step is made of.

    ``perturb`` changes the student's start, by number of the segment; ``inner_scale`` multiplies the inner loss, by
    segment. ``together``: the S students of a step run as one, and ``functions`` are those of all of them. ``kept``:
    inner steps whose graphs are kept.
    """

    settings: DistillSettings
    functions: StepFunctions
    trajectories: TrajectorySource
    segments: SegmentSampler
    matching: MatchingPart
    labels: LabelPart
    augmentation: Augmentation | None
    seed: int
    perturb: Perturbation = unperturbed
    inner_scale: InnerScale = unscaled
    together: bool = False
    kept: int = 0


@dataclass(frozen=True)
class StepRecord:
    """What happened in an outer step; ``skipped`` counts the steps so far whose loss was not finite, ``gated`` those
    whose loss exceeded the gate.
    """

    step: int
    loss: float
    lr: float
    gradient_norm: float
    skipped: int
    gated: int
    seconds: float


class Observer(Protocol):
    """Who looks on: the pipeline writes metrics, checkpoints and pictures, and evaluates."""

    def select(self, synthetic: SyntheticSet, step: int) -> float:
        """Validation accuracy of a candidate; may raise to stop, then the selection is made again."""

    def on_step(self, record: StepRecord, state: OuterState) -> None:
        """After every step, before a selection that is due; may raise to stop."""

    def on_selection(self, accuracy: float, state: OuterState) -> None:
        """After every selection."""


def distill(task: DistillTask, state: OuterState, observer: Observer) -> OuterState:
    """Run the outer loop from ``state.step`` to ``outer_steps``, changing ``state``; the best set is ``state.best``.

    The set is evaluated every ``select_every`` steps and at the last one, on validation data; step 0 (the initial
    images) takes part, so distillation never returns less than it was given.

    Raises:
        DivergenceError: ten steps in a row had no finite loss or gradient.
    """
    settings = task.settings
    while True:
        if state.selection_due:
            _select(state, observer, settings.select_margin)
        if state.step >= settings.outer_steps:
            return state
        begin = time.perf_counter()
        loss, norm = _advance(task, state)
        _stop_if_diverged(state)
        state.selection_due = state.step % settings.select_every == 0 or state.step == settings.outer_steps
        seconds = time.perf_counter() - begin
        observer.on_step(StepRecord(state.step, loss, state.lr, norm, state.skipped, state.gated, seconds), state)


def _advance(task: DistillTask, state: OuterState) -> tuple[float, float]:
    """One outer step; nothing is changed if its loss or a gradient is not finite, or the loss exceeds the gate.

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
        state.apply(result.images, grad_lr, task.settings, result.labels)
    state.step += 1
    return loss, norm


def outer_step(task: DistillTask, state: OuterState) -> Hypergradient:
    """The hypergradient of outer step ``state.step``, averaged over its S segments.

    Their numbers, step * S .. step * S + S - 1, name all their randomness.
    """
    count = task.settings.segments
    students = [_student(task, state, number) for number in range(state.step * count, (state.step + 1) * count)]
    if count == 1 or task.together:
        return _hypergradient(task, state, students[0] if count == 1 else side_by_side(students))
    return average([_hypergradient(task, state, student) for student in students])


def _student(task: DistillTask, state: OuterState, number: int) -> Student:
    settings, device = task.settings, state.images.device
    segment = task.segments(number)

    def point(epoch: float) -> Tensor:
        return task.trajectories.point(segment.expert, epoch).to(device)

    start = task.perturb(point(segment.start), number)
    channels, height, width = (int(size) for size in state.images.shape[1:])
    steps = plan_inner_steps(
        settings.inner_steps,
        len(state.images),
        settings.batch_size,
        (channels, height, width),
        task.augmentation if settings.augment else None,
        rng.generator(task.seed, "distill", "inner", number),
    )
    terms = task.matching(MatchingProblem(start, len(steps), segment, point))
    return Student(start, to_device(steps, device), terms, task.inner_scale(segment))


def _hypergradient(task: DistillTask, state: OuterState, student: Student) -> Hypergradient:
    settings, start = task.settings, student.start_P
    lr = torch.tensor(state.lr, dtype=start.dtype, device=start.device)
    functions = scaled(task.functions, student.scale)
    unroll = Unroll(functions, student.steps, settings.inner_momentum, settings.hypergradient == "exact", task.kept)
    learn_labels = task.labels.learned
    return unroll.hypergradient(start, state.images, state.labels, lr, student.terms, learn_labels=learn_labels)


def _select(state: OuterState, observer: Observer, margin: float) -> None:
    candidate = state.synthetic()
    score = observer.select(candidate, state.step)
    best = state.best
    # of equals, the one that learned longer; but the initial images give way to a clear improvement only
    if best is None or score >= best.accuracy + (margin if best.step == 0 else 0):
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


def start_state(
    images: Tensor, class_ids: Tensor, initial_labels: Tensor, kind: LabelKind, lr_init: float
) -> OuterState:
    """The state before the first step, from initial ``images`` [S, C, H, W] and labels [S, K] on the loop's device."""
    state = OuterState(images, initial_labels, class_ids, kind, lr_init)
    state.image_velocity, state.label_velocity = torch.zeros_like(images), torch.zeros_like(initial_labels)
    return state
