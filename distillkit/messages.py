"""What processes send each other: JSON and tensors as bytes, never code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

ALIGNED = 16
"""Bytes to a multiple of which each tensor is filled up, so that the next one begins where any type may."""


def packed(tensors: Mapping[str, Tensor], value: Any) -> bytes:
    """Tensors and a JSON value: eight bytes that say how long the head is, the head, the tensors."""
    head = json.dumps([shapes_of(tensors), value]).encode()
    body = [flat(tensor.detach().cpu()).numpy().tobytes() for tensor in tensors.values()]
    return b"".join([len(head).to_bytes(8, "little"), head, *body])


def unpacked(content: bytes) -> tuple[dict[str, Tensor], Any]:
    """The inverse of ``packed``; tensors on the CPU."""
    length = int.from_bytes(content[:8], "little")
    shapes, value = json.loads(content[8 : 8 + length])
    tensors, begin, body = {}, 0, as_tensor(content[8 + length :])
    for name, (shape, dtype) in shapes.items():
        tensors[name] = of_bytes(body[begin:], shape, dtype).clone()
        begin += length_of(shape, dtype)
    return tensors, value


def as_tensor(content: bytes) -> Tensor:
    """Bytes as uint8 [n]."""
    return torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(0, dtype=torch.uint8)


Shape = tuple[list[int], str]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """Of each tensor what its receiver must know."""
    return {name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in tensors.items()}


def length_of(shape: Sequence[int], dtype: str) -> int:
    """Bytes of a tensor on its way."""
    count = torch.Size(shape).numel() * int(getattr(torch, dtype).itemsize)
    return -(-count // ALIGNED) * ALIGNED


def flat(tensor: Tensor) -> Tensor:
    """Its bytes, uint8, with zeros up to the next multiple of ``ALIGNED``."""
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return torch.cat([content, content.new_zeros(-len(content) % ALIGNED)])


def of_bytes(content: Tensor, shape: Sequence[int], dtype: str) -> Tensor:
    """The inverse of ``flat``."""
    kind, count = getattr(torch, dtype), torch.Size(shape).numel()
    return content[: count * kind.itemsize].view(kind).reshape(list(shape))
