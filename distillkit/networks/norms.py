"""Normalisation layers: by name, and in place of batch normalisation, whose statistics a set of a few images ruins."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

GROUPS = 32
"""Groups of ``group`` where a timm network's batch normalisation is replaced, or as many as divide its channels."""


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

    Where a map has a single pixel, a channel by itself would be normalised to nothing: there all channels are one
    group. ``probe`` [B, C, H, W] is sent through the network to see where that is.

    Returns:
        What was done, in words; None if there was none.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)}
    if not layers:
        return None
    single = _single_pixels(model, layers, probe)
    for name, layer in layers.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, _replacement(layer, kind, name in single))
    words = "one channel a group" if kind == "instance" else f"up to {GROUPS} groups"
    where = f", all channels together in the {len(single)} on maps of one pixel" if single else ""
    return f"norm: {len(layers)} batch normalisations replaced by GroupNorm ({words}{where})"


def mend_single_pixels(model: nn.Module, probe: Tensor) -> None:
    """Where a normalisation of one channel a group would see a single pixel, and leave nothing of it, make all channels
    one group, in place; ``probe`` [B, C, H, W] is sent through the network to see where that is.
    """
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.GroupNorm) and layer.num_groups == layer.num_channels
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


def _replacement(layer: nn.BatchNorm2d, kind: str, single: bool) -> nn.Module:
    channels = layer.num_features
    groups = 1 if single else channels if kind == "instance" else math.gcd(GROUPS, channels)
    norm = nn.GroupNorm(groups, channels, eps=layer.eps, affine=layer.affine)
    act, drop = getattr(layer, "act", None), getattr(layer, "drop", None)
    return norm if act is None else NormAct(norm, drop or nn.Identity(), act)
