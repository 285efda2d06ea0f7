"""Choosing real images to stand for a class: at random, or nearest to the centroids of k-means."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from distillkit import rng
from distillkit.data.inputs import Inputs
from distillkit.errors import ConfigError


def nearest_distinct(points: np.ndarray, centres: np.ndarray) -> list[int]:
    """For each centre [k, D] in turn the nearest point [n, D] that no earlier centre took; k <= n."""
    rows = (((centre - points) ** 2).sum(1) for centre in centres) if points.size < 1e6 else _distances(points, centres)
    chosen: list[int] = []
    for row in rows:
        row[chosen] = np.inf
        chosen.append(int(row.argmin()))
    return chosen


def _distances(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """As ``(c - p)^2 = c^2 + p^2 - 2 c p``, in memory of k x n."""
    distances: np.ndarray = (centres**2).sum(1)[:, None] + (points**2).sum(1)[None] - 2 * centres @ points.T
    return distances


def kmeans_representatives(points: np.ndarray, count: int, seed: int) -> list[int]:
    """Indices of ``count`` distinct points [n, D], each nearest to a centroid of k-means with k = ``count``.

    scikit-learn on one thread: its reduction over threads has no fixed order, and a run must repeat to the byte.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct images than clusters: some coincide
        clusters = KMeans(n_clusters=count, n_init=4, random_state=seed % 2**32).fit(points)
    return nearest_distinct(points, clusters.cluster_centers_.astype(points.dtype))


def _random_of_class(inputs: Inputs, members: Tensor, ipc: int, seed: int, names: tuple[rng.Name, ...]) -> Tensor:
    order = torch.randperm(len(members), generator=rng.generator(seed, *names))
    return members[order[:ipc]]


def _kmeans_of_class(inputs: Inputs, members: Tensor, ipc: int, seed: int, names: tuple[rng.Name, ...]) -> Tensor:
    points = inputs[members.to(inputs.device)].flatten(1).cpu().numpy()
    return members[kmeans_representatives(points, ipc, rng.derive(seed, *names))]


_Selector = Callable[[Inputs, Tensor, int, int, tuple[rng.Name, ...]], Tensor]
CORESETS: dict[str, _Selector] = {"random": _random_of_class, "kmeans": _kmeans_of_class}


def select_coreset(
    kind: str, inputs: Inputs, labels: Tensor, num_classes: int, ipc: int, seed: int, draw: int = 0
) -> Tensor:
    """Indices int64 [K * ipc] into ``inputs`` [n, C, H, W] with ``labels`` [n], class by class, all distinct.

    Args:
        kind: ``random`` (uniform without replacement) or ``kmeans`` (in input space).
        inputs: network inputs.
        labels: class ids.
        num_classes: K.
        ipc: images per class.
        seed: root seed.
        draw: another number gives another choice; initial images and baselines agree on theirs.

    Raises:
        ConfigError: a class has fewer than ``ipc`` images.
    """
    labels = labels.cpu()
    chosen = []
    for class_id in range(num_classes):
        members = torch.nonzero(labels == class_id).flatten()
        if len(members) < ipc:
            raise ConfigError(f"class {class_id} has {len(members)} training images, fewer than `ipc={ipc}`")
        chosen.append(CORESETS[kind](inputs, members, ipc, seed, ("coreset", kind, draw, class_id)))
    return torch.cat(chosen)
