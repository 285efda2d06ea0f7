"""Outer optimisers against torch's own and against sums by hand."""

import pytest
import torch

from distillkit.distill.outer_optimizers import CLIP_DECAY, Clipped, OuterAdam, OuterSgd, outer_optimizer, rate_share
from distillkit.errors import ConfigError
from distillkit.settings import DistillSettings

RATES = {"images": 0.3, "labels": 0.2, "lr": 0.01}


def gradients(step, labels=True):
    generator = torch.Generator().manual_seed(step)
    found = {
        "images": torch.randn(3, 1, 4, 4, generator=generator, dtype=torch.float64),
        "lr": torch.randn((), generator=generator, dtype=torch.float64),
    }
    return found | ({"labels": torch.randn(3, 2, generator=generator, dtype=torch.float64)} if labels else {})


@pytest.mark.parametrize("labels", [True, False])
def test_adam__is_that_of_torch_for_each_kind(labels):
    optimizer, memory = OuterAdam(RATES), {}
    values = {name: torch.zeros_like(value) for name, value in gradients(0, labels).items()}
    own = {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}
    reference = torch.optim.Adam([{"params": [own[name]], "lr": RATES[name]} for name in own])
    for step in range(5):
        found = gradients(step, labels)
        changes, memory = optimizer(found, memory)
        values = {name: value + changes[name] for name, value in values.items()}
        for name, parameter in own.items():
            parameter.grad = found[name].clone()
        reference.step()
    for name, value in values.items():
        assert torch.allclose(value, own[name].detach(), rtol=1e-10), name


def test_sgd__has_a_momentum_and_a_rate_of_each_kind():
    momenta = {"images": 0.5, "labels": 0.9, "lr": 0.0}
    optimizer = OuterSgd(RATES, momenta)
    first, second = gradients(0), gradients(1)
    _, memory = optimizer(first, {})
    changes, _ = optimizer(second, memory)
    for name in RATES:
        assert torch.allclose(changes[name], -RATES[name] * (momenta[name] * first[name] + second[name]))


def test_optimizers__are_pure():
    for optimizer in (OuterAdam(RATES), OuterSgd(RATES, RATES), Clipped(OuterAdam(RATES), 2.0)):
        _, memory = optimizer(gradients(0), {})
        before = {name: value.clone() for name, value in memory.items()}
        one, two = optimizer(gradients(1), memory), optimizer(gradients(1), memory)
        assert all(torch.equal(memory[name], value) for name, value in before.items())
        assert all(torch.equal(one[0][name], two[0][name]) for name in one[0])


def test_clipped__to_twice_the_running_mean_of_the_norm():
    """n_0 = |g_0|, then n <- 0.9 n + 0.1 |g|: a gradient ten times as long is cut to 2 (0.9 + 0.1 * 10) of it."""
    plain = OuterSgd({"images": 1.0, "lr": 1.0}, {"images": 0.0, "lr": 0.0})
    optimizer = Clipped(plain, 2.0)
    g = gradients(0, labels=False)
    changes, memory = optimizer(g, {})
    assert torch.allclose(changes["images"], -g["images"])
    longer = {"images": 10 * g["images"], "lr": g["lr"]}
    changes, memory = optimizer(longer, memory)
    assert torch.allclose(changes["images"], -2 * (CLIP_DECAY + (1 - CLIP_DECAY) * 10) * g["images"])
    assert torch.allclose(changes["lr"], -g["lr"])  # images alone
    assert float(memory["images.norm"]) == pytest.approx(1.9 * float(g["images"].norm()))


def test_rate_share__falls_along_half_a_cosine():
    constant = DistillSettings(outer_steps=11)
    assert {rate_share(constant, step) for step in range(11)} == {1.0}
    falling = DistillSettings(outer_steps=11, final_rate=0.1)
    assert [rate_share(falling, step) for step in (0, 5, 10)] == pytest.approx([1.0, 0.55, 0.1])
    assert rate_share(DistillSettings(outer_steps=1, final_rate=0.1), 0) == 1


def test_outer_optimizer__by_name():
    assert isinstance(outer_optimizer(DistillSettings()), OuterSgd)
    assert isinstance(outer_optimizer(DistillSettings(outer_optimizer="adam", clip=2.0)), Clipped)
    with pytest.raises(ConfigError, match=r"distill.outer_optimizer='lion' is unknown; known: sgd, adam"):
        outer_optimizer(DistillSettings(outer_optimizer="lion"))
