"""How far experts are trained: as far as a part of the run reads them, and not an epoch further.

Segments are read near the beginning where there are few images a class (MTT at one image a class of CIFAR-10: epochs 0
to 3 of 50), last points by the parts that ask a trained expert: an initialisation one expert, initial soft labels ten.
What an epoch is does not depend on how many follow, so the experts are the same as far as they go.
"""

from __future__ import annotations

from dataclasses import dataclass

from distillkit.distill.labels import labels_ask_experts
from distillkit.distill.objectives import needs
from distillkit.distill.segments import last_read
from distillkit.distill.synthetic_init import INITS, experts_asked
from distillkit.settings import RunSettings
from distillkit.trajectories.forms import FORMS


@dataclass(frozen=True)
class Reach:
    """``epochs`` to train of each expert, by number, 0 if it is not wanted at all; ``init`` and ``labels`` are the
    experts whose last point is asked for initial images and labels.
    """

    epochs: tuple[int, ...]
    init: tuple[int, ...]
    labels: tuple[int, ...]

    @property
    def trained(self) -> tuple[int, ...]:
        """Numbers of the experts that are wanted."""
        return tuple(index for index, epochs in enumerate(self.epochs) if epochs)


def expert_reach(settings: RunSettings) -> Reach:
    """What the parts of a run read of its experts."""
    experts, distill, most = settings.experts, settings.distill, settings.experts.epochs
    labels = tuple(range(min(experts.opinions, experts.count))) if labels_ask_experts(distill) else ()
    asks = "opinion" in INITS[distill.init].needs
    init = experts_asked(distill.init, experts.count, settings.seed, labels) if asks else ()
    if experts.train_to == "end":
        return Reach((most,) * experts.count, init, labels)
    read = 0
    if "trajectories" in needs(distill):
        form = FORMS.chosen(settings)
        read = form.reach(settings.trajectories, most, min(most, last_read(distill)))
    to_the_end = {*init, *labels}
    return Reach(tuple(most if index in to_the_end else read for index in range(experts.count)), init, labels)
