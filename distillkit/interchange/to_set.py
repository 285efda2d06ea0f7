"""From the field's tensors to a synthetic set, with what their files lost filled in."""

from __future__ import annotations

import torch
from torch import Tensor

from distillkit.errors import ConfigError, DataError
from distillkit.interchange.read_pt import FieldFiles
from distillkit.records import LabelKind, SyntheticSet


def images_per_class(files: FieldFiles) -> int:
    """Ipc.

    Raises:
        DataError: the classes have different numbers of images.
    """
    count, classes = len(files.images), files.num_classes
    counts = torch.bincount(files.labels, minlength=classes) if files.labels.dim() == 1 else None
    if count % classes or (counts is not None and int(counts.min()) != int(counts.max())):
        raise DataError(f"{count} images of {classes} classes: expected as many of each class")
    return count // classes


def label_kind(files: FieldFiles, said: str | None) -> LabelKind:
    """``probabilities``, ``logits`` or ``weights``; what was said, or what the numbers leave no doubt of.

    Raises:
        ConfigError: they are said to be probabilities or weights and are not.
    """
    if files.labels.dim() == 1:
        return "probabilities"
    looks = bool((files.labels >= 0).all()) and bool(((files.labels.sum(1) - 1).abs() < 1e-3).all())
    if said == "probabilities" and not looks:
        raise ConfigError("`labels=probabilities`: but they do not add up to 1; these are logits")
    if said == "weights":
        if bool((files.labels < 0).any()):
            raise ConfigError("`labels=weights`: but some are negative; these are logits")
        return "weights"
    return "logits" if said == "logits" or not looks else "probabilities"


def to_synthetic(files: FieldFiles, num_classes: int, lr: float, kind: LabelKind) -> SyntheticSet:
    """The set, images of a class together.

    Raises:
        DataError: the labels have another number of classes.
    """
    if files.num_classes != num_classes:
        raise DataError(f"the files have {files.num_classes} classes, the data set has {num_classes}")
    ids = files.labels if files.labels.dim() == 1 else _ids_of_soft_labels(files.labels)
    labels = torch.eye(num_classes)[ids] if files.labels.dim() == 1 else files.labels
    order = torch.argsort(ids, stable=True)
    return SyntheticSet(files.images[order], labels[order], ids[order], lr, kind)


def _ids_of_soft_labels(labels: Tensor) -> Tensor:
    """The class that each image stands for, int64 [S]: the largest entry where that gives as many of each class.

    Learned labels may put another class first; then the field's order (all images of class 0, then of 1, ...) decides,
    if most labels agree with it.

    Raises:
        DataError: they do not.
    """
    count, classes = labels.shape
    largest = labels.argmax(1)
    if bool((torch.bincount(largest, minlength=classes) == count // classes).all()):
        return largest
    in_order = torch.arange(classes).repeat_interleave(count // classes)
    if int((largest == in_order).sum()) * 2 < count:
        raise DataError("the soft labels fit no order of classes: neither as many of each, nor class after class")
    return in_order
