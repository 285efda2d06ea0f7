"""From a network's name to a freshly initialised module."""

from __future__ import annotations

from torch import nn

from distillkit import rng
from distillkit.errors import ConfigError
from distillkit.networks.convnet import ConvNet, default_depth
from distillkit.networks.timm_models import prepare_model
from distillkit.settings import NetworkSettings


def parse_architecture(text: str, base: NetworkSettings) -> NetworkSettings:
    """``convnet`` (as ``base`` if that is one), ``convnet:width=64,depth=3,norm=batch`` or ``timm/<name>``.

    Raises:
        ConfigError: no such form.
    """
    name, _, options = text.partition(":")
    if name.startswith("timm/") and not options:
        return NetworkSettings(name=name)
    if name != "convnet":
        raise ConfigError(f"architecture {text!r} is unknown; use convnet, convnet:width=64,depth=3 or timm/<name>")
    values = base.model_dump() if base.name == "convnet" else NetworkSettings().model_dump()
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        if key not in ("width", "depth", "norm") or not value:
            raise ConfigError(f"architecture option {option!r} is unknown; use width=, depth= or norm=")
        values[key] = value
    try:
        return NetworkSettings.model_validate(values)
    except ValueError as error:
        raise ConfigError(f"architecture {text!r} has a value that does not fit: {options}") from error


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
            return prepare_model(settings.name, num_classes=num_classes, image_size=height, channels=channels)[0]
        if settings.name != "convnet":
            raise ConfigError(f"network {settings.name!r} is unknown; use convnet or timm/<name>")
        depth = settings.depth or default_depth(min(height, width))
        return ConvNet(channels, (height, width), num_classes, settings.width, depth, settings.norm)
