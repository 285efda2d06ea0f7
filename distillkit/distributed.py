"""Several processes that make one run: the only place that knows of ranks and of what is sent between them.

Every process runs the same stages on the same data. Work is dealt by its number, which names its randomness already
(expert 7, student 12 of the outer loop, fresh network 3): rank r of W takes the numbers r, r + W, r + 2 W, ... Results
are gathered and combined in the order of their numbers, so they do not depend on W. What is decided by looking at a
machine or a clock is decided by rank 0, the leader, and sent. Messages are JSON and tensors, never code.

``torchrun`` starts the processes and says who they are, by environment variables; gloo carries messages and the tensors
of CPUs, nccl those of GPUs. While a process waits it looks after the others: one that failed is named with its reason,
one that was not heard of for five minutes is given up.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from distillkit.errors import ConfigError, Interrupted, LostError
from distillkit.interrupt import StopRequest
from distillkit.launch import launched_as
from distillkit.messages import as_tensor, flat, length_of, of_bytes, packed, shapes_of, unpacked
from distillkit.words import first_line

T = TypeVar("T")
BEAT = 2.0
"""Seconds between two signs of life."""
GIVEN_UP_AFTER = 300.0
"""Seconds without a sign of life of a process after which it counts as lost."""
GRACE = 20.0
"""Seconds that a process which was told to stop waits for the others to come to the same place."""
UNTIL_SAID = 3.0
"""Seconds in which a process that ends says why."""
MEETING = timedelta(minutes=5)
"""In which all processes have to come."""
FOREVER = timedelta(days=20)
"""The library's own deadline after that: experts take hours, and who is alive is known from the signs of life."""
WAITING = "while it waited for the other processes"
FAILED = "failed"


