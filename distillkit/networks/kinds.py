"""What a network is, as far as a recipe depends on it: its architecture's name, its family, its kind of layers."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NEEDED = 512
"""Values a channel that batch normalisation needs. Up to 160 it depends on the data: on digits it loses up to 44 points
beside what takes its place, on CIFAR-10 it gains 5 to 14; at 1,600 both are alike. Between nothing was measured, and to
replace it is the smaller risk (docs/networks.md)."""
PROBES = 2
"""Images of zeros that a network is looked at with."""


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


@dataclass(frozen=True)
class BatchStatistics:
    """Of how many ``values`` a channel the statistics of batch normalisation are where they are of the fewest: images
    of a batch times ``pixels`` (or tokens) of the smallest map that is so normalised.
    """

    images: int
    pixels: int

    @property
    def values(self) -> int:
        """A channel."""
        return self.images * self.pixels

    @property
    def are_few(self) -> bool:
        """Too few to learn by."""
        return self.values < NEEDED


def batch_statistics(model: nn.Module, image_shape: tuple[int, int, int], images: int) -> BatchStatistics | None:
    """Those of ``model`` on batches of so many ``images`` [C, H, W]; None of a network without batch normalisation.
    The model stays as it is.
    """
    if not has_batch_norm(model):
        return None
    uncompiled = getattr(model, "_orig_mod", model)  # a compiled forward pass calls no hooks
    probed, parameter, pixels = copy.deepcopy(uncompiled).eval(), next(model.parameters()), list[int]()

    def look(layer: nn.Module, inputs: object, output: Tensor) -> None:
        pixels.append(output.numel() // output.shape[1] // PROBES)

    for layer in probed.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.register_forward_hook(look)
    with torch.no_grad():
        probed(torch.zeros(PROBES, *image_shape, device=parameter.device, dtype=parameter.dtype))
    return BatchStatistics(images, min(pixels)) if pixels else None


def needs_several(model: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Whether ``model`` cannot be trained on a batch of one image [C, H, W]: it has batch normalisation on a map of one
    pixel, which has no statistics then. The model stays as it is.
    """
    if not has_batch_norm(model):
        return False
    probed, parameter = copy.deepcopy(model).train(), next(model.parameters())
    try:
        with torch.no_grad():
            probed(torch.zeros(1, *image_shape, device=parameter.device, dtype=parameter.dtype))
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            return True
        raise
    return False


def has_attention(model: nn.Module) -> bool:
    """Whether a layer of it is attention over places, by its name: squeeze-and-excitation is not."""
    return any(re.search("Attention|MultiQuery|Transformer", type(layer).__name__) for layer in model.modules())
