"""What a step of each kind takes, measured here and now by a few of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distillkit.distill.labels import label_part
from distillkit.distill.loop import OuterTask, outer_step, start_state
from distillkit.distill.segments import PlannedTrajectories
from distillkit.distill.state import OuterState
from distillkit.distill.synthetic_init import ARTIFACT
from distillkit.distill.unrolled import UnrolledStudents
from distillkit.distill.windows import mean_prefix_steps
from distillkit.evaluation.recipe import evaluation_recipe, full_data_recipe
from distillkit.experts.recipe import expert_recipe
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.precision import arithmetic, in_precision
from distillkit.progress import Silent
from distillkit.records import SyntheticSet
from distillkit.settings import DistillSettings, NetworkSettings
from distillkit.stages.architectures import selecting_networks, student_pool
from distillkit.stages.checks import needs_experts
from distillkit.stages.context import Prepared, Run
from distillkit.stages.distillation import distill_task
from distillkit.stages.engine_trials import DEFAULT_KEPT
from distillkit.stages.expert_precision import expert_precision
from distillkit.stages.experts import planned_trajectories
from distillkit.stages.initial_set import set_of_artifact
from distillkit.stages.room import PROBE_INNER_STEPS
from distillkit.stages.training_form import evaluation_form, expert_form
from distillkit.training.fit import fit, predict
from distillkit.training.recipe import Recipe
from distillkit.training.stack import Stack, TrainingForm, fit_stack

FEWEST, MOST = 3, 20
"""Steps timed after one that warms up: as many as a second holds, within these bounds."""
ENOUGH = SHORT = 1.0
"""Seconds: of steps that are timed, and of an outer step that is short enough to be timed as a whole."""


def _time(action: Callable[[], None], device: torch.device) -> float:
    """Seconds of the median step: the first ones may compile once more, or be given their memory."""
    action()
    spent: list[float] = []
    while len(spent) < FEWEST or (len(spent) < MOST and sum(spent) < ENOUGH):
        begin = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        spent.append(time.perf_counter() - begin)
    return statistics.median(spent)


def _step_seconds(
    run: Run,
    prepared: Prepared,
    network: NetworkSettings,
    recipe: Recipe,
    count: int,
    form: TrainingForm,
    precision: str,
) -> float:
    """One training step of one ``network`` on a batch of ``count`` real images, by the form and in the precision that
    the run will use.
    """
    build = prepared.build(network, 0, "plan")
    models = [in_precision(build(index), precision).to(run.device) for index in range(form.size)]
    images, labels = prepared.train_images[:count], prepared.train_labels[:count]
    if form.plain:
        epochs = fit(models[0], images, labels, recipe, 0, "plan")
        return _time(lambda: _exhaust(next(epochs, None)), run.device)
    names = [("plan", index) for index in range(form.size)]
    stack = Stack(models, recipe.loss, form)
    together = fit_stack(stack, [images] * form.size, [labels] * form.size, recipe, 0, names)
    return _time(lambda: _exhaust(next(together, None)), run.device) / form.size


def _exhaust(value: object) -> None:
    del value


def expert_seconds(run: Run, prepared: Prepared, missing: Mapping[int, int]) -> float:
    """An epoch of one expert, of as many side by side as the run will train for these ``missing`` epochs by number."""
    settings = run.settings.experts
    count = len(prepared.train_labels)
    plain = settings.model_copy(update={"epochs": MOST + 1, "order": "shuffle"})
    recipe = expert_recipe(plain, prepared.augmentation)
    form = expert_form(run, prepared, len(missing), max(missing.values()))
    batch, precision = min(count, settings.batch_size), expert_precision(run, prepared)
    step = _step_seconds(run, prepared, prepared.network, recipe, batch, form, precision)
    return step * count / batch


@dataclass(frozen=True)
class FreshNetwork:
    """Seconds of a network that is trained on the set: of its ``training``, and to ask it about an image."""

    training: float
    image: float

    def asked(self, images: int) -> float:
        """Trained, and asked about so many images."""
        return self.training + self.image * images


def selecting_seconds(run: Run, prepared: Prepared, own: FreshNetwork) -> tuple[float, ...]:
    """A network of each architecture that selects, with the images that are held out. ``own``: one of the run's."""
    networks, held_out = selecting_networks(run, prepared).values(), len(prepared.validation.labels)
    each = (own if one == prepared.network else evaluation_seconds(run, prepared, one) for one in networks)
    return tuple(one.asked(held_out) for one in each)


