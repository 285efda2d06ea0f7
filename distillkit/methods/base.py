"""What a method is: a record of parts and settings. A new one is one new file and its line in ``METHODS``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, Any]
"""Settings by dotted key: ``{"distill.inner_steps": 30}``."""


@dataclass(frozen=True)
class SettingsLayer:
    """Settings with where they come from; later layers win. ``asked``: the user gave them for this very run."""

    origin: str
    values: Values
    asked: bool = False


@dataclass(frozen=True)
class Problem:
    """What a method's settings may depend on; ``device``: ``cpu`` or ``cuda``; ``num_classes``: None if unknown."""

    dataset: str
    ipc: int
    device: str
    num_classes: int | None = None

    def at_least(self, images: int) -> int:
        """``images``, or as many more as ``ipc`` and a validation split need."""
        return max(images, math.ceil(1.3 * self.ipc * (self.num_classes or 10)) + 2 * (self.num_classes or 10))


@dataclass(frozen=True)
class Method:
    """A distillation method.

    ``parts`` names a part for the seams that the method cares about (``distillkit.parts``), by the seam's setting;
    ``published`` gives the paper's settings of a problem, or None where there are none; ``quick`` what makes a useful
    set in minutes on the device at hand; ``smoke`` what the smallest run needs besides; ``when`` says in one line when
    to take it; ``protocol``: how its paper reads test accuracies, which is laid over the published settings where
    ``evaluate.paper_protocol`` asks for it; ``recipe``: how its paper trains on a set, where that is not the common
    recipe, which ``evaluate.recipe=common`` leaves out; ``code``: digest of the file that it was read from, if it is
    somebody's own.
    """

    name: str
    title: str
    summary: str
    parts: Values
    published: Callable[[Problem], SettingsLayer | None]
    quick: Callable[[Problem], SettingsLayer]
    citation: str = ""
    published_problems: tuple[str, ...] = field(default=())
    smoke: Values = field(default_factory=dict)
    when: str = ""
    protocol: Values = field(default_factory=dict)
    recipe: Values = field(default_factory=dict)
    code: str | None = None
