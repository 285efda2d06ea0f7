"""Many small tensors to a device in one transfer: a GPU's host would wait for each of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def at_once(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """The same numbers on ``device``, in one transfer that the host does not wait for; on a CPU the tensors themselves.

    They may be of any dtype whose values float64 holds: indices, and floats up to its size. Mac's GPU, which has no
    float64, gets them one by one, as float32.
    """
    if device.type == "cpu" or not tensors:
        return list(tensors)
    if device.type == "mps":
        return [(one.float() if one.dtype == torch.float64 else one).to(device) for one in tensors]
    return unpacked(packed(tensors).pin_memory().to(device, non_blocking=True), tensors)


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers in one float64 vector, which holds every index exactly."""
    return torch.cat([numbers.double().flatten() for numbers in tensors])


def unpacked(values: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of the shapes and dtypes of ``like`` with the numbers of ``values``, where those are."""
    pieces = values.split([numbers.numel() for numbers in like])
    return [piece.view(old.shape).to(old.dtype) for piece, old in zip(pieces, like, strict=True)]
