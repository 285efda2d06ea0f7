"""Networks that no memory holds: one sentence, before anything is built."""

import pytest
import torch

from distillkit import compress, evaluate, load_distilled, plan
from distillkit.config import compose
from distillkit.errors import ConfigError
from distillkit.methods import SettingsLayer
from distillkit.networks.build import build_network, parameter_count
from distillkit.settings import NetworkSettings
from distillkit.stages.context import make_run

HUGE = {"network.width": 100_000}


@pytest.mark.parametrize("name", ["convnet", "resnet18", "lenet", "mlp", "timm/resnet10t", "timm/test_vit"])
def test_parameter_count__without_memory_is_that_of_the_network(name):
    settings, shape = NetworkSettings(name=name, width=16), (3, 32, 32)
    count = sum(parameter.numel() for parameter in build_network(settings, shape, 7, 0, "x").parameters())
    assert parameter_count(settings, shape, 7) in (count, None if name.startswith("timm/") else count)
    assert parameter_count(NetworkSettings(width=100_000), (3, 32, 32), 10) == 180_019_600_010


def test_compress_and_plan__say_that_it_does_not_fit(tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"90,\d{3},\d{3},\d{3} parameters and their gradient take 670\.\d GiB of"):
        compress("digits", ipc=1, preset="smoke", settings=tiny | HUGE, out=tmp_path / "a", device="cpu")
    assert not (tmp_path / "a").exists()
    with pytest.raises(ConfigError, match="does not fit into memory"):
        plan.make_plan(
            make_run(compose("digits", 1, "mtt", "smoke", "cpu", [SettingsLayer("t", HUGE)]), torch.device("cpu"))
        )


def test_evaluate__says_it_before_the_first_network(made, monkeypatch):
    monkeypatch.setattr("distillkit.stages.contest.evaluate_networks", None)
    with pytest.raises(ConfigError, match="'convnet:width=100000,depth=2,norm=instance' does not fit into memory"):
        evaluate(load_distilled(made), ["convnet", "convnet:width=100000"], networks=1, device="cpu")


def test_plan__refuses_what_compress_refuses(tiny, monkeypatch):
    """A network without a second derivative, before steps are timed."""
    monkeypatch.setattr("distillkit.plan.measured_costs", None)
    changes = tiny | {"network.name": "timm/test_vit", "network.replace_norm": "keep", "evaluate.batch_size": 1}
    run = make_run(compose("digits", 1, "mtt", "smoke", "cpu", [SettingsLayer("t", changes)]), torch.device("cpu"))

    def no_derivative(*arguments, **options):
        raise RuntimeError("derivative for aten::_thing_backward is not implemented")

    monkeypatch.setattr("distillkit.stages.probe.F.cross_entropy", no_derivative)
    with pytest.raises(ConfigError, match="its _thing_backward has no second derivative"):
        plan.make_plan(run)
