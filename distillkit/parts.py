"""Parts and seams: what a method is put together from.

A *seam* is a setting that names a part, such as ``distill.matching``; its table holds the parts by name. A *part* says
what builds it, what must be there for it (``needs``), which settings it alone reads (``reads``) and in which further
seams it asks for a part (``seams``). From the parts that a run chose follows whether experts are trained, and which
settings count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from distillkit.errors import ConfigError
from distillkit.settings import RunSettings, Section
from distillkit.words import did_you_mean

Need = Literal["trajectories", "opinion", "real batches", "ranking"]
"""``trajectories``: parameters along the experts' training; ``opinion``: trained experts' logits on real images; ``real
batches``: real images at every outer step; ``ranking``: real images in the order of their difficulty."""
OF_EXPERTS: frozenset[Need] = frozenset({"trajectories", "opinion"})
"""Needs that experts must be trained for."""


SCHEDULE_SETTINGS = (
    "experts.difficulty",
    "experts.difficulty_networks",
    "experts.difficulty_epochs",
    "experts.easy_fraction",
    "experts.add_end_epoch",
    "experts.remove_epochs",
    "experts.remove_fractions",
)
"""What PAD's data scheduler reads wherever it chooses images, besides ``experts.ranking`` and ``experts.epochs``."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What can be chosen by name in a seam.

    ``needs``: what must exist before the part can be built; ``reads``: settings, by dotted key, that only count when a
    part listing them is chosen; ``seams``: further seams in which this part needs a part.
    """

    needs: frozenset[Need] = frozenset()
    reads: tuple[str, ...] = ()
    seams: tuple[Seam[Any], ...] = ()

    def __post_init__(self) -> None:
        """A string would be read letter by letter."""
        if isinstance(self.reads, str):
            raise TypeError("reads is a tuple of keys, such as ('distill.mask_ratio',)")

    @property
    def owns(self) -> tuple[str, ...]:
        """Keys of the settings that count where this part is chosen: those that it reads, and those of its seams."""
        return (*self.reads, *(seam.key for seam in self.seams))


Build_co = TypeVar("Build_co", covariant=True)
ChoiceT = TypeVar("ChoiceT", bound=Choice)


@dataclass(frozen=True)
class Part(Choice, Generic[Build_co]):
    """A choice with what makes it: ``build`` takes the arguments that the seam's table states."""

    build: Build_co


class Seam(dict[str, ChoiceT]):
    """The parts by name that the setting ``key`` chooses among. A new part is a line in such a table."""

    def __init__(self, key: str, parts: dict[str, ChoiceT]) -> None:
        super().__init__(parts)
        self.key = key

    def named(self, name: str) -> ChoiceT:
        """The part called ``name``.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self:
            raise ConfigError(f"{self.key}={name!r} is unknown; known: {', '.join(self)}{did_you_mean(name, self)}")
        return self[name]

    def chosen(self, settings: RunSettings | Section) -> ChoiceT:
        """The part that ``settings``, of the run or of the seam's own section, choose.

        Raises:
            ConfigError: they name an unknown one.
        """
        return self.named(value_of(settings, self.key))


def value_of(settings: RunSettings | Section, key: str) -> Any:
    """The value of the dotted ``key`` in the settings of a run, or in those of the key's own section."""
    section, _, name = key.rpartition(".")
    return getattr(getattr(settings, section) if section and isinstance(settings, RunSettings) else settings, name)


def chosen_parts(seams: Iterable[Seam[Any]], settings: RunSettings | Section) -> Iterator[Choice]:
    """The chosen part of each seam, and of the seams of that part, and so on.

    Raises:
        ConfigError: an unknown part.
    """
    for seam in seams:
        part = seam.chosen(settings)
        yield part
        yield from chosen_parts(part.seams, settings)


def all_parts(seams: Iterable[Seam[Any]]) -> Iterator[tuple[str, str, Choice]]:
    """Every part that can be chosen in these seams or below them: the seam's key, the part's name, the part."""
    for seam in seams:
        for name, part in seam.items():
            yield seam.key, name, part
            yield from all_parts(part.seams)
