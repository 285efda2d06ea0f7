"""How n images become batches of b: the one place that cuts them, since a batch of one image is no batch to all."""

from __future__ import annotations

from torch import Tensor


def batch_sizes(count: int, size: int) -> list[int]:
    """Sizes of the batches of ``count`` images: ``size`` each, the last one what is left.

    A single image that is left over joins the batch before it: batch normalisation on a map of one pixel has no
    statistics of one image. So the last batch may be ``size`` + 1 images. With ``size`` 1 all have one.
    """
    whole, rest = divmod(count, size)
    if rest == 1 and whole and size > 1:
        return [size] * (whole - 1) + [size + 1]
    return [size] * whole + ([rest] if rest or not whole else [])


def in_batches(tensor: Tensor, size: int) -> tuple[Tensor, ...]:
    """``tensor`` [n, ...] in batches of ``batch_sizes``, in order."""
    pieces: tuple[Tensor, ...] = tensor.split(batch_sizes(len(tensor), size))
    return pieces
