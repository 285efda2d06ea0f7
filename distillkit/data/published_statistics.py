"""The means and standard deviations that the field standardises with, per channel, of pixels in [0, 1].

mtt-distillation@50dccea, ``utils.py``, and its descendants (CIFAR-100 is given CIFAR-10's); DD-Ranking@26a4c0f,
``ddranking/utils/data.py``, ``get_dataset``, has the same for the data sets that it knows.
"""

from __future__ import annotations

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean [C], standard deviation [C]."""
_CIFAR: Statistics = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_BY_NAME = {"cifar10": _CIFAR, "cifar100": _CIFAR, "tiny-imagenet": _IMAGENET}


def published_statistics(dataset: str) -> Statistics | None:
    """Of a registered data set, or None where there are none."""
    return _IMAGENET if dataset.startswith("imagenet-") else _BY_NAME.get(dataset)
