"""What a container or a batch system leaves this process of the machine: limits of Linux' control groups.

Files of both versions, and of both at once, are read where systems mount them, of the group of the process and of all
groups around it, as https://docs.kernel.org/admin-guide/cgroup-v2.html and
https://docs.kernel.org/admin-guide/cgroup-v1/ describe them.
Elsewhere than on Linux there are none, so nothing is limited.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
NO_LIMIT = 1 << 60
"""Version 1 writes the largest multiple of a page where there is no limit."""


@dataclass(frozen=True)
class MemoryLimit:
    """Bytes that the processes of a group may have together, and those they have that cannot be given back."""

    limit: int
    used: int


def core_limit() -> float | None:
    """Cores' worth of time that the process may use a second; None where nothing limits it."""
    found = []
    for folder in _groups("cpu"):
        quota, period = _pair(folder / "cpu.max")
        if quota is None:
            quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            found.append(quota / period)
    return min(found, default=None)


def memory_limits() -> list[MemoryLimit]:
    """Of every group around the process that has one."""
    return [limit for folder in _groups("memory") if (limit := _memory_limit(folder)) is not None]


def _memory_limit(folder: Path) -> MemoryLimit | None:
    names = ("memory.max", "memory.high", "memory.limit_in_bytes")  # beyond the second the kernel slows a group down
    limits = [limit for name in names if (limit := _number(folder / name)) is not None and 0 < limit < NO_LIMIT]
    if not limits:
        return None
    used = _number(folder / "memory.current") or _number(folder / "memory.usage_in_bytes") or 0
    return MemoryLimit(min(limits), max(0, used - _cached(folder / "memory.stat")))


def _cached(path: Path) -> int:
    """Bytes of files kept in memory, which the kernel drops before it refuses memory."""
    lines = [line.split() for line in _text(path).splitlines()]
    fields = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}
    kinds = ("inactive_file", "active_file", "slab_reclaimable")
    return sum(fields.get(f"total_{kind}", fields.get(kind, 0)) for kind in kinds)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of the groups of this process that ``controller`` may limit, from its own outwards. Inside a container
    the own group is mounted as the outermost one, so folders that are not there are passed over.
    """
    for line in _text(OWN_GROUPS).splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        own = PurePosixPath(path.lstrip("/"))
        tops = (ROOT / controller, ROOT / controllers) if controllers else (ROOT, ROOT / "unified")
        for group in (own, *own.parents):
            if ".." not in group.parts:
                yield from (folder for folder in dict.fromkeys(top / group for top in tops) if folder.is_dir())


def _pair(path: Path) -> tuple[int | None, int | None]:
    """Of a line as ``200000 100000``; of ``max 100000``, no limit, two Nones."""
    parts = _text(path).split()
    return (int(parts[0]), int(parts[1])) if len(parts) == 2 and all(map(str.isdigit, parts)) else (None, None)


def _number(path: Path) -> int | None:
    """None where the file is absent or says ``max``."""
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
