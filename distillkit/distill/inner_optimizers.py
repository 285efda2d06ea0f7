"""The student's optimisers: the step there, and the exact way back of it.

Legend: θ parameters [P]; g the gradient of a step; η the learning rate; k the number of steps taken, this one included;
``slots`` [M, P] what an optimiser carries from step to step; a bar marks the derivative of the outer loss.

SGD with momentum: v' = μ v + g, θ' = θ - η v'. Backwards, with u = θ̄ of the later steps and w = -Σ_j μ^j u_j over them,
ḡ = η w; and dL/dη = -Σ uᵀv' is reordered to Σ gᵀw, so that no velocity is stored.

Adam (Kingma and Ba, ICLR 2015, Alg. 1): m' = β₁m + (1-β₁)g, v' = β₂v + (1-β₂)g², b₁ = 1-β₁ᵏ, b₂ = 1-β₂ᵏ, r = √(v'/b₂),
d = r + ε, θ' = θ - η (m'/b₁)/d. Backwards

    dL/dη += -θ̄ᵀ (m'/b₁)/d
    m̄ ← m̄ - η θ̄ / (b₁ d);   v̄ ← v̄ + η θ̄ (m'/b₁) / (2 b₂ r d²);   ḡ = (1-β₁) m̄ + 2 (1-β₂) g ∘ v̄
    m̄ ← β₁ m̄;  v̄ ← β₂ v̄

What a student brings along (its velocity, its moments, their count) is held constant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distillkit.parts import Part, Seam
from distillkit.settings import DistillSettings


@dataclass(frozen=True)
class InnerMemory:
    """What an optimiser carries: ``slots`` [M, P], and the steps it has taken."""

    slots: Tensor
    count: int = 0


class WayBack(Protocol):
    """The steps of one student backwards, last step first."""

    @property
    def scale(self) -> Tensor | float:
        """The factor that turns what ``direction`` returns into ḡ."""

    def direction(self, theta_bar_P: Tensor, remembered_RP: Tensor, count: int) -> Tensor:
        """Take in θ̄ after a step, the ``count``-th, of which ``remembered_RP`` was kept; w [P]."""

    def lr_share(self, inner_product: Tensor) -> Tensor:
        """What the step adds to dL/dη; ``inner_product`` is gᵀw."""

    def from_start(self, slots_MP: Tensor) -> Tensor:
        """What the slots at the start add to dL/dη."""


class InnerOptimizer(Protocol):
    """An optimiser of the student; ``remembered``: vectors [P] to keep of each step for the way back."""

    @property
    def slots(self) -> int:
        """M."""

    @property
    def remembered(self) -> int:
        """R."""

    def step(self, theta_P: Tensor, memory: InnerMemory, gradient_P: Tensor, lr: Tensor, out_P: Tensor) -> InnerMemory:
        """Write the parameters after a step into ``out_P`` (may be ``theta_P``), return what is carried on."""

    def remember(self, memory: InnerMemory, gradient_P: Tensor) -> tuple[Tensor, ...]:
        """The R vectors to keep of a step: ``memory`` after it, and its gradient."""

    def way_back(self, lr: Tensor, like_P: Tensor) -> WayBack:
        """From the last step."""


@dataclass(frozen=True)
class Sgd:
    """SGD with heavy-ball momentum (the first velocity is the first gradient)."""

    momentum: float = 0.0
    remembered: int = 0

    @property
    def slots(self) -> int:
        """The velocity, if there is momentum."""
        return 1 if self.momentum else 0

    def step(self, theta_P: Tensor, memory: InnerMemory, gradient_P: Tensor, lr: Tensor, out_P: Tensor) -> InnerMemory:
        """θ - η v'."""
        velocity = gradient_P + self.momentum * memory.slots[0] if self.momentum else gradient_P
        torch.add(theta_P, velocity * lr, alpha=-1, out=out_P)
        return InnerMemory(velocity[None] if self.momentum else memory.slots, memory.count + 1)

    def remember(self, memory: InnerMemory, gradient_P: Tensor) -> tuple[Tensor, ...]:
        """Nothing."""
        return ()

    def way_back(self, lr: Tensor, like_P: Tensor) -> WayBack:
        """With w = 0."""
        return _SgdWayBack(self.momentum, lr, torch.zeros_like(like_P))


