"""What callers hand in, models and numbers, checked before anything is computed with them."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distillkit.errors import ConfigError
from distillkit.words import first_line


def of_kind(name: str, value: Any, kinds: type | tuple[type, ...], words: str) -> None:
    """Is ``value`` an instance of ``kinds``, which ``words`` name?

    Raises:
        ConfigError: no.
    """
    if not isinstance(value, kinds):
        raise ConfigError(f"`{name}` is a {type(value).__name__}, expected {words}")


def callable_or_none(name: str, value: Any) -> None:
    """Is ``value`` something to call, or None?

    Raises:
        ConfigError: no.
    """
    if value is not None and not callable(value):
        raise ConfigError(f"`{name}` is a {type(value).__name__}, expected a function, or None")


def positive(name: str, value: Any) -> float | None:
    """``value`` as a number above 0, or None as it is.

    Raises:
        ConfigError: it is something else, or not finite.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{name} must be positive and finite, got {value!r}")
    return float(value)


def whole(name: str, value: Any, least: int = 1) -> int | None:
    """``value`` as a whole number of ``least`` or more, or None as it is.

    Raises:
        ConfigError: it is something else.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        sign = "positive" if least == 1 else f"{least} or more"
        raise ConfigError(f"{name} must be {sign}, a whole number, got {value!r}")
    return int(value)


def yes_or_no(name: str, value: Any) -> bool:
    """``value`` as it is: True or False (numpy's count too).

    Raises:
        ConfigError: it is something else; the text ``"no"`` would count as true.
    """
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ConfigError(f"{name} must be True or False, got {value!r}")


def seed_number(value: Any) -> int:
    """A seed, a whole number of 0 or more.

    Raises:
        ConfigError: it is something else.
    """
    return whole("seed", 0 if value is None else value, 0) or 0


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of ``model`` are.

    Raises:
        ConfigError: it has none, or is no network.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"the model is a {type(model).__name__}, expected a network (torch.nn.Module): prepare_model(NAME, ...) "
            "makes one of timm's, ds.network() the set's own"
        )
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise ConfigError("the model has no parameters; nothing in it can be trained")
    if parameter.is_meta:
        raise ConfigError("the model's parameters have no values: it is on the device meta; make it on another one")
    return parameter.device


def check_trainable(model: nn.Module) -> None:
    """Raise a ConfigError if nothing of ``model`` can be trained now."""
    if torch.is_inference_mode_enabled():
        raise ConfigError("nothing can be trained inside torch.inference_mode()")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            "all parameters of the model are frozen, so nothing in it can be trained; model.requires_grad_(True)"
        )


@torch.no_grad()
def check_outputs(model: nn.Module, images: Tensor, num_classes: int) -> None:
    """Does ``model`` map ``images`` [B, C, H, W] to finite logits [B, K]? It is left in evaluation mode.

    Raises:
        ConfigError: no; what it does instead.
    """
    dtype = next(model.parameters()).dtype
    if dtype.is_floating_point and dtype != images.dtype:
        raise ConfigError(f"the model's parameters are {dtype}, the images {images.dtype}; model.to({images.dtype})")
    try:
        logits = model.eval()(images)
    except (RuntimeError, AssertionError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the model does not take images of shape {tuple(images.shape[1:])}: {first_line(error)}; "
            "distillkit.prepare_model builds timm networks that do"
        ) from error
    if not isinstance(logits, Tensor):
        raise ConfigError(
            f"the model returns a {type(logits).__name__}, not a tensor of logits [B, {num_classes}]; wrap it in a "
            "module that returns the logits alone"
        )
    if logits.shape != (len(images), num_classes):
        raise ConfigError(
            f"the model gives outputs of shape {tuple(logits.shape[1:])}, the set has {num_classes} classes"
        )
    if not torch.isfinite(logits).all():
        raise ConfigError(
            "the model's outputs are not finite: its parameters are not, or it diverged in training; begin with a "
            "fresh one, and a smaller lr"
        )
