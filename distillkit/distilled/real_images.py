"""Real images as a distilled set needs them: its shape, its class ids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distillkit.data.decode import DEEP_MODES, RESIZES, channels_first, resize_and_crop, to_mode
from distillkit.data.labels import check_same_classes
from distillkit.errors import ConfigError
from distillkit.records import ImageSet


def check_images(images: object) -> None:
    """Are these a tensor?

    Raises:
        ConfigError: no; what makes one.
    """
    if not isinstance(images, Tensor):
        raise ConfigError(
            f"preprocess expects a uint8 tensor or one Pillow image, got a {type(images).__name__}; "
            "torch.from_numpy(ARRAY) makes a tensor of an array, PIL.Image.open(FILE) an image of a file"
        )


def check_pixels(dtype: torch.dtype, shape: Sequence[int], image_shape: tuple[int, int, int]) -> None:
    """Are these uint8 images [..., C, H, W] of ``image_shape``?

    Raises:
        ConfigError: no.
    """
    if dtype != torch.uint8 or tuple(shape[-3:]) != image_shape or len(shape) > 4:
        raise ConfigError(f"preprocess expects uint8 images of shape {image_shape}, got {dtype} {tuple(shape)}")


def from_pillow(
    image: Image.Image, image_shape: tuple[int, int, int], resize: str, values: tuple[float, float] | None
) -> Tensor:
    """A Pillow image of any mode and size as uint8 [C, H, W] of ``image_shape``, resized as the data set was;
    ``values`` of a grey of more than 8 bits are black and white, as they were there.

    Raises:
        ConfigError: it is such a grey, and the data set had none.
    """
    if image.mode in DEEP_MODES and values is None:
        raise ConfigError(
            f"this image has greys of more than 8 bits (mode {image.mode}), and the set does not say which are black "
            "and white; convert it to 8 bits as the images of the data set were"
        )
    channels, size, _ = image_shape
    resized = RESIZES.get(resize, resize_and_crop)(to_mode(image, gray=channels == 1, values=values), size)
    return channels_first(np.array(resized))


def with_ids_of(classes: tuple[str, ...], images: ImageSet) -> ImageSet:
    """``images`` with the class ids that ``classes`` gives their names: they are the same in whatever order.

    Raises:
        ConfigError: they are others, or there are no images.
    """
    if not len(images):
        raise ConfigError("there are no images to test on")
    if images.classes == classes:
        return images
    check_same_classes(classes, images.classes)
    own = torch.tensor([classes.index(name) for name in images.classes])
    return ImageSet(images.source, own[images.labels], classes)
