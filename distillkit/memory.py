"""How much memory there is."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from distillkit.control_groups import memory_limits


def memory(device: torch.device) -> tuple[int | None, int | None]:
    """Bytes that a process may have on ``device``, and those that are free now; None where nobody says."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    said = _fields(Path("/proc/meminfo"))
    totals, frees = [said.get("MemTotal")], [said.get("MemAvailable")]
    for group in memory_limits():
        totals.append(group.limit)
        frees.append(group.limit - group.used)
    address_space = _address_space()
    if address_space is not None:
        totals.append(address_space)
        frees.append(address_space - _fields(Path("/proc/self/status")).get("VmSize", 0))
    known = [one for one in totals if one is not None]
    free_ones = [max(0, one) for one in frees if one is not None]
    return min(known, default=None), min(free_ones, default=None)


def peak_bytes(device: torch.device) -> int:
    """The most that this process has had at a time on ``device``; 0 where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _fields(path: Path) -> dict[str, int]:
    """Of a file of Linux with lines as ``MemTotal:  24602336 kB`` those in kB, as bytes."""
    try:
        lines = path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return {}
    parts = [line.split() for line in lines if line.endswith(" kB")]
    return {part[0].rstrip(":"): int(part[1]) * 1024 for part in parts}


def _address_space() -> int | None:
    """What ``ulimit -v`` allows."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if soft == resource.RLIM_INFINITY else soft
