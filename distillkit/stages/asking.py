"""Asking an expert about many real images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distillkit import rng
from distillkit.data.inputs import Inputs
from distillkit.networks.functional import FlatNetwork
from distillkit.networks.kinds import has_batch_norm
from distillkit.training.memory import in_pieces

ASKED_AT_ONCE = 512
"""Real images that an expert is asked about at a time."""
Answer = Callable[[Tensor], Tensor]
"""What is wanted of logits [B, K]: [B, ...], a row for each image."""


@torch.no_grad()
def answers(
    network: FlatNetwork, point_P: Tensor, images: Inputs, indices: Tensor | None, wanted: Answer, seed: int
) -> Tensor:
    """``wanted`` of the logits of the images at ``indices`` [m] (None: all n), on the CPU: [m, ...].

    Batch normalisation sees what an image comes with: such a network is asked about images of all classes at a time, in
    an order drawn from ``seed``, whichever of them are wanted, as it was trained. Data often are sorted by class.

    Args:
        network: the architecture.
        point_P: parameters [P].
        images: all training images, [n, C, H, W].
        indices: int64, without repetition.
        wanted: of the logits of a piece, so that no more than that is kept of them.
        seed: root seed.
    """

    def asked(part: Tensor) -> Tensor:
        return wanted(network(point_P, part))

    if not has_batch_norm(network.module):
        chosen = images if indices is None else images[indices.to(images.device)]
        return in_pieces(asked, ASKED_AT_ONCE, chosen).cpu()
    order = torch.randperm(len(images), generator=rng.generator(seed, "distill", "asked in this order"))
    is_wanted = torch.ones(len(images), dtype=torch.bool)
    if indices is not None:
        is_wanted = torch.zeros_like(is_wanted).index_fill_(0, indices.cpu(), True)
    found, places = [], []
    for part in order.tensor_split(max(1, len(images) // ASKED_AT_ONCE)):
        if is_wanted[part].any():
            told = in_pieces(lambda some: asked(images[some]), len(part), part.to(images.device)).cpu()
            found.append(told[is_wanted[part]])
            places.append(part[is_wanted[part]])
    place_of = torch.empty(len(images), dtype=torch.int64)
    place_of[torch.cat(places)] = torch.arange(int(is_wanted.sum()))
    return torch.cat(found)[place_of if indices is None else place_of[indices.cpu()]]
