"""How the synthetic set moves: pure functions of gradients and what was remembered, for images, labels and the lr.

A memory is a dictionary of tensors, so that a checkpoint can hold that of any optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distillkit.parts import Part, Seam
from distillkit.settings import DistillSettings

OuterMemory = Mapping[str, Tensor]
Gradients = Mapping[str, Tensor]
"""By what they are of: ``images`` [S, C, H, W], ``lr`` [] and, where they are learned, ``labels`` [S, K]."""


class OuterOptimizer(Protocol):
    """One step of descent."""

    def __call__(self, gradients: Gradients, memory: OuterMemory) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What to add to images, labels and lr, and the memory after the step."""


@dataclass(frozen=True)
class OuterSgd:
    """SGD with momentum (MTT): v ← m v + g, x ← x - r v, with rate r and momentum m of each kind."""

    rates: Mapping[str, float]
    momenta: Mapping[str, float]

    def __call__(self, gradients: Gradients, memory: OuterMemory) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Changes, and velocities."""
        changes, after = {}, dict(memory)
        for name, gradient in gradients.items():
            key = f"{name}.velocity"
            before = memory.get(key)
            velocity = gradient if before is None else self.momenta[name] * before + gradient
            changes[name], after[key] = -self.rates[name] * velocity, velocity
        return changes, after


@dataclass(frozen=True)
class OuterAdam:
    """Adam (β 0.9, 0.999, ε 1e-8, bias-corrected, no decay: RaT-BPTT), with a rate of each kind."""

    rates: Mapping[str, float]
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    def __call__(self, gradients: Gradients, memory: OuterMemory) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Changes, and moments with their count."""
        changes, after = {}, dict(memory)
        count = memory.get("count", torch.zeros((), dtype=torch.int64)) + 1
        b1, b2 = 1 - self.beta1 ** int(count), 1 - self.beta2 ** int(count)
        for name, gradient in gradients.items():
            first = memory.get(f"{name}.first", torch.zeros_like(gradient))
            second = memory.get(f"{name}.second", torch.zeros_like(gradient))
            first = self.beta1 * first + (1 - self.beta1) * gradient
            second = self.beta2 * second + (1 - self.beta2) * gradient.square()
            changes[name] = -self.rates[name] * (first / b1) / ((second / b2).sqrt() + self.eps)
            after |= {f"{name}.first": first, f"{name}.second": second}
        return changes, after | {"count": count}


CLIP_DECAY = 0.9


@dataclass(frozen=True)
class Clipped:
    """``optimizer`` after clipping the images' gradient to ``most`` times the running mean n of its norm (RaT-BPTT).

    n ← 0.9 n + 0.1 |g|, the present |g| included; it begins at the first one.
    """

    optimizer: OuterOptimizer
    most: float

    def __call__(self, gradients: Gradients, memory: OuterMemory) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Changes, and the optimiser's memory with n."""
        norm = gradients["images"].norm()
        mean = CLIP_DECAY * memory.get("images.norm", norm) + (1 - CLIP_DECAY) * norm
        factor = (self.most * mean / norm.clamp_min(torch.finfo(norm.dtype).tiny)).clamp_max(1)
        changes, after = self.optimizer({**gradients, "images": gradients["images"] * factor}, memory)
        return changes, after | {"images.norm": mean}


def rate_share(settings: DistillSettings, step: int) -> float:
    """Share of the outer rates that step ``step`` (first is 0) moves with: 1 to ``final_rate``, half a cosine."""
    way = step / max(1, settings.outer_steps - 1)
    return settings.final_rate + (1 - settings.final_rate) * (1 + math.cos(math.pi * way)) / 2


def stepped_lr(lr: float, change: float) -> float:
    """η after a step, at most e times smaller or larger: positive, and safe from one wild gradient."""
    return min(max(lr + change, lr / math.e), lr * math.e)


def _rates(settings: DistillSettings) -> dict[str, float]:
    return {"images": settings.lr_img, "labels": settings.lr_label, "lr": settings.lr_lr}


def _momenta(settings: DistillSettings) -> dict[str, float]:
    return {"images": settings.image_momentum, "labels": settings.label_momentum, "lr": settings.lr_momentum}


OUTER_OPTIMIZERS: Seam[Part[Callable[[DistillSettings], OuterOptimizer]]] = Seam(
    "distill.outer_optimizer",
    {
        "sgd": Part(
            lambda settings: OuterSgd(_rates(settings), _momenta(settings)),
            reads=("distill.image_momentum", "distill.lr_momentum", "distill.label_momentum"),
        ),
        "adam": Part(lambda settings: OuterAdam(_rates(settings))),
    },
)


def outer_optimizer(settings: DistillSettings) -> OuterOptimizer:
    """The part that ``settings.outer_optimizer`` names, with clipping where ``settings.clip`` asks for it.

    Raises:
        ConfigError: unknown.
    """
    plain = OUTER_OPTIMIZERS.chosen(settings).build(settings)
    return plain if settings.clip is None else Clipped(plain, settings.clip)
