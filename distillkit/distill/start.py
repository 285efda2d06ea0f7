"""Where a student begins: on an expert's trajectory (perturbed, its inner loss scaled: AST), or at a fresh network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillkit import rng
from distillkit.distill.segments import SEGMENTS, segment_sampler
from distillkit.distill.windows import WINDOWS, window_part
from distillkit.errors import ConfigError
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.parts import Part, Seam
from distillkit.records import Segment, TrajectorySource
from distillkit.settings import DistillSettings

Perturbation = Callable[[Tensor, int], Tensor]
InnerScale = Callable[[Segment], float]


def unperturbed(start_P: Tensor, step: int) -> Tensor:
    """The neutral start perturbation."""
    return start_P


def unscaled(segment: Segment) -> float:
    """The neutral scale of the inner loss."""
    return 1.0


def perturb_convolutions(network: FlatNetwork, start_P: Tensor, noise: list[Tensor], scale: float) -> Tensor:
    """W <- W + scale * (D / |D|_F) * W for every 4-D tensor W (AST-repo ``weightPerturb``); the others stay.

    Args:
        network: tells the shapes.
        start_P: flat parameters [P].
        noise: D ~ N(0, 1), one tensor for each 4-D parameter, in their order.
        scale: the papers' alpha.
    """
    draws = iter(noise)
    pieces = []
    for piece in network.split(start_P):
        if piece.dim() == 4:
            draw = next(draws).to(piece)
            piece = piece + scale * draw / draw.norm() * piece
        pieces.append(piece)
    return network.join(pieces)


def _relative_convolutions(settings: DistillSettings, network: FlatNetwork, seed: int) -> Perturbation:
    def perturb(start_P: Tensor, step: int) -> Tensor:
        generator = rng.generator(seed, "distill", "perturb", step)
        shapes = [shape for shape in network.shapes if len(shape) == 4]
        noise = [torch.randn(shape, generator=generator) for shape in shapes]
        return perturb_convolutions(network, start_P, noise, settings.perturbation_scale)

    return perturb


def balance_factor(start_epoch: float, max_start_epoch: int, base: float, offset: float) -> float:
    """AST's factor of the inner loss, by start epoch t and m = floor(T+ / 2).

    log_base(t - m + offset) where t >= m, else 1 / log_base(m - t + offset).
    Late segments, whose gradients are small, take larger steps, early ones smaller.
    """
    middle = max_start_epoch // 2
    if start_epoch >= middle:
        return math.log(start_epoch - middle + offset, base)
    return 1 / math.log(middle - start_epoch + offset, base)


def _balanced(settings: DistillSettings) -> InnerScale:
    base, offset = settings.balance_base, settings.balance_offset
    return lambda segment: balance_factor(segment.start, settings.max_start_epoch, base, offset)


PERTURBATIONS: Seam[Part[Callable[[DistillSettings, FlatNetwork, int], Perturbation]]] = Seam(
    "distill.perturbation",
    {
        "none": Part(lambda settings, network, seed: unperturbed),
        "conv-relative": Part(_relative_convolutions, reads=("distill.perturbation_scale",)),
    },
)
INNER_SCALES: Seam[Part[Callable[[DistillSettings], InnerScale]]] = Seam(
    "distill.inner_scale",
    {
        "none": Part(lambda settings: unscaled),
        "log-balanced": Part(_balanced, reads=("distill.balance_base", "distill.balance_offset")),
    },
)


def perturbation(settings: DistillSettings, network: FlatNetwork, seed: int) -> Perturbation:
    """The part that ``settings.perturbation`` names.

    Raises:
        ConfigError: unknown.
    """
    return PERTURBATIONS.chosen(settings).build(settings, network, seed)


def inner_scale(settings: DistillSettings) -> InnerScale:
    """The part that ``settings.inner_scale`` names.

    Raises:
        ConfigError: unknown.
    """
    return INNER_SCALES.chosen(settings).build(settings)


@dataclass(frozen=True)
class Beginning:
    """Where a student begins: parameters [P], how many steps it takes before those that count, its scale of the inner
    loss, and the segment of an expert that it begins on, if it does.
    """

    theta_P: Tensor
    prefix_steps: int = 0
    scale: float = 1.0
    segment: Segment | None = None


StudentStart = Callable[[int], Beginning]
"""By the number of the student."""


def at_an_expert(
    settings: DistillSettings, trajectories: TrajectorySource, network: FlatNetwork, seed: int
) -> StudentStart:
    """On an expert's trajectory, where a segment begins; perturbed and scaled by their parts (MTT, AST).

    Raises:
        ConfigError: a part is unknown, or the trajectories are too short.
    """
    segments = segment_sampler(settings, trajectories, seed)
    perturb, scale = perturbation(settings, network, seed), inner_scale(settings)

    def begin(number: int) -> Beginning:
        segment = segments(number)
        point = trajectories.point(segment.expert, segment.start)
        return Beginning(perturb(point, number), 0, scale(segment), segment)

    return begin


def at_a_fresh_network(settings: DistillSettings, build: Callable[[int], nn.Module], seed: int) -> StudentStart:
    """At the initialisation of a network of its own, ``build(number)``, some steps before its window (RaT-BPTT).

    Raises:
        ConfigError: the window part is unknown or does not fit.
    """
    window = window_part(settings, seed)

    def begin(number: int) -> Beginning:
        return Beginning(flatten_parameters(build(number)), window(number // settings.segments))

    return begin


STARTS: Seam[Part[None]] = Seam(
    "distill.start",
    {
        "expert": Part(None, needs=frozenset({"trajectories"}), seams=(SEGMENTS, PERTURBATIONS, INNER_SCALES)),
        "fresh": Part(None, seams=(WINDOWS,), reads=("distill.horizon", "distill.student")),
    },
)
"""Where students begin; ``at_an_expert`` and ``at_a_fresh_network`` build them, from what each needs."""


def check_start(settings: DistillSettings) -> None:
    """Do the parts of the student's beginning exist and fit each other?

    Raises:
        ConfigError: no.
    """
    STARTS.chosen(settings)
    fresh = settings.start == "fresh"
    PERTURBATIONS.chosen(settings)
    INNER_SCALES.chosen(settings)
    window_part(settings, 0)
    if fresh and (settings.perturbation, settings.inner_scale) != ("none", "none"):
        raise ConfigError(
            "distill.perturbation and distill.inner_scale only apply to students that begin at experts; with "
            "distill.start=fresh leave them at none"
        )
    if not fresh and settings.horizon not in (None, settings.inner_steps):
        raise ConfigError(
            "distill.horizon only applies to students that begin at fresh networks; with distill.start=expert "
            "leave it out"
        )
