"""Randomness by name: the same draws for the same name, and nothing left behind."""

import pytest
import torch

from distillkit.rng import derive, global_seed


def test_global_seed__draws_as_torch_does_and_gives_the_state_back():
    torch.manual_seed(derive(3, "network", 0))
    expected = torch.rand(4)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with global_seed(3, "network", 0):
        found = torch.rand(4)
    assert torch.equal(found, expected)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="torch keeps nothing for a device that is there")
def test_global_seed__queues_nothing_for_a_device_that_never_comes():
    before = len(torch.cuda._queued_calls)
    for number in range(5):
        with global_seed(0, number):
            torch.rand(1)
    assert len(torch.cuda._queued_calls) == before
