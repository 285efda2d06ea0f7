"""What a part of a method is: what builds it, and what it needs. A stage runs where a chosen part needs its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from distillkit.errors import ConfigError

Need = Literal["trajectories", "opinion", "real batches", "ranking"]
"""Points on the experts' trajectories; what trained experts say of real images; batches of real images at every step;
which real images are easy and which are hard."""
OF_EXPERTS: frozenset[Need] = frozenset({"trajectories", "opinion"})
"""Needs that experts must be trained for."""
Build_co = TypeVar("Build_co", covariant=True)


@dataclass(frozen=True)
class Part(Generic[Build_co]):
    """``build`` makes the part; ``needs`` is what must be there for it."""

    build: Build_co
    needs: frozenset[Need] = frozenset()


def look_up(table: Mapping[str, Part[Build_co]], key: str, name: str) -> Part[Build_co]:
    """The part called ``name``; ``key`` is the setting that names it.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in table:
        raise ConfigError(f"{key}={name!r} is unknown; known: {', '.join(table)}")
    return table[name]
