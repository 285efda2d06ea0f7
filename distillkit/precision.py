"""Arithmetic: which precisions a machine has, and what the names mean.

``fp32`` is the reference; ``tf32`` lets a GPU round the inputs of convolutions and matrix products to ten bits;
``bf16`` computes convolutions in bfloat16 and leaves normalisation, logits, parameters, adjoints and sums in float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from distillkit.networks.low_precision import convolutions_in_bfloat16
from distillkit.settings import Precision

PRECISIONS = tuple(name for name in get_args(Precision) if name != "auto")
AGREEMENT = 0.995
"""Cosine with the float32 hypergradient from which ``auto`` takes a precision."""
ROUNDING = 0.2
"""Or the variance that rounding may add to a hypergradient, as a share of that between students of the same step: a
fifth costs what a fifth fewer students would, and a faster precision makes more than that. Long unrolls magnify every
rounding, and every draw of the student more so (two first steps of ``rat`` on CIFAR-10 have a cosine of 0.2)."""


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


def rounding_share(found: Tensor, exact: Tensor, other: Tensor) -> float:
    """The variance that rounding adds, as a share of that between draws: |found - exact|² / (|exact - other|² / 2).

    ``found`` and ``exact`` [n] are one hypergradient, rounded and in float32; ``other`` [n] is float32's for another
    draw of everything random. Where draws do not differ, infinity.
    """
    between = float((exact - other).square().sum()) / 2
    return float((found - exact).square().sum()) / between if between else float("inf")


@contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """A GPU's flags for ``precision`` inside, as they were afterwards; bf16 rounds convolutions only."""
    if device.type != "cuda":
        yield
        return
    # float32 is chosen by what agrees with it; the compiler's advice to round more would be wrong, and printed at users
    warnings.filterwarnings("ignore", "TensorFloat32 tensor cores", UserWarning)
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
