"""Which networks a run uses: that of the set, and those of its students, one after the other in turn."""

from __future__ import annotations

from distillkit.networks.build import parse_architecture
from distillkit.networks.convnet import default_depth
from distillkit.settings import NetworkSettings
from distillkit.stages.context import Prepared, Run


def student_pool(run: Run, prepared: Prepared) -> tuple[NetworkSettings, ...]:
    """The networks of the students, which take turns: that of the run, unless fresh ones are to be of others."""
    settings = run.settings
    names = settings.network.pool or ((settings.distill.student,) if settings.distill.student is not None else ())
    return tuple(_parsed(name, prepared) for name in names) or (prepared.network,)


def all_networks(run: Run, prepared: Prepared) -> tuple[NetworkSettings, ...]:
    """Every network of the run, each once: the one that the set is for first."""
    return tuple(dict.fromkeys((prepared.network, *student_pool(run, prepared))))


def _parsed(name: str, prepared: Prepared) -> NetworkSettings:
    chosen = parse_architecture(name, prepared.network)
    if chosen.name == "convnet" and chosen.depth is None:
        return chosen.model_copy(update={"depth": default_depth(min(prepared.image_shape[1:]))})
    return chosen
