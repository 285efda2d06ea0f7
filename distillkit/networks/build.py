"""From a network's name to a freshly initialised module."""

from __future__ import annotations

import torch
from torch import nn

from distillkit import rng
from distillkit.errors import ConfigError
from distillkit.memory import memory
from distillkit.networks.convnet import ConvNet, default_depth
from distillkit.networks.field import FIELD, NORMED, build_field
from distillkit.networks.timm_models import (
    check_timm_name,
    is_timm_name,
    plain_activations,
    plain_attention,
    prepare_model,
)
from distillkit.settings import NetworkSettings
from distillkit.words import did_you_mean

BYTES_OF_A_PARAMETER = 8
"""At the least: a float32 and its gradient."""
OPTIONS = {"convnet": ("width", "depth", "norm"), "timm": ("norm",), **dict.fromkeys(NORMED, ("norm",))}
"""Options of architectures by name, or by family."""


def options_of(name: str) -> tuple[str, ...] | None:
    """The settings that a network of this name reads besides its name; None of one that there is not."""
    if name.startswith("timm/"):
        return ("replace_norm",)
    return OPTIONS.get(name, ()) if name in ("convnet", *FIELD) else None


def _meant_network(name: str) -> str:
    """Where timm has a network of that name, it with ``timm/`` before it; else the name most like it."""
    return f"; did you mean 'timm/{name}'?" if is_timm_name(name) else did_you_mean(name, ("convnet", *FIELD))


def parse_architecture(text: str, base: NetworkSettings) -> NetworkSettings:
    """``convnet`` (as ``base`` if that is one), ``convnet:width=64,depth=3,norm=batch``, one of the field's networks
    (``resnet18``, ``vgg11:norm=batch``, ...), ``timm/<name>`` or ``timm/<name>:norm=instance``.

    Raises:
        ConfigError: no such form.
    """
    name, _, options = text.partition(":")
    family = "timm" if name.startswith("timm/") else name
    if family not in ("convnet", "timm", *FIELD):
        known = ", ".join(FIELD)
        raise ConfigError(
            f"architecture {text!r} is unknown; use convnet, convnet:width=64,depth=3, {known} or timm/<name>"
            f"{_meant_network(name)}"
        )
    plain = NetworkSettings(name=name) if family != "convnet" else NetworkSettings()
    base = base.model_copy(update={"pool": ()})
    values = base.model_dump() if family == "convnet" == base.name else plain.model_dump()
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in OPTIONS.get(family, ()) or not value:
            allowed = " or ".join(f"{known}=" for known in OPTIONS.get(family, ())) or "none"
            raise ConfigError(f"architecture option {option!r} is unknown; {name} takes {allowed}")
        values["replace_norm" if family == "timm" else key] = value
    try:
        return NetworkSettings.model_validate(values)
    except ValueError as error:
        raise ConfigError(f"architecture {text!r} has a value that does not fit: {options}") from error


def check_architecture(text: str) -> None:
    """Whether there is an architecture ``text``, before anything is computed for it.

    Raises:
        ConfigError: no such form, or no such network in timm.
    """
    name = parse_architecture(text, NetworkSettings()).name
    if name.startswith("timm/"):
        check_timm_name(name.removeprefix("timm/"))


def architecture_name(settings: NetworkSettings, own: NetworkSettings | None = None) -> str:
    """The inverse of ``parse_architecture``: one word for a network; ``own``: what ``convnet`` alone stands for."""
    name = settings.name
    if name.startswith("timm/"):
        return name if settings.replace_norm == "keep" else f"{name}:norm={settings.replace_norm}"
    if name != "convnet":
        return name if settings.norm == "instance" or name not in NORMED else f"{name}:norm={settings.norm}"
    if own is not None and settings == own:
        return name
    depth = "" if settings.depth is None else f",depth={settings.depth}"
    return f"convnet:width={settings.width}{depth},norm={settings.norm}"


def build_network(
    settings: NetworkSettings,
    image_shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    *names: rng.Name,
) -> nn.Module:
    """A new network for images [C, H, W], initialised by torch's or timm's own rules under the use ``names``.

    Raises:
        ConfigError: the network is unknown or does not fit the images.
    """
    channels, height, width = image_shape
    with rng.global_seed(seed, *names):
        if settings.name.startswith("timm/"):
            with plain_attention():
                model, _ = prepare_model(
                    settings.name,
                    num_classes=num_classes,
                    image_size=height,
                    channels=channels,
                    norm=settings.replace_norm,
                )
                return plain_activations(model)
        if settings.name in FIELD:
            return named(build_field(settings.name, image_shape, num_classes, settings.norm), settings)
        if settings.name != "convnet":
            known = ("convnet", *FIELD)
            raise ConfigError(
                f"network {settings.name!r} is unknown; use {', '.join(known)} or timm/<name>"
                f"{_meant_network(settings.name)}"
            )
        depth = settings.depth or default_depth(min(height, width))
        network = ConvNet(channels, (height, width), num_classes, settings.width, depth, settings.norm)
        return named(network, settings)


def parameter_count(settings: NetworkSettings, image_shape: tuple[int, int, int], num_classes: int) -> int | None:
    """Parameters of a network, without memory for them; None of one that cannot be built so."""
    try:
        with torch.device("meta"):
            network = build_network(settings, image_shape, num_classes, 0, "count")
    except (RuntimeError, NotImplementedError, ConfigError):  # an initialisation that looks at its numbers
        return None
    return sum(parameter.numel() for parameter in network.parameters())


def check_memory(
    settings: NetworkSettings, image_shape: tuple[int, int, int], num_classes: int, device: torch.device
) -> None:
    """Do a network and its gradient fit into the memory of ``device``?

    Raises:
        ConfigError: no.
    """
    count, (total, _) = parameter_count(settings, image_shape, num_classes), memory(device)
    if count is None or total is None:
        return
    needed, there = BYTES_OF_A_PARAMETER * count / 2**30, total / 2**30
    if needed > there:
        raise ConfigError(
            f"network {architecture_name(settings)!r} does not fit into memory: {count:,} parameters and their "
            f"gradient take {needed:.1f} GiB of {there:.1f} GiB; take a smaller one"
        )


def named(network: nn.Module, settings: NetworkSettings) -> nn.Module:
    """``network``, which now says what it is: the recipe of its architecture is found by that."""
    network.architecture = architecture_name(settings)  # type: ignore[assignment]
    return network
