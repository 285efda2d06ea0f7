"""What determines training on the real data, as JSON: experts and rows of the cache are told apart by it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.errors import ConfigError
from distillkit.experts.recipe import is_ranked, unread
from distillkit.settings import DatasetSettings, ExpertSettings, NetworkSettings, RunSettings
from distillkit.stages.context import Prepared, Run, own_code
from distillkit.stages.expert_precision import expert_precision
from distillkit.stages.training_form import compiling_experts_pays
from distillkit.trajectories.forms import FORMS
from distillkit.trajectories.store import TrajectoryStore, experts_root


def data_setup(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Everything that determines training on the real data but the recipe and the seed."""
    settings = run.settings
    return {
        "format": 1,
        "dataset": Path(settings.dataset.name).name,  # a word for people: the fingerprint says which data
        "data": prepared.data.info.fingerprint,
        "preprocessing": [settings.dataset.preprocessing, settings.dataset.zca_eps, *_given(settings.dataset)],
        "augmentation": settings.dataset.augmentation,
        "network": _network(prepared.network),
        "precision": expert_precision(run, prepared),
        "device": run.device.type,
    }


def _network(settings: NetworkSettings) -> dict[str, Any]:
    """Without ``replace_norm=keep``, so that fingerprints from before that setting existed still match."""
    return settings.model_dump(mode="json", exclude={"replace_norm"} if settings.replace_norm == "keep" else set())


def expert_setup(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Everything that determines an epoch of expert trajectories; how many experts and epochs are not part of it."""
    settings = run.settings
    if settings.experts.source is not None:
        return given_store(settings.experts.source).setup
    form = FORMS.chosen(settings).setup(settings.trajectories, settings.experts.epochs)
    return {**raw_setup(run, prepared), **form}


def given_store(fingerprint: str) -> TrajectoryStore:
    """The experts of ``experts.source``.

    Raises:
        ConfigError: it is no fingerprint.
        NotFoundError: there are no experts of that fingerprint.
    """
    if not re.fullmatch(r"[0-9a-f]{16}", fingerprint):
        raise ConfigError(
            f"experts.source={fingerprint!r} is no fingerprint of 16 hex digits; 'distillkit experts list' shows them"
        )
    return TrajectoryStore.open(experts_root() / fingerprint)


def raw_setup(run: Run, prepared: Prepared) -> dict[str, Any]:
    """What determines the training of the experts, whatever form their trajectories are kept in."""
    settings = run.settings
    experts = settings.experts
    recipe = experts.model_dump(mode="json", exclude=NOT_OF_THE_RECIPE | _no_matter(experts))
    if is_ranked(experts.order) and experts.ranking is not None:
        recipe["ranking"] = storage.sha256_file(Path(experts.ranking))
    setup = {**data_setup(run, prepared), "recipe": recipe, "seed": expert_seed(settings)}
    return setup | _computed(run, prepared) | own_code(run)


def _computed(run: Run, prepared: Prepared) -> dict[str, Any]:
    """A CPU promises bytes, and these forms make other ones; a GPU promises numbers to the tolerance of floats."""
    experts = run.settings.experts
    if run.device.type == "cpu" and ((experts.together or 1) > 1 or experts.compile == "always"):
        return {"computed": [experts.together, experts.compile]}
    low = run.device.type == "cpu" and expert_precision(run, prepared) == "bf16" and experts.compile == "auto"
    return {"computed": [1, "always"]} if low and compiling_experts_pays(run, prepared, 1) else {}


NOT_OF_THE_RECIPE = {"count", "seed", "source", "together", "compile", "epochs", "train_to", "opinions", "ranking"}
"""Which experts and how much of them, and how they are computed: the same epochs to the tolerance of floats."""


def expert_seed(settings: RunSettings) -> int:
    """The root seed of the experts."""
    return settings.seed if settings.experts.seed is None else settings.experts.seed


def _no_matter(settings: ExpertSettings) -> set[str]:
    """Settings that make no other experts."""
    standard = settings.clipping == ExpertSettings().clipping  # older folders do not say it
    return unread(settings) | ({"clipping"} if standard else set())


def _given(settings: DatasetSettings) -> list[Any]:
    return [] if settings.mean is None else [list(settings.mean), list(settings.std or ())]
