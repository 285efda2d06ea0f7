"""Arithmetic: which precisions a machine has, and what the names mean.

``fp32`` is the reference; ``tf32`` lets a GPU round the inputs of convolutions and matrix products to ten bits;
``bf16`` computes convolutions in bfloat16 and leaves normalisation, logits, parameters, adjoints and sums in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from distillkit.networks.low_precision import convolutions_in_bfloat16

PRECISIONS = ("fp32", "tf32", "bf16")
AGREEMENT = 0.995
"""Cosine with the float32 hypergradient that ``auto`` asks of a precision."""


def available(device: torch.device) -> tuple[str, ...]:
    """The precisions that are worth it on ``device``, fastest first; determined by the hardware, not by clocks."""
    if device.type == "cuda":
        return ("bf16", "tf32", "fp32") if torch.cuda.get_device_capability(device) >= (8, 0) else ("fp32",)
    # without AVX-512 a CPU computes bfloat16 convolutions many times more slowly than float32 ones
    fast = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return ("bf16", "fp32") if fast else ("fp32",)


def candidates(precision: str, device: torch.device) -> tuple[str, ...]:
    """What ``precision`` allows, fastest first: itself, or for ``auto`` all that the device has."""
    return available(device) if precision == "auto" else (precision,)


def steady(precision: str, device: torch.device) -> str:
    """What evaluation networks are trained in: ``fp32``, or ``tf32`` on a GPU unless float32 was asked for."""
    allowed = candidates(precision, device)
    return "tf32" if device.type == "cuda" and allowed[0] in ("bf16", "tf32") else "fp32"


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """A GPU's flags for ``precision`` inside, as they were afterwards; bf16 rounds convolutions only."""
    if device.type != "cuda":
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = precision == "tf32", precision in ("tf32", "bf16")
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def in_precision(module: nn.Module, precision: str) -> nn.Module:
    """``module`` as it computes in ``precision``; changed in place, its parameters stay float32."""
    return convolutions_in_bfloat16(module) if precision == "bf16" else module
