"""A recipe for one network on one set: optimiser, learning rate, augmentation and number of steps, by validation data.

Networks differ in what they learn a few images with: a learning rate that a ConvNet's images were learned for ruins
a VGG, batch normalisation wants small steps, attention AdamW. The search goes from coordinate to coordinate: every
optimiser at its learning rates in few steps, the best of them in more, then augmentations, which only pay in more, then
numbers of steps. It knows a score alone, so a baseline of real images is tuned by the same search as a distilled set.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from distillkit.data.augment import CutMix, parse_augmentation
from distillkit.data.registry import DSA_NO_FLIP
from distillkit.errors import ConfigError
from distillkit.settings import DSA
from distillkit.training.batches import batch_sizes
from distillkit.training.recipe import AdamW, Recipe, Sgd, cross_entropy, shuffle

LRS = {"sgd": (0.003, 0.01, 0.03, 0.1), "adamw": (1e-4, 3e-4, 1e-3, 3e-3)}
WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.05}
MOMENTUM = 0.9
FIRST_STEPS = 30
"""Of every optimiser at every learning rate: enough to tell which are hopeless, a tenth of the time."""
STEPS = (100, 300, 1000)
USUAL_STEPS = 300
PROMISING = 1
"""Of the first candidates, so many are tried with ``USUAL_STEPS``; two or three found nothing better
(``examples/benchmarks/search_budget.py``)."""
LARGEST_BATCH = 256
MOST_CANDIDATES = 8 + PROMISING + 4 + 2
"""Optimisers with their rates, the promising of them, augmentations, other lengths."""


@dataclass(frozen=True)
class Candidate:
    """One recipe: ``optimizer`` ``sgd`` or ``adamw``, ``steps`` on half a cosine, ``augmentation`` as
    ``parse_augmentation`` reads it, ``cutmix`` or not.
    """

    optimizer: str
    lr: float
    steps: int
    augmentation: str
    cutmix: bool = False

    def epochs(self, size: int) -> int:
        """Passes over ``size`` images."""
        return -(-self.steps // len(batch_sizes(size, min(size, LARGEST_BATCH))))

    def recipe(self, size: int) -> Recipe:
        """For a set of ``size`` images."""
        decay = WEIGHT_DECAY[self.optimizer]
        return Recipe(
            epochs=self.epochs(size),
            batch_size=min(size, LARGEST_BATCH),
            lr=self.lr,
            optimizer=AdamW(decay) if self.optimizer == "adamw" else Sgd(MOMENTUM, decay),
            loss=cross_entropy,
            order=shuffle,
            augmentation=parse_augmentation(self.augmentation),
            mixing=CutMix() if self.cutmix else None,
            cosine=True,
        )

    def to_json(self, size: int) -> dict[str, Any]:
        """As a recipe file has it, for a set of ``size`` images."""
        momentum = MOMENTUM if self.optimizer == "sgd" else 0.0
        decay = WEIGHT_DECAY[self.optimizer]
        mixing = {"mixing": "cutmix"} if self.cutmix else {}
        return {
            "optimizer": {"name": self.optimizer, "momentum": momentum, "weight_decay": decay},
            "lr": self.lr,
            "schedule": {
                "epochs": self.epochs(size),
                "lr_drop_epochs": [],
                "lr_drop_factor": 0.1,
                "cosine": True,
                "new_optimizer_at_drop": True,
            },
            "batch_size": min(size, LARGEST_BATCH),
            "loss": "cross-entropy with label probabilities, mean over the batch",
            "augmentation": {"name": "dsa or composed", "strategy": self.augmentation, **mixing},
        }

    @property
    def words(self) -> str:
        """For people."""
        mix = " and cutmix" if self.cutmix else ""
        return f"{self.optimizer} {self.lr:g}, {self.steps} steps, {self.augmentation}{mix}"


@dataclass(frozen=True)
class Tried:
    """A candidate with its validation accuracy and the seconds that it took."""

    candidate: Candidate
    accuracy: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Flat."""
        return {**asdict(self.candidate), "accuracy": self.accuracy, "seconds": self.seconds}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Tried:
        """The inverse, of what may come from anybody.

        Raises:
            KeyError, TypeError, ValueError, ConfigError: it is none.
        """
        found = Tried(
            Candidate(
                str(value["optimizer"]),
                float(value["lr"]),
                int(value["steps"]),
                str(value["augmentation"]),
                value["cutmix"] is True,
            ),
            float(value["accuracy"]),
            float(value["seconds"]),
        )
        parse_augmentation(found.candidate.augmentation)
        one = found.candidate
        fits = one.optimizer in LRS and 0 < one.lr <= 10 and 0 < one.steps <= max(*STEPS, USUAL_STEPS)
        if not fits or not 0 <= found.accuracy <= 1 or not 0 < found.seconds < math.inf:
            raise ValueError(f"{value} is no candidate")
        return found


Score = Callable[[Candidate], float]
"""Validation accuracy of fresh networks trained by a candidate."""


def usual_augmentation(strategy: str) -> str:
    """Crop and flip, as far as the set's own strategy says that its images may be flipped: digits may not."""
    return "crop+flip" if "flip" in strategy.split("_") else "crop+rotate" if "rotate" in strategy else "crop+scale"


