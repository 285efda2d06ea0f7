"""The one supervised loop: experts, evaluation networks and users' timm models are all trained here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillkit import rng
from distillkit.data.inputs import Inputs
from distillkit.training.compiling import by_compiler
from distillkit.training.epoch import plan_epoch, to_device
from distillkit.training.memory import in_pieces
from distillkit.training.recipe import Batch, Recipe
from distillkit.training.standing import START, Begin, Memory, memory_of, recall


@dataclass(frozen=True)
class EpochSummary:
    """One epoch is over: its index (first is 0), its mean loss over steps, the lr it used; who holds the momentum, and
    which network of a stack this is (None: there is one alone).
    """

    epoch: int
    loss: Tensor
    lr: float
    optimizer: torch.optim.Optimizer
    index: int | None = None

    def memory(self) -> Memory:
        """What the optimiser remembers of this network now."""
        return memory_of(self.optimizer, self.index)


def fit(
    model: nn.Module,
    images: Inputs,
    targets: Tensor,
    recipe: Recipe,
    seed: int,
    *names: rng.Name,
    begin: Begin = START,
) -> Iterator[EpochSummary]:
    """Train ``model`` in place and yield after every epoch, so that the caller can look, store or stop.

    Args:
        model: on the device of ``images``; left in training mode.
        images: network inputs float [n, C, H, W].
        targets: class ids int64 [n] or probabilities [n, K].
        recipe: how to train.
        seed: root seed.
        names: the use under which data order and augmentation are drawn.
        begin: where to go on, if ``model`` was trained before: the same numbers as if it had not been interrupted.
    """
    lr = recipe.lr_before(begin.epoch)
    optimizer = recipe.optimizer_at(begin.epoch)(model.parameters(), lr)
    recall(optimizer, begin.memories)
    for epoch in range(begin.epoch, recipe.epochs):
        if epoch in recipe.lr_drop_epochs:
            lr *= recipe.lr_drop_factor
            optimizer = recipe.optimizer_at(epoch)(
                model.parameters(), lr
            )  # a new object, as released: momentum starts anew
        if recipe.cosine:
            set_lr(optimizer, recipe.lr_of(epoch, lr))
        model.train()
        (steps,) = to_device([plan_epoch(recipe, images, epoch, seed, *names)], images.device)
        losses = []
        with rng.global_seed(seed, *names, "network", epoch):  # dropout and drop path draw from the global generator
            for step in steps:
                losses.append(_step(model, optimizer, recipe, step.batch(images, targets), epoch))
        yield EpochSummary(epoch, torch.stack(losses).mean(), lr, optimizer)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, batch: Batch, epoch: int) -> Tensor:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = recipe.loss(model, batch, recipe.loss_scale(epoch))
        loss.backward()
        return loss.detach()

    loss: Any = optimizer.step(closure)  # type: ignore[arg-type]
    return torch.as_tensor(loss)


def in_training_form(model: nn.Module, device: torch.device, *, amp: bool, compiled: bool) -> nn.Module:
    """``model`` as ``fit`` should see it: its forward pass in bfloat16 autocast, compiled, or as it is.

    The parameters stay those of ``model``.
    """
    return _FasterForward(model, device, amp, compiled) if amp or compiled else model


class _FasterForward(nn.Module):
    def __init__(self, model: nn.Module, device: torch.device, amp: bool, compiled: bool) -> None:
        super().__init__()
        self.model, self._device, self._amp = model, device, amp
        self._forward: Any = by_compiler(model) if compiled else model

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._amp):
            logits: Tensor = self._forward(images)
        return logits.float()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """From the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = lr


@torch.no_grad()
def predict(
    model: nn.Module, images: Inputs, batch_size: int = 512, wanted: Callable[[Tensor], Tensor] = lambda logits: logits
) -> Tensor:
    """``wanted`` of the logits [n, K] of ``images`` [n, C, H, W] in evaluation mode, batch by batch; in smaller batches
    where memory asks for it.
    """
    model.eval()
    return in_pieces(lambda batch: wanted(model(batch)), batch_size, images)


def accuracy(model: nn.Module, images: Inputs, labels: Tensor) -> float:
    """Share of ``images`` [n, C, H, W] whose largest logit is at ``labels`` [n]."""
    largest = predict(model, images, wanted=lambda logits: logits.argmax(1))
    return int((largest == labels).sum()) / len(labels)
