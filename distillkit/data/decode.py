"""From encoded images to uint8 tensors: modes, alpha, palettes, resizing, centre crop."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from distillkit.errors import DataError

GREY_MODES = frozenset({"1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
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
    """An undecoded ``datasets`` image cell as a lazy Pillow image: its ``bytes``, or the ``file`` that this library
    itself listed. A ``path`` that a table names is never opened: it may be any file of this machine.

    Raises:
        ValueError: the cell is empty.
    """
    if cell is not None and cell.get("bytes") is not None:
        return Image.open(io.BytesIO(cell["bytes"]))
    if cell is not None and cell.get("file") is not None:
        return Image.open(cell["file"])
    raise ValueError("an empty cell, or one that names a file instead of holding its bytes")


def cell_name(cell: dict[str, Any] | None, row: int) -> str:
    """How to tell a person which image it is: its name in the data set, no path of this machine."""
    path = cell.get("path") if cell else None
    return f"{path} (row {row})" if path else f"row {row}"


DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")
"""Modes of greys of more than 8 bits."""
Range = tuple[float, float]
NOMINAL = (255, 1023, 4095, 16383, 65535)
"""Largest values of 8 to 16 bits."""


def nominal_range(low: float, high: float, whole: bool) -> Range:
    """The values that black and white stand for, of images whose values run from ``low`` to ``high``.

    Where none is negative, 0 and the largest value of so many bits as the numbers need, or 1 for floats up to 1;
    otherwise what was seen, and so for floats that come to less than half of a largest value, such as 1.3.
    """
    if low < 0 or high > NOMINAL[-1]:
        return low, max(high, low + 1e-12)
    if not whole and high <= 1:
        return 0.0, 1.0
    nominal = float(next(value for value in NOMINAL if high <= value))
    return (low, high) if not whole and high < nominal / 2 else (0.0, nominal)


def deep_extremes(image: Image.Image) -> Range | None:
    """Smallest and largest value of a grey of more than 8 bits; None of others."""
    if image.mode not in DEEP_MODES:
        return None
    values = np.asarray(image)
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def to_eight_bit(image: Image.Image, values: Range | None = None) -> Image.Image:
    """Greys of more than 8 bits to 8 (Pillow's own conversion clips them): ``values`` are black and white; default what
    the image's own numbers suggest.
    """
    if image.mode not in DEEP_MODES:
        return image
    array = np.nan_to_num(np.asarray(image).astype(np.float64))
    if values is None:
        values = nominal_range(float(array.min()), float(array.max()), image.mode != "F")
    low, high = values
    array = array.clip(low, high)  # first: what was infinite is the largest float
    return Image.fromarray(((array - low) / (high - low) * 255).round().astype(np.uint8))


def upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; as it is where these are damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, struct.error, KeyError, TypeError):
        return image


def to_mode(image: Image.Image, gray: bool, values: Range | None = None) -> Image.Image:
    """Upright, and grey or RGB; transparency, palettes' too, is laid on white; ``values`` as in ``to_eight_bit``."""
    image = to_eight_bit(upright(image), values)
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


def pad(image: Image.Image, size: int) -> Image.Image:
    """The long side to ``size`` pixels, and black around what is missing of the short one."""
    scale = size / max(image.size)
    new = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    framed = Image.new(image.mode, (size, size))
    framed.paste(image.resize(new, Image.Resampling.LANCZOS), ((size - new[0]) // 2, (size - new[1]) // 2))
    return framed


def squash(image: Image.Image, size: int) -> Image.Image:
    """Both sides to ``size`` pixels, whatever their ratio."""
    return image if image.size == (size, size) else image.resize((size, size), Image.Resampling.LANCZOS)


RESIZES: dict[str, Callable[[Image.Image, int], Image.Image]] = {"crop": resize_and_crop, "pad": pad, "squash": squash}


@dataclass(frozen=True)
class ImageForm:
    """What every image of a data set becomes: ``size`` pixels a side, grey or not, ``resize`` as ``RESIZES`` names it,
    ``values`` that black and white are in greys of more than 8 bits (None: there are none).
    """

    size: int
    gray: bool
    resize: str = "crop"
    values: Range | None = None


def decode(cell: dict[str, Any] | None, form: ImageForm, row: int) -> Tensor:
    """One cell as uint8 [C, size, size].

    Raises:
        DataError: the image is corrupt; the message names it.
    """
    try:
        with open_image(cell) as image:
            array = np.array(RESIZES[form.resize](to_mode(image, form.gray, form.values), form.size))
    except BROKEN as error:
        what = "may not be read" if isinstance(error, PermissionError) else "cannot be decoded"
        raise DataError(
            f"image {cell_name(cell, row)} {what} ({type(error).__name__}); "
            "repair or remove it, or pass `dataset.skip_corrupt=True`"
        ) from error
    return channels_first(array)


def channels_first(array: np.ndarray[Any, Any]) -> Tensor:
    """The pixels of a Pillow image, uint8 [H, W] or [H, W, C], as [C, H, W]."""
    tensor = torch.from_numpy(array)
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1).contiguous()
