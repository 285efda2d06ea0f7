"""Batches of a set that is small enough to live on the device whole."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from distillkit import rng
from distillkit.environment import made_on_the_host
from distillkit.training.batches import batch_sizes, in_batches


class TensorLoader:
    """Iterates over tensors on their device in batches, in a new order each pass if ``shuffle``."""

    def __init__(self, images: Tensor, targets: Tensor, batch_size: int, shuffle: bool, seed: int) -> None:
        self.images, self.targets, self.batch_size = images, targets, batch_size
        self._shuffle, self._seed, self._passes = shuffle, seed, 0

    def __len__(self) -> int:
        return len(batch_sizes(len(self.images), self.batch_size))

    @made_on_the_host
    def _order(self) -> Tensor:
        if not self._shuffle:
            return torch.arange(len(self.images))
        return torch.randperm(len(self.images), generator=rng.generator(self._seed, "loader", self._passes))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self._order()
        self._passes += 1
        for indices in in_batches(order.to(self.images.device), self.batch_size):
            yield self.images[indices], self.targets[indices]
