"""The expert stage: data to trajectories in the cache."""

from __future__ import annotations

from typing import Any

from distillkit.experts.recipe import expert_recipe
from distillkit.experts.train import ExpertData, train_expert
from distillkit.settings import DatasetSettings, ExpertSettings
from distillkit.stages.context import Prepared, Run
from distillkit.trajectories.store import TrajectoryStore


def expert_setup(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Everything that determines expert trajectories; their number is not part of it."""
    settings = run.settings
    return {
        "format": 1,
        "dataset": settings.dataset.name,
        "data": prepared.data.info.fingerprint,
        "preprocessing": [settings.dataset.preprocessing, settings.dataset.zca_eps, *_given(settings.dataset)],
        "augmentation": settings.dataset.augmentation,
        "network": prepared.network.model_dump(mode="json"),
        "recipe": settings.experts.model_dump(mode="json", exclude={"count", *_unused(settings.experts)}),
        "seed": settings.seed,
        "precision": settings.precision,
        "device": run.device.type,
    }


def _unused(settings: ExpertSettings) -> set[str]:
    """Settings that this recipe does not read: they make no other experts."""
    return set() if "penalty" in settings.loss else {"penalty", "penalty_weight"}


def _given(settings: DatasetSettings) -> list[Any]:
    return [] if settings.mean is None else [list(settings.mean), list(settings.std or ())]


def train_experts(run: Run, prepared: Prepared) -> TrajectoryStore:
    """Train the experts that the cache lacks; a damaged one is trained again, a good one never."""
    settings = run.settings.experts
    store = TrajectoryStore.for_setup(expert_setup(run, prepared))
    states = {index: store.state(index) for index in range(settings.count)}
    for index, state in states.items():
        if state == "damaged":
            run.progress.note(f"expert {index} in the cache is damaged; training it again")
    missing = [index for index, state in states.items() if state != "good"]
    if not missing:
        return store
    recipe = expert_recipe(settings, prepared.augmentation)
    data = ExpertData(
        prepared.train_images,
        prepared.train_labels,
        prepared.validation.images,
        prepared.validation.labels,
        prepared.num_classes,
    )
    run.progress.stage(
        "training experts",
        settings.count * settings.epochs,
        (settings.count - len(missing)) * settings.epochs,
    )

    def after_epoch(loss: float, accuracy: float) -> None:
        run.progress.advance(1, loss=loss, validation=accuracy)
        run.stop.check("between two epochs of an expert (finished experts are kept)")

    for index in missing:
        with store.lock(index):
            if store.state(index) == "good":  # another run made it while this one waited
                run.progress.advance(settings.epochs)
                continue
            result = train_expert(index, data, prepared.network, recipe, run.settings.seed, after_epoch)
            store.write(index, result.snapshots, result.curve)
    return store
