"""Files of ``torch.save`` that hold tensors, numbers, and numpy's scalars and arrays of numbers; nothing else.

``torch.load(weights_only=True)`` is the only unpickler used. It knows no numpy, which the field's scripts store their
accuracies in, so numpy's names are bound to small stand-ins of this module that build numbers and refuse all else: no
function of numpy itself is called by a file.
"""

from __future__ import annotations

import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distillkit.errors import DataError
from distillkit.words import first_line

NUMBERS = re.compile(r"(b1|[iu][1248]|f[248])")
"""Numpy's codes of truth values, whole numbers and floats."""


def load_numbers(file: Path) -> Any:
    """What a file of ``torch.save`` holds, on the CPU.

    Raises:
        DataError: anything but tensors, numbers, text and containers of them; nothing of it was executed.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_STAND_INS):
            warnings.simplefilter("ignore")  # of pickle protocols: what it cannot read is an error below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(f"{file} holds more than tensors, or is damaged; it was not executed") from error
    except (
        OSError,
        AssertionError,
        ArithmeticError,
        MemoryError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        TypeError,
    ) as error:
        telling = isinstance(error, OSError | RuntimeError | ValueError)  # others are of pickle's insides
        why = f": {first_line(error)}" if telling and str(error).strip() else ""
        raise DataError(f"{file} is no file of torch.save{why}") from error


class _Type:
    """Stands for ``numpy.dtype``: the type of numbers of a scalar or an array."""

    def __init__(self, code: str, *options: bool) -> None:
        if not isinstance(code, str) or not NUMBERS.fullmatch(code):
            raise ValueError(f"numpy type {str(code)[:20]!r} is none of numbers")
        self.order, self.code = "<", code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise ValueError("a numpy type without a byte order")
        self.order = order

    def read(self, content: Any, count: int) -> np.ndarray[Any, Any]:
        """``count`` numbers from their bytes, in this machine's order."""
        if not isinstance(content, bytes):
            raise ValueError("numpy numbers that are not stored as bytes")
        kind = np.dtype(self.order + self.code)
        if len(content) != count * kind.itemsize:
            raise ValueError("numpy numbers of another size than their bytes")
        return np.frombuffer(content, kind).astype(kind.newbyteorder("="))


class _Array:
    """Stands for ``numpy.ndarray``, filled by its state; ``tensor`` is what it holds."""

    tensor: torch.Tensor

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Type) or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError("a numpy array without a type or a shape of numbers")
        count = 1
        for size in shape:
            count *= size
        values = kind.read(content, count).reshape(shape, order="F" if by_columns else "C")
        self.tensor = torch.from_numpy(np.ascontiguousarray(values))


def _scalar(kind: _Type, content: Any) -> int | float | bool:
    """Stands for ``numpy.core.multiarray.scalar``: the number, as Python has it."""
    if not isinstance(kind, _Type):
        raise ValueError("a numpy scalar without a type")
    number: int | float | bool = kind.read(content, 1)[0].item()
    return number


def _reconstruct(*_: Any) -> _Array:
    """Stands for ``numpy.core.multiarray._reconstruct``: an array that its state will fill."""
    return _Array()


_STAND_INS: list[Any] = [
    (_Type, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # numpy 1 and 2
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


def as_tensor(value: Any) -> Any:
    """An array as a tensor; other values as they are."""
    return value.tensor if isinstance(value, _Array) and hasattr(value, "tensor") else value
