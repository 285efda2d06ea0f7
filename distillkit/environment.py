"""The machine: devices, arithmetic, versions."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import ParamSpec, TypeVar

import torch

from distillkit.control_groups import core_limit
from distillkit.errors import ConfigError
from distillkit.version import __version__
from distillkit.words import counted


def resolve_device(name: str | torch.device) -> torch.device:
    """``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:1``, or such a device.

    Raises:
        ConfigError: unknown, or not on this machine.
    """
    if isinstance(name, torch.device):
        name = str(name)
    if not isinstance(name, str):
        raise ConfigError(f"`device` is a {type(name).__name__}, expected auto, cpu, cuda or cuda:1")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"`device` {name!r} is unknown; expected auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"`device` {name!r} is not supported; expected auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"`device` {name} asks for a GPU, this machine has {torch.cuda.device_count()}")
    return device


P = ParamSpec("P")
R = TypeVar("R")


def made_on_the_host(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` as it is where the program that calls it has said ``torch.set_default_device("cuda")``.

    Tensors that name no device, what is drawn among them, are made on the CPU: every device sees the same draws.
    """

    @functools.wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.get_default_device().type == "cpu":  # a device context costs each call of torch a little
            return function(*args, **kwargs)
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return inside


def repeatable(wanted: bool, device: torch.device) -> None:
    """On a GPU, take algorithms whose sums have a fixed order, or whichever is fastest; a CPU has the former only."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # asked for by torch where cuBLAS is to repeat
        torch.use_deterministic_algorithms(wanted)
        torch.backends.cudnn.benchmark = not wanted


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, let the C library keep freed blocks instead of returning them to the system.

    By default every large tensor is mapped anew and its pages are zeroed by the kernel at first touch: a third of the
    time of a training step on two cores. Peak memory stays what it was. Elsewhere than on glibc nothing happens.
    """
    if device.type != "cpu" or sys.platform != "linux":
        return
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)
        mallopt(top_pad, 64 << 20)


def versions() -> dict[str, str]:
    """Versions of what computes, as far as it is installed."""
    found = {"distillkit": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "timm", "datasets", "scikit-learn", "safetensors"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def usable_cores() -> int:
    """Cores that this process may run on, or whose time it may use: ``taskset``, a batch system or a container may
    leave it fewer than there are.
    """
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = core_limit()
    return there if share is None else max(1, min(there, math.floor(share)))


@contextlib.contextmanager
def usable_threads() -> Iterator[None]:
    """Meanwhile, no more threads than there are cores for: the default of torch knows no shares of time."""
    before, cores = torch.get_num_threads(), usable_cores()
    if before <= cores:
        yield
        return
    try:
        torch.set_num_threads(cores)
        yield
    finally:
        torch.set_num_threads(before)


def hardware(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    return f"CPU ({platform.machine()}, {counted(threads, 'thread')} of {counted(cores, 'core')})"
