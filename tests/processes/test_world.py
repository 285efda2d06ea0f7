"""Messages, and what happens to processes that fail, are told to stop, or vanish."""

import contextlib
import json
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributed import TCPStore

from distillkit import distributed, messages
from distillkit.distributed import ALONE
from tests.helpers import TINY
from tests.processes.worlds import in_processes, in_threads


def compress(out, **changes):
    """The words of a command."""
    settings = (
        TINY | {"evaluate.baselines": ["random"]} | {key.replace("__", "."): value for key, value in changes.items()}
    )
    words = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    line = ["-m", "distillkit", "compress", "digits", "--ipc", "1", "--preset", "smoke", "--device", "cpu"]
    return [*line, *words, "--out", str(out)]


def test_messages_come_out_as_they_went_in():
    tensors = {"a": torch.randn(3, 5), "b": torch.arange(7), "c": torch.zeros(0, 4), "d": torch.tensor(2.5).double()}
    tensors |= {"e": torch.randn(4).bfloat16(), "f": torch.tensor([True, False])}
    found, value = messages.unpacked(messages.packed(tensors, {"x": [1, 0.1, None]}))
    assert value == {"x": [1, 0.1, None]}
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) and found[name].dtype == tensors[name].dtype for name in found)


def test_place__each_process_has_a_gpu_of_its_own_and_none_is_named_for_all(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

    def places(processes, *named):
        return in_threads(processes, lambda world: world.place(torch.device(*named)))

    assert places(2, "cuda") == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert places(1, "cuda", 1) == [torch.device("cuda", 1)]
    assert places(2, "cpu") == [torch.device("cpu")] * 2
    words = "`device` cuda:1 is one GPU for 2 processes; `device=cuda` gives each its own"
    assert [str(error) for error in places(2, "cuda", 1)] == [words] * 2
    assert "too few for its processes" in str(places(3, "cuda")[2])


def test_tensors_are_gathered_by_number_also_from_those_that_have_none():
    def work(world):
        own = {number: {"x": torch.full((number,), float(number)), "y": torch.tensor(number)} for number in (1, 3)}
        return world.gathered(own if world.rank == 1 else {}, torch.device("cpu"))

    for found in in_threads(3, work):
        assert sorted(found) == [1, 3]
        assert found[3]["x"].tolist() == [3.0, 3.0, 3.0]
        assert int(found[1]["y"]) == 1


def test_decisions_are_the_first_ones():
    assert in_threads(3, lambda world: world.decided(lambda: world.rank)) == [0, 0, 0]
    assert in_threads(3, lambda world: world.any(world.rank == 2)) == [True] * 3
    assert (
        in_threads(3, lambda world: world.each([4, 5, 6, 7], lambda number: [number, world.rank]))
        == [[[4, 1], [5, 2], [6, 0], [7, 1]]] * 3
    )


def test_processes_meet_under_a_fresh_name_after_a_restart(monkeypatch):
    """The store is torchrun's and outlives its workers: what an attempt before left there misleads nobody, also when
    one process comes much later than the other.
    """
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))

    def attempt(late, size):
        def come(rank):
            time.sleep(0.3 if rank == late else 0)
            store = distributed._store(rank, size)
            store.set(f"was here {rank}", "yes")
            store.wait([f"was here {other}" for other in range(size)])
            return store

        with ThreadPoolExecutor(size) as pool:
            stores = list(pool.map(come, range(size)))
        assert all(store.num_keys() == stores[0].num_keys() for store in stores)
        return stores

    before = attempt(late=1, size=3)
    for late, size in ((0, 3), (2, 3), (1, 2)):
        after = attempt(late, size)
        key = f"only now: {late}, {size}"
        after[0].set(key, "yes")
        assert after[1].check([key])
        assert not before[1].check([key])
        before = after


def test_one_process_asks_nobody():
    assert ALONE.leads
    assert ALONE.decided(lambda: (1, 2)) == (1, 2)
    assert ALONE.each([3, 4], lambda number: number * 2) == [6, 8]
    assert not ALONE.any(False)


@pytest.mark.slow
def test_gloo_carries_a_run__and_only_the_first_process_speaks(tmp_path):
    out = tmp_path / "set"
    started = in_processes(2, compress(out), lambda rank: tmp_path / "cache")
    (words, notes), (other, silence) = [one.communicate(timeout=300) for one in started]
    assert [one.returncode for one in started] == [0, 0], notes
    assert "this set, convnet" in words
    assert other == silence == ""
    (log,) = (tmp_path / "cache" / "ranks").glob("*.log")
    assert "distilling" in log.read_text()


@pytest.mark.slow
def test_a_process_that_cannot_follow_is_named(tmp_path):
    def words(rank):  # the second one finds other settings
        return compress(tmp_path / "set", distill__inner_steps=2 + rank)

    started = in_processes(2, words, lambda rank: tmp_path / "cache")
    notes = [one.communicate(timeout=120)[1] for one in started]
    assert [one.returncode for one in started] == [1, 1]
    assert "error: process 2 of 2 has another set of settings or versions" in notes[0]
    assert notes[0].count("error:") == 1
    assert notes[1] == ""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "told"), [(signal.SIGTERM, (0, 1)), (signal.SIGKILL, (1,))])
def test_stopped_or_killed__the_rest_ends_with_a_sentence(tmp_path, number, told):
    words = compress(tmp_path / "set", distill__outer_steps=100000, distill__checkpoint_every=50)
    started = in_processes(2, words, lambda rank: tmp_path / "cache")
    metrics, deadline = tmp_path / "set" / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and metrics.read_text().count("\n") > 60):
        assert time.monotonic() < deadline
        assert [one.poll() for one in started] == [None, None], started[0].communicate()
        time.sleep(0.05)
    for rank in told:
        started[rank].send_signal(number)
    notes = started[0].communicate(timeout=60)[1]
    with contextlib.suppress(ProcessLookupError):
        started[1].communicate(timeout=60)
    if number == signal.SIGTERM:
        assert started[0].returncode == 130
        assert re.search(r"stopped by SIGTERM (after outer step|while validating step) \d+", notes)  # wherever it was
    else:
        assert started[0].returncode == 1
        assert "error: another process of the run is gone; run the same command again" in notes
    assert (tmp_path / "set" / "run" / "checkpoint.safetensors").is_file()


@pytest.mark.slow
def test_other_commands_are_the_first_ones_business(tmp_path):
    words, other = (
        one.communicate(timeout=60)[0]
        for one in in_processes(2, ["-m", "distillkit", "methods"], lambda rank: tmp_path / "cache")
    )
    assert "mtt" in words
    assert other == ""


def test_the_module_is_not_loaded_with_its_users_torchrun_variables(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with distributed.joined() as world:
        assert world is ALONE
    assert not torch.distributed.is_initialized()
    assert sys.modules["distillkit.distributed"] is distributed