@dataclass(frozen=True)
class World:
    """The processes of a run: this one's ``rank``, and how many there are. A run of one process has ``ALONE``."""

    rank: int = 0
    size: int = 1
    link: Link | None = field(default=None, repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this process decides, writes the run's folder and speaks to the terminal."""
        return self.rank == 0

    def owns(self, number: int) -> bool:
        """Whether the work of that number is this process's."""
        return number % self.size == self.rank

    def place(self, device: torch.device) -> torch.device:
        """``device``, or where that is ``cuda`` the GPU of this process.

        Raises:
            ConfigError: a host has fewer GPUs than processes, or one GPU is named for several processes.
        """
        if self.link is None or device.type != "cuda":
            return device
        if device.index is not None:
            if self.size > 1:
                raise ConfigError(
                    f"`device` {device} is one GPU for {self.size} processes; `device=cuda` gives each its own"
                )
            return device
        local, there = int(os.environ.get("LOCAL_RANK", self.rank)), torch.cuda.device_count()
        if local >= there:
            raise ConfigError(f"this host has {there} GPUs, too few for its processes: --nproc-per-node {there}")
        mine = torch.device("cuda", local)
        torch.cuda.set_device(mine)
        return mine

    def decided(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the leader, something of JSON (tuples become lists), in every process."""
        if self.link is None:
            return make()
        told = packed({}, make()) if self.leads else None
        value: T = unpacked(self.link.broadcast(told))[1]
        return value

    def sent(self, make: Callable[[], tuple[Mapping[str, Tensor], Any]]) -> tuple[Mapping[str, Tensor], Any]:
        """Tensors (on the CPU) and JSON that ``make`` returns in the leader, in every process."""
        if self.link is None:
            return make()
        return unpacked(self.link.broadcast(packed(*make()) if self.leads else None))

    def of(self, rank: int, make: Callable[[], tuple[Mapping[str, Tensor], Any]]) -> tuple[Mapping[str, Tensor], Any]:
        """Tensors and JSON that ``make`` returns in the process of that rank, in every process."""
        if self.link is None:
            return make()
        return unpacked(self.link.broadcast(packed(*make()) if self.rank == rank else None, rank))

    def each(self, numbers: Sequence[int], work: Callable[[int], T]) -> list[T]:
        """``work`` of each of ``numbers`` in their order, done by the process that owns it; its results are of JSON."""
        found = {number: work(number) for number in numbers if self.owns(number)}
        everything = self.shared(found)
        return [everything[number] for number in numbers]

    def shared(self, found: Mapping[int, T]) -> dict[int, T]:
        """What any process found, by number; of JSON."""
        if self.link is None:
            return dict(found)
        parts = self.link.gather(packed({}, [[number, value] for number, value in found.items()]))
        return {number: value for part in parts for number, value in unpacked(part)[1]}

    def gathered(self, found: Mapping[int, Mapping[str, Tensor]], device: torch.device) -> dict[int, dict[str, Tensor]]:
        """The tensors of all processes by number and name, on ``device``, where they stay on their way."""
        if self.link is None:
            return {number: dict(tensors) for number, tensors in found.items()}
        heads = [
            unpacked(part)[1]
            for part in self.link.gather(packed({}, [[number, shapes_of(own)] for number, own in found.items()]))
        ]
        parts = [flat(tensor) for tensors in found.values() for tensor in tensors.values()]
        lengths = [sum(length_of(shape, dtype) for _, own in head for shape, dtype in own.values()) for head in heads]
        payload = torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8, device=device)
        everything = {}
        for head, content in zip(heads, self.link.gather_padded(payload, lengths), strict=True):
            begin = 0
            for number, own in head:
                tensors = {}
                for name, (shape, dtype) in own.items():
                    tensors[name] = of_bytes(content[begin:], shape, dtype)
                    begin += length_of(shape, dtype)
                everything[number] = tensors
        return everything

    def any(self, flag: bool) -> bool:
        """Whether it is true of any process."""
        return flag if self.link is None else any(self.shared({self.rank: flag}).values())

    def agree(self, what: str, value: str) -> None:
        """Do all processes have the same ``value``? Asked of what each finds by itself.

        Raises:
            LostError: no; the run cannot be made by processes that differ.
        """
        found = self.shared({self.rank: value})
        other = next((rank for rank, own in sorted(found.items()) if own != found[0]), None)
        if other is not None:
            raise LostError(
                f"process {other + 1} of {self.size} has another {what} ({found[other]}) than the first ({found[0]}); "
                "all need the same data, settings, versions and kind of device"
            )


ALONE = World()


class Link:
    """The connection of the processes: collectives that look after the others while they wait.

    ``sent_bytes`` counts what this process put on its way: a payload for each of the others.
    """

    def __init__(self, stop: StopRequest | None = None) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._group: Any = dist.new_group(timeout=FOREVER)
        self.sent_bytes = 0
        self._stop = stop
        self._ended = threading.Event()
        self._trouble: LostError | Interrupted | None = None
        self._looked = time.monotonic()
        self._meet()
        self._heart = threading.Thread(target=self._beat, daemon=True, name="signs of life")
        self._heart.start()
        if stop is not None:
            stop.watch = self.check

    def _meet(self) -> None:
        """A board of the leader's on which every process leaves signs of life, and a failing one its reason."""
        host = os.environ["MASTER_ADDR"]
        if self.rank == 0:
            self._board = TCPStore(host, 0, is_master=True, wait_for_workers=False)
            self.broadcast(packed({}, self._board.port))
        else:
            port = unpacked(self.broadcast(None))[1]
            self._board = TCPStore(host, port, is_master=False, wait_for_workers=False)
        self._board.set(f"alive/{self.rank}", "0")
        self.gather(b"")  # all have come

    def _beat(self) -> None:
        """Leave signs of life and look for those of the others; what is wrong is raised where the run looks."""
        board, count = self._board.clone(), 0
        watch = _Watch(board, self.rank, self.size)
        while not self._ended.wait(BEAT):
            count += 1
            try:
                board.set(f"alive/{self.rank}", str(count))
                watch.look()
                self._looked = time.monotonic()
            except (RuntimeError, ValueError):
                self._trouble = LostError(f"the first process of the run is gone; {_AGAIN}")
                return
            except (LostError, Interrupted) as error:
                self._trouble = error
                return

    def check(self) -> None:
        """Are the others well?

        Raises:
            LostError: one failed or is gone.
            Interrupted: one was told to stop.
        """
        if self._trouble is not None:
            raise self._trouble
        if time.monotonic() - self._looked > GIVEN_UP_AFTER:
            raise LostError(f"the first process was not heard of for {GIVEN_UP_AFTER:.0f} s; {_AGAIN}")

    def broadcast(self, content: bytes | None, source: int = 0) -> bytes:
        """``content`` of the process ``source``."""
        size = torch.tensor([0 if content is None else len(content)])
        self._wait(dist.broadcast(size, source, self._group, async_op=True))
        payload = as_tensor(content) if content is not None else torch.empty(int(size), dtype=torch.uint8)
        self._wait(dist.broadcast(payload, source, self._group, async_op=True))
        self.sent_bytes += 0 if content is None else len(content) * (self.size - 1)
        return content if content is not None else payload.numpy().tobytes()

    def gather(self, content: bytes) -> list[bytes]:
        """The contents of all processes in the order of their ranks."""
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        self._wait(dist.all_gather(sizes, torch.tensor([len(content)]), self._group, async_op=True))
        return [
            part.numpy().tobytes() for part in self.gather_padded(as_tensor(content), [int(size) for size in sizes])
        ]

    def gather_padded(self, payload: Tensor, lengths: Sequence[int]) -> list[Tensor]:
        """The payloads uint8 [n] of all processes, whose ``lengths`` are known, on their device."""
        longest = max(lengths)
        if longest == 0:
            return [payload] * self.size
        own = torch.cat([payload, payload.new_zeros(longest - len(payload))])
        found = [torch.empty_like(own) for _ in range(self.size)]
        self._wait(dist.all_gather(found, own, self._group, async_op=True))
        self.sent_bytes += len(own) * (self.size - 1)
        return [part[:length] for part, length in zip(found, lengths, strict=True)]

    def _wait(self, work: Any) -> None:
        """Until a message has gone round.

        Raises:
            LostError: another process failed or is gone.
            Interrupted: this one was told to stop, and the others do not come.
        """
        begin = time.monotonic()
        stopping: float | None = None
        while not work.is_completed():
            now = time.monotonic()
            if self._stop:
                stopping = stopping or now
                if now - stopping > GRACE:
                    self._stop.raise_if_asked(WAITING)
            try:
                self.check()
            except (LostError, Interrupted):
                if work.is_completed():
                    break  # the last message of one that is done
                self._raise_stop()
                raise
            time.sleep(0 if now - begin < 0.05 else 0.002)
        try:
            work.wait()
        except RuntimeError as error:
            self._raise_stop()
            until = time.monotonic() + UNTIL_SAID
            while self._trouble is None and time.monotonic() < until:
                time.sleep(0.05)
            self.check()
            raise LostError(f"another process of the run is gone; {_AGAIN}") from error

    def _raise_stop(self) -> None:
        """Of what ended this process, its own signal is said first."""
        if self._stop is not None:
            self._stop.raise_if_asked(WAITING)

    def failed(self, error: BaseException) -> None:
        """Tell the others why this process ends; the first that says so is heard."""
        sentence = f"process {self.rank + 1} of {self.size}: {str(error) or type(error).__name__}"
        told = json.dumps([isinstance(error, Interrupted), sentence])
        with contextlib.suppress(RuntimeError, ValueError):
            self._board.compare_set(FAILED, "", told)

    def close(self) -> None:
        """No more messages. A thread that is inside the library when the interpreter ends would abort the process."""
        self._ended.set()
        self._heart.join(2 * BEAT)
        with contextlib.suppress(RuntimeError, ValueError):
            dist.destroy_process_group()


_AGAIN = "run the same command again, with these or fewer processes, to continue"


class _Watch:
    """Looks at the board: did a process say that it failed, does each give signs of life?"""

    def __init__(self, board: Any, rank: int, size: int) -> None:
        self._board, self._others = board, [other for other in range(size) if other != rank]
        self._seen = {other: ("", time.monotonic()) for other in self._others}

    def look(self) -> None:
        """Raises LostError if a process failed or is silent, Interrupted if one was told to stop."""
        if self._board.check([FAILED]):
            stopped, sentence = json.loads(self._board.get(FAILED))
            raise (Interrupted if stopped else LostError)(sentence)
        now = time.monotonic()
        for other in self._others:
            sign = self._board.get(f"alive/{other}").decode()
            if sign != self._seen[other][0]:
                self._seen[other] = (sign, now)
            elif now - self._seen[other][1] > GIVEN_UP_AFTER:
                raise LostError(f"process {other + 1} was not heard of for {GIVEN_UP_AFTER:.0f} s; {_AGAIN}")


@contextlib.contextmanager
def joined(stop: StopRequest | None = None) -> Iterator[World]:
    """The world that ``torchrun`` says this process is of; ``ALONE`` where it says nothing.

    ``stop``: a wait ends soon after it was set. An error inside is told to the other processes.

    Raises:
        ConfigError: the processes do not find each other.
    """
    launched = launched_as()
    if launched is None:
        yield ALONE
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        rank, size = launched
        dist.init_process_group(backend, timeout=MEETING, store=_store(rank, size), rank=rank, world_size=size)
    except (RuntimeError, ValueError, KeyError) as error:
        raise ConfigError(f"the processes of the run do not find each other: {first_line(error)}") from error
    link = Link(stop)
    try:
        yield World(link.rank, link.size, link)
        link.gather(b"")  # none leaves before all are done
    except BaseException as error:
        if not isinstance(error, LostError):  # which another one told
            link.failed(error)
        if link.rank == 0 and not isinstance(error, Interrupted):
            time.sleep(2 * BEAT)  # the board is this process's; the others look at it now
        raise
    finally:
        link.close()


def _store(rank: int, size: int) -> Any:
    """Where the processes find each other: torchrun's own, or the first one's.

    It may outlive a restart, and a process that met the addresses of an attempt before would wait for ever. So all
    agree on a fresh name: each leaves a word of its own, the leader publishes all words with the name, the others
    answer with it, and when all have answered it says go. Words of an earlier attempt are overwritten, and begin it
    anew.
    """
    own = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = TCPStore(address, port, is_master=own, timeout=MEETING, wait_for_workers=False)
    board, word, until = PrefixStore("distillkit", store), secrets.token_hex(8), time.monotonic() + MEETING.seconds
    board.set(f"word/{rank}", word)
    name, words = "", [""]
    while time.monotonic() < until:
        if rank == 0:
            said = [_read(board, f"word/{other}") for other in range(size)]
            if all(said) and said != words:
                name, words = secrets.token_hex(8), said
                board.set("world", json.dumps([name, words]))
            if name and all(_read(board, f"answer/{other}") == name for other in range(1, size)):
                board.set("go", name)
                return PrefixStore(name, store)
        else:
            name, words = json.loads(_read(board, "world") or '["", []]')
            if len(words) == size and words[rank] == word:
                board.set(f"answer/{rank}", name)
                if _read(board, "go") == name:
                    return PrefixStore(name, store)
        time.sleep(0.05)
    raise ValueError(f"not all {size} came within {MEETING.seconds} s")


def _read(board: PrefixStore, key: str) -> str:
    return str(board.get(key).decode()) if board.check([key]) else ""


def is_launched() -> bool:
    """Whether ``torchrun``, or another launcher of its kind, started this process as one of several."""
    return launched_as() is not None
