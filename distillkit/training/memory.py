"""A GPU whose memory runs out: what is taken at a time is halved, and only where one is too much is it the end."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from distillkit.data.inputs import Inputs
from distillkit.errors import ConfigError
from distillkit.training.batches import batch_sizes


def in_pieces(function: Callable[..., Tensor], size: int, *tensors: Inputs) -> Tensor:
    """``function`` of ``tensors``, ``size`` rows of each at a time, results one after the other along the first axis.

    In smaller pieces where a GPU's memory asks for it.

    Raises:
        OutOfMemoryError: a single row is too much.
    """
    try:
        ends = list(itertools.accumulate(batch_sizes(len(tensors[0]), size)))
        places = [slice(begin, end) for begin, end in itertools.pairwise([0, *ends])]
        return torch.cat([function(*(own[place] for own in tensors)) for place in places])
    except torch.OutOfMemoryError:
        if size == 1:
            raise
    return in_pieces(function, size // 2, *tensors)


def give_back(device: torch.device, *, compiled: bool = False) -> None:
    """Give back what nobody holds of a GPU's memory; of ``compiled`` functions and their recordings too, which are made
    anew when they are called again.

    To be called outside of the ``except`` that caught the error: its frames hold tensors.
    """
    if device.type != "cuda":
        return
    if compiled:
        torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def needed_for(what: str, advice: str) -> Iterator[None]:
    """Of what cannot be halved.

    Raises:
        ConfigError: a GPU's memory does not hold ``what``; with ``advice``.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        why = str(error).strip().partition("\n")[0]
        raise ConfigError(f"the GPU's memory does not hold {what} ({why[:160]}); {advice}") from error
