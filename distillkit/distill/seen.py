"""What the steps of a student see: each batch augmented when its turn comes, or all of them at once.

The synthetic images do not change inside an outer step, so all augmentations of its inner steps can be computed before
the first: those of one operation as one batch. On a GPU that is tens of launches in all instead of tens for every step.
The way back is one pass too: the adjoints of all steps are collected, and carried back to the images together.

Legend: N steps of batches b_i; M = Σ b_i images in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distillkit.data import augment
from distillkit.data.augment import Draw

MOST_BYTES = 2**28
"""Of augmented images that are held at a time: where there would be more, launches are not what takes the time."""


class ReplayableStep(Protocol):
    """An inner step's batch: ``indices`` int64 [B] into the synthetic set, and an augmentation."""

    @property
    def indices(self) -> Tensor:
        """Of the batch."""

    @property
    def pieces(self) -> Sequence[tuple[Tensor, Draw | None]]:
        """The batch in pieces of one draw each, in order: indices [b] and how they are augmented."""

    def augmented(self, images_B: Tensor) -> Tensor:
        """The batch as the student sees it, differentiable, the same at every call."""


class SeenImages(Protocol):
    """The batches of a student's steps, after augmentation, and their way back to the images."""

    def batch(self, number: int) -> Tensor:
        """That of step ``number`` [B, C, H, W], without a graph."""

    def carry_back(self, number: int, adjoint_B: Tensor, scale: Tensor | float) -> None:
        """Add ``scale`` times what step ``number`` contributes, from the derivative in its batch [B, C, H, W]."""

    def gradient(self) -> Tensor:
        """The sum of all contributions, the derivative in the images [S, C, H, W]."""


def seen_images(steps: Sequence[ReplayableStep], images: Tensor, at_once: bool) -> SeenImages:
    """The batches of ``steps`` on the set ``images`` [S, C, H, W]; ``at_once`` where they fit into ``MOST_BYTES``."""
    size = sum(len(step.indices) for step in steps) * images[0].numel() * images.element_size()
    return SeenAtOnce(steps, images) if at_once and steps and size <= MOST_BYTES else SeenInTurn(steps, images)


@dataclass(frozen=True)
class _Batch:
    """Step ``number``: indices [B], the images there and what is seen of them, with its graph."""

    number: int
    indices: Tensor
    images: Tensor
    seen: Tensor


class SeenInTurn:
    """Each batch is augmented when it is asked for."""

    def __init__(self, steps: Sequence[ReplayableStep], images: Tensor) -> None:
        self._steps, self._images = steps, images
        self._gradient: Tensor | None = None
        self._last: _Batch | None = None

    def _augmented(self, number: int) -> _Batch:
        indices = self._steps[number].indices.to(self._images.device)
        images = self._images[indices].detach().requires_grad_()
        return _Batch(number, indices, images, self._steps[number].augmented(images))

    def batch(self, number: int) -> Tensor:
        """Made anew, and remembered until the next."""
        self._last = self._augmented(number)
        return self._last.seen.detach()

    def carry_back(self, number: int, adjoint_B: Tensor, scale: Tensor | float) -> None:
        """At once."""
        if self._gradient is None:
            self._gradient = torch.zeros_like(self._images)
        remembered, self._last = self._last, None
        own = remembered if remembered is not None and remembered.number == number else self._augmented(number)
        through = adjoint_B if own.seen is own.images else torch.autograd.grad(own.seen, own.images, adjoint_B)[0]
        self._gradient.index_add_(0, own.indices, through * scale)

    def gradient(self) -> Tensor:
        """Of the steps so far."""
        return torch.zeros_like(self._images) if self._gradient is None else self._gradient


@dataclass(frozen=True)
class _Piece:
    """Images of one draw; ``rows`` of all M."""

    indices: Tensor
    draw: Draw | None
    rows: slice

    @property
    def operation(self) -> str | None:
        """None: the images are seen as they are."""
        return None if self.draw is None else self.draw.operation


@dataclass(frozen=True)
class _Group:
    """All pieces of one operation: indices [m] and the joint draw."""

    pieces: tuple[_Piece, ...]
    indices: Tensor
    draw: Draw | None

    def seen(self, images_m: Tensor) -> Tensor:
        """[m, C, H, W]."""
        return images_m if self.draw is None else augment.apply(images_m, self.draw)


class SeenAtOnce:
    """All M images are augmented at the beginning, by operation, and held."""

    def __init__(self, steps: Sequence[ReplayableStep], images: Tensor) -> None:
        self._images = images.detach()
        pieces, self._rows, begin = [], [], 0
        for step in steps:
            first = begin
            for indices, draw in step.pieces:
                pieces.append(_Piece(indices.to(images.device), draw, slice(begin, begin + len(indices))))
                begin += len(indices)
            self._rows.append(slice(first, begin))
        self._groups = _by_operation(pieces)
        self._seen = self._in_order([(group, group.seen(self._images[group.indices])) for group in self._groups])
        self._adjoint: Tensor | None = None

    @staticmethod
    def _in_order(found: Sequence[tuple[_Group, Tensor]]) -> Tensor:
        """Rows by group as rows by step."""
        parts = [
            pair
            for group, rows in found
            for pair in zip(group.pieces, rows.split([len(piece.indices) for piece in group.pieces]), strict=True)
        ]
        return torch.cat([part for _, part in sorted(parts, key=lambda pair: pair[0].rows.start)])

    def batch(self, number: int) -> Tensor:
        """Rows of what is held."""
        return self._seen[self._rows[number]]

    def carry_back(self, number: int, adjoint_B: Tensor, scale: Tensor | float) -> None:
        """Written down until all are there."""
        if self._adjoint is None:
            self._adjoint = torch.zeros_like(self._seen)
        self._adjoint[self._rows[number]] += adjoint_B * scale

    def gradient(self) -> Tensor:
        """One pass back for each operation."""
        total = torch.zeros_like(self._images)
        if self._adjoint is None:
            return total
        for group in self._groups:
            adjoint = torch.cat([self._adjoint[piece.rows] for piece in group.pieces])
            batch = self._images[group.indices].requires_grad_()
            seen = group.seen(batch)
            through = adjoint if seen is batch else torch.autograd.grad(seen, batch, adjoint)[0]
            total.index_add_(0, group.indices, through)
        return total


def _by_operation(pieces: Sequence[_Piece]) -> list[_Group]:
    groups = []
    for operation in dict.fromkeys(piece.operation for piece in pieces):
        own = tuple(piece for piece in pieces if piece.operation == operation)
        indices = torch.cat([piece.indices for piece in own])
        draws = [piece.draw for piece in own if piece.draw is not None]
        joint = Draw(operation, torch.cat([draw.values for draw in draws])) if operation is not None else None
        groups.append(_Group(own, indices, joint))
    return groups
