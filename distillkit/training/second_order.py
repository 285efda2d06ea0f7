"""Gradients that can be differentiated again: the one place where graphs of a backward pass are kept.

``distill.step_functions`` uses it for the hypergradient, ``experts.smooth`` for the gradient penalty.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def differentiable_gradient(value: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of the scalar ``value`` with respect to each of ``inputs``, as a function of all that made it."""
    gradients: tuple[Tensor, ...] = torch.autograd.grad(value, list(inputs), create_graph=True)
    return gradients
