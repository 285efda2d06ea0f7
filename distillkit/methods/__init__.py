"""The methods: a line here and a file each, whose ``METHODS`` are the records that it has."""

from importlib import import_module

from distillkit.methods.base import Method, Problem, SettingsLayer

_FILES = (
    "rat",
    "dsa",
    "dm",
    "mtt",
    "ftd",
    "ast",
    "mct",
    "datm",
    "pad",
    "best",
    "coresets",
)
METHODS: dict[str, Method] = {
    method.name: method for file in _FILES for method in import_module(f"{__name__}.{file}").METHODS
}

__all__ = ["METHODS", "Method", "Problem", "SettingsLayer"]
