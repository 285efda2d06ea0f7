"""``--config``: a file of settings."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from distillkit.config import SettingsLoader, known_keys
from distillkit.errors import ConfigError
from distillkit.methods import SettingsLayer


class _UniqueKeys(SettingsLoader):
    """YAML in which a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping; refuses what plain YAML would overwrite silently."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"--config gives {key!r} twice (line {node.start_mark.line + 1} and below)")
        return super().construct_mapping(node, deep)


EXAMPLE = "'distill: {lr_img: 3}'"


NOT_TAKEN = ("time_budget", "budget_asked")
"""Settings of a set that is made again which its other ones say already: how long it came out."""
OF_THE_MACHINE = ("name", "data_root")
"""What a set says of where its data lay; the command line says where they lie now."""


def read_config_file(path: Path) -> SettingsLayer:
    """A YAML or JSON file of sections, or of dotted keys; or the config of a set, for its settings.

    Raises:
        ConfigError: no such file, not YAML, nothing in it or in a section, or a key twice.
    """
    content = _content(path)
    if content is None:
        raise ConfigError(f"--config {path} is empty; expected sections of settings, as in {EXAMPLE}")
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path} must hold sections of settings, found {type(content).__name__}")
    of_a_set = isinstance(content.get("settings"), dict) and "format_version" in content
    if of_a_set:
        content = _of_a_set(content["settings"])
    sections = {key.partition(".")[0] for key in known_keys() if "." in key}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key in sections and not isinstance(value, dict):
            raise ConfigError(f"--config {path} {_no_section(key, value)}")
        inner = {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, dict) else {str(key): value}
        twice = sorted(values.keys() & inner.keys())
        if twice:
            raise ConfigError(f"--config {path} gives {twice[0]!r} twice; remove one of the two")
        values |= inner
    return SettingsLayer(f"--config {path.name}", values, asked=not of_a_set)  # which says all, with effect or without


def _of_a_set(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of an artifact's config, as a file of them."""
    taken = {key: value for key, value in settings.items() if key not in NOT_TAKEN}
    data = taken.get("dataset")
    if isinstance(data, dict):
        taken["dataset"] = {key: value for key, value in data.items() if key not in OF_THE_MACHINE}
    return taken


def _content(path: Path) -> Any:
    """What the YAML of a file says."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"--config {path} is not valid YAML: line {line} is not UTF-8") from error
    except RecursionError as error:
        raise ConfigError(f"--config {path} is not valid YAML: it is nested too deeply") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path} is not valid YAML{_place(error)}") from error


def _place(error: yaml.YAMLError) -> str:
    """Where YAML stumbled, and over what."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f" at line {error.problem_mark.line + 1}: {error.problem}"
    return f": {reason}" if (reason := getattr(error, "reason", None)) else ""


def _no_section(key: str, value: Any) -> str:
    if value is None:
        return f"has nothing in section {key!r}; give it settings, or remove it"
    return f"has {value!r} as section {key!r}; expected settings, as in {EXAMPLE}"
