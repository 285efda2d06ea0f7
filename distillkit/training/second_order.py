"""Gradients that can be differentiated again: the one place where graphs of a backward pass are kept.

``distill.step_functions`` uses them for the hypergradient, ``experts.smooth`` for the gradient penalty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad


def differentiable_gradient(value: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of the scalar ``value`` with respect to each of ``inputs``, as a function of all that made it."""
    gradients: tuple[Tensor, ...] = torch.autograd.grad(value, list(inputs), create_graph=True)
    return gradients


def input_gradient(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """The gradient of the scalar ``function(inputs)`` in ``inputs``, as a function of all that ``function`` is made of.

    By ``torch.func``, so that it can be vectorised and compiled; autograd sees through it too.
    """
    gradient: Tensor = grad(function)(inputs.detach())
    return gradient
