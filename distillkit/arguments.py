"""What callers of the Python API hand in: of the right kind, or refused in a sentence before anything is computed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distillkit.errors import ConfigError
from distillkit.interrupt import StopRequest
from distillkit.methods import Method, SettingsLayer
from distillkit.training.given import of_kind

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "method": ((str, Method), "a name, or a Method"),
    "preset": ((str,), "smoke, quick or paper"),
    "out": ((str, os.PathLike), "a folder"),
    "stop": ((StopRequest,), "a distillkit.StopRequest"),
    "command": ((str,), "the words of a command line"),
}


def check_arguments(**given: Any) -> None:
    """Refuse what is of another kind, None excepted but for the preset, before anything is computed.

    Raises:
        ConfigError: which argument it is, and what was expected.
    """
    for name, value in given.items():
        if value is not None or name == "preset":
            of_kind(name, value, *_KINDS[name])


def architectures_named(value: Any) -> list[str]:
    """One architecture, or each of several.

    Raises:
        ConfigError: they are no names.
    """
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    for name in names:
        of_kind("architectures", name, str, "one architecture or a list of them")
    return names


def files_named(value: Any) -> list[str | os.PathLike[str]]:
    """One file or folder, or each of several.

    Raises:
        ConfigError: they are no names.
    """
    several = isinstance(value, Iterable) and not isinstance(value, str | os.PathLike)
    names = list(value) if several else [value]
    for name in names:
        of_kind("paths", name, (str, os.PathLike), "a file or folder, or a list of them")
    return names


def given_layer(settings: Any) -> SettingsLayer:
    """The layer of the settings that a caller gives by dotted key; numbers and arrays of numpy or torch become plain.

    Raises:
        ConfigError: they are no such mapping, or a value is nothing that a settings file could hold.
    """
    if not isinstance(settings, Mapping) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(f"`settings` must be a dict by dotted key, {{'distill.outer_steps': 100}}, got {settings!r}")
    return SettingsLayer("argument", {key: _plain_given(key, value) for key, value in settings.items()}, asked=True)


def _plain_given(key: str, value: Any) -> Any:
    """As JSON has it: numbers and arrays of numpy or torch become Python's, paths text.

    Raises:
        ConfigError: it is something else, or holds it.
    """

    def plain(part: Any) -> Any:
        if hasattr(part, "tolist"):
            return part.tolist()
        if isinstance(part, os.PathLike):
            return os.fspath(part)
        raise ConfigError(f"{key} has a {type(part).__name__}, which no setting takes")

    try:
        return json.loads(json.dumps(value, default=plain))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{key} is nothing that a settings file could hold: {error}") from error


def check_layers(overrides: Any) -> None:
    """Are these layers of settings?

    Raises:
        ConfigError: no.
    """
    if isinstance(overrides, Sequence) and all(isinstance(one, SettingsLayer) for one in overrides):
        return
    raise ConfigError(
        f"overrides is a {type(overrides).__name__}, expected a list of SettingsLayer; settings by dotted key go "
        "into `settings`"
    )
