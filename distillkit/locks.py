"""Locks between processes that share files; a kill releases them."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from distillkit import storage
from distillkit.errors import StorageError

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""What file systems say that have no locks, some network and container mounts."""


class BusyError(StorageError):
    """Another process holds a lock."""


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] | None = None) -> Iterator[bool]:
    """Hold the lock file ``path``; True, or False where the file system has no locks.

    Args:
        path: of the lock, in a folder that exists.
        on_wait: called before waiting for another process; None: do not wait.

    Raises:
        BusyError: another process holds it, and ``on_wait`` is None.
        StorageError: the lock cannot be made here, for want of permission, say.
    """
    lock = FileLock(path)
    with storage.storage_errors(path, "lock"):
        has_locks = _acquire(lock, on_wait)
    try:
        yield has_locks
    finally:
        lock.release()


def _acquire(lock: BaseFileLock, on_wait: Callable[[], None] | None) -> bool:
    """False where there are no locks."""
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if on_wait is None:
                raise BusyError(f"another process holds {lock.lock_file}") from None
            on_wait()
            lock.acquire(timeout=-1)
    except NotImplementedError:  # what filelock makes of ENOSYS
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return False
    return True
