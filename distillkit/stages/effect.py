"""Which settings a run reads, and the complaint about one that was asked for and has no effect.

Follows from the parts alone (``distillkit.parts``): a part says what it reads; what no part claims, the stages read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

from distillkit.config import compose, known_keys
from distillkit.distill.objectives import LEARNING_SEAMS, needs, set_seams
from distillkit.errors import ConfigError
from distillkit.experts.recipe import EXPERT_SEAMS
from distillkit.methods import Method, SettingsLayer
from distillkit.networks.build import options_of
from distillkit.parts import OF_EXPERTS, Seam, all_parts, chosen_parts, value_of
from distillkit.settings import SECTIONS, RunSettings, defaults
from distillkit.trajectories.forms import FORMS

OF_ANY_SET = ("distill.outer_steps", "distill.select_networks", "distill.lr_init")
"""Outer-loop settings that coresets use too, since fresh networks are trained on them and validated."""
OF_ANY_RUN = ("experts.seed", "experts.together", "experts.compile")
"""Settings of experts that any run accepts: scripts give them to every method alike, and they change no set."""
SGD_ALONE = ("evaluate.momentum", "evaluate.weight_decay", "evaluate.momentum_after_drop")
PAPERS_ALONE = ("evaluate.recipe",)
OF_PREPROCESSING = {
    "dataset.zca_eps": ("zca", "unit-zca", "unit-dct"),
    "dataset.mean": ("standardise",),
    "dataset.std": ("standardise",),
}
"""Settings of the data set that some ways of preprocessing read."""
OF_NETWORKS = ("network.width", "network.depth", "network.norm", "network.replace_norm")
"""Settings that some networks read."""
_EXPERT_SEAMS: tuple[Seam[Any], ...] = (*EXPERT_SEAMS, FORMS)


def effective_keys(settings: RunSettings) -> set[str]:
    """Dotted keys of the settings that this run reads.

    Raises:
        ConfigError: a part is unknown.
    """
    trains_experts = bool(needs(settings.distill) & OF_EXPERTS)
    roots = (*set_seams(settings.distill), *(_EXPERT_SEAMS if trains_experts else ()))
    parts = list(chosen_parts(roots, settings))
    read = {seam.key for seam in roots} | {key for part in parts for key in part.owns}
    owned = {key for _, _, part in all_parts((*LEARNING_SEAMS, *_EXPERT_SEAMS)) for key in part.owns}
    keys = known_keys()
    if not owned <= set(keys):
        raise ConfigError(f"a part says that it reads {', '.join(sorted(owned - set(keys)))}, which is no setting")
    for key in keys:
        section = key.partition(".")[0]
        if section == "distill" and key not in owned:
            counts = settings.distill.outer_steps > 0 or key in OF_ANY_SET
        elif section in ("experts", "trajectories") and (key not in owned or not _is_of_experts(key)):
            counts = trains_experts or key in OF_ANY_RUN
        else:
            counts = section not in ("distill", "experts", "trajectories")
        if counts:
            read.add(key)
    unread = {key for key in SGD_ALONE if settings.evaluate.optimizer != "sgd"}
    unread |= {key for key in PAPERS_ALONE if settings.preset != "paper"}
    unread |= {key for key, names in OF_PREPROCESSING.items() if settings.dataset.preprocessing not in names}
    options = options_of(settings.network.name)
    unread |= {key for key in OF_NETWORKS if options is not None and key.partition(".")[2] not in options}
    return read - unread


def _is_of_experts(key: str) -> bool:
    return any(key in part.owns for _, _, part in all_parts(_EXPERT_SEAMS))


def check_effect(settings: RunSettings, asked: Collection[str]) -> None:
    """Refuse a setting that the user changed from its default and that this run does not read.

    Args:
        settings: of the run.
        asked: keys of the settings that the user gave.

    Raises:
        ConfigError: there is such a setting; the message names the part that would read it.
    """
    read = effective_keys(settings)
    for key in asked:
        if key not in read and value_of(settings, key) != _default(key):
            raise ConfigError(f"{key}={value_of(settings, key)} has no effect here: {_reason(key, settings)}")


def _default(key: str) -> Any:
    section, _, name = key.rpartition(".")
    return SECTIONS[section].model_fields[name].get_default() if name in defaults(SECTIONS[section]) else None


def _reason(key: str, settings: RunSettings) -> str:
    return _reason_beside_parts(key, settings) or _reason_of_parts(key, settings)


def _reason_beside_parts(key: str, settings: RunSettings) -> str | None:
    """Of settings that no part reads; None of others."""
    if key in SGD_ALONE:
        return f"it is SGD's, and networks are trained by {settings.evaluate.optimizer} (evaluate.optimizer)"
    if key in PAPERS_ALONE:
        return f"papers differ in it, and preset {settings.preset} has one recipe"
    if key in OF_PREPROCESSING:
        words = "|".join(OF_PREPROCESSING[key])
        return f"it is read with dataset.preprocessing={words}, and this run has {settings.dataset.preprocessing}"
    if key in OF_NETWORKS:
        own = ", ".join(options_of(settings.network.name) or ()) or "none of these settings"
        return f"network {settings.network.name} reads {own}"
    return None


def _reason_of_parts(key: str, settings: RunSettings) -> str:
    section = key.partition(".")[0]
    readers: Mapping[str, list[str]] = defaultdict(list)
    for seam, name, part in all_parts((*LEARNING_SEAMS, *_EXPERT_SEAMS)):
        if key in part.owns and name not in readers[seam]:
            readers[seam].append(name)
    if section == "distill" and not settings.distill.outer_steps:
        return f"method {settings.method} learns nothing (distill.outer_steps=0)"
    if not needs(settings.distill) & OF_EXPERTS:
        readers = {seam: names for seam, names in readers.items() if seam.startswith("distill.")}
        if section != "distill" and not readers:
            return f"no part of method {settings.method} matches or asks experts"
    asleep = [seam for seam, names in readers.items() if value_of(settings, seam) in names]
    if asleep:  # the part is chosen, but nobody asks for it
        return _reason(asleep[0], settings).replace("it is", f"{asleep[0]} is", 1)
    ways = " or ".join(f"{seam}={'|'.join(names)}" for seam, names in readers.items())
    chosen = ", ".join(f"{seam}={value_of(settings, seam)}" for seam in readers)
    return f"it is read with {ways}, and this run has {chosen}"


def effective(values: Mapping[str, Any], dataset: str, ipc: int, method: str | Method, preset: str) -> dict[str, Any]:
    """The subset of ``values`` that a CPU run with these values would read.

    For scripts that give many methods the same settings.

    Raises:
        ConfigError: unknown data set, method, preset, key or part, or a value that does not fit.
    """
    settings = compose(dataset, ipc, method, preset, "cpu", [SettingsLayer("shared", values)]).settings
    read = effective_keys(settings)
    return {key: value for key, value in values.items() if key in read}