def strong_augmentation(strategy: str) -> str:
    """All operations of DSA; the flip as far as the set's own strategy has it."""
    return DSA if "flip" in strategy.split("_") else DSA_NO_FLIP


def search(
    score: Score,
    strategy: str,
    seconds: float,
    note: Callable[[str], None] = lambda message: None,
    known: Sequence[Tried] = (),
    keep: Callable[[Sequence[Tried]], None] = lambda tried: None,
) -> list[Tried]:
    """All candidates that were tried within ``seconds``, and those known to this machine, the best one first.

    Args:
        score: of a candidate.
        strategy: the set's own augmentation.
        seconds: a candidate is not begun if it would take longer than what is left, by what the others took; the first
            one is always tried.
        note: who hears what is left out.
        known: candidates that this machine tried before, which are not tried again.
        keep: who hears, after each new one, of all that are known by then.

    Raises:
        ConfigError: no time at all.
    """
    if seconds <= 0:
        raise ConfigError("`seconds` must be positive")
    tried: list[Tried] = []
    scored = {one.candidate: one for one in known}
    end = time.monotonic() + seconds
    for stage in (_optimizers, _promising, _augmentations, _lengths):
        left_out = 0
        for candidate in stage(_ranked(tried), strategy):
            if any(one.candidate == candidate for one in tried):
                continue
            if candidate in scored:
                tried.append(scored[candidate])
                continue
            if tried and time.monotonic() + _expected(candidate, tried) > end:
                left_out += 1
                continue
            begin = time.monotonic()
            accuracy = score(candidate)
            tried.append(Tried(candidate, accuracy, time.monotonic() - begin))
            scored[candidate] = tried[-1]
            keep(list(scored.values()))
        if left_out:
            many = "a candidate" if left_out == 1 else f"{left_out} candidates"
            note(f"no time for {many}; give more `seconds` to try all")
    return _ranked([*tried, *(one for one in scored.values() if one not in tried)])


def challenged(tried: Sequence[Tried], claimed: Sequence[Tried], score: Score) -> list[Tried]:
    """``tried``, and the best of those that somebody else ``claimed`` where it would be the first of all: it is scored
    here before it may be.
    """
    mine = {one.candidate for one in tried}
    others = _ranked([one for one in claimed if one.candidate not in mine])
    if not others or (tried and others[0].accuracy <= tried[0].accuracy):
        return [*tried]
    begin, candidate = time.monotonic(), others[0].candidate
    accuracy = score(candidate)
    return _ranked([*tried, Tried(candidate, accuracy, time.monotonic() - begin)])


def _ranked(tried: Sequence[Tried]) -> list[Tried]:
    """Best first; of equals the one that takes fewer steps, then the one tried first."""
    return sorted(tried, key=lambda one: (-one.accuracy, one.candidate.steps))


def _expected(candidate: Candidate, tried: Sequence[Tried]) -> float:
    """Seconds, by the slowest step so far."""
    return candidate.steps * max(one.seconds / one.candidate.steps for one in tried)


def _optimizers(ranked: Sequence[Tried], strategy: str) -> Iterator[Candidate]:
    """From the middle of the learning rates outwards, so that a short budget has tried the likely ones."""
    for position in (2, 1, 3, 0):
        for name, rates in LRS.items():
            yield Candidate(name, rates[position], FIRST_STEPS, strategy)


def _promising(ranked: Sequence[Tried], strategy: str) -> Iterator[Candidate]:
    for one in ranked[:PROMISING]:
        yield replace(one.candidate, steps=USUAL_STEPS)


def _augmentations(ranked: Sequence[Tried], strategy: str) -> Iterator[Candidate]:
    """For the best with ``USUAL_STEPS``, if there was time for one: after few steps all of them look bad."""
    longer = [one for one in ranked if one.candidate.steps == USUAL_STEPS]
    best = (longer or ranked)[0].candidate
    yield replace(best, augmentation=usual_augmentation(strategy))
    yield replace(best, augmentation=strong_augmentation(strategy))  # ``rat``'s own is weak
    yield replace(best, cutmix=True)
    yield replace(best, augmentation=usual_augmentation(strategy), cutmix=True)


def _lengths(ranked: Sequence[Tried], strategy: str) -> Iterator[Candidate]:
    for steps in STEPS:
        yield replace(ranked[0].candidate, steps=steps)


BATCH_NORM, ATTENTION = "batch normalisation", "attention"
DEFAULTS = {
    BATCH_NORM: Candidate("adamw", 1e-3, 300, "own"),
    ATTENTION: Candidate("adamw", 1e-3, 1000, "own"),
}
"""Recipes of networks with batch normalisation and with attention that have none of their own; ``own`` augmentation is
the set's. They follow what searches found on digits (cards/digits-ipc10-mtt/recipes); a search for the network at hand
does better.
"""


def default_recipe(kind: str, strategy: str, size: int) -> dict[str, Any]:
    """The recipe of a ``kind`` of network for a set of ``size`` images whose own augmentation is ``strategy``."""
    return replace(DEFAULTS[kind], augmentation=strategy).to_json(size)
