"""Label parts: what the labels of the synthetic set are at the start, how they enter the student's loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.errors import ConfigError
from distillkit.parts import Part, Seam
from distillkit.records import LabelKind
from distillkit.settings import DistillSettings


class LabelPart(Protocol):
    """How a method treats labels; ``labels`` are float [S, K] of the kind ``kind``."""

    kind: LabelKind
    learned: bool

    def initial(self, class_ids: Tensor, num_classes: int, logits_ESK: Tensor | None = None) -> Tensor:
        """Labels [S, K] for images of classes ``class_ids`` [S], of which E experts say ``logits_ESK``."""

    def loss(self, logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
        """Scalar loss, mean over the batch."""

    def project(self, labels: Tensor) -> Tensor:
        """Labels after an outer step, moved to where they may be."""


class HardLabels:
    """One-hot and fixed (MTT)."""

    kind: LabelKind = "probabilities"
    learned = False

    def initial(self, class_ids: Tensor, num_classes: int, logits_ESK: Tensor | None = None) -> Tensor:
        """One-hot rows."""
        return F.one_hot(class_ids, num_classes).to(torch.float32)

    def loss(self, logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
        """Cross-entropy."""
        return -(labels_BK * F.log_softmax(logits_BK, 1)).sum(1).mean()

    def project(self, labels: Tensor) -> Tensor:
        """Any."""
        return labels


class LabelWeights(HardLabels):
    """Weights of the classes, learned with the images, one-hot at first (RaT-BPTT): at least 0, of any sum.

    They enter the cross-entropy as they are, so their sum weighs the image.
    """

    kind: LabelKind = "weights"
    learned = True

    def project(self, labels: Tensor) -> Tensor:
        """Negative ones become 0."""
        return labels.clamp_min(0)


def mean_of_the_right(logits_ESK: Tensor, class_ids: Tensor) -> Tensor:
    """DATM's initial labels: of each image the mean logits [S, K] of the experts that classify it correctly.

    Where none does (0/0 in the released code), the mean of all, its largest logit exchanged with that of the class.
    """
    right_ES = (logits_ESK.argmax(2) == class_ids).to(logits_ESK.dtype)
    counts_S = right_ES.sum(0)
    chosen = (logits_ESK * right_ES[:, :, None]).sum(0) / counts_S.clamp_min(1)[:, None]
    fallback, rows = logits_ESK.mean(0), torch.arange(len(class_ids))
    largest = fallback.argmax(1)
    top, own = fallback[rows, largest].clone(), fallback[rows, class_ids].clone()
    fallback[rows, largest], fallback[rows, class_ids] = own, top
    return torch.where((counts_S > 0)[:, None], chosen, fallback)


class SoftLabels:
    """Logits, learned with the images (DATM, arXiv:2310.05773); softmax is applied once, temperature 1."""

    kind: LabelKind = "logits"
    learned = True

    def initial(self, class_ids: Tensor, num_classes: int, logits_ESK: Tensor | None = None) -> Tensor:
        """Mean logits of the experts that are right.

        Raises:
            ConfigError: there are no experts.
        """
        if logits_ESK is None:
            raise ConfigError("distill.labels=soft starts from experts' logits, and this method trains none")
        return mean_of_the_right(logits_ESK.to(torch.float32), class_ids)

    def loss(self, logits_BK: Tensor, labels_BK: Tensor) -> Tensor:
        """Cross-entropy against softmax(labels)."""
        return -(labels_BK.softmax(1) * F.log_softmax(logits_BK, 1)).sum(1).mean()

    def project(self, labels: Tensor) -> Tensor:
        """Any."""
        return labels


LABELS: Seam[Part[Callable[[DistillSettings], LabelPart]]] = Seam(
    "distill.labels",
    {
        "hard": Part(lambda settings: HardLabels()),
        "soft": Part(lambda settings: SoftLabels(), needs=frozenset({"opinion"}), reads=("distill.lr_label",)),
        "weights": Part(lambda settings: LabelWeights(), reads=("distill.lr_label",)),
    },
)


def label_part(settings: DistillSettings) -> LabelPart:
    """The part that ``settings.labels`` names.

    Raises:
        ConfigError: unknown.
    """
    return LABELS.chosen(settings).build(settings)


def labels_ask_experts(settings: DistillSettings) -> bool:
    """Whether the initial labels are made from experts' logits."""
    return "opinion" in LABELS.chosen(settings).needs
