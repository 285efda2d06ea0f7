"""Normalisation layers: by name, and in place of batch normalisation, whose statistics a set of a few images ruins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from distillkit import rng
from distillkit.networks.kinds import BATCH_NORMS

GROUPS = 32
"""Groups of ``group`` where a timm network's batch normalisation is replaced, or as many as divide its channels."""

DRAWN, LEFT = 2, 5e-4
"""Images that tell whether a network hears them, and the share of its logits' spread that it must keep: of 43 of timm's
networks RepViT kept 6e-5, StarNet and ConvMixer 3e-7 and less of that with all channels together, the others 4e-3 and
more.
"""


def norm_layer(kind: str, channels: int) -> nn.Module:
    """``instance`` (affine GroupNorm of one channel a group, as released), ``group``, ``layer``, ``batch``, none."""
    if kind == "instance":
        return nn.GroupNorm(channels, channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(4, channels), channels)
    if kind == "layer":
        return nn.GroupNorm(1, channels)
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.Identity()


class NormAct(nn.Module):
    """A normalisation followed by the dropout and activation that timm fuses into its batch normalisation."""

    def __init__(self, norm: nn.Module, drop: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.norm, self.drop, self.act = norm, drop, act

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        found: Tensor = self.act(self.drop(self.norm(images)))
        return found


def replace_batch_norm(model: nn.Module, kind: str, probe: Tensor) -> str | None:
    """Replace every batch normalisation of ``model`` in place by a GroupNorm of the ``kind`` ``instance`` or ``group``.

    Where a map has a single pixel, or features are no map, a channel by itself would be normalised to nothing: there
    all channels are one group. ``probe`` [B, C, H, W] is sent through the network to see where that is.

    Returns:
        What was done, in words; None if there was none.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, BATCH_NORMS)}
    if not layers:
        return None
    single = _single_pixels(model, layers, probe)
    for name, layer in layers.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, _replacement(layer, kind, name in single))
    words = "one channel a group" if kind == "instance" else f"up to {GROUPS} groups"
    where = f", all channels together in the {len(single)} on maps of one pixel" if single else ""
    return f"norm: {len(layers)} batch normalisations replaced by GroupNorm ({words}{where})"


def is_deaf(model: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Whether a network whose normalisations are of one channel a group gives the same logits whatever the image
    [C, H, W], where all channels together would not.

    Each such layer takes the mean from each map, and a network whose features are the means of sums of such maps, with
    no activation between, is left with noughts.
    """
    drawn = torch.randn(DRAWN, *image_shape, generator=rng.generator(0, "deaf"))
    layers = [layer for layer in model.modules() if isinstance(layer, nn.GroupNorm) and _is_instance(layer)]
    alone = _spread(model, drawn)
    try:
        for layer in layers:
            layer.num_groups = 1
        return alone < LEFT * _spread(model, drawn)
    finally:
        for layer in layers:
            layer.num_groups = layer.num_channels


def _is_instance(layer: nn.GroupNorm) -> bool:
    return layer.num_groups == layer.num_channels


def _spread(model: nn.Module, images: Tensor) -> float:
    """Standard deviation of a logit over the images, the mean of all."""
    training = model.training
    try:
        with torch.no_grad():
            return float(model.eval()(images).std(0).mean())
    finally:
        model.train(training)


def mend_single_pixels(model: nn.Module, probe: Tensor) -> None:
    """Where a normalisation of one channel a group would see a single pixel, and leave nothing of it, make all channels
    one group, in place; ``probe`` [B, C, H, W] is sent through the network to see where that is.
    """
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, nn.GroupNorm) and _is_instance(layer)
    }
    for name in _single_pixels(model, layers, probe) if layers else ():
        layers[name].num_groups = 1


def _single_pixels(model: nn.Module, layers: Mapping[str, nn.Module], probe: Tensor) -> set[str]:
    found: set[str] = set()

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].shape[2:].numel() == 1:
                found.add(name)

        return hook

    hooks = [layer.register_forward_pre_hook(look(name)) for name, layer in layers.items()]
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(probe)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return found


def _replacement(layer: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, kind: str, single: bool) -> nn.Module:
    channels = layer.num_features
    groups = 1 if single else channels if kind == "instance" else math.gcd(GROUPS, channels)
    norm = nn.GroupNorm(groups, channels, eps=layer.eps, affine=layer.affine)
    act, drop = getattr(layer, "act", None), getattr(layer, "drop", None)
    return norm if act is None else NormAct(norm, drop or nn.Identity(), act)
