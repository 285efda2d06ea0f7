"""Real images as network inputs, made as they are used: a data set is held once, as uint8."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from distillkit.data.preprocess import WHITENED, Preprocess, Standardise, to_inputs
from distillkit.errors import ConfigError
from distillkit.memory import memory
from distillkit.records import Pixels


class LazyInputs:
    """Float32 network inputs [n, C, H, W] on ``device``, each made from its uint8 image when it is asked for.

    For a preprocessing of single values only: a batch is then the same bytes as those rows of the whole. The uint8
    images lie on ``device`` too, unless they would fill more than ``MOST_OF_A_GPU`` of what is free there: then they
    stay on the host, and batches are moved.
    """

    dtype = torch.float32

    def __init__(self, pixels: Pixels, preprocess: Preprocess, device: torch.device) -> None:
        self.device = device
        self._pixels = Pixels(_moved(pixels, device)) if moves(pixels.numel(), device) else pixels
        self._preprocess = preprocess

    @property
    def shape(self) -> tuple[int, ...]:
        """n, C, H, W."""
        return self._pixels.shape

    def __len__(self) -> int:
        return len(self._pixels)

    @property
    def stay_on_host(self) -> bool:
        """Whether each batch is moved to a GPU when it is wanted."""
        return self._pixels.stored.device.type != self.device.type

    def __getitem__(self, wanted: Tensor | slice) -> Tensor:
        """The inputs at ``wanted`` (int64 [m] on the device, or a slice), float32 [m, C, H, W]."""
        if isinstance(wanted, Tensor):  # a GPU waits here for images that lie on the host
            wanted = wanted.to(self._pixels.stored.device)
        return to_inputs(self._preprocess, self._pixels[wanted], self.device)

    def split(self, size: int) -> Iterator[Tensor]:
        """All inputs, ``size`` at a time."""
        for part in self._pixels.split(size):
            yield to_inputs(self._preprocess, part, self.device)


Inputs = Tensor | LazyInputs
"""Network inputs [n, C, H, W], of which batches are taken by index, slice or ``split``."""


def inputs_of(preprocess: Preprocess, pixels: Pixels, device: torch.device | str = "cpu") -> Inputs:
    """Network inputs of uint8 images [n, C, H, W]: made as they are used where each value has its own input, at once
    where an input depends on the whole image (whitening, a product of matrices whose rounding depends on the batch).
    """
    place = torch.device(device)
    if isinstance(preprocess, Standardise):
        return LazyInputs(pixels, preprocess, place)
    return to_inputs(preprocess, pixels, place)


MOST_OF_A_GPU = 0.5
"""Of the free memory of a GPU, what uint8 images may fill; networks and their graphs want the rest."""


def moves(size: int, device: torch.device) -> bool:
    """Whether ``size`` bytes of uint8 images are to lie on ``device`` and not on the host, where they come from."""
    if device.type == "cpu":
        return False
    _, free = memory(device)
    return free is None or size <= MOST_OF_A_GPU * free


def held_bytes(preprocessing: str, shape: tuple[int, ...], device: torch.device) -> int:
    """Memory of ``device`` that the inputs of images [n, C, H, W] take, besides what the system may take back."""
    values = torch.Size(shape).numel()
    if preprocessing in WHITENED:
        return 4 * values
    return values if moves(values, device) else 0


def check_fits(preprocessing: str, shape: tuple[int, ...], device: torch.device) -> None:
    """Do the inputs of images [n, C, H, W] fit into the memory that is free?

    Raises:
        ConfigError: no.
    """
    wanted, (_, free) = held_bytes(preprocessing, shape, device), memory(device)
    if free is not None and wanted > free:
        raise ConfigError(
            f"{shape[0]:,} images of {shape[-1]}x{shape[-1]} pixels need {wanted / 2**30:.1f} GiB of memory"
            f"{' as whitened floats' if preprocessing in WHITENED else ''}, {free / 2**30:.1f} are free; take "
            "dataset.preprocessing=standardise, a smaller `dataset.image_size` or dataset.max_train"
        )


def _moved(pixels: Pixels, device: torch.device) -> Tensor:
    """The images on ``device``, a part at a time: there is no second copy on the way."""
    found = torch.empty(pixels.shape, dtype=torch.uint8, device=device)
    begin = 0
    for part in pixels.split(PART):
        found[begin : begin + len(part)] = part.to(device)
        begin += len(part)
    return found


PART = 4096
"""Images that are moved at a time."""
