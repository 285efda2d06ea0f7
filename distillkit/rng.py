"""All randomness of distillkit: one root seed, a named generator for every use.

A use is named by words and numbers, for instance ``generator(seed, "expert", 3, "augment", 17)``. Nothing is drawn from
a stream that outlives its use, so a run can be continued anywhere without storing the state of a generator, and
adding a use changes no other one.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator

import torch

Name = str | int
_GLOBAL = threading.RLock()


def derive(seed: int, *names: Name) -> int:
    """The 63-bit seed of the use called ``names`` under the root ``seed``."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: Name) -> torch.Generator:
    """A CPU generator for the use called ``names``; draws are made on the CPU so that every device sees the same."""
    return torch.Generator().manual_seed(derive(seed, *names))


def on_the_host(given: torch.Generator | None) -> torch.Generator:
    """``given``, or torch's default one, if it is a CPU's; else a CPU generator seeded by a draw of it."""
    if given is None:
        return torch.default_generator
    if given.device.type == "cpu":
        return given
    seed = torch.randint(2**62, (1,), generator=given, device=given.device)
    return torch.Generator().manual_seed(int(seed))


@contextlib.contextmanager
def global_seed(seed: int, *names: Name) -> Iterator[None]:
    """Set torch's global seeds inside the block and restore their states after it.

    For what draws from global generators and cannot be told otherwise: module initialisation, dropout. One thread at a
    time: the others would draw from the same sequence.
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with _GLOBAL, torch.random.fork_rng(devices=devices):
        _seed_every_device(derive(seed, *names))
        yield


def _seed_every_device(seed: int) -> None:
    """``torch.manual_seed``; where there is no accelerator, without the calls that it queues for one to come, each with
    the traceback of its caller: they take ten times as long as the block, and stay in memory.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)