def evaluation_seconds(run: Run, prepared: Prepared, network: NetworkSettings) -> FreshNetwork:
    """One fresh network: all its steps, and an image that it is asked about."""
    settings = run.settings.evaluate
    size = run.settings.ipc * prepared.num_classes
    short = settings.model_copy(update={"epochs": MOST + 1})
    recipe = evaluation_recipe(short, run.settings.distill.lr_init, prepared.augmentation)
    batch = min(size, settings.batch_size)
    form = evaluation_form(run, recipe, size, run.settings.distill.select_networks)  # the rows at the end are no slower
    step = _step_seconds(run, prepared, network, recipe, batch, form, run.steady_precision)
    model = prepared.build(network, 0, "plan")(0).to(run.device)
    probe = prepared.train_images[:512]
    asking = _time(lambda: _exhaust(predict(model, probe)), run.device) / len(probe)
    return FreshNetwork(settings.epochs * step * size / batch, asking)


def full_seconds(run: Run, prepared: Prepared) -> float:
    """One network trained on all training images, without its test."""
    settings, count = run.settings.evaluate, len(prepared.train_labels)
    recipe = full_data_recipe(settings, prepared.augmentation, count)
    batch = min(count, recipe.batch_size)
    form = evaluation_form(run, recipe, count, settings.full_networks)
    short = replace(recipe, epochs=MOST + 1)
    step = _step_seconds(run, prepared, prepared.network, short, batch, form, run.steady_precision)
    return recipe.epochs * step * count / batch


class _Walk:
    """Experts that all walk straight on: as good as any to time a step with."""

    def __init__(self, start: Tensor, planned: PlannedTrajectories) -> None:
        self._start = start
        self.count, self.final_epoch, self.continuous = planned.count, planned.final_epoch, planned.continuous

    def end(self, expert: int) -> int:
        return self.final_epoch

    def point(self, expert: int, epoch: float) -> Tensor:
        return self._start + 0.01 * epoch


def outer_seconds(run: Run, prepared: Prepared, begun: OuterState | None = None) -> float:
    """One outer step, of the set that the run has ``begun`` to learn if there is one; where students of several
    architectures take turns, the mean over them.
    """
    network = run.settings.network
    pools: list[tuple[str, ...]] = [(name,) for name in network.pool] or [()]
    seconds = 0.0
    for place, pool in enumerate(pools):
        alone = _with_network(run, network.model_copy(update={"pool": pool}))
        state = _first_state(run, prepared, begun)
        if begun is not None:
            choice = begun.choice_of(place) if pool else begun.choice
            state.decide(replace(choice, kept=None))  # of the whole window; a few steps keep their share
        seconds += _seconds_of_a_step(alone, prepared, state)
    return seconds / len(pools)


def _with_network(run: Run, network: NetworkSettings) -> Run:
    """The run with another network section."""
    return replace(run, settings=run.settings.model_copy(update={"network": network}))


def _first_state(run: Run, prepared: Prepared, begun: OuterState | None) -> OuterState:
    """The set that a step is timed on, which decides how precisely it must be computed: the one that was ``begun``,
    else that of the artifact that the run begins with, else real images.
    """
    if begun is not None:
        return _state_of(begun.synthetic(), run.device)
    settings, part = run.settings, label_part(run.settings.distill)
    if settings.distill.init == ARTIFACT:
        quiet = replace(run, progress=Silent())  # the run itself tells of it
        return _state_of(set_of_artifact(quiet, prepared), run.device)
    size = settings.ipc * prepared.num_classes
    class_ids = torch.arange(size) % prepared.num_classes
    logits = torch.randn(1, size, prepared.num_classes, generator=torch.Generator().manual_seed(0))
    images = prepared.train_images[(torch.arange(size) % len(prepared.train_images)).to(run.device)]
    labels = part.initial(class_ids, prepared.num_classes, logits).to(run.device)
    return start_state(images, class_ids, labels, part.kind, settings.distill.lr_init)


