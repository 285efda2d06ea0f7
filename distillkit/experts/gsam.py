"""GSAM, sharpness-aware minimisation with a gap term, as FTD, DATM and PAD train their experts.

Zhuang et al., arXiv:2203.08065; FTD (arXiv:2211.11004); formulas of the released ``buffer/gsam/gsam.py``, with ρ
radius, α gap weight, δ = 1e-12, |.| over all parameters together:

    g0 = ∇L(θ);  ε = ρ θ²g0 / (| |θ| g0 | + δ)    (without θ where not adaptive);  g1 = ∇L(θ + ε)
    c = <g0, g1> / (|g0||g1| + δ);  g⊥ = g0 - c |g0| g1 / (|g1| + δ);  θ <- SGD(θ, g1 - α g⊥)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from distillkit.training.recipe import Sgd

DELTA = 1e-12


class GsamOptimizer(torch.optim.Optimizer):
    """Calls the closure twice a step, at θ and at θ + ε: on the same batch, augmented alike.

    ``stacked``: |.| and <.,.> are taken over the parameters of each network along the first axis.
    """

    def __init__(
        self, base: torch.optim.Optimizer, radius: float, gap_weight: float, adaptive: bool, stacked: bool = False
    ) -> None:
        self._base, self._radius, self._gap_weight, self._adaptive = base, radius, gap_weight, adaptive
        self._stacked = stacked
        super().__init__(base.param_groups, {})
        self.state = base.state  # all that is remembered

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns the loss at θ.

        Raises:
            ValueError: no closure.
        """
        if closure is None:
            raise ValueError("GSAM needs a closure that computes loss and gradients")
        with torch.enable_grad():
            loss = closure()
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        before, g0 = [p.clone() for p in parameters], [_gradient(p).clone() for p in parameters]
        for parameter, epsilon in zip(parameters, self._perturbation(before, g0), strict=True):
            parameter.add_(epsilon)
        with torch.enable_grad():
            closure()
        g1 = [_gradient(p).clone() for p in parameters]
        for parameter, start, gradient in zip(parameters, before, self._combined(g0, g1), strict=True):
            parameter.copy_(start)
            parameter.grad = gradient
        self._base.step()
        return loss

    @torch.no_grad()
    def flatness(self, gradient: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
        """g1 - g0, all that a step knows of how flat the loss is, where ``gradient`` gives that of the loss at the
        parameters as they are; they are left as they were.
        """
        parameters = [p for group in self.param_groups for p in group["params"]]
        before, g0 = [p.clone() for p in parameters], _with_graph(gradient)
        for parameter, epsilon in zip(parameters, self._perturbation(before, g0), strict=True):
            parameter.add_(epsilon)
        g1 = _with_graph(gradient)
        for parameter, start in zip(parameters, before, strict=True):
            parameter.copy_(start)
        return [b - a for a, b in zip(g0, g1, strict=True)]

    def _perturbation(self, theta: list[Tensor], g0: list[Tensor]) -> list[Tensor]:
        scaled = [t.abs() * g for t, g in zip(theta, g0, strict=True)] if self._adaptive else g0
        factor = self._radius / (self._norm(scaled) + DELTA)
        weights = [t.square() for t in theta] if self._adaptive else [torch.ones_like(t) for t in theta]
        return [self._over(factor, w) * w * g for w, g in zip(weights, g0, strict=True)]

    def _combined(self, g0: list[Tensor], g1: list[Tensor]) -> list[Tensor]:
        norm0, norm1 = self._norm(g0), self._norm(g1)
        cosine = self._inner(g0, g1) / (norm0 * norm1 + DELTA)
        along = cosine * norm0 / (norm1 + DELTA)
        return [b - self._gap_weight * (a - self._over(along, b) * b) for a, b in zip(g0, g1, strict=True)]

    def _norm(self, tensors: list[Tensor]) -> Tensor:
        if self._stacked:
            norms: Tensor = torch.stack([tensor.flatten(1).norm(dim=1) for tensor in tensors]).norm(dim=0)
            return norms
        norm: Tensor = torch.stack([tensor.norm() for tensor in tensors]).norm()
        return norm

    def _inner(self, a: list[Tensor], b: list[Tensor]) -> Tensor:
        products = [x * y for x, y in zip(a, b, strict=True)]
        return torch.stack([p.flatten(1).sum(1) if self._stacked else p.sum() for p in products]).sum(0)

    def _over(self, value: Tensor, tensor: Tensor) -> Tensor:
        """``value``, one a network where they are stacked, to multiply ``tensor`` with."""
        return value.view(-1, *[1] * (tensor.ndim - 1)) if self._stacked else value


def _with_graph(gradient: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
    with torch.enable_grad():
        return [piece.detach() for piece in gradient()]


def _gradient(parameter: Tensor) -> Tensor:
    gradient = parameter.grad
    assert gradient is not None
    return gradient


@dataclass(frozen=True)
class Gsam:
    """The optimiser part: GSAM around SGD."""

    base: Sgd
    radius: float
    gap_weight: float
    adaptive: bool

    def __call__(self, parameters: Iterable[nn.Parameter], lr: float, stacked: bool = False) -> GsamOptimizer:
        """The optimiser."""
        return GsamOptimizer(self.base(parameters, lr), self.radius, self.gap_weight, self.adaptive, stacked)
