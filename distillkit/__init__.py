"""distillkit: data set distillation as a tool.

``load_distilled(folder)`` gives a set that trains networks; ``compress`` makes one; ``evaluate`` measures it;
``prepare_model`` creates timm networks that take small images.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distillkit.version import __version__

if TYPE_CHECKING:
    from distillkit.distilled import DistilledDataset, load_distilled
    from distillkit.networks.timm_models import prepare_model
    from distillkit.pipeline import compress, evaluate

_HOMES = {
    "DistilledDataset": "distillkit.distilled",
    "compress": "distillkit.pipeline",
    "evaluate": "distillkit.pipeline",
    "load_distilled": "distillkit.distilled",
    "prepare_model": "distillkit.networks.timm_models",
}

__all__ = ["DistilledDataset", "__version__", "compress", "evaluate", "load_distilled", "prepare_model"]


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line answers --help without torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'distillkit' has no attribute {name!r}")
