"""The one place where functions are given to ``torch.compile``."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

CHATTER = r"\s*Online softmax is disabled"
"""How a reduction over a few classes is split is the compiler's affair; on a GPU it would tell users, in a warning."""

NO_DEVICE = "No CUDA runtime is found"
"""A line of torch's log at the first compilation where there is CUDA's compiler and no GPU: a run on the CPU knows."""


class _NoWordOfCuda(logging.Filter):
    """Lets all of a log through but ``NO_DEVICE``."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(NO_DEVICE)


def by_compiler(function: Function, **options: Any) -> Function:
    """``torch.compile(function, **options)``, which compiles at the first call."""
    warnings.filterwarnings("ignore", CHATTER, UserWarning)
    _silence_cuda()
    return cast(Function, torch.compile(function, **options))


def _silence_cuda() -> None:
    """Once a process: torch's own log is not told of a GPU that a run on the CPU does not look for."""
    log = logging.getLogger("torch.utils.cpp_extension")
    if not any(isinstance(one, _NoWordOfCuda) for one in log.filters):
        log.addFilter(_NoWordOfCuda())
