"""The records that the stages hand to each other.

Axes, the same in the whole library: B batch, C H W image, K classes, P parameters, T snapshots, n images of a set,
S = K * ipc synthetic images.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

LabelKind = Literal["probabilities", "logits", "weights"]
"""What label rows are: they sum to 1; a softmax makes them do so; or they weigh the classes and sum to anything."""


@dataclass(frozen=True)
class Pixels:
    """uint8 images [n, C, H, W] that are rows of others: a view, since data sets are larger than what is free.

    ``stored`` uint8 [N, C, H, W], often mapped from a file; ``rows`` int64 [n], None for all of them.
    """

    stored: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.stored) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """n, C, H, W."""
        return (len(self), *(int(size) for size in self.stored.shape[1:]))

    def numel(self) -> int:
        """Values of all images."""
        return math.prod(self.shape)

    def __getitem__(self, wanted: Tensor | slice) -> Tensor:
        """A copy of the images at ``wanted`` (int64 [m], or a slice), uint8 [m, C, H, W]."""
        if self.rows is None:
            return self.stored[wanted] if isinstance(wanted, slice) else self.stored.index_select(0, wanted)
        return self.stored.index_select(0, self.rows[wanted])

    def split(self, size: int) -> Iterator[Tensor]:
        """All images, ``size`` at a time."""
        for begin in range(0, len(self), size):
            yield self[begin : begin + size]

    def only(self, indices: Tensor) -> Pixels:
        """The images at ``indices`` int64 [m]; nothing is copied."""
        return Pixels(self.stored, indices if self.rows is None else self.rows[indices])

    def with_(self, others: Pixels) -> Pixels:
        """These images and then ``others``; copied only if they lie elsewhere."""
        if others.stored is not self.stored:
            return Pixels(torch.cat([self.all(), others.all()]))
        every = torch.arange(len(self.stored))
        return Pixels(self.stored, torch.cat([every if one.rows is None else one.rows for one in (self, others)]))

    def all(self) -> Tensor:
        """All of them, uint8 [n, C, H, W]: a copy, unless they are all that is stored."""
        return self.stored if self.rows is None else self.stored.index_select(0, self.rows)


@dataclass(frozen=True)
class ImageSet:
    """Decoded images: ``source`` uint8 [n, C, H, W], ``labels`` int64 [n], ``classes`` K names."""

    source: Tensor | Pixels
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    @property
    def pixels(self) -> Pixels:
        """The images as a view."""
        return self.source if isinstance(self.source, Pixels) else Pixels(self.source)

    @property
    def images(self) -> Tensor:
        """The images, uint8 [n, C, H, W]; copied if they are a part of others."""
        return self.pixels.all()

    def subset(self, indices: Tensor) -> ImageSet:
        """The images at ``indices`` int64 [m], in that order; a view."""
        return ImageSet(self.pixels.only(indices), self.labels[indices], self.classes)

    def class_counts(self) -> list[int]:
        """Images of each class, K numbers."""
        return [int(count) for count in torch.bincount(self.labels, minlength=len(self.classes))]


@dataclass(frozen=True)
class SourceInfo:
    """Where a data set came from; ``fingerprint``: the first 16 hex digits of a SHA-256 of its images and labels and of
    how they were split.
    """

    name: str
    source: str
    revision: str | None
    license: str | None
    train_split: str
    test_split: str
    validation_split: str
    fingerprint: str
    notes: tuple[str, ...] = ()
    grey_range: tuple[float, float] | None = None
    """Which greys of more than 8 bits became black and white, where images had such."""


@dataclass(frozen=True)
class SourceData:
    """A data set ready for use: the three splits never overlap, and only ``test`` is never used to choose anything.

    ``validation`` may be empty. ``train_rows``: int64 [n], which images of the source's training split ``train`` has.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet
    info: SourceInfo
    train_rows: Tensor

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, K of them."""
        return self.train.classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        _, channels, height, width = self.train.pixels.shape
        return channels, height, width


@dataclass(frozen=True)
class Segment:
    """A stretch of one expert's trajectory: the student starts at epoch ``start`` and should reach epoch ``target``."""

    expert: int
    start: float
    target: float


class TrajectorySource(Protocol):
    """Expert trajectories, in whatever form they are kept."""

    @property
    def count(self) -> int:
        """How many experts there are."""

    @property
    def final_epoch(self) -> int:
        """The last epoch that all of them have; 0 is the initialisation."""

    @property
    def continuous(self) -> bool:
        """Whether there is a point at any real epoch, or at whole ones only."""

    def end(self, expert: int) -> int:
        """The last epoch of ``expert``: some go further than all do."""

    def point(self, expert: int, epoch: float) -> Tensor:
        """Flat parameters [P], float32, of ``expert`` after ``epoch`` epochs.

        Raises:
            TrajectoryError: the form has no such point.
        """


@dataclass(frozen=True)
class SyntheticSet:
    """The distilled images in the network's input space with their labels and learning rate.

    ``images`` float [S, C, H, W]; ``labels`` float [S, K] of the kind that ``label_kind`` says;
    ``class_ids`` int64 [S]; ``lr`` the learned step size, positive.
    """

    images: Tensor
    labels: Tensor
    class_ids: Tensor
    lr: float
    label_kind: LabelKind = "probabilities"

    def targets(self) -> Tensor:
        """What enters the cross-entropy, [S, K]: softmax is applied exactly once, and only to logits."""
        return self.labels.softmax(1) if self.label_kind == "logits" else self.labels


@dataclass(frozen=True)
class EvalReport:
    """Accuracies (fractions) of n fresh networks, each read once at the last epoch."""

    accuracies: tuple[float, ...]
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean accuracy."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def std(self) -> float:
        """Sample standard deviation (n − 1) over networks, for this one synthetic set; 0 for a single network."""
        if len(self.accuracies) < 2:
            return 0.0
        squares = sum((a - self.mean) ** 2 for a in self.accuracies)
        return float((squares / (len(self.accuracies) - 1)) ** 0.5)

    def to_json(self) -> dict[str, Any]:
        """The form of results.json: mean, std, n, accuracies, then whatever ``details`` adds."""
        numbers = {"mean": self.mean, "std": self.std, "n": len(self.accuracies)}
        return {**numbers, "accuracies": list(self.accuracies), **self.details}

    @staticmethod
    def from_json(row: dict[str, Any]) -> EvalReport:
        """The inverse of ``to_json``."""
        details = {key: row[key] for key in row if key not in ("mean", "std", "n", "accuracies")}
        return EvalReport(tuple(row["accuracies"]), details)
