"""Threads by the size of the work, unless somebody says how many."""

import pytest
import torch

from distillkit.config import compose
from distillkit.methods import SettingsLayer
from distillkit.stages import threads
from distillkit.stages.context import make_run, prepare
from distillkit.stages.threads import fitting_threads, sample_flop, settle_threads
from tests.helpers import TINY


@pytest.fixture
def counted(monkeypatch):
    """What the number of threads was set to."""
    found = []
    monkeypatch.setattr(torch, "set_num_threads", found.append)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return found


def settled(**changes):
    layers = [SettingsLayer("test", TINY | changes)]
    run = make_run(compose("digits", 1, "mtt", "smoke", "cpu", layers), torch.device("cpu"))
    settle_threads(run, prepare(run))


def test_small_steps_take_one__large_ones_all(counted):
    settled()
    settled(**{"network.width": 64, "experts.batch_size": 256})
    assert counted == [1, 8]
    assert (fitting_threads(1e8, 4), fitting_threads(3e8, 4)) == (1, 4)


def test_what_somebody_says_is_taken(counted, monkeypatch):
    settled(threads=3)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    settled()
    settled(threads=5)
    assert counted == [3, 5]


def test_flop_of_an_image_by_hand():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.Flatten(), torch.nn.Linear(5 * 36, 7))
    assert sample_flop(model, (3, 6, 6)) == 2 * (36 * 5 * 27 + 5 * 36 * 7)
    assert threads.THREADS_FROM_FLOP > 0
