"""distillkit: data set distillation as a tool.

``load_distilled(folder)`` gives a set that trains networks; ``compress`` makes one; ``evaluate`` measures it, ``tune``
searches a recipe for another network; ``prepare_model`` creates timm networks that take small images. What a method is
made of is here too (``Method``, ``METHODS``), with errors, listeners and records; the stages and parts by hand are in
``distillkit.lab``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distillkit.version import __version__

if TYPE_CHECKING:
    from distillkit.distilled import DistilledDataset, load_distilled
    from distillkit.distributed import joined
    from distillkit.errors import (
        ArtifactError,
        AuthError,
        ConfigError,
        DataError,
        DistillkitError,
        DivergenceError,
        FewImagesWarning,
        Interrupted,
        LostError,
        NetworkError,
        NotFoundError,
        StorageError,
        TrajectoryError,
    )
    from distillkit.interrupt import StopRequest, stop_on_signals
    from distillkit.methods import METHODS, Method, Problem, SettingsLayer
    from distillkit.networks.timm_models import prepare_model
    from distillkit.pipeline import compress, evaluate, import_files
    from distillkit.progress import Progress
    from distillkit.records import EvalReport, SyntheticSet
    from distillkit.stages.importing import Lost
    from distillkit.stages.tune import TuneOptions, tune

_HOMES = {
    "ArtifactError": "errors",
    "AuthError": "errors",
    "ConfigError": "errors",
    "DataError": "errors",
    "DistilledDataset": "distilled",
    "DistillkitError": "errors",
    "DivergenceError": "errors",
    "EvalReport": "records",
    "FewImagesWarning": "errors",
    "Interrupted": "errors",
    "Lost": "stages.importing",
    "LostError": "errors",
    "METHODS": "methods",
    "Method": "methods",
    "NetworkError": "errors",
    "NotFoundError": "errors",
    "Problem": "methods",
    "Progress": "progress",
    "SettingsLayer": "methods",
    "StopRequest": "interrupt",
    "StorageError": "errors",
    "SyntheticSet": "records",
    "TrajectoryError": "errors",
    "TuneOptions": "stages.tune",
    "compress": "pipeline",
    "evaluate": "pipeline",
    "import_files": "pipeline",
    "joined": "distributed",
    "load_distilled": "distilled",
    "prepare_model": "networks.timm_models",
    "stop_on_signals": "interrupt",
    "tune": "stages.tune",
}

__all__ = [
    "METHODS",
    "ArtifactError",
    "AuthError",
    "ConfigError",
    "DataError",
    "DistilledDataset",
    "DistillkitError",
    "DivergenceError",
    "EvalReport",
    "FewImagesWarning",
    "Interrupted",
    "Lost",
    "LostError",
    "Method",
    "NetworkError",
    "NotFoundError",
    "Problem",
    "Progress",
    "SettingsLayer",
    "StopRequest",
    "StorageError",
    "SyntheticSet",
    "TrajectoryError",
    "TuneOptions",
    "__version__",
    "compress",
    "evaluate",
    "import_files",
    "joined",
    "load_distilled",
    "prepare_model",
    "stop_on_signals",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that the command line answers --help without torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"distillkit.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'distillkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