class _SgdWayBack:
    def __init__(self, momentum: float, lr: Tensor, w_P: Tensor) -> None:
        self._momentum, self._lr, self._w = momentum, lr, w_P

    @property
    def scale(self) -> Tensor:
        return self._lr

    def direction(self, theta_bar_P: Tensor, remembered_RP: Tensor, count: int) -> Tensor:
        self._w = self._momentum * self._w - theta_bar_P if self._momentum else -theta_bar_P
        return self._w

    def lr_share(self, inner_product: Tensor) -> Tensor:
        return inner_product

    def from_start(self, slots_MP: Tensor) -> Tensor:
        """The first velocity v enters step j as μ^(j+1) v: μ vᵀw."""
        if not self._momentum:
            return self._w.new_zeros(())
        return self._momentum * (slots_MP[0] * self._w).sum()


QUIET = 100.0
"""Entries whose root r is at most this many ε have no gradient to speak of (a bias before a normalisation: 1e-8, all of
it rounding), and their derivative, of the order of 1/ε², would be noise: they pass none."""


@dataclass(frozen=True)
class Adam:
    """Adam, bias-corrected, without decay, as ``torch.optim.Adam``."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    slots: int = 2
    remembered: int = 3

    def corrections(self, count: int) -> tuple[float, float]:
        """b₁ and b₂ of the ``count``-th step."""
        return 1 - self.beta1**count, 1 - self.beta2**count

    def step(self, theta_P: Tensor, memory: InnerMemory, gradient_P: Tensor, lr: Tensor, out_P: Tensor) -> InnerMemory:
        """θ - η (m'/b₁)/d."""
        first = torch.lerp(memory.slots[0], gradient_P, 1 - self.beta1)
        second = torch.lerp(memory.slots[1], gradient_P.square(), 1 - self.beta2)
        b1, b2 = self.corrections(memory.count + 1)
        update = (first / b1) / ((second / b2).sqrt() + self.eps)
        torch.add(theta_P, update * lr, alpha=-1, out=out_P)
        return InnerMemory(torch.stack([first, second]), memory.count + 1)

    def remember(self, memory: InnerMemory, gradient_P: Tensor) -> tuple[Tensor, ...]:
        """m', v' and g."""
        return memory.slots[0], memory.slots[1], gradient_P

    def way_back(self, lr: Tensor, like_P: Tensor) -> WayBack:
        """With m̄ = v̄ = 0."""
        return _AdamWayBack(self, lr, torch.zeros_like(like_P), torch.zeros_like(like_P))


class _AdamWayBack:
    scale = 1.0

    def __init__(self, adam: Adam, lr: Tensor, first_bar_P: Tensor, second_bar_P: Tensor) -> None:
        self._adam, self._lr, self._first_bar, self._second_bar = adam, lr, first_bar_P, second_bar_P
        self._share = torch.zeros_like(lr)

    def direction(self, theta_bar_P: Tensor, remembered_RP: Tensor, count: int) -> Tensor:
        adam = self._adam
        first, second, gradient = remembered_RP
        b1, b2 = adam.corrections(count)
        root = (second / b2).sqrt()
        spread = root + adam.eps
        update = (first / b1) / spread
        passes = root > QUIET * adam.eps
        moved = torch.where(passes, self._lr * theta_bar_P / spread, 0)
        self._share = -(theta_bar_P * update).sum()
        first_bar = self._first_bar - moved / b1
        second_bar = self._second_bar + torch.where(passes, moved * update / (2 * b2 * root), 0)
        self._first_bar, self._second_bar = adam.beta1 * first_bar, adam.beta2 * second_bar
        gradient_bar: Tensor = (1 - adam.beta1) * first_bar + 2 * (1 - adam.beta2) * gradient * second_bar
        return gradient_bar

    def lr_share(self, inner_product: Tensor) -> Tensor:
        return self._share

    def from_start(self, slots_MP: Tensor) -> Tensor:
        """Nothing: η does not multiply the moments that were brought along."""
        return torch.zeros_like(self._share)


INNER_OPTIMIZERS: Seam[Part[Callable[[DistillSettings], InnerOptimizer]]] = Seam(
    "distill.inner_optimizer",
    {
        "sgd": Part(lambda settings: Sgd(settings.inner_momentum), reads=("distill.inner_momentum",)),
        "adam": Part(lambda settings: Adam()),
    },
)


def inner_optimizer(settings: DistillSettings) -> InnerOptimizer:
    """The part that ``settings.inner_optimizer`` names.

    Raises:
        ConfigError: unknown.
    """
    return INNER_OPTIMIZERS.chosen(settings).build(settings)
