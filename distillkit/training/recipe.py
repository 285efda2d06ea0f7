"""A training recipe: parts that ``training.fit`` puts to work. Experts and evaluation differ in their recipe only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit.data.augment import Augmentation, ComposedAugmentation, CutMix


@dataclass(frozen=True)
class Batch:
    """What a loss sees: ``images`` [B, C, H, W] as the network should see them, ``clean`` before augmentation, and
    ``targets``, class ids int64 [B] or probabilities float [B, K].
    """

    images: Tensor
    clean: Tensor
    targets: Tensor


Model = Callable[[Tensor], Tensor]
"""Images [B, C, H, W] to logits [B, K]: a module, or a function of parameters that are held elsewhere."""


class OptimizerPart(Protocol):
    """Makes the optimiser; called again, with a fresh state, at every lr drop."""

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float, stacked: bool = False) -> torch.optim.Optimizer:
        """An optimiser whose ``step(closure)`` may call the closure more than once (sharpness-aware ones do).

        ``stacked``: the parameters are those of several networks along their first axis, which go their own ways.
        """


class LossPart(Protocol):
    """A scalar training loss, mean over the batch."""

    def __call__(self, model: Model, batch: Batch, scale: float | Tensor) -> Tensor:
        """The loss of ``model`` on ``batch``; ``scale`` multiplies its cross-entropy."""


class OrderPart(Protocol):
    """Which images an epoch sees, in which order."""

    def __call__(self, count: int, epoch: int, generator: torch.Generator) -> Tensor:
        """Indices int64 into ``count`` images."""


def constant_scale(epoch: int) -> float:
    """1 in every epoch."""
    return 1.0


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; ``lr_drop_epochs`` are the first epochs (from 0) of each lower lr, from which on
    ``later_optimizer`` takes over if there is one, ``loss_scale`` gives the factor of the cross-entropy by epoch;
    ``mixing`` mixes images and label probabilities after the augmentation; ``cosine`` lowers the lr by epoch.
    """

    epochs: int
    batch_size: int
    lr: float
    optimizer: OptimizerPart
    loss: LossPart
    order: OrderPart
    augmentation: Augmentation | ComposedAugmentation | None = None
    lr_drop_epochs: tuple[int, ...] = ()
    lr_drop_factor: float = 0.1
    loss_scale: Callable[[int], float] = constant_scale
    later_optimizer: OptimizerPart | None = None
    mixing: CutMix | None = None
    cosine: bool = False

    def lr_of(self, epoch: int, lr: float) -> float:
        """What ``lr`` is in ``epoch``: as it is, or on half a cosine that would reach 0 after the last epoch."""
        return lr * (1 + math.cos(math.pi * epoch / self.epochs)) / 2 if self.cosine else lr

    def optimizer_at(self, epoch: int) -> OptimizerPart:
        """The part that makes the optimiser of ``epoch``."""
        dropped = any(drop <= epoch for drop in self.lr_drop_epochs)
        return self.later_optimizer if dropped and self.later_optimizer is not None else self.optimizer

    def lr_before(self, epoch: int) -> float:
        """The lr after the drops of the epochs before ``epoch``."""
        lr = self.lr
        for _ in {drop for drop in self.lr_drop_epochs if drop < epoch}:
            lr *= self.lr_drop_factor
        return lr


@dataclass(frozen=True)
class Sgd:
    """Plain SGD with momentum and L2 weight decay."""

    momentum: float = 0.0
    weight_decay: float = 0.0

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float, stacked: bool = False) -> torch.optim.Optimizer:
        """The optimiser; element by element, so stacked networks need nothing else."""
        return torch.optim.SGD(parameters, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True)
class Adam:
    """Adam with β 0.9 and 0.999, ε 1e-8, no decay."""

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float, stacked: bool = False) -> torch.optim.Optimizer:
        """The optimiser; element by element, so stacked networks need nothing else."""
        return torch.optim.Adam(parameters, lr=lr, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)


ADAM_BETAS, ADAM_EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay."""

    weight_decay: float = 0.01

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float, stacked: bool = False) -> torch.optim.Optimizer:
        """The optimiser; element by element, so stacked networks need nothing else."""
        return torch.optim.AdamW(
            parameters, lr=lr, betas=ADAM_BETAS, eps=ADAM_EPS, weight_decay=self.weight_decay, fused=True
        )


def cross_entropy(model: Model, batch: Batch, scale: float | Tensor) -> Tensor:
    """Mean cross-entropy against class ids or probabilities, times ``scale``."""
    return scale * F.cross_entropy(model(batch.images), batch.targets)


def shuffle(count: int, epoch: int, generator: torch.Generator) -> Tensor:
    """All images once, in a new random order."""
    return torch.randperm(count, generator=generator)
