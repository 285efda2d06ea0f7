"""``--plan``: what a run would cost, from step times measured here and now."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distillkit import storage
from distillkit.data.load import survey
from distillkit.distill.labels import label_part, labels_ask_experts
from distillkit.distill.loop import OuterTask, outer_step, start_state
from distillkit.distill.segments import PlannedTrajectories
from distillkit.distill.state import OuterState
from distillkit.distill.unrolled import UnrolledStudents
from distillkit.distill.windows import mean_prefix_steps
from distillkit.distributed import ALONE
from distillkit.errors import ConfigError
from distillkit.evaluation.recipe import evaluation_recipe, full_data_recipe
from distillkit.experts.recipe import expert_recipe
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.precision import arithmetic, in_precision
from distillkit.settings import DistillSettings, NetworkSettings, RunSettings
from distillkit.stages.architectures import student_pool
from distillkit.stages.checks import check_distillation, needs_experts
from distillkit.stages.context import Prepared, Run, determining, kept_of_each, prepare, prepared_from
from distillkit.stages.distillation import distill_task
from distillkit.stages.engine_trials import DEFAULT_KEPT
from distillkit.stages.evaluation import BASELINE_LRS, full_row_path, set_rows
from distillkit.stages.expert_precision import expert_precision
from distillkit.stages.experts import planned_trajectories
from distillkit.stages.fingerprints import expert_setup
from distillkit.stages.image_length import ADDS
from distillkit.stages.probe import check_networks
from distillkit.stages.reach import expert_reach
from distillkit.stages.room import PROBE_INNER_STEPS, check_step_fits, sizes
from distillkit.stages.threads import settle_threads
from distillkit.stages.training_form import evaluation_form, expert_form
from distillkit.training.fit import fit, predict
from distillkit.training.recipe import Recipe
from distillkit.training.stack import Stack, TrainingForm, fit_stack
from distillkit.trajectories.store import TrajectoryStore

PROBE_STEPS = 3  # steps timed after one that warms up
SPARED = 0.1
"""Part of a time budget that is not planned for."""


@dataclass(frozen=True)
class StageCost:
    """``steps`` of ``seconds_each``, in rounds of ``dealt`` pieces of work that several processes share."""

    name: str
    steps: int
    seconds_each: float
    dealt: int = 1

    def seconds(self, processes: int = 1) -> float:
        """Of so many processes."""
        return self.steps * self.seconds_each * share(self.dealt, processes)

    def to_json(self, processes: int = 1) -> dict[str, Any]:
        """With the product."""
        facts = {"name": self.name, "steps": self.steps, "seconds_each": self.seconds_each}
        return {**facts, "seconds": self.seconds(processes)}


def share(pieces: int, processes: int) -> float:
    """The part of the time of one process that several take for equal pieces of work, the slowest of them."""
    return -(-pieces // processes) / pieces


def make_plan(run: Run, prepared: Prepared | None = None, processes: int = 1) -> dict[str, Any]:
    """Steps, time, memory and disk of a run; trains, decodes and writes nothing.

    Of data that are not decoded yet, the tables tell how many images there are, and a few of these stand for all.

    Where the settings have a time budget, of the run that fits into it. Time is that of so many ``processes``, each on
    a machine or device as this one.
    """
    check_distillation(run.settings, run.asked)
    decoding = 0
    if prepared is None:
        surveyed = survey(run.settings.dataset, run.progress, each=kept_of_each(run))
        decoding = surveyed.bytes if surveyed else 0
        _tell_of_decoding(run, decoding)
        prepared = prepared_from(run, surveyed.data) if surveyed else prepare(run)
    check_networks(run, prepared)
    settle_threads(run, prepared)
    costs = measured_costs(run, prepared)
    if run.settings.time_budget is not None:
        run = within(run, dealt_costs(run.settings, costs, processes), run.settings.time_budget)
    stages = stage_costs(run, costs)
    seconds, alone = (sum(stage.seconds(count) for stage in stages) for count in (processes, 1))
    planned = {
        "settings": run.settings.model_dump(mode="json"),
        "stages": [stage.to_json(processes) for stage in stages],
        "seconds": seconds,
        "processes": processes,
        "seconds_of_one_process": alone,
        **sizes(run, prepared, costs.missing, decoding),
    }
    if processes > 1:
        planned["notes"].append(
            f"time is that of {processes} processes as this one, {alone / max(seconds, 1e-9):.1f} times as fast as one "
            f"({alone / 60:.1f} minutes); outer steps are dealt by distill.segments={run.settings.distill.segments}"
        )
    return planned


def _tell_of_decoding(run: Run, wanted: int) -> None:
    """Before anything is measured: what the data will take, and whether there is room for it."""
    if not wanted:
        return
    folder = storage.cache_root() / "data"
    free = storage.free_bytes(folder)
    run.progress.note(f"the images are not decoded yet: {wanted / 1e9:.2f} GB in {folder}")
    if wanted > free:
        run.progress.note(
            f"they will not fit: {free / 1e9:.2f} GB are left; put the cache elsewhere with DISTILLKIT_CACHE"
        )


@dataclass(frozen=True)
class Costs:
    """Seconds of an epoch of one expert, of an outer step, of a fresh network, of measuring them; of the experts, by
    number, how many epochs the cache lacks, none of those that it has; of a network trained on all images, 0 where
    that row is not wanted or there already.
    """

    expert_epoch: float
    outer_step: float
    fresh_network: float
    missing: Mapping[int, int]
    measuring: float = 0.0
    full_network: float = 0.0


def measured_costs(run: Run, prepared: Prepared) -> Costs:
    """By a few steps of each kind on this machine, now."""
    begin, settings, missing = time.perf_counter(), run.settings, _missing_epochs(run, prepared)
    run.progress.note("measuring a few steps")
    expert = step = 0.0
    if missing:
        with arithmetic(expert_precision(run, prepared), run.device):
            expert = _expert_seconds(run, prepared, missing)
    if settings.distill.outer_steps:
        check_step_fits(run, prepared, now=True)
        step = _outer_seconds(run, prepared)
    with arithmetic(run.steady_precision, run.device):
        fresh = _evaluation_seconds(run, prepared)
        wants_full = "full" in settings.evaluate.baselines and not full_row_path(run, prepared).exists()
        full = _full_seconds(run, prepared) if wants_full else 0.0
    return Costs(expert, step, fresh, missing, time.perf_counter() - begin, full)


def dealt_costs(settings: RunSettings, costs: Costs, processes: int) -> Costs:
    """The costs as several processes have them, each doing its share."""
    return replace(
        costs,
        expert_epoch=costs.expert_epoch * share(max(1, len(costs.missing)), processes),
        outer_step=costs.outer_step * share(settings.distill.segments, processes),
        fresh_network=costs.fresh_network * share(settings.distill.select_networks, processes),
    )


def stage_costs(run: Run, costs: Costs) -> list[StageCost]:
    """The stages of a run with their costs."""
    settings, fresh = run.settings, costs.fresh_network
    stages = []
    if costs.missing:
        stages.append(StageCost("expert epochs", sum(costs.missing.values()), costs.expert_epoch, len(costs.missing)))
    if settings.distill.outer_steps:
        held_out = settings.dataset.validation_fraction > 0
        selections = (1 + math.ceil(settings.distill.outer_steps / settings.distill.select_every)) * (
            held_out + settings.evaluate.paper_protocol
        )
        stages.append(
            StageCost("outer steps", settings.distill.outer_steps, costs.outer_step, settings.distill.segments)
        )
        selections += held_out and ADDS in settings.dataset.augmentation.split("_")  # at another length of images
        selected = settings.distill.select_networks
        stages.append(StageCost("validation networks", selections * selected, fresh, selected))
    learned = label_part(settings.distill).learned and settings.evaluate.label_rows
    soft = learned and labels_ask_experts(settings.distill)
    real = len(set(settings.evaluate.baselines) - {"full"})
    rows = len(set_rows(settings)) + learned + soft + real
    if settings.evaluate.lengths:
        longer = max(settings.evaluate.lengths) / settings.evaluate.epochs
        selected = settings.distill.select_networks
        stages.append(StageCost("networks that choose the length", selected, longer * fresh, selected))
    stages.append(
        StageCost("evaluation networks", rows * settings.evaluate.networks, fresh, settings.evaluate.networks)
    )
    if settings.evaluate.lr is None and settings.dataset.validation_fraction > 0:
        selected = settings.distill.select_networks
        validated = (real + soft) * BASELINE_LRS * selected
        stages.append(StageCost("baselines' validation networks", validated, fresh, selected))
    if costs.full_network:
        count = settings.evaluate.full_networks
        stages.append(StageCost("networks on all images", count, costs.full_network, count))
    return stages


def within(run: Run, costs: Costs, seconds: float) -> Run:
    """The run with as many experts (they get half at most) and outer steps as fit into ``seconds``, a tenth spared.

    The evaluation at the end comes on top: what it measures must not depend on a budget.

    Raises:
        ConfigError: not even one expert and the first validation fit.
    """
    settings = run.settings
    if settings.distill.outer_steps == 0:
        return run
    left = (1 - SPARED) * seconds - costs.measuring
    seconds_of = {index: costs.expert_epoch * epochs for index, epochs in costs.missing.items()}
    experts = _experts_within(settings.experts.count, seconds_of, left)
    trained = sum(index < experts for index in costs.missing)
    training = sum(each for index, each in seconds_of.items() if index < experts)
    held_out = settings.dataset.validation_fraction > 0
    validation = costs.fresh_network * settings.distill.select_networks * held_out
    step = costs.outer_step + validation / settings.distill.select_every
    steps = min(settings.distill.outer_steps, int((left - training - 2 * validation) / step))
    if (experts == 0 and settings.experts.count > 0) or steps < 1:
        takes = f"an expert takes {next(iter(seconds_of.values())):.0f} s, " if seconds_of else ""
        raise ConfigError(
            f"`time_budget` of {seconds:.0f} s is too little: here {takes}an outer step takes "
            f"{costs.outer_step:.2f} s, a validation {validation:.0f} s and measuring this {costs.measuring:.0f} s; "
            "give more, or a smaller network, fewer experts.epochs or fewer evaluate.epochs"
        )
    made = f"{experts} experts ({trained} to train) and " if settings.experts.count else ""
    run.progress.note(f"in {seconds:.0f} s: {made}{steps} outer steps")
    return with_sizes(run, experts, steps)


def _experts_within(asked: int, seconds_of: Mapping[int, float], seconds: float) -> int:
    """The most experts, from number 0 on, whose missing epochs (seconds by expert) fit into half of ``seconds``; one if
    it fits at all.
    """
    if asked == 0:
        return 0
    taken = [sum(each for index, each in seconds_of.items() if index < count) for count in range(1, asked + 1)]
    fitting = [count for count, all_of_them in enumerate(taken, start=1) if all_of_them <= seconds / 2]
    return max(fitting, default=1 if taken[0] <= seconds else 0)


def with_sizes(run: Run, experts: int, outer_steps: int) -> Run:
    """The run with so many experts and outer steps, told to come from the time budget."""
    settings = run.settings
    sized = settings.model_copy(
        update={
            "budget_asked": (settings.experts.count, settings.distill.outer_steps),
            "experts": settings.experts.model_copy(update={"count": experts}),
            "distill": settings.distill.model_copy(update={"outer_steps": outer_steps}),
        }
    )
    origins = run.origins | dict.fromkeys(("experts.count", "distill.outer_steps"), "time budget")
    return replace(run, settings=sized, origins=origins)


def within_budget(run: Run, prepared: Prepared, stored: dict[str, Any] | None) -> Run:
    """The run as it fits into its time budget, if it has one; ``stored``: settings of a run begun before, or None.

    What was begun under the same settings goes on with the sizes it has: a second measurement would differ.
    """
    if run.settings.time_budget is None:
        return run
    if stored is not None:
        try:
            begun = with_sizes(run, int(stored["experts"]["count"]), int(stored["distill"]["outer_steps"]))
        except (KeyError, TypeError, ValueError):
            begun = run
        if determining(begun.settings) == stored:
            return begun
    costs = dealt_costs(run.settings, measured_costs(replace(run, world=ALONE), prepared), run.world.size)
    return within(run, costs, run.settings.time_budget)


def _missing_epochs(run: Run, prepared: Prepared) -> dict[int, int]:
    if run.settings.distill.outer_steps == 0 or not needs_experts(run.settings):
        return {}
    store = TrajectoryStore.for_setup(expert_setup(run, prepared))  # looks, makes nothing
    if run.settings.experts.source is not None:
        return {}
    wanted = dict(enumerate(expert_reach(run.settings).epochs))
    states = {index: store.state(index, epochs) for index, epochs in wanted.items() if epochs}
    there = {index: int(store.record(index)["epochs"]) for index, state in states.items() if state == "short"}
    return {index: wanted[index] - there.get(index, 0) for index, state in states.items() if state != "good"}


def _time(action: Callable[[], None], device: torch.device) -> float:
    action()
    begin = time.perf_counter()
    for _ in range(PROBE_STEPS):
        action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begin) / PROBE_STEPS


def _step_seconds(run: Run, prepared: Prepared, recipe: Recipe, count: int, form: TrainingForm) -> float:
    """One training step of one network on a batch of ``count`` real images, by the form that the run will use."""
    build = prepared.build(prepared.network, 0, "plan")
    models = [in_precision(build(index), expert_precision(run, prepared)).to(run.device) for index in range(form.size)]
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


def _expert_seconds(run: Run, prepared: Prepared, missing: Mapping[int, int]) -> float:
    settings = run.settings.experts
    count = len(prepared.train_labels)
    plain = settings.model_copy(update={"epochs": PROBE_STEPS + 1, "order": "shuffle"})
    recipe = expert_recipe(plain, prepared.augmentation)
    form = expert_form(run, prepared, len(missing), max(missing.values()))
    return _step_seconds(run, prepared, recipe, min(count, settings.batch_size), form) * count / settings.batch_size


def _evaluation_seconds(run: Run, prepared: Prepared) -> float:
    """One fresh network: all its steps, then the test images."""
    settings = run.settings.evaluate
    size = run.settings.ipc * prepared.num_classes
    short = settings.model_copy(update={"epochs": PROBE_STEPS + 1})
    recipe = evaluation_recipe(short, run.settings.distill.lr_init, prepared.augmentation)
    batch = min(size, settings.batch_size)
    form = evaluation_form(run, recipe, size, run.settings.distill.select_networks)  # the rows at the end are no slower
    step = _step_seconds(run, prepared, recipe, batch, form)
    model = prepared.build(prepared.network, 0, "plan")(0).to(run.device)
    probe = prepared.train_images[:512]
    test = _time(lambda: _exhaust(predict(model, probe)), run.device) * len(prepared.data.test) / len(probe)
    return settings.epochs * step * size / batch + test


def _full_seconds(run: Run, prepared: Prepared) -> float:
    """One network trained on all training images, without its test."""
    settings, count = run.settings.evaluate, len(prepared.train_labels)
    shorter = settings.model_copy(update={"full_epochs": PROBE_STEPS + 1})
    recipe = full_data_recipe(shorter, prepared.augmentation)
    batch = min(count, recipe.batch_size)
    form = evaluation_form(run, full_data_recipe(settings, prepared.augmentation), count, settings.full_networks)
    return settings.full_epochs * _step_seconds(run, prepared, recipe, batch, form) * count / batch


class _Walk:
    """Experts that all walk straight on: as good as any to time a step with."""

    def __init__(self, start: Tensor, planned: PlannedTrajectories) -> None:
        self._start = start
        self.count, self.final_epoch, self.continuous = planned.count, planned.final_epoch, planned.continuous

    def end(self, expert: int) -> int:
        return self.final_epoch

    def point(self, expert: int, epoch: float) -> Tensor:
        return self._start + 0.01 * epoch


def _outer_seconds(run: Run, prepared: Prepared) -> float:
    """One outer step; where students of several architectures take turns, the mean over them."""
    names = run.settings.network.pool
    pools: list[tuple[str, ...]] = [(name,) for name in names] or [()]
    network = run.settings.network
    alone = [_with_network(run, network.model_copy(update={"pool": pool})) for pool in pools]
    return sum(_seconds_of_a_step(one, prepared) for one in alone) / len(alone)


def _with_network(run: Run, network: NetworkSettings) -> Run:
    """The run with another network section."""
    return replace(run, settings=run.settings.model_copy(update={"network": network}))


def _seconds_of_a_step(run: Run, prepared: Prepared) -> float:
    """With students of one architecture, in the form that the run will use, from a few of the inner steps."""
    distill, size = run.settings.distill, run.settings.ipc * prepared.num_classes
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
    class_ids = torch.arange(size) % prepared.num_classes
    logits = torch.randn(1, size, prepared.num_classes, generator=torch.Generator().manual_seed(0))
    part = label_part(distill)
    images = prepared.train_images[(torch.arange(size) % len(prepared.train_images)).to(run.device)]
    labels = part.initial(class_ids, prepared.num_classes, logits).to(run.device)
    state = start_state(images, class_ids, labels, part.kind, distill.lr_init)
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
    """An outer step whose students take all their steps, from ``seconds`` of one with ``inner`` of them.

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
    return real + before + max(0.0, seconds - real) / inner * settings.inner_steps
