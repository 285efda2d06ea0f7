"""The time budget: arithmetic by hand, and a run that is continued with the sizes it was begun with."""

from dataclasses import replace

import pytest
import torch

from distillkit.config import compose
from distillkit.errors import ConfigError
from distillkit.methods import SettingsLayer
from distillkit.stages import time_budget
from distillkit.stages.context import make_run
from distillkit.stages.costs import Costs, stage_costs
from distillkit.stages.time_budget import _experts_within, within
from tests.helpers import made, run


def test_within__experts_get_half_at_most_and_steps_the_rest(tiny):
    settings = {"experts.count": 10, "experts.epochs": 4, "distill.outer_steps": 1000, "distill.select_every": 10}
    settings |= {"dataset.augmentation": "flip_scale"}
    costs = Costs(expert_epoch=2.5, outer_step=0.5, fresh_network=1.0, missing=dict.fromkeys(range(2, 10), 4))
    asked = made(tiny, **settings, **{"distill.select_networks": 2})
    found = within(asked, costs, 100)  # 90 to plan for: 4 experts of 10 s, and (90 - 40 - 4) / (0.5 + 0.2) steps
    assert (found.settings.experts.count, found.settings.distill.outer_steps) == (2 + 4, 65)
    assert (found.origins["experts.count"], found.origins["distill.outer_steps"]) == ("time budget", "time budget")
    plenty = within(asked, costs, 1e5).settings
    assert (plenty.experts.count, plenty.distill.outer_steps) == (10, 1000)
    one = within(asked, Costs(5.0, 0.5, 1.0, dict.fromkeys(range(10), 4)), 30).settings  # an expert takes 20 of 27
    assert (one.experts.count, one.distill.outer_steps) == (1, 4)
    measured = Costs(
        2.5, 0.5, 1.0, dict.fromkeys(range(2, 10), 4), measuring=7.0
    )  # leaves 83: 4 experts, 39 / 0.7 steps
    assert within(asked, measured, 100).settings.distill.outer_steps == 55
    assert within(asked, measured, 100).settings.budget_asked == (10, 1000)
    with pytest.raises(ConfigError, match="`time_budget` of 20 s is too little: here an expert takes 20 s"):
        within(asked, Costs(5.0, 0.5, 1.0, dict.fromkeys(range(10), 4)), 20)


def test_experts_within__counts_the_missing_ones_that_a_count_takes_in():
    assert _experts_within(4, {0: 30.0}, 40.0) == 1  # number 0 is dear, but without it there is none
    assert _experts_within(4, {3: 30.0}, 40.0) == 3
    assert _experts_within(4, {}, 1.0) == 4
    assert _experts_within(4, dict.fromkeys(range(4), 10.0), 40.0) == 2
    assert _experts_within(4, dict.fromkeys(range(4), 50.0), 40.0) == 0
    assert _experts_within(4, {0: 12.0, 1: 4.0, 2: 4.0, 3: 4.0}, 40.0) == 3  # the first goes to the end


def test_compress__goes_on_with_the_sizes_it_was_begun_with(tmp_path, tiny, monkeypatch):
    measured = []

    def costs(*arguments):
        measured.append(arguments)
        return Costs(0.5, 1.0, 0.5, {0: 2, 1: 2})

    monkeypatch.setattr(time_budget, "measured_costs", costs)
    settings = {**tiny, "time_budget": 12.0, "distill.outer_steps": 50, "distill.select_every": 50}
    settings["distill.select_networks"] = 3
    ds = run(tmp_path / "a", settings)
    chosen = ds.config["settings"]
    assert len(measured) == 1
    assert 0 < chosen["distill"]["outer_steps"] < 50
    monkeypatch.setattr(time_budget, "measured_costs", lambda *arguments: Costs(0.5, 3.0, 0.5, {0: 2, 1: 2}))
    assert run(tmp_path / "a", settings).config["settings"] == chosen
    with pytest.raises(ConfigError, match="holds another run"):  # other sizes were asked for
        run(tmp_path / "a", {**settings, "distill.outer_steps": 40})
    other = run(tmp_path / "b", settings).config["settings"]
    assert other["distill"]["outer_steps"] < chosen["distill"]["outer_steps"]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"dataset.augmentation": "flip_scale"}, 65),
        ({"dataset.augmentation": "color_flip"}, 62),  # and two networks of the set at the length of real images
        ({"dataset.augmentation": "color_flip", "dataset.validation_fraction": 0.0}, 100),
    ],
)
def test_within__counts_the_validation_at_the_length_of_real_images(tiny, changes, steps):
    settings = {
        "experts.count": 4,
        "distill.outer_steps": 1000,
        "distill.select_every": 10,
        "distill.select_networks": 2,
    }
    costs = Costs(expert_epoch=10.0, outer_step=0.5, fresh_network=1.0, missing=dict.fromkeys(range(4), 1))
    assert within(made(tiny, **settings, **changes), costs, 100).settings.distill.outer_steps == steps


@pytest.mark.parametrize(
    ("preset", "given", "steps"),
    [
        ("quick", {}, 85_000),  # more than the preset's 300: these are what fits into minutes
        ("quick", {"distill.outer_steps": 300}, 300),
        ("paper", {}, 6000),
        ("smoke", {}, 4),
    ],
)
def test_within__a_budget_takes_the_place_of_a_quick_presets_steps_and_of_no_others(preset, given, steps):
    layers = [SettingsLayer("--set", {**given, "distill.select_every": 10**9}, asked=True)]
    run = make_run(compose("cifar10", 1, "rat", preset, "cpu", layers), torch.device("cpu"))
    costs = Costs(0.0, 0.01, 0.0, {})
    found = within(run, costs, 1000).settings.distill.outer_steps
    assert found == steps if steps < 80_000 else 80_000 < found <= 90_000


LEARNING = (
    "expert epochs",
    "outer steps",
    "validation networks",
    "networks of the paper's protocol",
    "networks that choose the length",
)


@pytest.mark.parametrize("method", ["rat", "mtt", "best"])
@pytest.mark.parametrize("protocol", [False, True])
def test_within__all_that_a_plan_counts_as_learning_fits_into_the_budget(method, protocol):
    layers = [SettingsLayer("test", {"evaluate.paper_protocol": protocol, "distill.outer_steps": 100_000})]
    run = make_run(compose("cifar10", 10, method, "quick", "cpu", layers), torch.device("cpu"))
    costs = Costs(2.0, 3.0, 20.0, dict.fromkeys(range(run.settings.experts.count), 12))
    fitted = within(run, costs, 1200)
    trained = {index: epochs for index, epochs in costs.missing.items() if index < fitted.settings.experts.count}
    seconds = {stage.name: stage.seconds() for stage in stage_costs(fitted, replace(costs, missing=trained))}
    assert 1000 < sum(seconds.get(name, 0.0) for name in LEARNING) <= 1080
