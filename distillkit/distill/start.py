"""What is done to an outer step before the student runs: the start is perturbed, the inner loss scaled (AST)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from distillkit import rng
from distillkit.errors import ConfigError
from distillkit.networks.functional import FlatNetwork
from distillkit.records import Segment
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


def balance_factor(start_epoch: float, max_start_epoch: int, base: float = 5.0, offset: float = 8.0) -> float:
    """AST's factor of the inner loss, by start epoch t and m = floor(T+ / 2).

    log_base(t - m + offset) where t >= m, else 1 / log_base(m - t + offset).
    Late segments, whose gradients are small, take larger steps, early ones smaller.
    """
    middle = max_start_epoch // 2
    if start_epoch >= middle:
        return math.log(start_epoch - middle + offset, base)
    return 1 / math.log(middle - start_epoch + offset, base)


def _balanced(settings: DistillSettings) -> InnerScale:
    return lambda segment: balance_factor(segment.start, settings.max_start_epoch)


PERTURBATIONS: dict[str, Callable[[DistillSettings, FlatNetwork, int], Perturbation]] = {
    "none": lambda settings, network, seed: unperturbed,
    "conv-relative": _relative_convolutions,
}
INNER_SCALES: dict[str, Callable[[DistillSettings], InnerScale]] = {
    "none": lambda settings: unscaled,
    "log-balanced": _balanced,
}


def check_start(settings: DistillSettings) -> None:
    """Are there such parts?

    Raises:
        ConfigError: no.
    """
    for key, table in (("perturbation", PERTURBATIONS), ("inner_scale", INNER_SCALES)):
        name = getattr(settings, key)
        if name not in table:
            raise ConfigError(f"distill.{key}={name!r} is unknown; known: {', '.join(table)}")
