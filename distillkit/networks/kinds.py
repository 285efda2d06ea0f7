"""What a network is, as far as a recipe depends on it: its architecture's name, its family, its kind of layers."""

from __future__ import annotations

import re

from torch import nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def architecture_of(model: nn.Module) -> str | None:
    """The name that ``parse_architecture`` reads, of networks that distillkit or timm made; None of others."""
    known = getattr(model, "architecture", None)
    if isinstance(known, str):
        return known
    made_by_timm = getattr(model, "pretrained_cfg", None)
    name = made_by_timm.get("architecture") if isinstance(made_by_timm, dict) else None
    return f"timm/{name}" if isinstance(name, str) else None


def family_of(architecture: str) -> str:
    """The name without sizes, with its normalisation: ``timm/resnet:norm=instance`` of ``timm/resnet18:norm=instance``.

    Letters up to the first digit, underscore or dot after the family's name.
    """
    name, _, options = architecture.partition(":")
    stem = re.match(r"(timm/)?[a-z]+", name)
    norm = re.search(r"norm=\w+", options)
    return (stem.group() if stem else name) + (f":{norm.group()}" if norm else "")


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a layer of it normalises over the batch."""
    return any(isinstance(layer, BATCH_NORMS) for layer in model.modules())


def has_attention(model: nn.Module) -> bool:
    """Whether a layer of it is attention over places, by its name: squeeze-and-excitation is not."""
    return any(re.search("Attention|MultiQuery|Transformer", type(layer).__name__) for layer in model.modules())
