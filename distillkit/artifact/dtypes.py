"""How the tensors of a distilled set are stored: the one table of dtypes, and their names in a safetensors header."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from distillkit.settings import StoredDtype


@dataclass(frozen=True)
class Stored:
    """What ``artifact.dtype`` makes of images and of labels; labels have no 8-bit form."""

    images: torch.dtype
    labels: torch.dtype


STORED: dict[StoredDtype, Stored] = {
    "float32": Stored(torch.float32, torch.float32),
    "float16": Stored(torch.float16, torch.float16),
    "uint8": Stored(torch.uint8, torch.float16),
}
IN_HEADER = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.uint8: "U8",
}
"""What safetensors calls the dtypes that an artifact has."""
WIDTHS = {name: dtype.itemsize for dtype, name in IN_HEADER.items()}
"""Bytes of a number."""
