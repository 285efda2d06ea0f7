"""The one place where functions are given to ``torch.compile``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])

CHATTER = r"\s*Online softmax is disabled"
"""How a reduction over a few classes is split is the compiler's affair; on a GPU it would tell users, in a warning."""


def by_compiler(function: Function, **options: Any) -> Function:
    """``torch.compile(function, **options)``, which compiles at the first call."""
    warnings.filterwarnings("ignore", CHATTER, UserWarning)
    return cast(Function, torch.compile(function, **options))
