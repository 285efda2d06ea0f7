"""Reading what research code leaves behind: pickled tensors of images, labels and perhaps the learning rate.

``torch.load(weights_only=True)`` is the only unpickler used: a file that holds anything but tensors, numbers and
containers of them is refused, nothing in it runs.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from distillkit.errors import DataError, NotFoundError

PARTS = {"images": ("images", "image", "data"), "labels": ("labels", "label", "targets"), "lr": ("lr", "syn_lr")}
BEST = ("_best", "")


@dataclass(frozen=True)
class FieldFiles:
    """What the files hold: ``images`` float32 [S, C, H, W], ``labels`` int64 [S] or float32 [S, K], perhaps ``lr``."""

    images: Tensor
    labels: Tensor
    lr: float | None
    names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """K, as far as the labels say."""
        return int(self.labels.shape[1]) if self.labels.dim() == 2 else int(self.labels.max()) + 1


def read_field_files(paths: Sequence[Path]) -> FieldFiles:
    """Read ``images*.pt``, ``labels*.pt`` and ``lr*.pt``, a folder of them, or one ``res_*.pt`` of DC, DSA or DM.

    Raises:
        NotFoundError: a file is missing.
        DataError: a file is no pickle of tensors, or what it holds does not fit together.
    """
    files = [file for path in paths for file in _files_of(path)]
    values: dict[str, Any] = {}
    for file in files:
        value = _load(file)
        if isinstance(value, dict) and "data" in value:  # DC: {"data": [[images, labels] of each experiment], ...}
            found = _of_experiment(value["data"], file)
        else:
            found = {_part_of(file): value}
        for part in found:
            if part in values:
                raise DataError(f"{file} is a second file of {part}; name one of them")
        values |= found
    for part in ("images", "labels"):
        if part not in values:
            raise NotFoundError(f"no file of {part} among {', '.join(file.name for file in files) or 'them'}")
    images, labels = _images(values["images"]), _labels(values["labels"])
    if len(images) != len(labels):
        raise DataError(f"there are {len(images)} images and {len(labels)} labels; these files do not belong together")
    lr = _lr(values["lr"]) if "lr" in values else None
    return FieldFiles(images, labels, lr, tuple(file.name for file in files))


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise NotFoundError(f"there is no file {path}")
    found = []
    for part in PARTS:
        candidates = [path / f"{part}{suffix}.pt" for suffix in BEST]
        found += [file for file in candidates if file.is_file()][:1]
    if not found:
        raise NotFoundError(f"{path} has no images_best.pt or images.pt; name the files themselves")
    return found


def _part_of(file: Path) -> str:
    stem = file.stem.lower()
    if stem.startswith("images_zca"):
        raise DataError(
            f"{file.name} is MTT's picture of the images, with the whitening undone; "
            "give images_*.pt instead and say --zca"
        )
    for part, words in PARTS.items():
        if any(stem == word or stem.startswith((word + "_", word + "-")) for word in words):
            return part
    raise DataError(f"{file.name} is not named like images*.pt, labels*.pt or lr*.pt; rename it")


def _load(file: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols: what it cannot read is an error below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(f"{file} holds more than tensors, or is damaged; it was not executed") from error
    except (
        OSError,
        AssertionError,
        ArithmeticError,
        MemoryError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        TypeError,
    ) as error:
        raise DataError(
            f"{file} is no file of torch.save: {str(error).splitlines()[0] if str(error) else error}"
        ) from error


def _of_experiment(data: Any, file: Path) -> dict[str, Any]:
    try:
        images, labels = data[0][0], data[0][1]
        experiments = len(data)
    except (TypeError, IndexError, KeyError) as error:
        raise DataError(f"{file}: 'data' is not a list of [images, labels]") from error
    if experiments > 1:
        raise DataError(
            f"{file} holds {experiments} experiments; save the one that is wanted as images.pt and labels.pt"
        )
    return {"images": images, "labels": labels}


def _images(value: Any) -> Tensor:
    if not _plain(value) or value.dim() != 4 or not value.is_floating_point():
        raise DataError(f"images are {_kind(value)}; expected a float tensor [S, C, H, W]")
    images = value.detach().float()
    if not bool(torch.isfinite(images).all()):
        raise DataError("some images are not finite")
    if images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        raise DataError(f"images are {list(images.shape)}; expected [S, 1 or 3, size, size]")
    return images


def _labels(value: Any) -> Tensor:
    if not _plain(value) or value.dim() not in (1, 2):
        raise DataError(f"labels are {_kind(value)}; expected class ids [S], or probabilities or logits [S, K]")
    labels = value.detach()
    if labels.dim() == 1:
        ids = labels.long()
        if not torch.equal(ids.to(labels.dtype), labels) or int(ids.min()) < 0 or int(ids.max()) >= len(ids):
            raise DataError("labels [S] are not class ids (from 0 on, with an image of each)")
        return ids
    if labels.shape[1] < 2:
        raise DataError("soft labels [S, K] need two classes or more")
    if not bool(torch.isfinite(labels).all()):
        raise DataError("some labels are not finite")
    return labels.float()


def _plain(value: Any) -> TypeGuard[Tensor]:
    """A dense tensor of at least one value, in this machine's memory."""
    return (
        isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu" and value.numel() > 0
    )


def _lr(value: Any) -> float:
    try:
        lr = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise DataError(f"the learning rate is {_kind(value)}; expected one number") from error
    if not 0 < lr < float("inf"):
        raise DataError(f"the learning rate is {lr}; expected a positive number")
    return lr


def _kind(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
