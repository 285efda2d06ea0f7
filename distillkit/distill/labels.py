"""Label parts: what the labels of the synthetic set are at the start, how they enter the student's loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.errors import ConfigError
from distillkit.records import LabelKind
from distillkit.settings import DistillSettings


class LabelPart(Protocol):
    """How a method treats labels; ``labels`` are float [S, K] of the kind ``kind``."""

    kind: LabelKind
    learned: bool

    def initial(self, class_ids: Tensor, num_classes: int) -> Tensor:
        """Labels [S, K] for images of classes ``class_ids`` [S]."""

    def loss(self, logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
        """Scalar loss, mean over the batch."""


class HardLabels:
    """One-hot and fixed (MTT)."""

    kind: LabelKind = "probabilities"
    learned = False

    def initial(self, class_ids: Tensor, num_classes: int) -> Tensor:
        """One-hot rows."""
        return F.one_hot(class_ids, num_classes).to(torch.float32)

    def loss(self, logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
        """Cross-entropy."""
        return -(labels_BK * F.log_softmax(logits_BK, 1)).sum(1).mean()


LABELS: dict[str, Callable[[DistillSettings], LabelPart]] = {"hard": lambda settings: HardLabels()}


def label_part(settings: DistillSettings) -> LabelPart:
    """The part that ``settings.labels`` names.

    Raises:
        ConfigError: unknown.
    """
    if settings.labels not in LABELS:
        raise ConfigError(f"distill.labels={settings.labels!r} is unknown; known: {', '.join(LABELS)}")
    return LABELS[settings.labels](settings)
