"""Arithmetic: which precisions a machine has, and what the names mean.

``fp32`` is the reference; ``tf32`` lets a GPU round the inputs of convolutions and matrix products to ten bits;
``bf16`` computes convolutions in bfloat16 and leaves normalisation, logits, parameters, adjoints and sums in float32.
"""

from __future__ import annotations

import torch
from torch import nn

from distillkit.networks.low_precision import convolutions_in_bfloat16

PRECISIONS = ("fp32", "tf32", "bf16")
AGREEMENT = 0.995
"""Cosine with the float32 hypergradient that ``auto`` asks of a precision."""


def available(device: torch.device) -> tuple[str, ...]:
    """The precisions that are worth it on ``device``, fastest first; told by the hardware, not by clocks."""
    if device.type == "cuda":
        return ("bf16", "tf32", "fp32") if torch.cuda.get_device_capability(device) >= (8, 0) else ("fp32",)
    # without AVX-512 a CPU computes bfloat16 convolutions more slowly than float32 ones
    return ("bf16", "fp32") if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ("fp32",)


def candidates(precision: str, device: torch.device) -> tuple[str, ...]:
    """What ``precision`` allows, fastest first: itself, or for ``auto`` all that the device has."""
    return available(device) if precision == "auto" else (precision,)


def set_arithmetic(precision: str, device: torch.device) -> None:
    """Set the flags of a GPU for ``precision``; bf16 rounds convolutions only."""
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision in ("tf32", "bf16")


def in_precision(module: nn.Module, precision: str) -> nn.Module:
    """``module`` as it computes in ``precision``; changed in place, its parameters stay float32."""
    return convolutions_in_bfloat16(module) if precision == "bf16" else module
