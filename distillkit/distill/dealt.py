"""An objective whose students are dealt to several processes; the loop does not notice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from distillkit.distill.joined_students import average
from distillkit.distill.labels import LabelPart
from distillkit.distill.objective import Engine, Objective, Work
from distillkit.distill.state import OuterState
from distillkit.distill.unroll import Hypergradient
from distillkit.distributed import World


@dataclass(frozen=True)
class Dealt:
    """The objective ``whole`` with its S = ``segments`` students an outer step dealt to the processes of ``world``.

    Each student is a share of its own, averaged in the order of the numbers as one process does; where students run
    side by side, those of a process are one share. ``apart``: each process computes its own shares and they are
    gathered; else all are computed here, as while the form of computing is being chosen.
    """

    whole: Objective
    world: World
    segments: int
    together: bool = False
    apart: bool = False

    @property
    def labels(self) -> LabelPart:
        """How labels enter the inner loss."""
        return self.whole.labels

    def gradient(self, state: OuterState, numbers: Sequence[int]) -> Hypergradient:
        """The mean over all students, the same in every process."""
        shares = self._shares(numbers)
        wanted = [key for key in shares if not self.apart or self.world.owns(key)]
        found = {key: self.whole.gradient(state, shares[key]) for key in wanted}
        if self.apart:
            device = state.images.device
            gathered = self.world.gathered({key: _tensors(own) for key, own in found.items()}, device)
            found = {key: _hypergradient(tensors) for key, tensors in gathered.items()}
        return average([found[key] for key in shares])

    def _shares(self, numbers: Sequence[int]) -> dict[int, Sequence[int]]:
        """Numbers of students by the number of their share."""
        if not self.together:
            return {number: [number] for number in numbers}
        size = self.world.size
        return {rank: [number for number in numbers if number % size == rank] for rank in range(size)}

    def work(self, size: int) -> Work:
        """Of one process: students run side by side only where each process has equally many."""
        everything = self.whole.work(size)
        students = self.segments // self.world.size if self.segments % self.world.size == 0 else 1
        return replace(everything, students=min(everything.students, students))

    def run_by(self, engine: Engine) -> Dealt:
        """Computed by ``engine``."""
        return replace(self, whole=self.whole.run_by(engine), together=engine.together)

    def set_apart(self) -> Dealt:
        """Computed by all processes from now on."""
        return replace(self, apart=True)


def _tensors(result: Hypergradient) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in vars(result).items() if tensor is not None}


def _hypergradient(tensors: dict[str, Tensor]) -> Hypergradient:
    absent: dict[str, Tensor | None] = {"labels": None, "carried": None}
    return Hypergradient(**{**absent, **tensors})  # type: ignore[arg-type]
