"""``--config``: a file of settings."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from distillkit.config import numeric
from distillkit.errors import ConfigError
from distillkit.methods import SettingsLayer


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping; refuses what plain YAML would overwrite silently."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"--config gives {key!r} twice (line {node.start_mark.line + 1} and below)")
        return super().construct_mapping(node, deep)


def read_config_file(path: Path) -> SettingsLayer:
    """A YAML or JSON file of sections, or of dotted keys.

    Raises:
        ConfigError: no such file, not YAML, or a key twice.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is not valid YAML") from error
    if not isinstance(content, dict):
        raise ConfigError(f"--config {path} must hold sections of settings, found {type(content).__name__}")
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            values |= {f"{key}.{name}": numeric(inner) for name, inner in value.items()}
        else:
            values[str(key)] = numeric(value)
    return SettingsLayer(f"--config {path.name}", values, asked=True)
