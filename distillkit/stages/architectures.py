"""Which networks a run uses: that of the set, and those of its students, one after the other in turn."""

from __future__ import annotations

from distillkit.errors import TrajectoryError
from distillkit.evaluation.choice import fitting_network
from distillkit.networks.build import check_memory, parse_architecture
from distillkit.networks.convnet import default_depth
from distillkit.networks.functional import FlatNetwork
from distillkit.records import TrajectorySource
from distillkit.settings import NetworkSettings
from distillkit.stages.context import Prepared, Run
from distillkit.stages.reach import expert_reach
from distillkit.trajectories.forms import open_trajectories
from distillkit.trajectories.store import TrajectoryStore


def student_pool(run: Run, prepared: Prepared) -> tuple[NetworkSettings, ...]:
    """The networks of the students, which take turns: that of the run, unless fresh ones are to be of others."""
    settings = run.settings
    names = settings.network.pool or ((settings.distill.student,) if settings.distill.student is not None else ())
    return tuple(_parsed(name, prepared) for name in names) or (prepared.network,)


def selecting_networks(run: Run, prepared: Prepared) -> dict[str, NetworkSettings]:
    """The networks that select a set on validation data, each once, by its first name: those of the pool, if there is
    one, else that of the run.
    """
    names: dict[NetworkSettings, str] = {}
    for name in run.settings.network.pool:
        names.setdefault(_parsed(name, prepared), name)
    return {name: network for network, name in names.items()} or {run.settings.network.name: prepared.network}


def all_networks(run: Run, prepared: Prepared) -> tuple[NetworkSettings, ...]:
    """Every network of the run, each once: the one that the set is for first."""
    return tuple(dict.fromkeys((prepared.network, *student_pool(run, prepared))))


def tuned_networks(run: Run, prepared: Prepared) -> tuple[NetworkSettings, ...]:
    """Those that recipes are searched for on the finished set, as a search trains them there.

    Raises:
        ConfigError: one does not fit into memory, or cannot be built for the images.
    """
    seen = min(run.settings.ipc * prepared.num_classes, run.settings.evaluate.batch_size)
    shape, classes, found = prepared.image_shape, prepared.num_classes, []
    for name in run.to_tune:
        network = _parsed(name, prepared)
        check_memory(network, shape, classes, run.device)
        found.append(network if "norm=" in name else fitting_network(network, shape, classes, seen)[0])
    return tuple(found)


def _parsed(name: str, prepared: Prepared) -> NetworkSettings:
    chosen = parse_architecture(name, prepared.network)
    if chosen.name == "convnet" and chosen.depth is None:
        return chosen.model_copy(update={"depth": default_depth(min(prepared.image_shape[1:]))})
    return chosen


def student(run: Run, prepared: Prepared, architecture: NetworkSettings) -> FlatNetwork:
    """A network of the students as a function, on the device of the run."""
    return FlatNetwork(prepared.build(architecture, 0, "student")(0).to(run.device))


def first_student(run: Run, prepared: Prepared) -> FlatNetwork:
    """The network of the students; the first, where several take turns."""
    return student(run, prepared, student_pool(run, prepared)[0])


def experts_and_network(
    run: Run, prepared: Prepared, store: TrajectoryStore | None
) -> tuple[TrajectorySource | None, FlatNetwork]:
    """The experts' trajectories, if there are any, and the network that they are of: that of the set, whatever the
    students are.

    Raises:
        TrajectoryError: the trajectories are those of another network.
    """
    network = student(run, prepared, prepared.network)
    if store is None:
        return None, network
    until = run.settings.experts.epochs if run.settings.experts.source is None else None
    trajectories = open_trajectories(store, run.settings.experts.count, until)
    check_parameters(trajectories, network.size, expert_reach(run.settings).trained[0])
    return trajectories, network


def check_parameters(trajectories: TrajectorySource, size: int, expert: int = 0) -> None:
    """Are the trajectories, that of ``expert`` for one, those of a network of ``size`` parameters?

    Raises:
        TrajectoryError: no.
    """
    found = trajectories.point(expert, 0).numel()
    if found != size:
        raise TrajectoryError(f"the experts have {found} parameters, the network of the set {size}")