def _state_of(first: SyntheticSet, device: torch.device) -> OuterState:
    """The state before the first step on a set."""
    images, labels = first.images.to(device), first.labels.to(device)
    return start_state(images, first.class_ids, labels, first.label_kind, first.lr)


def _seconds_of_a_step(run: Run, prepared: Prepared, state: OuterState) -> float:
    """With students of one architecture, in the form that the run will use, from a few of the inner steps."""
    distill = run.settings.distill
    unrolled = distill.objective == "unroll"
    inner = min(PROBE_INNER_STEPS, distill.inner_steps) if unrolled else distill.inner_steps
    same_work = max(1, distill.outer_steps * distill.inner_steps // inner)  # which decides whether compiling pays
    kept = DEFAULT_KEPT if distill.keep_gib is None and run.device.type == "cpu" else distill.keep_gib
    share = None if kept is None else kept * inner / distill.inner_steps  # of the steps, as many are kept as in the run
    shorter: dict[str, Any] = {"inner_steps": inner, "horizon": None} if unrolled else {"network_epochs": 1}
    # images are not ranked for a probe
    short = distill.model_copy(update={"outer_steps": same_work, "keep_gib": share, "real_order": "shuffle", **shorter})
    probe = replace(run, settings=run.settings.model_copy(update={"distill": short}))
    network = prepared.build(student_pool(run, prepared)[0], 0, "plan")(0).to(run.device)
    matched = needs_experts(run.settings)
    walk = _Walk(flatten_parameters(network), planned_trajectories(run.settings)) if matched else None
    task = distill_task(probe, prepared, walk, FlatNetwork(network), state)
    with arithmetic(state.precision or "fp32", run.device):
        return _measured_step(run, distill, task, state, inner)


def _measured_step(run: Run, distill: DistillSettings, task: OuterTask, state: OuterState, inner: int) -> float:
    """Seconds of an outer step of the whole run, from one of ``task``, which takes ``inner`` inner steps."""
    seconds = _time(lambda: _exhaust(outer_step(task, state)), run.device)
    if isinstance(task.objective, UnrolledStudents):
        return _unrolled_seconds(distill, task.objective, state, seconds, inner, run.device)
    if distill.restart_every == 1 or distill.objective != "gradients":
        return seconds
    state.carried, state.step = outer_step(task, state).carried, 1
    trained = _time(lambda: _exhaust(outer_step(task, state)), run.device) - seconds
    return seconds + max(0.0, trained) * distill.network_epochs * (1 - 1 / distill.restart_every)


def _unrolled_seconds(
    settings: DistillSettings,
    students: UnrolledStudents,
    state: OuterState,
    seconds: float,
    inner: int,
    device: torch.device,
) -> float:
    """An outer step whose students take all their steps, from ``seconds`` of one with ``inner`` of them: where it is
    short it is timed itself, since then what it does besides those steps counts.

    The loss on real images is computed once, whatever the number of steps; steps before the window are cheaper.
    """
    real = before = 0.0
    if students.real is not None:
        theta = students.begin(0).theta_P.to(device)
        real = settings.segments * _time(lambda: _exhaust(students.real_term_of(0)(1).adjoint(theta)), device)
    if mean_prefix_steps(settings):
        in_turn = 1 if students.engine.together else settings.segments
        some = _time(lambda: _exhaust(students.advance(state, PROBE_INNER_STEPS)), device)
        before = in_turn * some / PROBE_INNER_STEPS * mean_prefix_steps(settings)
    whole = real + max(0.0, seconds - real) / inner * settings.inner_steps
    if whole <= SHORT:
        kept = students.engine.kept * settings.inner_steps // inner
        own = students.settings.model_copy(update={"inner_steps": settings.inner_steps})
        students = replace(students, settings=own, engine=replace(students.engine, kept=kept))
        whole = _time(lambda: _exhaust(students.gradient(state, range(settings.segments))), device)
    return before + whole
