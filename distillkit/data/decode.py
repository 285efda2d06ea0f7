"""From encoded images to uint8 tensors: modes, alpha, palettes, resizing, centre crop."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from distillkit.errors import DataError

GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "F"})
# What Pillow raises for files that are no image, cut short or absurd.
BROKEN = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def open_image(cell: dict[str, Any] | None) -> Image.Image:
    """An undecoded ``datasets`` image cell, ``{"bytes", "path"}``, as a lazy Pillow image.

    Raises:
        ValueError: the cell is empty.
    """
    if cell is None or (cell.get("bytes") is None and cell.get("path") is None):
        raise ValueError("an empty cell")
    if cell.get("bytes") is not None:
        return Image.open(io.BytesIO(cell["bytes"]))
    return Image.open(cell["path"])


def cell_name(cell: dict[str, Any] | None, row: int) -> str:
    """How to tell a person which image it is."""
    path = cell.get("path") if cell else None
    return f"{path} (row {row})" if path else f"row {row}"


def to_eight_bit(image: Image.Image) -> Image.Image:
    """16-bit and float greys to 8 bits by their nominal range (Pillow's own conversion clips them)."""
    if image.mode in ("I;16", "I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray((np.asarray(image).clip(0, 1) * 255).round().astype(np.uint8))
    return image


def to_mode(image: Image.Image, gray: bool) -> Image.Image:
    """Grey or RGB; transparency, palettes' too, is laid on white."""
    image = to_eight_bit(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (255, 255, 255, 255)), rgba)
    return image.convert("L" if gray else "RGB")


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """The short side to ``size`` pixels (Lanczos), then the centre ``size`` x ``size``; untouched if it is that."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    scale = size / min(width, height)
    new = (max(size, round(width * scale)), max(size, round(height * scale)))
    image = image.resize(new, Image.Resampling.LANCZOS)
    left, top = (new[0] - size) // 2, (new[1] - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode(cell: dict[str, Any] | None, size: int, gray: bool, row: int) -> Tensor:
    """One cell as uint8 [C, size, size].

    Raises:
        DataError: the image is corrupt; the message names it.
    """
    try:
        with open_image(cell) as image:
            array = np.array(resize_and_crop(to_mode(image, gray), size))
    except BROKEN as error:
        raise DataError(
            f"image {cell_name(cell, row)} cannot be decoded ({type(error).__name__}); "
            "repair or remove it, or pass --skip-corrupt"
        ) from error
    tensor = torch.from_numpy(array)
    return tensor[None] if gray else tensor.permute(2, 0, 1).contiguous()
