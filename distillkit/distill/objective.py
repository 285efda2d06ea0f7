"""What an outer step descends. Each kind is a file of its own; the loop knows only what is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from distillkit.distill.labels import LabelPart
from distillkit.distill.state import OuterState
from distillkit.distill.step_functions import StepFunctions
from distillkit.distill.unroll import Hypergradient
from distillkit.networks.functional import FlatNetwork


@dataclass(frozen=True)
class Work:
    """What an outer step computes: ``steps`` gradients with their derivatives, each on ``batch`` images, of each of
    ``students`` that may run side by side, with derivatives in the parameters too if ``theta``; and plain gradients on
    ``real`` real images (0: none).
    """

    batch: int
    steps: int
    students: int = 1
    real: int = 0
    theta: bool = True


@dataclass(frozen=True)
class Engine:
    """How it is computed.

    ``network`` in the precision of the run; functions of the loss on the set (of all students, where they run
    ``together``) and of that on real images; ``kept``: steps whose graphs are kept; ``compiled``: what an objective
    computes besides these functions is to be compiled too.
    """

    network: FlatNetwork
    inner: StepFunctions
    real: StepFunctions
    together: bool = False
    kept: int = 0
    compiled: bool = False


class Descent(Protocol):
    """A loss of the synthetic set, with its gradient: all that the outer loop asks for."""

    @property
    def labels(self) -> LabelPart:
        """How labels enter the inner loss."""

    def gradient(self, state: OuterState, numbers: Sequence[int]) -> Hypergradient:
        """The mean over the students called ``numbers``; they name all their randomness."""


class Objective(Descent, Protocol):
    """A descent by students of one architecture, which can be computed in several ways."""

    def work(self, size: int) -> Work:
        """Of an outer step on a set of ``size`` images."""

    def run_by(self, engine: Engine) -> Objective:
        """The same, computed so."""
