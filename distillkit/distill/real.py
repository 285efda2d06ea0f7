"""Batches of real images for an outer step, each drawn by its number; PAD's scheduler may choose which take part.

A pass goes over the images in an order of its own without replacement (RaT-BPTT), or n images of each class are drawn
anew for every step (DSA, DM). With ``distill.real_order=easy-to-hard`` the images that a step may draw from are those
of PAD's schedule (``experts.schedule``), whose epochs are spread over the outer steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit import rng
from distillkit.data import augment
from distillkit.data.augment import Augmentation
from distillkit.data.inputs import Inputs
from distillkit.parts import SCHEDULE_SETTINGS, Part, Seam
from distillkit.training.batches import in_batches


@dataclass(frozen=True)
class RealImages:
    """Training images as network inputs, float [n, C, H, W], their labels int64 [n], and the number K of classes."""

    images: Inputs
    labels: Tensor
    num_classes: int

    @cached_property
    def classes(self) -> Tensor:
        """The labels on the CPU, where batches are drawn."""
        return self.labels.cpu()

    def one_hot(self, indices: Tensor) -> Tensor:
        """Label probabilities [m, K] in the images' dtype."""
        return F.one_hot(self.labels[indices], self.num_classes).to(self.images.dtype)


Available = Callable[[int], Tensor]
"""Of an outer step, indices int64 of the training images that it may draw from."""


class LossAndGradient(Protocol):
    """A loss as a function of flat parameters: value [] and derivative [P]."""

    def __call__(self, theta_P: Tensor, seen_B: Tensor, labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over the batch."""


@dataclass(frozen=True)
class RealBatch:
    """A batch as the student sees it: ``seen`` float [B, C, H, W], ``labels`` probabilities [B, K]."""

    seen: Tensor
    labels: Tensor


@dataclass(frozen=True)
class RealBatches:
    """Shuffled passes over the images that are available, ``size`` at a time; a short rest of a pass is left out.

    ``segments`` batches belong to an outer step.
    """

    real: RealImages
    available: Available
    size: int
    augmentation: Augmentation | None
    seed: int
    segments: int = 1

    def indices(self, number: int) -> Tensor:
        """Of batch ``number``, int64 [B]; B is ``size``, or fewer where fewer are available."""
        pool = self.available(number // self.segments)
        size = min(self.size, len(pool))
        a_pass, place = divmod(number, len(pool) // size)
        order = torch.randperm(len(pool), generator=rng.generator(self.seed, "distill", "real order", a_pass))
        return pool[order[place * size : (place + 1) * size]]

    def batch(self, number: int) -> RealBatch:
        """Batch ``number``, augmented by draws of its own."""
        chosen = self.indices(number).to(self.real.images.device)
        seen = self.real.images[chosen]
        if self.augmentation is not None:
            seen = self.augmentation(seen, rng.generator(self.seed, "distill", "real augment", number))
        return RealBatch(seen, self.real.one_hot(chosen))


@dataclass(frozen=True)
class RealTerm:
    """The cross-entropy of the student on a real batch, in pieces of ``piece`` images: the mean of means, by size."""

    after: int
    batch: RealBatch
    loss: LossAndGradient
    piece: int

    def adjoint(self, student_P: Tensor) -> tuple[Tensor, Tensor]:
        """Value and derivative over the whole batch."""
        total, gradient = student_P.new_zeros(()), torch.zeros_like(student_P)
        pieces = zip(in_batches(self.batch.seen, self.piece), in_batches(self.batch.labels, self.piece), strict=True)
        for seen, labels in pieces:
            value, part = self.loss(student_P, seen, labels)
            share = len(seen) / len(self.batch.seen)
            total, gradient = total + share * value, gradient + share * part
        return total, gradient


@dataclass(frozen=True)
class ClassBatches:
    """``count`` images of one class, drawn anew for every step; all of them where it has fewer."""

    real: RealImages
    available: Available
    count: int
    seed: int
    segments: int = 1
    _divided: list[tuple[Tensor, tuple[Tensor, ...]]] = field(default_factory=list, repr=False, compare=False)
    """The last pool with its images of each class, if there was one."""

    def images(self, number: int, class_id: int) -> Tensor:
        """Float [m, C, H, W], m at most ``count``; ``number`` is that of the draw."""
        members = self._by_class(self.available(number // self.segments))[class_id]
        generator = rng.generator(self.seed, "distill", "real class", number, class_id)
        chosen = members[torch.randperm(len(members), generator=generator)[: self.count]]
        return self.real.images[chosen.to(self.real.images.device)]

    def _by_class(self, pool: Tensor) -> tuple[Tensor, ...]:
        """Of each class the indices in ``pool``, in its order: one pass for all, once for as long as it is in use."""
        if not self._divided or self._divided[0][0] is not pool:
            classes = self.real.classes[pool]
            counts = torch.bincount(classes, minlength=self.real.num_classes).tolist()
            self._divided[:] = [(pool, pool[classes.argsort(stable=True)].split(counts))]
        return self._divided[0][1]


def siamese(
    augmentation: Augmentation | None, like: Tensor, seed: int, number: int, class_id: int
) -> Callable[[Tensor], Tensor]:
    """DSA's Siamese augmentation: one operation with one set of numbers for all images of a class, learned and real.

    Args:
        augmentation: what is drawn from; None for no augmentation.
        like: images [., C, H, W] of the size of those that will be augmented.
        seed: root seed.
        number: of the draw.
        class_id: each class has a draw of its own.
    """
    if augmentation is None:
        return lambda images: images
    height, width = (int(size) for size in like.shape[2:])
    draw = augmentation.draw(1, height, width, rng.generator(seed, "distill", "siamese", number, class_id))

    def apply(images_B: Tensor) -> Tensor:
        values = draw.values.to(images_B.device).expand(len(images_B), -1)
        return augment.apply(images_B, augment.Draw(draw.operation, values))

    return apply


def all_images(count: int) -> Available:
    """Every outer step may draw from all ``count`` training images."""
    everything = torch.arange(count)
    return lambda step: everything


def scheduled_images(used: Callable[[int], Tensor], epochs: int, outer_steps: int) -> Available:
    """Those that an epoch of PAD's schedule shows, ``used(epoch)``; its ``epochs`` are spread over ``outer_steps``."""
    of_epoch = lru_cache(maxsize=1)(used)
    return lambda step: of_epoch(step * epochs // max(1, outer_steps))


_SCORING = ("batch_size", "lr", "momentum", "weight_decay", "augment")  # of the networks that score difficulty
REAL_ORDERS: Seam[Part[None]] = Seam(
    "distill.real_order",
    {
        "shuffle": Part(None),
        "easy-to-hard": Part(
            None,
            needs=frozenset({"ranking"}),
            reads=(
                "experts.epochs",
                "experts.ranking",
                *SCHEDULE_SETTINGS,
                *(f"experts.{name}" for name in _SCORING),
            ),
        ),
    },
)
"""Which images outer steps draw from: ``all_images`` or ``scheduled_images``."""
