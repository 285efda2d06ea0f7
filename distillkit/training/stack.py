"""Several networks of one architecture trained side by side: one step, one set of kernels for all of them.

A small network on a small batch leaves a GPU waiting for its host; stacked along a new first axis, k networks cost
little more than one. Each keeps its own data order, augmentation and seed, so it ends where it would have ended alone,
within the tolerance of floats. Legend: k networks, B batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from distillkit import rng
from distillkit.data.inputs import Inputs
from distillkit.errors import ConfigError
from distillkit.training.compiling import by_compiler
from distillkit.training.epoch import plan_epoch, to_device
from distillkit.training.fit import EpochSummary, set_lr
from distillkit.training.recipe import Batch, LossPart, Recipe
from distillkit.training.standing import START, Begin, recall
from distillkit.words import first_line

Names = tuple[rng.Name, ...]
Gradients = Callable[..., tuple[list[Tensor], Tensor]]


def _unheard(message: str) -> None:
    """Default listener: ignores the message."""


@dataclass(frozen=True)
class TrainingForm:
    """How networks are trained: ``size`` of them at a time, by a compiled step or not."""

    size: int = 1
    compiled: bool = False
    note: Callable[[str], None] = _unheard
    """Who hears of a step that could not be compiled."""
    must: bool = False
    """Raise ConfigError if the step cannot be compiled."""

    @property
    def plain(self) -> bool:
        """One by one, operation by operation."""
        return self.size == 1 and not self.compiled


def stackable(module: nn.Module) -> bool:
    """Whether nothing in ``module`` but its parameters has a state, and nothing draws random numbers."""
    random = any("drop" in type(part).__name__.lower() for part in module.modules())
    return not random and next(module.buffers(), None) is None


class Stack:
    """k networks, their parameters stacked [k, ...]; made from modules of one architecture on one device."""

    def __init__(self, models: Sequence[nn.Module], loss: LossPart, form: TrainingForm) -> None:
        self.models = list(models)
        self.names = [name for name, _ in models[0].named_parameters()]
        columns = zip(*(model.parameters() for model in models), strict=True)
        self.parameters = [nn.Parameter(torch.stack([p.detach() for p in column])) for column in columns]
        self._gradients = _gradients(copy.deepcopy(models[0]).requires_grad_(False), self.names, loss, len(models))
        if form.compiled:
            self._gradients = _compiled(self._gradients, form)

    def flat(self, index: int) -> Tensor:
        """A copy of the parameters of network ``index`` as one vector [P]."""
        return torch.cat([parameter.detach()[index].reshape(-1) for parameter in self.parameters])

    @torch.no_grad()
    def unstacked(self) -> list[nn.Module]:
        """The modules that the stack was made from, with their parameters as they are now."""
        for index, model in enumerate(self.models):
            for own, stacked in zip(model.parameters(), self.parameters, strict=True):
                own.copy_(stacked[index])
        return self.models

    def step(self, optimizer: torch.optim.Optimizer, batch: Batch, scale: float | Tensor) -> Tensor:
        """One step on ``batch``, whose tensors are stacked [k, B, ...]; the losses [k]."""
        factor = torch.as_tensor(scale, dtype=batch.images.dtype, device=batch.images.device)

        def closure() -> Tensor:
            values = [parameter.detach() for parameter in self.parameters]
            found, losses = self._gradients(values, batch.images, batch.clean, batch.targets, factor)
            for parameter, gradient in zip(self.parameters, found, strict=True):
                parameter.grad = gradient.contiguous()  # a fused optimiser reads memory in the parameter's order
            return losses

        losses: Any = optimizer.step(closure)  # type: ignore[arg-type]
        return torch.as_tensor(losses)


def _compiled(function: Gradients, form: TrainingForm) -> Gradients:
    """``function`` compiled for batches of the first shape that it meets; where that fails at the first call, as it is,
    which ``form.note`` tells. Other shapes are computed as they are: a remainder has another length in every epoch of a
    data scheduler, and a compiler gives up after a few.

    Raises:
        ConfigError: when it is called and cannot be compiled, though it must be.
    """
    chosen: Gradients | None = None
    first: torch.Size | None = None

    def call(*arguments: Any) -> tuple[list[Tensor], Tensor]:
        nonlocal chosen, first
        if chosen is not None:
            return (chosen if arguments[1].shape == first else function)(*arguments)
        first = arguments[1].shape
        chosen = by_compiler(function, dynamic=False, fullgraph=True)
        try:
            return chosen(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, an unsupported operation, an old GPU: torch raises all kinds
            why = f"{type(error).__name__}: {first_line(error)}"
            if form.must:
                raise ConfigError(f"compile=always, but the training step cannot be compiled here ({why})") from error
            form.note(f"the training step cannot be compiled here ({why}); training eagerly")
            chosen = function
        return chosen(*arguments)

    return call


def _gradients(base: nn.Module, names: list[str], loss: LossPart, count: int) -> Gradients:
    def value(parameters: list[Tensor], seen: Tensor, clean: Tensor, targets: Tensor, scale: Tensor) -> Tensor:
        def model(images: Tensor) -> Tensor:
            logits: Tensor = functional_call(base, dict(zip(names, parameters, strict=True)), (images,))
            return logits

        return loss(model, Batch(seen, clean, targets), scale)

    of_one = grad_and_value(value)
    if count > 1:
        together: Gradients = vmap(of_one, in_dims=(0, 0, 0, 0, None))
        return together

    def alone(parameters: list[Tensor], seen: Tensor, clean: Tensor, targets: Tensor, scale: Tensor) -> Any:
        gradients, loss_value = of_one([p[0] for p in parameters], seen[0], clean[0], targets[0], scale)
        return [gradient[None] for gradient in gradients], loss_value[None]

    return alone


def fit_stack(
    stack: Stack,
    images: Sequence[Inputs],
    targets: Sequence[Tensor],
    recipe: Recipe,
    seed: int,
    names: Sequence[Names],
    begin: Begin = START,
) -> Iterator[list[EpochSummary]]:
    """Train the networks of ``stack``, each as ``training.fit`` would, and yield after every epoch.

    Args:
        stack: on the device of ``images``.
        images: of each network float [n, C, H, W]; may be the same tensor k times.
        targets: of each network class ids int64 [n] or probabilities [n, K].
        recipe: how to train.
        seed: root seed.
        names: of each network, the use under which its data order and augmentation are drawn.
        begin: where to go on, the same epoch for all.
    """
    lr, device = recipe.lr_before(begin.epoch), images[0].device
    optimizer = recipe.optimizer_at(begin.epoch)(stack.parameters, lr, stacked=True)
    recall(optimizer, begin.memories, stacked=True)
    for epoch in range(begin.epoch, recipe.epochs):
        if epoch in recipe.lr_drop_epochs:
            lr *= recipe.lr_drop_factor
            optimizer = recipe.optimizer_at(epoch)(stack.parameters, lr, stacked=True)
        if recipe.cosine:
            set_lr(optimizer, recipe.lr_of(epoch, lr))
        plans = [plan_epoch(recipe, own, epoch, seed, *name) for own, name in zip(images, names, strict=True)]
        losses, scale = [], torch.tensor(recipe.loss_scale(epoch), dtype=images[0].dtype, device=device)
        for steps in zip(*to_device(plans, device), strict=True):
            batches = [step.batch(*own) for step, *own in zip(steps, images, targets, strict=True)]
            losses.append(stack.step(optimizer, _stacked(batches), scale))
        means = torch.stack(losses).mean(0)
        yield [EpochSummary(epoch, loss, lr, optimizer, index) for index, loss in enumerate(means)]


def _stacked(batches: Sequence[Batch]) -> Batch:
    """The batches of all networks, along a new first axis."""
    seen = torch.stack([batch.images for batch in batches])
    same = all(batch.clean is batch.images for batch in batches)
    clean = seen if same else torch.stack([batch.clean for batch in batches])
    return Batch(seen, clean, torch.stack([batch.targets for batch in batches]))
