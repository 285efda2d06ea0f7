"""Everything that the outer loop changes, as tensors: what a checkpoint holds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillkit import storage
from distillkit.records import LabelKind, SyntheticSet
from distillkit.settings import DistillSettings

# A wild gradient must not take η out of the range of floats in one step; ordinary steps change log η by under 0.01.
MAX_LOG_LR_CHANGE = 1.0


@dataclass
class Best:
    """The synthetic set with the highest validation accuracy so far."""

    step: int
    accuracy: float
    synthetic: SyntheticSet


@dataclass
class OuterState:
    """The synthetic set being learned, with its momenta.

    The student's lr is η = lr_init * exp(φ / lr_init): positive whatever φ is, and dη/dφ = 1 at the start, so that the
    papers' learning rates of η (``lr_lr``) keep their meaning there. ``log_lr`` is φ / lr_init.
    """

    images: Tensor
    labels: Tensor
    class_ids: Tensor
    label_kind: LabelKind
    lr_init: float
    log_lr: float = 0.0
    image_velocity: Tensor = field(default_factory=lambda: torch.zeros(()))
    label_velocity: Tensor = field(default_factory=lambda: torch.zeros(()))
    lr_velocity: float = 0.0
    average: Tensor | None = None
    step: int = 0
    skipped: int = 0
    gated: int = 0
    skipped_in_a_row: int = 0
    selection_due: bool = True
    compiled: bool | None = None
    precision: str | None = None
    kept: int | None = None
    together: bool | None = None
    agreement: dict[str, float] = field(default_factory=dict)
    best: Best | None = None

    @property
    def lr(self) -> float:
        """η."""
        return self.lr_init * math.exp(self.log_lr)

    def apply(
        self, grad_images: Tensor, grad_lr: float, settings: DistillSettings, grad_labels: Tensor | None = None
    ) -> None:
        """One step of SGD with momentum (v <- m v + g; x <- x - lr v) on images, φ and labels; then the average."""
        if grad_labels is not None:
            self.label_velocity = settings.label_momentum * self.label_velocity + grad_labels
            self.labels = self.labels - settings.lr_label * self.label_velocity
        self.image_velocity = settings.image_momentum * self.image_velocity + grad_images
        before = self.images
        self.images = before - settings.lr_img * self.image_velocity
        grad_phi = grad_lr * math.exp(self.log_lr)  # dη/dφ = η / lr_init
        self.lr_velocity = settings.lr_momentum * self.lr_velocity + grad_phi
        change = -settings.lr_lr * self.lr_velocity / self.lr_init
        self.log_lr += max(-MAX_LOG_LR_CHANGE, min(MAX_LOG_LR_CHANGE, change))
        if settings.ema is not None:
            previous = before if self.average is None else self.average  # it starts as the initial images
            self.average = settings.ema * previous + (1 - settings.ema) * self.images

    def synthetic(self) -> SyntheticSet:
        """The set as it would be kept now, on the CPU."""
        images = self.images if self.average is None else self.average
        return SyntheticSet(images.cpu().clone(), self.labels.cpu().clone(), self.class_ids, self.lr, self.label_kind)

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        tensors = {
            "images": self.images,
            "labels": self.labels,
            "class_ids": self.class_ids,
            "image_velocity": self.image_velocity,
            "label_velocity": self.label_velocity,
        }
        if self.average is not None:
            tensors["average"] = self.average
        if self.best is not None:
            tensors |= {"best.images": self.best.synthetic.images, "best.labels": self.best.synthetic.labels}
        storage.write_tensors(path, tensors, self._numbers())

    def _numbers(self) -> dict[str, Any]:
        names = (
            "label_kind",
            "lr_init",
            "log_lr",
            "lr_velocity",
            "step",
            "skipped",
            "gated",
            "skipped_in_a_row",
            "selection_due",
            "compiled",
            "precision",
            "kept",
            "together",
            "agreement",
        )
        numbers: dict[str, Any] = {name: getattr(self, name) for name in names}
        if self.best is not None:
            best = self.best
            numbers["best"] = {"step": best.step, "accuracy": best.accuracy, "lr": best.synthetic.lr}
        return numbers

    @staticmethod
    def load(path: Path, device: torch.device | str) -> OuterState:
        """Read a checkpoint.

        Raises:
            StorageError: missing or damaged.
        """
        tensors, numbers = storage.read_tensors(path)
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # not a view of a file that is replaced
        best_numbers = numbers.pop("best", None)
        state = OuterState(
            images=tensors["images"].to(device),
            labels=tensors["labels"].to(device),
            class_ids=tensors["class_ids"],
            image_velocity=tensors["image_velocity"].to(device),
            label_velocity=tensors["label_velocity"].to(device),
            average=tensors["average"].to(device) if "average" in tensors else None,
            **numbers,
        )
        if best_numbers is not None:
            images, labels, lr = tensors["best.images"], tensors["best.labels"], best_numbers["lr"]
            kept = SyntheticSet(images, labels, state.class_ids, lr, state.label_kind)
            state.best = Best(best_numbers["step"], best_numbers["accuracy"], kept)
        return state
