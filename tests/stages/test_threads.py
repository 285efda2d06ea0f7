"""Threads by the size of the work, unless somebody says how many."""

import pytest
import torch

from distillkit import environment, pipeline
from distillkit.config import compose
from distillkit.methods import SettingsLayer
from distillkit.stages import threads
from distillkit.stages.context import make_run, prepare
from distillkit.stages.threads import fitting_threads, sample_flop, settled_threads, threads_for
from tests.helpers import TINY


@pytest.fixture
def counted(monkeypatch):
    """What the number of threads was set to."""
    found = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: found[-1] if found else 8)
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)
    monkeypatch.setattr(environment, "usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return found


def settled(**changes):
    layers = [SettingsLayer("test", TINY | changes)]
    run = make_run(compose("digits", 1, "mtt", "smoke", "cpu", layers), torch.device("cpu"))
    with settled_threads(run, prepare(run)):
        pass


def test_small_steps_take_one__large_ones_all(counted):
    settled()
    settled(**{"network.width": 64, "experts.batch_size": 256})
    assert list(dict.fromkeys(counted[:3])) == [1, 8]  # and back to the caller's
    assert counted[3:] == [8, 8, 8]
    assert (fitting_threads(1e8, 4), fitting_threads(3e8, 4)) == (1, 4)


def test_what_somebody_says_is_taken(counted, monkeypatch):
    settled(threads=3)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    settled()
    settled(threads=5)
    assert [counted[0], counted[-3], counted[3]] == [3, 5, 8]
    assert set(counted) == {3, 5, 8}


def test_data_are_whitened_by_no_more_threads_than_there_are_cores_for(counted, monkeypatch):
    """A container's share of time is nothing that torch knows of."""
    monkeypatch.setattr(environment, "usable_cores", lambda: 3)
    settled(**{"dataset.preprocessing": "zca"})
    assert counted[:2] == [3, 8]


def test_threads_do_not_share_a_core_unless_somebody_wants_them_to(counted, monkeypatch):
    """The environment says 8, ``taskset`` leaves two cores: eight would wait for each other in circles."""
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)
    settled()
    assert counted == [2, 2, 8]
    counted.clear()
    monkeypatch.delenv("OMP_NUM_THREADS")
    settled(**{"network.width": 64, "experts.batch_size": 256})
    assert counted == [2, 2, 8]
    counted.clear()
    settled(threads=5)
    assert counted[0] == 5


@pytest.mark.parametrize("fails", [False, True])
def test_whoever_called_has_the_threads_of_before(tmp_path, monkeypatch, fails):
    from distillkit import compress, evaluate

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    own, seen = torch.get_num_threads(), []
    evaluate_rows = pipeline.evaluate_rows

    def watched(*args):
        seen.append(torch.get_num_threads())
        if fails:
            raise MemoryError
        return evaluate_rows(*args)

    monkeypatch.setattr(pipeline, "evaluate_rows", watched)
    out = tmp_path / "set"
    torch.set_num_threads(3)
    try:
        for preset in ("smoke", "smoke"):
            try:
                compress("digits", ipc=1, method="random", preset=preset, out=out, settings=TINY, device="cpu")
            except MemoryError:
                assert fails
            assert torch.get_num_threads() == 3
        if not fails:
            evaluate(out, networks=1, device="cpu")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(own)
    assert set(seen) == {1}


def test_threads_for__a_step(counted):
    narrow = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    wide = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2_000_000))
    for model in (narrow, wide):
        with threads_for(model, (1, 4, 4), 10, torch.device("cpu")):
            counted.append("in")
    assert counted == [1, "in", 8, 8, "in", 8]


def test_flop_of_an_image_by_hand():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(5 * 36, 7))
    assert sample_flop(model, (3, 6, 6)) == 2 * (36 * 5 * 27 + 5 * 36 * 7)
    assert threads.THREADS_FROM_FLOP > 0
