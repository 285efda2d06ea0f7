"""Rankings of the training images by difficulty from a file, such as PAD's released ``CIFAR10_GraNd.pt``.

Of each class, in the order of the classes, the indices of its images in the whole training split from easy to hard:
an integer tensor [classes, images of a class] in a ``.pt``, ``.npy`` or ``.safetensors`` file (there called
``ranking``), or a list of lists in a ``.json`` file where classes have different numbers of images.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distillkit import storage
from distillkit.errors import ConfigError, NotFoundError, StorageError


def read_ranking(path: Path) -> list[Tensor]:
    """Of each class the indices int64, from easy to hard.

    Raises:
        NotFoundError: no such file.
        ConfigError: it is no ranking. Nothing in it is run.
    """
    if not path.is_file():
        raise NotFoundError(f"experts.ranking: there is no file {path}")
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise ConfigError(f"experts.ranking={path.name}: expected one of {', '.join(_READERS)}")
    try:
        rows = [torch.as_tensor(row) for row in reader(path)]
    except KeyError as error:
        raise ConfigError(f"experts.ranking={path.name} has no tensor {error}") from error
    except (StorageError, pickle.UnpicklingError, RuntimeError, ValueError, TypeError, EOFError) as error:
        raise ConfigError(f"experts.ranking={path.name} is no file of a ranking: {error}") from error
    if not rows or any(row.dim() != 1 or row.dtype.is_floating_point or row.dtype == torch.bool for row in rows):
        raise ConfigError(f"experts.ranking={path.name} must hold a row of whole numbers for each class")
    return [row.long() for row in rows]


def of_the_kept(rows: list[Tensor], labels: Tensor, kept: Tensor) -> tuple[Tensor, ...]:
    """A ranking of the images that are trained on.

    Args:
        rows: as ``read_ranking`` gives them.
        labels: int64 [n] of the images that are trained on.
        kept: int64 [n], their indices in the whole training split.

    Returns:
        Of each class, indices into those n images from easy to hard.

    Raises:
        ConfigError: it is a ranking of other images.
    """
    place = {int(index): position for position, index in enumerate(kept)}
    found = [[place[index] for index in row.tolist() if index in place] for row in rows]
    if sorted(position for row in found for position in row) != list(range(len(kept))):
        raise ConfigError("experts.ranking does not name every training image once; it is one of other images")
    for class_id, row in enumerate(found):
        if bool((labels[row] != class_id).any()):
            raise ConfigError(f"experts.ranking has an image of another class in its row {class_id}")
    return tuple(torch.tensor(row, dtype=torch.int64) for row in found)


_READERS: dict[str, Any] = {
    ".pt": lambda path: torch.load(path, map_location="cpu", weights_only=True),
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".safetensors": lambda path: storage.read_tensors(path)[0]["ranking"],
    ".json": storage.read_json,
}
