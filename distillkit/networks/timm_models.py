"""timm networks on small images: what has to be changed is changed, and said."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from difflib import get_close_matches
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import nn

from distillkit.environment import made_on_the_host
from distillkit.errors import ConfigError
from distillkit.networks.norms import is_deaf, replace_batch_norm
from distillkit.networks.strides import SMALL, least_side, shrink_less


def _creation_attempts(image_size: int) -> list[tuple[dict[str, Any], str]]:
    patch = max(1, image_size // 8)
    return [
        (
            {"img_size": image_size, "patch_size": patch},
            f"img_size={image_size}, patch_size={patch} (8x8 tokens)",
        ),
        ({"img_size": image_size}, f"img_size={image_size}"),
        ({"patch_size": max(1, image_size // 32)}, f"patch_size={max(1, image_size // 32)} in the stem"),
        ({}, ""),
    ]


def _cifar_stem(model: nn.Module, channels: int) -> str | None:
    """Replace a 7x7 stride-2 stem with max pooling by a 3x3 stride-1 convolution without pooling."""
    stem = getattr(model, "conv1", None)
    if not isinstance(stem, nn.Conv2d) or not hasattr(model, "maxpool") or stem.stride == (1, 1):
        return None
    model.conv1 = nn.Conv2d(channels, stem.out_channels, 3, stride=1, padding=1, bias=stem.bias is not None)
    model.maxpool = nn.Identity()
    return "stem: 3x3 convolution of stride 1, no max pooling"


def _small_vgg(model: nn.Module, image_size: int, num_classes: int) -> str | None:
    """VGG as the field has it on small images: no hidden layers of 7x7 maps, no pooling of a single pixel."""
    from timm.layers import ClassifierHead
    from timm.models.vgg import VGG

    if not isinstance(model, VGG):
        return None
    poolings = [place for place, layer in enumerate(model.features) if isinstance(layer, nn.MaxPool2d)]
    surplus = poolings[image_size.bit_length() - 1 :]  # a map of one pixel cannot be halved
    for place in surplus:
        model.features[place] = nn.Identity()
    model.pre_logits = nn.Identity()
    model.head = ClassifierHead(model.num_features, num_classes)
    note = "head: one linear layer, no hidden ones"
    return f"{note}; the last {len(surplus)} poolings left out" if surplus else note


def _small_form(model: nn.Module, images: torch.Tensor, num_classes: int) -> str | None:
    """What else small images need, done in place and told; None if nothing."""
    size = images.shape[-1]
    return _small_vgg(model, size, num_classes) or shrink_less(model, images, least_side(size))


def _runs(model: nn.Module, channels: int, image_size: int) -> bool:
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, channels, image_size, image_size))
    except (RuntimeError, AssertionError, ValueError):
        return False
    finally:
        model.train()
    return True


def _create(name: str, arguments: dict[str, Any]) -> nn.Module | None:
    import timm

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    except (TypeError, AssertionError, RuntimeError, ValueError, IndexError, ZeroDivisionError):
        return None  # this family does not take these arguments
    return model


Norm = Literal["keep", "instance", "group"]


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Timm networks that are made inside compute attention operation by operation: fused kernels have no second
    derivative, which distillation takes.
    """
    from timm.layers import set_fused_attn, use_fused_attn

    before = use_fused_attn()
    set_fused_attn(False)
    try:
        yield
    finally:
        set_fused_attn(before)


class PlainHardsigmoid(nn.Hardsigmoid):
    """ReLU6(x + 3) / 6, the same in operations that have a second derivative."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Element by element."""
        return nn.functional.relu6(input + 3) / 6


def plain_activations(model: nn.Module) -> nn.Module:
    """``model``, its activations without a second derivative replaced in place by the same in plain operations."""
    for layer in model.modules():
        if type(layer) is nn.Hardsigmoid:
            layer.__class__ = PlainHardsigmoid
    return model


def is_timm_name(name: str) -> bool:
    """Whether timm, where it is installed, has a network ``name``, given without ``timm/``."""
    try:
        import timm
    except ImportError:
        return False
    return bool(timm.is_model(name))


def check_timm_name(name: str) -> None:
    """Whether timm has a network ``name``, given without ``timm/``; none is made.

    Raises:
        ConfigError: no; with names like it.
    """
    import timm

    if not timm.is_model(name):
        close = ", ".join(get_close_matches(name, timm.list_models(), 5))
        hint = f"similar names: {close}" if close else "timm.list_models() lists them"
        raise ConfigError(f"timm has no network {name!r}; {hint}")
    try:
        timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:
        plain, _, tag = name.partition(".")
        known = ", ".join(one.partition(".")[2] for one in timm.list_pretrained(f"{plain}.*")) or "none"
        raise ConfigError(f"timm's {plain} has no tag {tag!r}; its tags: {known}; or leave it out") from error


def _check_given(name: object, **numbers: object) -> None:
    if not isinstance(name, str):
        raise ConfigError(f"`name` is a {type(name).__name__}, expected the name of one of timm's networks")
    for what, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ConfigError(f"`{what}` must be a whole number of 1 or more, got {value!r}")


@made_on_the_host
def prepare_model(
    name: str, *, num_classes: int, image_size: int, channels: int = 3, norm: Norm = "keep"
) -> tuple[nn.Module, list[str]]:
    """Create a timm network, untrained, that works on ``image_size`` x ``image_size`` images of ``channels`` channels.

    Small images need smaller patches, or first layers that do not shrink them; the first form that fits the family is
    taken.

    Args:
        name: timm's, with or without ``timm/`` before it.
        num_classes: K, outputs.
        image_size: pixels a side.
        channels: of the images.
        norm: what batch normalisation becomes: ``keep`` leaves it, ``instance`` and ``group`` put GroupNorm in its
            place, of one channel a group or of larger groups. A few images a class cannot train batch normalisation.

    Returns:
        The network, and a line for each thing that differs from ``timm.create_model(name)``.

    Raises:
        ConfigError: timm has no such network, or no form of it takes such images.
    """
    _check_given(name, num_classes=num_classes, image_size=image_size, channels=channels)
    name = name.removeprefix("timm/")
    if norm not in get_args(Norm):
        raise ConfigError(f"norm={norm!r} is unknown; use {', '.join(get_args(Norm))}")
    check_timm_name(name)
    base: dict[str, Any] = {"num_classes": num_classes, "in_chans": channels}
    for extra, note in _creation_attempts(image_size):
        if image_size > SMALL and "patch_size" in extra:
            continue
        model = _create(name, {**base, **extra})
        if model is None:
            continue
        notes = [note] if note else []
        if image_size <= SMALL:
            probe = torch.zeros(2, channels, image_size, image_size)
            notes += filter(None, [_cifar_stem(model, channels), _small_form(model, probe, num_classes)])
        if _runs(model, channels, image_size):
            if norm != "keep":
                done = replace_batch_norm(model, norm, torch.zeros(2, channels, image_size, image_size))
                notes.append(done or "norm: no batch normalisation to replace")
                if done and is_deaf(model, (channels, image_size, image_size)):
                    raise ConfigError(
                        f"timm/{name} with norm={norm!r} gives the same for any image: its features are the means of "
                        f"maps, which that norm takes away; use norm={'group' if norm == 'instance' else 'keep'!r}"
                    )
            model.architecture = f"timm/{name}" + ("" if norm == "keep" else f":norm={norm}")  # type: ignore[assignment]
            return model, notes
    raise ConfigError(
        f"timm/{name} does not take {image_size}x{image_size} images in any form tried; choose another network"
    )
