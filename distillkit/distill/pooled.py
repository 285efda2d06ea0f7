"""Students of several architectures that take turns: a set that one of them alone would learn suits that one best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillkit.distill.labels import LabelPart
from distillkit.distill.objective import Objective
from distillkit.distill.outer_optimizers import OuterOptimizer
from distillkit.distill.state import OuterState
from distillkit.distill.unroll import Hypergradient
from distillkit.precision import arithmetic
from distillkit.settings import DistillSettings


@dataclass(frozen=True)
class Member:
    """The objective with students of one architecture, and the precision that they compute in."""

    objective: Objective
    precision: str


@dataclass(frozen=True)
class Pooled:
    """``members`` take turns, each for ``steps_each`` outer steps; all students of a step are of one architecture."""

    members: tuple[Member, ...]
    steps_each: int = 1

    @property
    def labels(self) -> LabelPart:
        """How labels enter the inner loss, the same for all."""
        return self.members[0].objective.labels

    def turn(self, step: int) -> int:
        """Whose turn outer step ``step`` is."""
        return step // self.steps_each % len(self.members)

    def gradient(self, state: OuterState, numbers: Sequence[int]) -> Hypergradient:
        """The mean over the students called ``numbers``, of the member whose turn it is."""
        member = self.members[self.turn(state.step)]
        with arithmetic(member.precision, state.images.device):
            return member.objective.gradient(state, numbers)


@dataclass(frozen=True)
class PooledTask:
    """What an outer step is made of, where students take turns."""

    settings: DistillSettings
    objective: Pooled
    optimizer: OuterOptimizer


def steps_each(settings: DistillSettings) -> int:
    """Outer steps that go on with a network, which must be of one architecture."""
    return settings.restart_every if settings.objective == "gradients" else 1
