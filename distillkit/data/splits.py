"""Seeded, class-balanced splits."""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit import rng


def stratified_take(labels: Tensor, fraction: float, seed: int, *names: rng.Name) -> tuple[Tensor, Tensor]:
    """Split indices into (rest, taken), ascending, taking ``round(fraction * n_c)`` of each class.

    At least one image of a class is taken where it has two, and at least one stays.
    """
    taken = []
    for class_id in range(int(labels.max()) + 1 if len(labels) else 0):
        members = torch.nonzero(labels == class_id).flatten()
        order = torch.randperm(len(members), generator=rng.generator(seed, *names, class_id))
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        taken.append(members[order[: max(0, count)]])
    chosen = torch.cat(taken).sort().values if taken else torch.zeros(0, dtype=torch.int64)
    rest_mask = torch.ones(len(labels), dtype=torch.bool)
    rest_mask[chosen] = False
    return torch.nonzero(rest_mask).flatten(), chosen


def even_subset(labels: Tensor, total: int, seed: int, *names: rng.Name) -> Tensor:
    """Up to ``total`` indices, ascending, shared evenly between the classes; what a small class lacks, others give."""
    if total >= len(labels):
        return torch.arange(len(labels))
    queues = []
    for class_id in range(int(labels.max()) + 1):
        members = torch.nonzero(labels == class_id).flatten()
        queues.append(members[torch.randperm(len(members), generator=rng.generator(seed, *names, class_id))])
    # rank of each image inside its class, then the images of lowest rank: one of each class, a second of each, ...
    ranks = torch.cat([torch.arange(len(queue)) for queue in queues])
    order = torch.argsort(ranks, stable=True)[:total]
    return torch.cat(queues)[order].sort().values
