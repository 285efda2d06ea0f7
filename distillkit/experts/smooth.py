"""AST's regularisers of expert training (Shen et al., arXiv:2310.10541; AST-repo ``buffer.py`` and ``epoch_gp``).

They are to keep a strong expert's trajectory smooth: the clipping loss damps the first epochs, the gradient penalty
holds the input gradient near one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from distillkit.parts import Part, Seam
from distillkit.training.recipe import Batch, Model, cross_entropy
from distillkit.training.second_order import input_gradient


@dataclass(frozen=True)
class Clipping:
    """c_e, by which the cross-entropy of epoch e (first is 0) is multiplied: L_clip = c_e CE; 1 after ``factors``.

    A scale of the loss, no clipping of gradients; with weight decay in the optimiser it is no warm-up of the lr either.
    """

    factors: tuple[float, ...]

    def __call__(self, epoch: int) -> float:
        """c_e of ``epoch``."""
        return self.factors[epoch] if epoch < len(self.factors) else 1.0


def two_sided_logit_penalty(model: Model, batch: Batch) -> Tensor:
    """Mean over images and pixels of (|G_{:,h,w}| - 1)^2, G = d(sum of all logits)/dx, |.| over channels.

    As the authors' code has it, on the un-augmented batch [B, C, H, W]. Note that it raises gradients below one, and
    that softmax cross-entropy does not see the direction it looks at.
    """
    gradient = input_gradient(lambda clean: model(clean).sum(), batch.clean)
    penalty: Tensor = (gradient.norm(dim=1) - 1).square().mean()
    return penalty


def one_sided_loss_penalty(model: Model, batch: Batch) -> Tensor:
    """Mean over images of max(0, |d CE_b/dx_b| - 1)^2, |.| over all values of an image; our own form."""
    gradient = input_gradient(lambda clean: F.cross_entropy(model(clean), batch.targets, reduction="sum"), batch.clean)
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).clamp_min(0).square().mean()
    return penalty


Penalty = Callable[[Model, Batch], Tensor]
PENALTIES: Seam[Part[Penalty]] = Seam(
    "experts.penalty",
    {"two-sided-logits": Part(two_sided_logit_penalty), "one-sided-loss": Part(one_sided_loss_penalty)},
)


@dataclass(frozen=True)
class SmoothLoss:
    """L_SC = c_e CE(f(DSA(x)), y) + weight * penalty(f, x), where c_e is the recipe's scale of the epoch."""

    penalty: Penalty
    weight: float

    def __call__(self, model: Model, batch: Batch, scale: float | Tensor) -> Tensor:
        """The loss of ``model`` on ``batch``."""
        loss = cross_entropy(model, batch, scale)
        return loss + self.weight * self.penalty(model, batch) if self.weight > 0 else loss
