"""Learned images as long as real ones, where the network they were learned for cannot tell.

Of unit whitening (``UnitLength``) all real images come out nearly equally long. A network that normalises each image
after its first layer does not see lengths, so those of learned images say where they began: unit noise ends at an
eighth of a real image's length. Other networks do see them: batch normalisation keeps statistics of the set, and fails
on real images then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distillkit.data.preprocess import UnitLength
from distillkit.records import SyntheticSet
from distillkit.stages.context import Prepared, Run

MEASURED = 1000
"""Real images whose mean length counts."""
ASKED = 16
"""Real images that a network is asked about at two lengths."""
ALIKE = 1e-2
"""Relative difference of logits below which they are alike: normalisation adds a little to variances, so that they
never are the same."""


def as_long_as_real(
    run: Run, prepared: Prepared, synthetic: SyntheticSet, step: int
) -> tuple[SyntheticSet, dict[str, Any]]:
    """The learned set with each image of the mean length of real inputs, and what results.json says of it; as it is
    where lengths mean something or nothing was learned (``step`` 0).

    The run's own networks give the same logits and learn the same, but for the constant that normalisation adds.
    """
    if step == 0 or not isinstance(prepared.preprocess, UnitLength):
        return synthetic, {}
    real = prepared.train_images[:MEASURED]
    model = prepared.build(prepared.network, run.settings.seed, "length")(0).to(real.device)
    if sees_length(model, real[:ASKED]):
        return synthetic, {}
    wanted, lengths = float(_lengths(real).mean()), _lengths(synthetic.images)
    factors = torch.where(lengths > 0, wanted / lengths.clamp_min(torch.finfo(lengths.dtype).tiny), 1.0)
    images = synthetic.images * factors[:, None, None, None]
    return replace(synthetic, images=images), {"image_length": {"learned": float(lengths.mean()), "real": wanted}}


@torch.no_grad()
def sees_length(model: nn.Module, images: Tensor) -> bool:
    """Whether ``model`` [B, C, H, W] to [B, K] gives other logits for images of twice the length."""
    model.eval()
    once, twice = model(images), model(2 * images)
    return bool((twice - once).norm() > ALIKE * once.norm())


def _lengths(images: Tensor) -> Tensor:
    """L2 norms [n] of images [n, C, H, W]."""
    found: Tensor = images.flatten(1).norm(dim=1)
    return found
