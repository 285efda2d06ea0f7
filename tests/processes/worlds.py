"""Worlds for tests: threads of this process that talk by a board, and processes that talk by gloo."""

import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from distillkit.distributed import World
from distillkit.errors import LostError


class Board:
    """Where the threads of a world meet: each leaves something, each takes what all left."""

    def __init__(self, size):
        self._slots, self._barrier = [None] * size, threading.Barrier(size)

    def exchange(self, rank, value):
        try:
            self._slots[rank] = value
            self._barrier.wait(120)
            found = list(self._slots)
            self._barrier.wait(120)
        except threading.BrokenBarrierError as error:
            raise LostError("another thread failed") from error
        return found

    def abort(self):
        self._barrier.abort()


class ThreadLink:
    """What ``Link`` does, for threads."""

    def __init__(self, rank, board):
        self._rank, self._board, self.sent_bytes = rank, board, 0

    def broadcast(self, content, source=0):
        return self._board.exchange(self._rank, content)[source]

    def gather(self, content):
        return self._board.exchange(self._rank, content)

    def gather_padded(self, payload, lengths):
        return [part[:length] for part, length in zip(self._board.exchange(self._rank, payload), lengths, strict=True)]


def in_threads(size, work):
    """What ``work(world)`` returns or raises in each of so many threads, by rank."""
    board = Board(size)

    def one(rank):
        try:
            return work(World(rank, size, ThreadLink(rank, board)))
        except BaseException as error:
            board.abort()
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def in_processes(size, words, caches):
    """So many processes of ``python words``, as torchrun would start them."""
    port = free_port()
    started = []
    for rank in range(size):
        environment = os.environ | {"DISTILLKIT_CACHE": str(caches(rank)), "OMP_NUM_THREADS": "1"}
        environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        line = [sys.executable, *(words(rank) if callable(words) else words)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(line, env=environment, **pipes))
    return started
