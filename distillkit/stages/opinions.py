"""What the experts of a run say of its training images, after they were trained."""

from __future__ import annotations

from distillkit.distill.synthetic_init import RealData
from distillkit.errors import TrajectoryError
from distillkit.stages.architectures import experts_and_network
from distillkit.stages.context import Prepared, Run
from distillkit.stages.fingerprints import expert_setup
from distillkit.stages.initial_set import real_data
from distillkit.stages.reach import expert_reach
from distillkit.trajectories.store import TrajectoryStore


def expert_opinions(run: Run, prepared: Prepared) -> RealData:
    """The training images, and the logits that the experts in the cache give them; no expert is trained for it.

    Raises:
        TrajectoryError: an expert that gives labels is not in the cache, or damaged.
    """
    store, reach = TrajectoryStore.for_setup(expert_setup(run, prepared)), expert_reach(run.settings)
    given = run.settings.experts.source is not None  # which were trained as far as they were
    lacking = [index for index in reach.labels if store.state(index, 0 if given else reach.epochs[index]) != "good"]
    if lacking:
        raise TrajectoryError(
            f"random images are to be labelled by experts {', '.join(map(str, lacking))}, which are not in the cache "
            f"{store.folder} any more; 'distillkit experts train' with the options of this run makes them again"
        )
    return real_data(run, prepared, *experts_and_network(run, prepared, store))
