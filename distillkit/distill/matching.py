"""What a student is asked at the end: how far it is from an expert, or how it does on real images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from distillkit.distill.real import REAL_ORDERS
from distillkit.distill.unroll import MatchingTerm, Term
from distillkit.errors import ConfigError, TrajectoryError
from distillkit.parts import Need, Part, Seam
from distillkit.records import Segment
from distillkit.settings import DistillSettings

MatchingLoss = Callable[[Tensor, Tensor, Tensor], Tensor]


def normalised_parameter_distance(student_P: Tensor, start_P: Tensor, target_P: Tensor) -> Tensor:
    """Squared distance to the target, in units of the expert's own progress (MTT, arXiv:2203.11932, Sec. 3.2, Eq. 2).

    loss = |student - target|^2 / |start - target|^2, so 1.0 means "no better than not moving", 0.0 means "arrived".

    Args:
        student_P: flat parameters [P] of the student; the only argument that needs a graph.
        start_P: where the student started [P].
        target_P: where the expert got to [P].

    Returns:
        Scalar tensor, no unit.

    Raises:
        TrajectoryError: start equals target (an expert that did not move would give 0/0); on a GPU, where asking would
            make the host wait, the loss is not finite then, and the step is skipped.
    """
    progress = (start_P - target_P).square().sum()
    if progress.device.type == "cpu" and progress == 0:
        raise TrajectoryError("an expert's start and target are the same parameters; its training did not move it")
    return (student_P - target_P).square().sum() / progress


def depth_masked(ratio: float) -> MatchingLoss:
    """PAD (arXiv:2408.03360, Sec. 3.3): the distance without the first floor(ratio * P) parameters.

    Parameters are in flat order, shallow to deep; the cut may fall inside a tensor. Numerator and denominator alike.
    """

    def loss(student_P: Tensor, start_P: Tensor, target_P: Tensor) -> Tensor:
        first = int(ratio * student_P.numel())
        return normalised_parameter_distance(student_P[first:], start_P[first:], target_P[first:])

    return loss


def loss_masked(ratio: float) -> MatchingLoss:
    """The mask of PAD's released code: without the floor(ratio * P) parameters of the smallest squared error.

    Which ones these are is not differentiated; numerator and denominator alike.
    """

    def loss(student_P: Tensor, start_P: Tensor, target_P: Tensor) -> Tensor:
        dropped = int(ratio * student_P.numel())
        if dropped == 0:
            return normalised_parameter_distance(student_P, start_P, target_P)
        kept = (student_P.detach() - target_P).square().argsort(stable=True)[dropped:]
        return normalised_parameter_distance(student_P[kept], start_P[kept], target_P[kept])

    return loss


MASKS: Seam[Part[Callable[[float], MatchingLoss]]] = Seam(
    "distill.mask",
    {
        "none": Part(lambda ratio: normalised_parameter_distance),
        "depth": Part(depth_masked, reads=("distill.mask_ratio",)),
        "loss": Part(loss_masked, reads=("distill.mask_ratio",)),
    },
)


def _masked(settings: DistillSettings) -> MatchingLoss:
    return MASKS.chosen(settings).build(settings.mask_ratio)


def no_expert(epoch: float) -> Tensor:
    """Stand-in for the points of an expert, for students without one.

    Raises:
        TrajectoryError: always.
    """
    raise TrajectoryError(f"no expert has a point at epoch {epoch}: the student began at a fresh network")


def no_real_images(after: int) -> Term:
    """Stand-in for the loss on real images, for methods that draw none.

    Raises:
        TrajectoryError: always.
    """
    raise TrajectoryError(f"no real images are at hand to score the student on after step {after}")


@dataclass(frozen=True)
class StudentFacts:
    """What a matching part may ask about a student: its start [P], its number N of inner steps, the expert's segment
    that it began on with the expert's points [P] by epoch (None for students of fresh networks), and its loss on a
    batch of real images after a given step.
    """

    start_P: Tensor
    inner_steps: int
    segment: Segment | None = None
    point: Callable[[float], Tensor] = no_expert
    on_real_images: Callable[[int], Term] = no_real_images

    @property
    def matched(self) -> Segment:
        """The segment.

        Raises:
            TrajectoryError: the student did not begin on an expert's trajectory.
        """
        if self.segment is None:
            raise TrajectoryError("there is no segment to match: the student began at a fresh network")
        return self.segment


MatchingPart = Callable[[StudentFacts], list[Term]]


def end_of_segment(loss: MatchingLoss) -> MatchingPart:
    """Compare once, after the last inner step, with the segment's target (MTT)."""

    def terms(student: StudentFacts) -> list[Term]:
        start, target = student.start_P, student.point(student.matched.target)
        return [MatchingTerm(student.inner_steps, lambda end: loss(end, start, target))]

    return terms


