"""A training recipe: parts that ``training.fit`` puts to work. Experts and evaluation differ in their recipe only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit.data.augment import Augmentation


@dataclass(frozen=True)
class Batch:
    """What a loss sees: ``images`` [B, C, H, W] as the network should see them, ``clean`` before augmentation, and
    ``targets``, class ids int64 [B] or probabilities float [B, K].
    """

    images: Tensor
    clean: Tensor
    targets: Tensor


class OptimizerPart(Protocol):
    """Makes the optimiser; called again, with a fresh state, at every lr drop."""

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """An optimiser whose ``step(closure)`` may call the closure more than once (sharpness-aware ones do)."""


class LossPart(Protocol):
    """A scalar training loss, mean over the batch."""

    def __call__(self, model: nn.Module, batch: Batch, epoch: int) -> Tensor:
        """The loss of ``model`` on ``batch`` in epoch ``epoch`` (first is 0)."""


class OrderPart(Protocol):
    """Which images an epoch sees, in which order."""

    def __call__(self, count: int, epoch: int, generator: torch.Generator) -> Tensor:
        """Indices int64 into ``count`` images."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; ``lr_drop_epochs`` are the first epochs (from 0) of each lower lr."""

    epochs: int
    batch_size: int
    lr: float
    optimizer: OptimizerPart
    loss: LossPart
    order: OrderPart
    augmentation: Augmentation | None = None
    lr_drop_epochs: tuple[int, ...] = ()
    lr_drop_factor: float = 0.1


@dataclass(frozen=True)
class Sgd:
    """Plain SGD with momentum and L2 weight decay."""

    momentum: float = 0.0
    weight_decay: float = 0.0

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
        """The optimiser."""
        return torch.optim.SGD(parameters, lr=lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True)


def cross_entropy(model: nn.Module, batch: Batch, epoch: int) -> Tensor:
    """Mean cross-entropy against class ids or probabilities."""
    return F.cross_entropy(model(batch.images), batch.targets)


def shuffle(count: int, epoch: int, generator: torch.Generator) -> Tensor:
    """All images once, in a new random order."""
    return torch.randperm(count, generator=generator)
