"""Learned images as long as real ones, where the network they were learned for cannot tell.

A network that normalises each image after its first layer does not see how long an input is (its L2 norm), so the
lengths of learned images say nothing but how they were learned: at one image a class most come out two to four times as
long as real ones, ten that began as unit noise an eighth. Other networks do see lengths: batch normalisation keeps
statistics of the set, and fails on real images then.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from distillkit.data.inputs import Inputs
from distillkit.precision import arithmetic
from distillkit.records import SyntheticSet
from distillkit.stages.architectures import all_networks
from distillkit.stages.context import Prepared, Run
from distillkit.stages.validation import mean_over, validated

MEASURED = 1000
"""Real images whose mean length counts."""
ASKED = 16
"""Real images that a network is asked about at two lengths."""
ALIKE = 1e-2
"""Relative difference of logits below which they are alike: normalisation adds a little to variances, so that they
never are the same."""
ADDS = "color"
"""The operation of an augmentation that adds a constant (brightness), beside which a length shows."""


def as_long_as_real(
    run: Run, prepared: Prepared, synthetic: SyntheticSet, selection: dict[str, Any]
) -> tuple[SyntheticSet, dict[str, Any]]:
    """The learned set with each image of the mean length of real inputs, and what results.json says of it.

    As it is where a network of the run sees lengths, and where an augmentation by constants makes the set worth less at
    that length: by validation data, by more than a standard error.

    Args:
        run: whose.
        prepared: its data.
        synthetic: the set that was kept.
        selection: how it was selected, with its validation accuracy.
    """
    if _length_shows(run, prepared):
        return synthetic, {}
    real = _some(prepared.train_images)
    wanted, lengths = float(_lengths(real).mean()), _lengths(synthetic.images)
    told: dict[str, Any] = {"learned": float(lengths.mean()), "real": wanted, "kept": "real"}
    factors = torch.where(lengths > 0, wanted / lengths.clamp_min(torch.finfo(lengths.dtype).tiny), 1.0)
    natural = replace(synthetic, images=synthetic.images * factors[:, None, None, None])
    if prepared.augmentation is not None and ADDS in prepared.augmentation.operations:
        accuracy = _validated(run, prepared, natural)
        told["validation_accuracy"] = accuracy
        if not _as_good(accuracy, selection["validation_accuracy"], len(prepared.validation.labels)):
            return synthetic, {"image_length": told | {"kept": "learned"}}
    return natural, {"image_length": told}


def as_long_as_learned(
    run: Run, prepared: Prepared, synthetic: SyntheticSet, told: dict[str, Any] | None
) -> SyntheticSet:
    """A finished set with the mean length that its images were learned with, for a run that goes on with them.

    A step of so much is a larger one for shorter images, and their gradient is larger too where networks cannot tell.
    As it is where a network of the run sees lengths, and where no step follows.

    Args:
        run: whose.
        prepared: its data.
        synthetic: the set.
        told: what results.json says of its lengths, if it does.
    """
    learns = run.settings.distill.outer_steps > 0
    if told is None or told["kept"] != "real" or not learns or _length_shows(run, prepared):
        return synthetic
    run.progress.note(
        f"the images begin as long as they were learned (L2 norm {told['learned']:.3g}, real ones {told['real']:.3g}), "
        "which the networks of this run cannot tell"
    )
    return replace(synthetic, images=synthetic.images * (told["learned"] / told["real"]))


def _length_shows(run: Run, prepared: Prepared) -> bool:
    """Whether a network of the run sees the length of an image."""
    real = _some(prepared.train_images)[:ASKED]
    models = (prepared.build(one, run.settings.seed, "length")(0) for one in all_networks(run, prepared))
    return any(sees_length(model.to(real.device), real) for model in models)


def _validated(run: Run, prepared: Prepared, synthetic: SyntheticSet) -> float | None:
    """Mean validation accuracy, of the networks that selected; None if no images are held out."""
    if not len(prepared.validation.labels):
        return None
    with arithmetic(run.steady_precision, run.device):
        check = "while lengths of images are compared, with a checkpoint"
        return mean_over(validated(run, prepared, synthetic, lambda: run.stop.check(check)))


def _as_good(accuracy: float | None, before: float | None, images: int) -> bool:
    """Whether ``accuracy`` on so many images is at most a standard error below ``before``; unmeasured ones are not."""
    if accuracy is None or before is None:
        return False
    return accuracy >= before - math.sqrt(before * (1 - before) / images)


def _some(images: Inputs) -> Tensor:
    """``MEASURED`` of the images, spread over all of them: they may be in the order of their classes."""
    count = min(MEASURED, len(images))
    return images[torch.linspace(0, len(images) - 1, count, device=images.device).long()]


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
