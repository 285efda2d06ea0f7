"""Reading what research code leaves behind: pickled tensors of images, labels and perhaps the learning rate.

Their forms: MTT, DATM and PAD save a tensor a file (``images_best.pt``, ``labels_best.pt``, ``lr_best.pt``); DC, DSA
and DM ``res_*.pt``, a dictionary whose ``data`` lists ``[images, labels]`` of each experiment; IDC ``data.pt``, a list
of images and labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from distillkit.errors import ConfigError, DataError, NotFoundError
from distillkit.interchange.safe_load import as_tensor, load_numbers

PARTS = {"images": ("images", "image", "data"), "labels": ("labels", "label", "targets"), "lr": ("lr", "syn_lr")}
BEST = ("_best", "")
WHOLE = ("data*.pt", "res_*.pt")
"""Files that hold images and labels together: IDC's; DC's, DSA's and DM's."""


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


def read_field_files(paths: Sequence[Path], experiment: int | None = None, *, with_lr: bool = True) -> FieldFiles:
    """Read ``images*.pt``, ``labels*.pt`` and ``lr*.pt``, a folder of them, a ``res_*.pt`` of DC, DSA or DM, or IDC's
    ``data.pt``; ``experiment``: which of several in a ``res_*.pt``, the first being 0; ``with_lr`` False: files of the
    learning rate are not opened.

    Raises:
        NotFoundError: a file is missing.
        ConfigError: no such experiment, or several and none was named.
        DataError: a file is no pickle of tensors, or what it holds does not fit together.
    """
    files = [file for path in paths for file in _files_of(path) if with_lr or not _is_of("lr", file)]
    values: dict[str, Any] = {}
    several = False
    for file in files:
        value = load_numbers(file)
        experiments = _experiments(value, file)
        found = {_part_of(file): value} if experiments is None else _of_experiment(experiments, experiment, file)
        several = several or experiments is not None
        for part in found:
            if part in values:
                raise DataError(f"{file} is a second file of {part}; name one of them")
        values |= found
    for part in ("images", "labels"):
        if part not in values:
            raise NotFoundError(f"no file of {part} among {', '.join(file.name for file in files) or 'them'}")
    if experiment is not None and not several:
        raise ConfigError(f"`experiment={experiment}`: these files do not hold experiments")
    images, labels = _images(as_tensor(values["images"])), _labels(as_tensor(values["labels"]))
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
        found = [file for pattern in WHOLE for file in sorted(path.glob(pattern))]
        if len(found) > 1:
            raise ConfigError(f"{path} has several results, {', '.join(file.name for file in found)}; name one of them")
    if not found:
        raise NotFoundError(f"{path} has no images_best.pt, images.pt, res_*.pt or data.pt; name the files themselves")
    return found


def _part_of(file: Path) -> str:
    stem = file.stem.lower()
    if stem.startswith("images_zca"):
        raise DataError(
            f"{file.name} is MTT's picture of the images, with the whitening undone; "
            "give images_*.pt instead and say `zca=True`"
        )
    for part in PARTS:
        if _is_of(part, file):
            return part
    raise DataError(f"{file.name} is not named like images*.pt, labels*.pt or lr*.pt; rename it")


def _is_of(part: str, file: Path) -> bool:
    stem = file.stem.lower()
    return any(stem == word or stem.startswith((word + "_", word + "-")) for word in PARTS[part])


def _experiments(value: Any, file: Path) -> list[Any] | None:
    """``[images, labels]`` of each experiment in a file; None of a file that holds a single part."""
    if isinstance(value, dict) and "data" in value:
        value = value["data"]
        if not isinstance(value, (list, tuple)) or not all(_is_pair(pair) for pair in value) or not value:
            raise DataError(f"{file}: 'data' is not a list of [images, labels]")
        return list(value)
    return [value] if _is_pair(value) else None


def _is_pair(value: Any) -> bool:
    """Whether it is ``[images, labels]``."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        return False
    return all(isinstance(as_tensor(part), Tensor) for part in value)


def _of_experiment(experiments: Sequence[Any], wanted: int | None, file: Path) -> dict[str, Any]:
    count = len(experiments)
    if wanted is None and count > 1:
        raise ConfigError(f"{file} holds {count} experiments; choose one with `experiment`, 0 to {count - 1}")
    if wanted is not None and not 0 <= wanted < count:
        raise ConfigError(f"`experiment={wanted}`: {file} holds experiments 0 to {count - 1}")
    images, labels = experiments[wanted or 0]
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
