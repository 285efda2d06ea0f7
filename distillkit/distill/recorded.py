"""Functions of tensors whose kernels are recorded once and replayed: CUDA graphs.

A small network's kernels end sooner than the host launches them, and a compiled function asks each time whether it is
still the right one. A recording does neither: arguments are copied into buffers, one launch replays all kernels,
results lie where they lay before. So **results live until the next call** of any recorded function: all share one pool
of memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from distillkit.words import first_line

Launch = Callable[[], Any]
Record = Callable[[Launch, torch.device], tuple[Any, Callable[[], None]]]
"""Of a function of no arguments: its results, tensors that stay where they are, and what computes them anew."""
MOST_SHAPES = 8
"""Shapes of arguments that are recorded; those that come later are computed as they are."""
AGREEMENT = 1e-2
"""Relative difference that a replay may have from the function itself: sums are in another order, in bfloat16 too."""
_living: weakref.WeakKeyDictionary[Any, torch.device] = weakref.WeakKeyDictionary()
"""The graphs that are held, with their devices; a pool of memory lives as long as one of its graphs."""


class RecordingError(Exception):
    """A function's kernels cannot be recorded on this machine, or their replay computes something else."""


def cannot_record(error: Exception) -> str:
    """What a run says that goes on without recordings, in a line."""
    why = first_line(error, 160)
    return f"a step could not be recorded as a CUDA graph ({why}); going on without (distill.cuda_graphs=false)"


def record_on_gpu(launch: Launch, device: torch.device) -> tuple[Any, Callable[[], None]]:
    """By a CUDA graph. ``launch`` runs twice before, on a stream of its own: what is chosen by trial is chosen then."""
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            launch()
            launch()
        torch.cuda.current_stream().wait_stream(aside)
        graph, pool = torch.cuda.CUDAGraph(), shared_pool(device)
        with torch.cuda.graph(graph, pool=pool):
            results = launch()
    _living[graph] = device
    return results, graph.replay


def shared_pool(device: torch.device) -> Any:
    """The memory that living graphs of ``device`` use; None where there are none, and a new one is to be made."""
    return next((graph.pool() for graph, place in _living.items() if place == device), None)


@dataclass
class _Recording:
    """Buffers of the arguments; results and ``replay`` once they are recorded."""

    arguments: list[Tensor]
    results: Any = None
    replay: Callable[[], None] | None = None


class Recorded:
    """``function`` of tensors without gradients; it returns tensors, or tuples of them.

    The first call with arguments of a shape is that of the function itself, which compiles it; the second is recorded,
    and compared with the function on random arguments; all others are replayed.
    """

    def __init__(self, function: Callable[..., Any], record: Record = record_on_gpu) -> None:
        self._function, self._record = function, record
        self._recordings: dict[tuple[Any, ...], _Recording] = {}

    def __call__(self, *arguments: Tensor) -> Any:
        """Results that live until the next call.

        Raises:
            RecordingError: it cannot be recorded.
            OutOfMemoryError: a recording does not fit.
        """
        key = tuple((argument.shape, argument.dtype) for argument in arguments)
        own = self._recordings.get(key)
        if own is None:
            own = _Recording([_copied(argument) for argument in arguments])
            if len(self._recordings) < MOST_SHAPES:
                self._recordings[key] = own
            return self._function(*own.arguments)
        if own.replay is None:
            self._recorded(own)
        for buffer, argument in zip(own.arguments, arguments, strict=True):
            buffer.copy_(argument.detach())
        assert own.replay is not None
        own.replay()
        return own.results

    def _recorded(self, own: _Recording) -> None:
        """Fill in results and replay."""
        generator = torch.Generator().manual_seed(0)
        for buffer in own.arguments:
            buffer.copy_(torch.randn(buffer.shape, generator=generator) / 10)
        expected = [_copied(result) for result in _tensors(self._function(*own.arguments))]
        try:
            results, replay = self._record(lambda: self._function(*own.arguments), own.arguments[0].device)
            replay()
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise RecordingError(str(error) or type(error).__name__) from error
        for found, wanted in zip(_tensors(results), expected, strict=True):
            difference, length = float((found - wanted).norm()), float(wanted.norm())
            if not difference <= AGREEMENT * length:
                raise RecordingError(f"a replay differs from the function by {difference:.2g} of {length:.2g}")
        own.results, own.replay = results, replay


def _copied(value: Tensor) -> Tensor:
    return value.detach().clone(memory_format=torch.contiguous_format)


def _tensors(results: Any) -> list[Tensor]:
    return [value for value in tree_flatten(results)[0] if isinstance(value, Tensor)]
