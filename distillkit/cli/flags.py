"""The library's messages in the words of the command at hand.

A message of the library names arguments and settings, in backticks: `` `out` ``, `` `replace=True` ``,
`` `dataset.image_size` ``, `` `distill.mask=none` ``. On the command line these are ``--out``, ``--yes``,
``--image-size`` and ``--set distill.mask=none``. Which flag belongs to an argument is read from the command's function:
its parameters are called as the arguments of the library are.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

_NAMED = re.compile(r"`([a-z_]+(?:\.[a-z_]+)?)(?:=([^`]*))?`")
_WAY_OUT = re.compile(r", or pass `([a-z_]+(?:\.[a-z_]+)?)(?:=[^`]*)?`")
"""Advice that a command may have no option for."""
_DATA = "dataset."
"""The section whose settings have flags of their own, called as they are (``options.DataOptions``)."""


@dataclass(frozen=True)
class Flags:
    """What the parameters of a command are called on the command line, by name: ``{"replace": "--yes"}``."""

    by_name: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(command: Callable[..., Any]) -> Flags:
        """Those that a command's function declares to typer."""
        found = {}
        for name, hint in get_type_hints(command, include_extras=True).items():
            for declared in getattr(hint, "__metadata__", ()):
                if isinstance(declared, OptionInfo):
                    found[name.rstrip("_")] = _long_form(declared, name)
                elif isinstance(declared, ArgumentInfo):
                    found[name.rstrip("_")] = name.upper()
        return Flags(found)

    def spoken(self, message: str) -> str:
        """``message`` with flags for the arguments and settings that it names; other words stay as they are."""
        possible = _WAY_OUT.sub(lambda found: found[0] if self._can_give(found[1]) else "", message)
        return _NAMED.sub(lambda found: self._flag(found[1], found[2]) or found[0], possible)

    def _can_give(self, name: str) -> bool:
        return name.removeprefix(_DATA) in self.by_name or "settings" in self.by_name

    def _flag(self, name: str, value: str | None) -> str | None:
        """The words for one name and its value, None if the command has none."""
        listed = _listed(value)
        flag = self.by_name.get(name.removeprefix(_DATA))
        if flag is not None and not any("," in part for part in listed or ()):
            shown = value if listed is None else shlex.quote(",".join(listed))
            return flag if shown in (None, "True") else f"{flag} {shown}"
        if not _is_setting(name):
            return None
        whole = name if value is None else f"{name}={value}"
        return f"{self.by_name['settings']} {shlex.quote(whole)}" if value and "settings" in self.by_name else whole


def _long_form(option: OptionInfo, name: str) -> str:
    """``--yes`` of ``"--yes", "-y"`` and the like; typer's own where none is declared."""
    declared = [option.default, *(option.param_decls or ())]  # the first word of an annotation lies in ``default``
    forms = [form for words in declared if isinstance(words, str) for form in words.split("/") if form[:2] == "--"]
    return forms[0] if forms else "--" + name.strip("_").replace("_", "-")


def _listed(value: str | None) -> list[str] | None:
    """The texts of a JSON list of them, None of anything else."""
    try:
        found = json.loads(value or "")
    except ValueError:
        return None
    return found if isinstance(found, list) and found and all(isinstance(part, str) for part in found) else None


def _is_setting(name: str) -> bool:
    from distillkit.config import known_keys

    return name in known_keys()
