"""What the stages of a run cost: how many steps of each kind it takes, by the seconds of one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from distillkit.distill.labels import label_part, labels_ask_experts
from distillkit.precision import arithmetic
from distillkit.settings import RunSettings
from distillkit.stages.checks import needs_experts
from distillkit.stages.context import Prepared, Run
from distillkit.stages.evaluation import BASELINE_LRS, HARD, RANDOM_SOFT, baseline_networks, full_row_path, set_rows
from distillkit.stages.expert_precision import expert_precision
from distillkit.stages.fingerprints import expert_setup
from distillkit.stages.image_length import ADDS
from distillkit.stages.reach import expert_reach
from distillkit.stages.room import check_step_fits
from distillkit.stages.standing import BEGINNING, Standing
from distillkit.stages.step_times import (
    evaluation_seconds,
    expert_seconds,
    full_seconds,
    outer_seconds,
    selecting_seconds,
)
from distillkit.trajectories.store import TrajectoryStore


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


@dataclass(frozen=True)
class Costs:
    """Seconds of an epoch of one expert, of an outer step, of a fresh network, of measuring them; of the experts, by
    number, how many epochs the cache lacks, none of those that it has; of a network trained on all images, 0 where
    that row is not wanted or there already; of a network of each architecture that selects. A fresh network is asked
    about the test images, one that selects about those that are held out.
    """

    expert_epoch: float
    outer_step: float
    fresh_network: float
    missing: Mapping[int, int]
    measuring: float = 0.0
    full_network: float = 0.0
    selectors: tuple[float, ...] = ()

    def of_experts(self, count: int) -> Costs:
        """Where there are only so many experts."""
        return replace(self, missing={index: epochs for index, epochs in self.missing.items() if index < count})

    @property
    def selecting(self) -> tuple[float, ...]:
        """Seconds of a network of each architecture that selects, where it was measured apart."""
        return self.selectors or (self.fresh_network,)


def measured_costs(run: Run, prepared: Prepared, done: Standing = BEGINNING) -> Costs:
    """By a few steps of each kind on this machine, now; an outer step of a run that was begun is one of its own set,
    computed as that run decided.
    """
    begin, settings, missing = time.perf_counter(), run.settings, _missing_epochs(run, prepared)
    run.progress.note("measuring a few steps")
    expert = step = 0.0
    if missing:
        with arithmetic(expert_precision(run, prepared), run.device):
            expert = expert_seconds(run, prepared, missing)
    if settings.distill.outer_steps and not done.distilled:
        check_step_fits(run, prepared, now=True)
        step = outer_seconds(run, prepared, done.state)
    with arithmetic(run.steady_precision, run.device):
        fresh = evaluation_seconds(run, prepared, prepared.network)
        selectors = selecting_seconds(run, prepared, fresh) if settings.distill.outer_steps else ()
        wants_full = "full" in settings.evaluate.baselines and not full_row_path(run, prepared).exists()
        full = full_seconds(run, prepared) if wants_full else 0.0
    measuring = time.perf_counter() - begin
    return Costs(expert, step, fresh.asked(len(prepared.data.test)), missing, measuring, full, selectors)


def dealt_costs(settings: RunSettings, costs: Costs, processes: int) -> Costs:
    """The costs as several processes have them, each doing its share."""
    return replace(
        costs,
        expert_epoch=costs.expert_epoch * share(max(1, len(costs.missing)), processes),
        outer_step=costs.outer_step * share(settings.distill.segments, processes),
        fresh_network=costs.fresh_network * share(settings.distill.select_networks, processes),
        selectors=tuple(each * share(settings.distill.select_networks, processes) for each in costs.selectors),
    )


def validations(settings: RunSettings, regular: int) -> int:
    """How often the networks that select are trained on the set, for so many ``regular`` looks at it: none if no images
    are held out, once more at the length of real images where an augmentation asks for it.
    """
    longer = ADDS in settings.dataset.augmentation.split("_")
    return (regular + longer) if settings.dataset.validation_fraction > 0 else 0


def look_seconds(settings: RunSettings, costs: Costs, regular: int) -> float:
    """So many ``regular`` looks at a set, at test images too where a paper's protocol asks for it."""
    validating = validations(settings, regular) * sum(costs.selecting)
    testing = regular * settings.evaluate.paper_protocol * costs.fresh_network
    return (validating + testing) * settings.distill.select_networks


def length_choice(settings: RunSettings) -> float:
    """What the choice among ``evaluate.lengths`` takes, in fresh networks of ``evaluate.epochs``."""
    longest = max(settings.evaluate.lengths, default=0)
    return settings.distill.select_networks * longest / settings.evaluate.epochs


def stage_costs(run: Run, costs: Costs, done: Standing = BEGINNING) -> list[StageCost]:
    """The stages of a run with their costs, as far as they are not ``done``."""
    if done.finished:
        return []
    learning = [] if done.distilled else _learning(run.settings, costs, done)
    return [stage for stage in (*learning, *_measuring(run.settings, costs, done)) if stage.steps]


def _learning(settings: RunSettings, costs: Costs, done: Standing) -> list[StageCost]:
    """Until the set is selected."""
    stages, selected = [], settings.distill.select_networks
    if costs.missing:
        stages.append(StageCost("expert epochs", sum(costs.missing.values()), costs.expert_epoch, len(costs.missing)))
    if settings.distill.outer_steps:
        regular = 1 + math.ceil(settings.distill.outer_steps / settings.distill.select_every)
        left = settings.distill.outer_steps - done.outer_steps
        stages.append(StageCost("outer steps", left, costs.outer_step, settings.distill.segments))
        looks = max(0, validations(settings, regular) - done.validations)
        each = sum(costs.selecting) / len(costs.selecting)
        stages.append(StageCost("validation networks", looks * selected * len(costs.selecting), each, selected))
        tests = settings.evaluate.paper_protocol * max(0, regular - done.tests) * selected
        stages.append(StageCost("networks of the paper's protocol", tests, costs.fresh_network, selected))
    if settings.evaluate.lengths:
        each = length_choice(settings) / selected * costs.fresh_network
        stages.append(StageCost("networks that choose the length", selected, each, selected))
    return stages


def _measuring(settings: RunSettings, costs: Costs, done: Standing) -> list[StageCost]:
    """Of the set that is selected, and of what is beside it."""
    fresh = costs.fresh_network
    learned = label_part(settings.distill).learned and settings.evaluate.label_rows
    soft = learned and labels_ask_experts(settings.distill)
    real = {*settings.evaluate.baselines, *([RANDOM_SOFT] if soft else [])} - {"full"}
    rows = {*set_rows(settings), *([HARD] if learned else []), *real} - set(done.rows)
    networks = len(rows) * settings.evaluate.networks
    stages = [StageCost("evaluation networks", networks, fresh, settings.evaluate.networks)]
    if settings.evaluate.lr is None and settings.dataset.validation_fraction > 0:
        each = baseline_networks(settings)
        validated = len(real & rows) * BASELINE_LRS * each
        stages.append(StageCost("baselines' validation networks", validated, fresh, each))
    if costs.full_network and "full" not in done.rows:
        count = settings.evaluate.full_networks
        stages.append(StageCost("networks on all images", count, costs.full_network, count))
    return stages


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