def with_intermediate(loss: MatchingLoss, expert_epochs: float, *, growing: bool) -> MatchingPart:
    """AST: compare also with the expert after k = 1 .. M - 1 epochs, at inner step k * floor(N / M).

    L = L_M + sum_k b_k L_k, each in units of its own distance from the start, b_k = 1 or, ``growing``, k / M. Where
    floor(N / M) = 0 there is no step to compare at, and no term; nor is there where the step or the epoch of a term
    would not come before the segment's own (a real M, or a target clamped at the end).
    """

    def terms(student: StudentFacts) -> list[Term]:
        segment, found = student.matched, end_of_segment(loss)(student)
        start, stride = student.start_P, int(student.inner_steps // expert_epochs)
        for k in range(1, math.ceil(expert_epochs)) if stride else ():
            if k * stride >= student.inner_steps or segment.start + k >= segment.target:
                break
            target, weight = student.point(segment.start + k), k / expert_epochs if growing else 1.0
            found.append(MatchingTerm(k * stride, _weighted(loss, weight, start, target)))
        return found

    return terms


def _weighted(loss: MatchingLoss, weight: float, start: Tensor, target: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda point: weight * loss(point, start, target)


def real_loss(student: StudentFacts) -> list[Term]:
    """The student's cross-entropy on a batch of real images after its last step (RaT-BPTT, arXiv:2311.01570, Eq. 1)."""
    return [student.on_real_images(student.inner_steps)]


def _unmasked(settings: DistillSettings) -> MatchingPart:
    if settings.mask != "none":
        raise ConfigError(
            f"distill.mask={settings.mask} leaves out parameters, and distill.matching=real-loss compares none; "
            "`distill.mask=none`"
        )
    return real_loss


def _with_intermediate(growing: bool) -> Callable[[DistillSettings], MatchingPart]:
    return lambda settings: with_intermediate(_masked(settings), settings.expert_epochs, growing=growing)


@dataclass(frozen=True, kw_only=True)
class MeasuredPart(Part[Callable[[DistillSettings], MatchingPart]]):
    """A matching part that says of its loss what the curves of a run show.

    ``what``: its name on the axis; ``still``: what it is for a student that does not move, where that is one number.
    """

    what: str
    still: float | None = None


_TRAJECTORIES: frozenset[Need] = frozenset({"trajectories"})


def _distance(
    build: Callable[[DistillSettings], MatchingPart], what: str = "matching loss (1 = not moving)", still: float = 1.0
) -> MeasuredPart:
    """A part that compares parameters with those of an expert, by the masked distance if it says nothing else."""
    return MeasuredPart(build, needs=_TRAJECTORIES, seams=(MASKS,), what=what, still=still)


MATCHING: Seam[Part[Callable[[DistillSettings], MatchingPart]]] = Seam(
    "distill.matching",
    {
        "parameter-distance": _distance(lambda settings: end_of_segment(_masked(settings))),
        "intermediate": _distance(_with_intermediate(growing=False)),
        "intermediate-growing": _distance(_with_intermediate(growing=True)),
        "real-loss": MeasuredPart(
            _unmasked,
            what="loss on real images",
            needs=frozenset({"real batches"}),
            seams=(REAL_ORDERS,),
            reads=("distill.real_batch", "distill.real_piece", "distill.real_augment"),
        ),
    },
)


def loss_on_curves(settings: DistillSettings) -> tuple[str, float | None]:
    """What the curves of a run show: the name of the loss that ``settings.matching`` names, and the loss of a student
    that does not move. Of a part that does not say it, a plain name.
    """
    part = MATCHING.chosen(settings)
    return (part.what, part.still) if isinstance(part, MeasuredPart) else ("matching loss", None)


def matching_part(settings: DistillSettings) -> MatchingPart:
    """The part that ``settings.matching`` names: what is asked, after which inner steps.

    Raises:
        ConfigError: unknown, or it has no mask.
    """
    return MATCHING.chosen(settings).build(settings)
