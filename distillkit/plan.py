"""``--plan``: what a run would cost, from step times measured here and now."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from distillkit.distill.labels import label_part
from distillkit.distill.matching import MatchingProblem, matching_part
from distillkit.distill.step_functions import EagerFunctions, InnerLoss
from distillkit.distill.student import plan_inner_steps
from distillkit.distill.unroll import Unroll
from distillkit.evaluation.recipe import evaluation_recipe
from distillkit.experts.recipe import expert_recipe
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.records import Segment
from distillkit.stages.context import Prepared, Run, prepare
from distillkit.stages.distillation import check_distillation
from distillkit.stages.evaluation import set_rows
from distillkit.stages.experts import expert_setup
from distillkit.training.fit import fit, predict
from distillkit.training.recipe import Recipe
from distillkit.trajectories.forms import find_form
from distillkit.trajectories.store import TrajectoryStore

PROBE_STEPS = 3  # steps timed after one that warms up


@dataclass(frozen=True)
class StageCost:
    """``steps`` of ``seconds_each``."""

    name: str
    steps: int
    seconds_each: float

    def to_json(self) -> dict[str, Any]:
        """With the product."""
        return {**vars(self), "seconds": self.steps * self.seconds_each}


def make_plan(run: Run) -> dict[str, Any]:
    """Steps, time, memory and disk of a run; trains and writes nothing (but the decoded data, which are cached)."""
    check_distillation(run.settings)
    prepared = prepare(run)
    settings = run.settings
    missing = _missing_experts(run, prepared)
    stages = []
    if missing:
        stages.append(_expert_cost(run, prepared, missing))
    fresh = _evaluation_seconds(run, prepared)
    if settings.distill.outer_steps:
        selections = 1 + math.ceil(settings.distill.outer_steps / settings.distill.select_every)
        stages.append(StageCost("outer steps", settings.distill.outer_steps, _outer_seconds(run, prepared)))
        stages.append(StageCost("validation networks", selections * settings.distill.select_networks, fresh))
    soft = 2 if label_part(settings.distill).asks_experts and settings.evaluate.label_rows else 0
    rows = len(set_rows(settings)) + soft + len(set(settings.evaluate.baselines) - {"full"})
    stages.append(StageCost("evaluation networks", rows * settings.evaluate.networks, fresh))
    return {
        "settings": settings.model_dump(mode="json"),
        "stages": [stage.to_json() for stage in stages],
        "seconds": sum(stage.steps * stage.seconds_each for stage in stages),
        **_sizes(run, prepared, missing),
    }


def _missing_experts(run: Run, prepared: Prepared) -> int:
    if run.settings.distill.outer_steps == 0:
        return 0
    store = TrajectoryStore.for_setup(expert_setup(run, prepared))  # looks, makes nothing
    return sum(store.state(index) != "good" for index in range(run.settings.experts.count))


def _time(action: Callable[[], None], device: torch.device) -> float:
    action()
    begin = time.perf_counter()
    for _ in range(PROBE_STEPS):
        action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - begin) / PROBE_STEPS


def _step_seconds(run: Run, prepared: Prepared, recipe: Recipe, count: int) -> float:
    """One training step on a batch of ``count`` real images."""
    model = prepared.build(prepared.network, 0, "plan")(0).to(run.device)
    images, labels = prepared.train_images[:count], prepared.train_labels[:count]
    epochs = fit(model, images, labels, recipe, 0, "plan")
    return _time(lambda: _exhaust(next(epochs, None)), run.device)


def _exhaust(value: object) -> None:
    del value


def _expert_cost(run: Run, prepared: Prepared, missing: int) -> StageCost:
    settings = run.settings.experts
    count = len(prepared.train_labels)
    plain = settings.model_copy(update={"epochs": PROBE_STEPS + 1, "order": "shuffle"})
    recipe = expert_recipe(plain, prepared.augmentation)
    step = _step_seconds(run, prepared, recipe, min(count, settings.batch_size))
    return StageCost("expert epochs", missing * settings.epochs, step * count / settings.batch_size)


def _evaluation_seconds(run: Run, prepared: Prepared) -> float:
    """One fresh network: all its steps, then the test images."""
    settings = run.settings.evaluate
    size = run.settings.ipc * prepared.num_classes
    short = settings.model_copy(update={"epochs": PROBE_STEPS + 1})
    recipe = evaluation_recipe(short, run.settings.distill.lr_init, prepared.augmentation)
    batch = min(size, settings.batch_size)
    step = _step_seconds(run, prepared, recipe, batch)
    model = prepared.build(prepared.network, 0, "plan")(0).to(run.device)
    probe = prepared.train_images[:512]
    test = _time(lambda: _exhaust(predict(model, probe)), run.device) * len(prepared.data.test) / len(probe)
    return settings.epochs * step * size / batch + test


def _outer_seconds(run: Run, prepared: Prepared) -> float:
    """One outer step, from the hypergradient of two inner steps."""
    settings = run.settings.distill
    size = run.settings.ipc * prepared.num_classes
    network = prepared.build(prepared.network, 0, "plan")(0).to(run.device)
    flat = FlatNetwork(network)
    start = flatten_parameters(network)
    target = start + 0.01
    part = label_part(settings)
    indices = torch.arange(size) % len(prepared.train_images)
    images = prepared.train_images[indices.to(run.device)]
    class_ids = torch.arange(size) % prepared.num_classes
    logits = torch.randn(1, size, prepared.num_classes, generator=torch.Generator().manual_seed(0))
    labels = part.initial(class_ids, prepared.num_classes, logits).to(run.device)
    generator = torch.Generator().manual_seed(0)
    steps = plan_inner_steps(2, size, settings.batch_size, prepared.image_shape, prepared.augmentation, generator)
    unroll = Unroll(EagerFunctions(InnerLoss(flat, part)), steps, settings.inner_momentum)
    segment = Segment(0, settings.min_start_epoch, settings.min_start_epoch + settings.expert_epochs)
    terms = matching_part(settings)(MatchingProblem(start, 2, segment, lambda epoch: target))
    lr = torch.tensor(settings.lr_init, device=run.device)
    seconds = _time(lambda: _exhaust(unroll.hypergradient(start, images, labels, lr, terms)), run.device)
    return seconds / 2 * settings.inner_steps


def _sizes(run: Run, prepared: Prepared, missing: int) -> dict[str, Any]:
    settings = run.settings
    parameters = sum(p.numel() for p in prepared.build(prepared.network, 0, "plan")(0).parameters())
    form = find_form(settings.trajectories.form)
    disk = missing * form.size(settings.trajectories, settings.experts.epochs, parameters)
    path = (settings.distill.inner_steps + 1) * parameters * 4 if settings.distill.outer_steps else 0
    if run.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(run.device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    data = prepared.data
    return {
        "parameters": parameters,
        "disk_bytes": disk,
        "memory_bytes": peak + path,
        "notes": [
            f"data:    {len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test images",
            f"network: {prepared.network.name}, {parameters:,} parameters",
            f"disk:    {disk / 1e6:.1f} MB of trajectories to add ({missing} experts to train)",
            f"memory:  about {(peak + path) / 2**30:.1f} GiB (the peak of the probe steps and the student's path)",
            "time is measured with a few steps on this machine; the full-data row is not in it",
        ],
    }
