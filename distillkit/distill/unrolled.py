"""The objective of unrolled students: each begins somewhere, takes N inner steps on the set, and is asked something.

Trajectory matching begins at experts and asks for the distance to where they went on (MTT, AST, MCT, DATM, PAD);
distilling by the real loss begins at fresh networks and asks for the loss on real images (RaT-BPTT).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillkit import rng
from distillkit.data.augment import Augmentation
from distillkit.distill.inner_optimizers import InnerMemory, inner_optimizer
from distillkit.distill.inner_steps import InnerStep, plan_inner_steps, to_device
from distillkit.distill.joined_students import Student, average, side_by_side
from distillkit.distill.labels import LabelPart
from distillkit.distill.matching import MatchingPart, StudentFacts
from distillkit.distill.objective import Engine, Work
from distillkit.distill.real import RealBatches, RealTerm
from distillkit.distill.start import Beginning, StudentStart
from distillkit.distill.state import OuterState
from distillkit.distill.step_functions import scaled
from distillkit.distill.unroll import Hypergradient, Unroll
from distillkit.errors import ConfigError
from distillkit.records import TrajectorySource
from distillkit.settings import DistillSettings


@dataclass(frozen=True)
class UnrolledStudents:
    """``trajectories`` where students begin at experts, ``real`` where they are asked about real images."""

    settings: DistillSettings
    engine: Engine
    begin: StudentStart
    matching: MatchingPart
    labels: LabelPart
    augmentation: Augmentation | None
    seed: int
    trajectories: TrajectorySource | None = None
    real: RealBatches | None = None

    def gradient(self, state: OuterState, numbers: Sequence[int]) -> Hypergradient:
        """In turn, or side by side as one."""
        students = [self._student(state, number) for number in numbers]
        if len(students) == 1 or self.engine.together:
            return self._hypergradient(state, students[0] if len(students) == 1 else side_by_side(students))
        return average([self._hypergradient(state, student) for student in students])

    def work(self, size: int) -> Work:
        """N steps of each of S students."""
        settings = self.settings
        batch = min(settings.batch_size or size, size)
        real = 0 if self.real is None else min(settings.real_piece, settings.real_batch)
        return Work(batch, settings.inner_steps, settings.segments, real, settings.hypergradient == "exact")

    def run_by(self, engine: Engine) -> UnrolledStudents:
        """Computed by ``engine``."""
        return replace(self, engine=engine)

    def advance(self, state: OuterState, count: int) -> Tensor:
        """Parameters after ``count`` steps that are not differentiated: of all S students of the first outer step side
        by side [S * P], or of one alone [P], as the engine has them.
        """
        device = state.images.device

        def student(number: int) -> Student:
            steps = to_device(self._steps(state, number, count), device)
            return Student(self.begin(number).theta_P.to(device), (), (), 1.0, steps)

        if not self.engine.together:
            return self._arrived(state, student(0))[0]
        return self._arrived(state, side_by_side([student(number) for number in range(self.settings.segments)]))[0]

    def _student(self, state: OuterState, number: int) -> Student:
        settings, device = self.settings, state.images.device
        beginning = self.begin(number)
        start = beginning.theta_P.to(device)
        steps = to_device(self._steps(state, number, beginning.prefix_steps + settings.inner_steps), device)
        facts = StudentFacts(
            start, settings.inner_steps, beginning.segment, self._points(beginning, device), self.real_term_of(number)
        )
        terms = self.matching(facts)
        return Student(start, steps[beginning.prefix_steps :], terms, beginning.scale, steps[: beginning.prefix_steps])

    def _steps(self, state: OuterState, number: int, count: int) -> list[InnerStep]:
        channels, height, width = (int(size) for size in state.images.shape[1:])
        return plan_inner_steps(
            count,
            len(state.images),
            self.settings.batch_size,
            (channels, height, width),
            self.augmentation,
            rng.generator(self.seed, "distill", "inner", number),
        )

    def _points(self, beginning: Beginning, device: torch.device) -> Callable[[float], Tensor]:
        def point(epoch: float) -> Tensor:
            if self.trajectories is None or beginning.segment is None:
                raise ConfigError(f"distill.matching={self.settings.matching} needs distill.start=expert")
            return self.trajectories.point(beginning.segment.expert, epoch).to(device)

        return point

    def real_term_of(self, number: int) -> Callable[[int], RealTerm]:
        """How student ``number`` does on its real batch after so many steps; asked for by parts that need it."""

        def term(after: int) -> RealTerm:
            assert self.real is not None, "check_distillation gives parts that need real batches some"
            loss = self.engine.real.loss_and_gradient
            return RealTerm(after, self.real.batch(number), loss, self.settings.real_piece)

        return term

    def _arrived(self, state: OuterState, student: Student) -> tuple[Tensor, InnerMemory]:
        """Where the steps before the window end, and what the optimiser brings along."""
        start = student.start_P
        lr = torch.tensor(state.lr, dtype=start.dtype, device=start.device)
        functions = scaled(self.engine.inner, student.scale)
        prefix = Unroll(functions, student.prefix, inner_optimizer(self.settings), at_once=start.is_cuda)
        return prefix.arrive(start, state.images, state.labels, lr)

    def _hypergradient(self, state: OuterState, student: Student) -> Hypergradient:
        settings, start = self.settings, student.start_P
        lr = torch.tensor(state.lr, dtype=start.dtype, device=start.device)
        functions, optimizer = scaled(self.engine.inner, student.scale), inner_optimizer(settings)
        start, memory = self._arrived(state, student)
        exact = settings.hypergradient == "exact"
        unroll = Unroll(functions, student.steps, optimizer, exact, self.engine.kept, at_once=start.is_cuda)
        learned = self.labels.learned
        return unroll.hypergradient(
            start, state.images, state.labels, lr, student.terms, learn_labels=learned, memory=memory
        )
