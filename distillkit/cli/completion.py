"""What a shell offers after Tab (``distillkit --install-completion``): values of options, without loading torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import get_args

from distillkit.methods.presets import PRESETS
from distillkit.settings import Precision

DEVICES = ("auto", "cpu", "cuda", "cuda:0")
NETWORKS = ("convnet", "resnet18", "vgg11", "alexnet", "lenet", "mlp", "timm/")
BASELINES = ("random", "kmeans", "random,kmeans")


def _beginning(names: Iterable[str], begun: str) -> list[str]:
    return [name for name in names if name.startswith(begun)]


def datasets(incomplete: str) -> list[str]:
    """Registered data sets, then folders below what was typed."""
    from distillkit.data.registry import DATASETS

    return _beginning(DATASETS, incomplete) + folders(incomplete)


def folders(incomplete: str) -> list[str]:
    """Folders whose path begins as typed, hidden ones left out."""
    typed = Path(incomplete)
    parent, begun = (typed, "") if incomplete.endswith(os.sep) else (typed.parent, typed.name)
    try:
        found = sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
    return [f"{path}{os.sep}" for path in found if path.name.startswith(begun)]


def methods(incomplete: str) -> list[str]:
    """Names of methods."""
    from distillkit.methods import METHODS

    return _beginning(METHODS, incomplete)


def presets(incomplete: str) -> list[str]:
    """Names of presets."""
    return _beginning(PRESETS, incomplete)


def devices(incomplete: str) -> list[str]:
    """Usual devices; whether they are there is not asked."""
    return _beginning(DEVICES, incomplete)


def precisions(incomplete: str) -> list[str]:
    """Arithmetics."""
    return _beginning(get_args(Precision), incomplete)


def settings(incomplete: str) -> list[str]:
    """Keys of settings, with the equals sign that a value follows."""
    from distillkit.config import known_keys

    return _beginning((f"{key}=" for key in known_keys()), incomplete)


def networks(incomplete: str) -> list[str]:
    """Networks that are built here; timm's are too many."""
    return _beginning(NETWORKS, incomplete)


def baselines(incomplete: str) -> list[str]:
    """Real images that a search may be made for too."""
    return _beginning(BASELINES, incomplete)


def _offering(*values: str) -> Callable[[str], list[str]]:
    """The completion of an option that has these values."""

    def offered(incomplete: str) -> list[str]:
        return _beginning(values, incomplete)

    return offered


formats = _offering("pt", "ddranking", "imagefolder")
files_of = _offering("mtt", "datm", "pt")
labels = _offering("probabilities", "logits", "weights")
dtypes = _offering("float32", "float16", "uint8")
trackers = _offering("tensorboard", "wandb")
