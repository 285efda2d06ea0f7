"""Initial synthetic images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit.data.coresets import select_coreset
from distillkit.errors import ConfigError


@dataclass(frozen=True)
class RealData:
    """Real training images as network inputs, ``images`` float [n, C, H, W], ``labels`` int64 [n], K classes.

    ``logits`` gives an expert's logits [n, K] of them, for parts that ask.
    """

    images: Tensor
    labels: Tensor
    num_classes: int
    logits: Callable[[], Tensor] | None = None


InitPart = Callable[[RealData, int, int], Tensor]


def _real(data: RealData, ipc: int, seed: int) -> Tensor:
    """Random training images (the released default since March 2022)."""
    return select_coreset("random", data.images, data.labels, data.num_classes, ipc, seed)


def _kmeans(data: RealData, ipc: int, seed: int) -> Tensor:
    """Training images nearest to class-wise centroids in input space."""
    return select_coreset("kmeans", data.images, data.labels, data.num_classes, ipc, seed)


def _representative(data: RealData, ipc: int, seed: int) -> Tensor:
    """AST: per class, k-means with k = ipc on an expert's logits of the un-augmented images; nearest to each centroid.

    The authors' latest commit has ten clusters for every ipc and returns nothing below ten; this is that of May 2023.
    """
    if data.logits is None:
        raise ConfigError("distill.init=kmeans-logits needs an expert, and this method trains none")
    return select_coreset("kmeans", data.logits(), data.labels, data.num_classes, ipc, seed)


INITS: dict[str, InitPart] = {"real": _real, "kmeans": _kmeans, "kmeans-logits": _representative}


def check_init(name: str) -> None:
    """Is there such a part?

    Raises:
        ConfigError: no.
    """
    if name not in INITS:
        raise ConfigError(f"distill.init={name!r} is unknown; known: {', '.join(INITS)}")


def initial_images(name: str, data: RealData, ipc: int, seed: int) -> tuple[Tensor, Tensor]:
    """Initial images [K * ipc, C, H, W] on the CPU, copies, and their class ids int64 [K * ipc], class by class.

    Raises:
        ConfigError: the part ``name`` is unknown, or a class has fewer than ``ipc`` images.
    """
    check_init(name)
    indices = INITS[name](data, ipc, seed)
    class_ids = torch.arange(data.num_classes).repeat_interleave(ipc)
    return data.images[indices.to(data.images.device)].cpu().clone(), class_ids
