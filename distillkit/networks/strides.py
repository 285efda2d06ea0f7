"""Fewer halvings for small images: a network made for 224 pixels would look at 32 of them through a map of one pixel.

As the field's networks for CIFAR have it (pytorch-cifar's MobileNetV2 and EfficientNet, the 3x3 stem of ResNet): the
first layers keep the size of their maps, all others stay as they are. Parameters and their names stay the same.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

SMALL = 64
"""Pixels a side from which down a network that was made for 224 would end in a map of one pixel."""
LEAST_MAP, LEAST_MAP_SHARE = 4, 8
"""Pixels a side of a network's last map, as the field's ResNet-18 has it at 32 pixels, and the part of the image's that
it is at most: three halvings are the field's ConvNet."""

Pooling = nn.MaxPool2d | nn.AvgPool2d


def least_side(image_size: int) -> int:
    """Pixels a side that the last map of a network for images of ``image_size`` is to have."""
    return max(1, min(LEAST_MAP, image_size // LEAST_MAP_SHARE))


def resnet_side(image_size: int) -> int:
    """Pixels a side of the last map of timm's ResNets as ``prepare_model`` makes them, known without making one: three
    halvings on small images, five on others.
    """
    return -(-image_size // (8 if image_size <= SMALL else 32))


@dataclass(frozen=True)
class Halving:
    """A layer that makes maps smaller, by its name, and the sides of its input and output in pixels."""

    name: str
    layer: nn.Module
    before: int
    after: int


def shrink_less(model: nn.Module, probe: Tensor, least: int) -> str | None:
    """Take strides away in place, from the first layers on, until the last map has ``least`` pixels a side.

    Layers on maps of one size are changed together, since branches must meet. Where that is not possible (attention
    that was built for a number of pixels, patches that do not overlap), the network stays as it is from there on.

    Args:
        model: of timm, which tells its last map by ``forward_features``.
        probe: images [B, C, H, W], to see the maps.
        least: pixels.

    Returns:
        What was done, in words; None if nothing.
    """
    begun = _last_side(model, probe)
    if begun is None:
        return None
    side, changed = begun, 0
    while side < least:
        level = _first_level(model, probe)
        if not level or not all(_can_keep_size(one.layer) for one in level):
            break
        with ExitStack() as undo:
            for one in level:
                undo.callback(_keep_size(model, one))
            wider = _last_side(model, probe)
            if wider is None or wider <= side:
                break
            undo.pop_all()
        side, changed = wider, changed + len(level)
    if not changed:
        return None
    maps = f"the last is {side}x{side}, not {begun}x{begun}"
    return f"strides: {changed} of the first layers keep the size of their maps; {maps}"


def _last_side(model: nn.Module, probe: Tensor) -> int | None:
    """Pixels a side of the last map; None where there is none, or the network does not take such images."""
    features = getattr(model, "forward_features", None)
    if features is None:
        return None
    try:
        with torch.no_grad(), _evaluating(model):
            last = features(probe)
            model(probe)
    except (RuntimeError, AssertionError, ValueError):
        return None
    square = isinstance(last, Tensor) and last.dim() == 4 and last.shape[2] == last.shape[3]
    return int(last.shape[3]) if square else None


def _evaluating(model: nn.Module) -> ExitStack:
    stack = ExitStack()
    stack.callback(model.train, model.training)
    model.eval()
    return stack


def _first_level(model: nn.Module, probe: Tensor) -> list[Halving]:
    """The layers that make the largest maps smaller; empty if none does."""
    found: list[Halving] = []

    def look(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            before, after = inputs[0].shape[-1], output.shape[-1]
            if before >= 2 * after - 1 and before > 1:
                found.append(Halving(name, layer, before, after))

        return hook

    with torch.no_grad(), _evaluating(model) as stack:
        for name, layer in model.named_modules():
            if isinstance(layer, nn.Conv2d | Pooling):
                stack.callback(layer.register_forward_hook(look(name)).remove)
        model(probe)
    largest = max((one.before for one in found), default=0)
    return [one for one in found if one.before == largest]


def _can_keep_size(layer: nn.Module) -> bool:
    """Whether the layer without its stride gives a map of the size of its input: windows that overlap, or one pixel."""
    if isinstance(layer, nn.Conv2d):
        return layer.stride[0] == layer.stride[1] and layer.kernel_size[0] % 2 == 1
    return True


def _keep_size(model: nn.Module, one: Halving) -> Callable[[], None]:
    """Take the stride of a layer away; returns what brings it back."""
    if isinstance(one.layer, nn.Conv2d):
        convolution, stride = one.layer, one.layer.stride
        convolution.stride = (1, 1)
        return lambda: setattr(convolution, "stride", stride)
    owner, _, attribute = one.name.rpartition(".")
    parent = model.get_submodule(owner)
    setattr(parent, attribute, nn.Identity())
    return lambda: setattr(parent, attribute, one.layer)
