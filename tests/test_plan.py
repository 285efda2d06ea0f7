"""The plan and the time budget: arithmetic by hand, and a run that is continued with the sizes it was begun with."""

import json

import pytest
import torch

from distillkit import plan
from distillkit.config import compose
from distillkit.errors import ConfigError
from distillkit.methods import SettingsLayer
from distillkit.stages.context import make_run, prepare
from tests.helpers import Notes, run


def made(tiny, **settings):
    layers = [SettingsLayer("test", {**tiny, **settings})]
    return make_run(compose("digits", 1, "mtt", "smoke", "cpu", layers), torch.device("cpu"), Notes())


def test_within__experts_get_half_at_most_and_steps_the_rest(tiny):
    settings = {"experts.count": 10, "experts.epochs": 4, "distill.outer_steps": 1000, "distill.select_every": 10}
    costs = plan.Costs(expert_epoch=2.5, outer_step=0.5, fresh_network=1.0, missing=dict.fromkeys(range(2, 10), 4))
    asked = made(tiny, **settings, **{"distill.select_networks": 2})
    found = plan.within(asked, costs, 100)  # 90 to plan for: 4 experts of 10 s, and (90 - 40 - 4) / (0.5 + 0.2) steps
    assert (found.settings.experts.count, found.settings.distill.outer_steps) == (2 + 4, 65)
    assert (found.origins["experts.count"], found.origins["distill.outer_steps"]) == ("time budget", "time budget")
    plenty = plan.within(asked, costs, 1e5).settings
    assert (plenty.experts.count, plenty.distill.outer_steps) == (10, 1000)
    one = plan.within(
        asked, plan.Costs(5.0, 0.5, 1.0, dict.fromkeys(range(10), 4)), 30
    ).settings  # an expert takes 20 of 27
    assert (one.experts.count, one.distill.outer_steps) == (1, 4)
    measured = plan.Costs(
        2.5, 0.5, 1.0, dict.fromkeys(range(2, 10), 4), measuring=7.0
    )  # leaves 83: 4 experts, 39 / 0.7 steps
    assert plan.within(asked, measured, 100).settings.distill.outer_steps == 55
    assert plan.within(asked, measured, 100).settings.budget_asked == (10, 1000)
    with pytest.raises(ConfigError, match="`time_budget` of 20 s is too little: here an expert takes 20 s"):
        plan.within(asked, plan.Costs(5.0, 0.5, 1.0, dict.fromkeys(range(10), 4)), 20)


def test_experts_within__counts_the_missing_ones_that_a_count_takes_in():
    assert plan._experts_within(4, {0: 30.0}, 40.0) == 1  # number 0 is dear, but without it there is none
    assert plan._experts_within(4, {3: 30.0}, 40.0) == 3
    assert plan._experts_within(4, {}, 1.0) == 4
    assert plan._experts_within(4, dict.fromkeys(range(4), 10.0), 40.0) == 2
    assert plan._experts_within(4, dict.fromkeys(range(4), 50.0), 40.0) == 0
    assert plan._experts_within(4, {0: 12.0, 1: 4.0, 2: 4.0, 3: 4.0}, 40.0) == 3  # the first goes to the end


def test_compress__goes_on_with_the_sizes_it_was_begun_with(tmp_path, tiny, monkeypatch):
    measured = []

    def costs(*arguments):
        measured.append(arguments)
        return plan.Costs(0.5, 1.0, 0.5, {0: 2, 1: 2})

    monkeypatch.setattr(plan, "measured_costs", costs)
    settings = {**tiny, "time_budget": 12.0, "distill.outer_steps": 50, "distill.select_every": 50}
    settings["distill.select_networks"] = 3
    ds = run(tmp_path / "a", settings)
    chosen = ds.config["settings"]
    assert len(measured) == 1
    assert 0 < chosen["distill"]["outer_steps"] < 50
    monkeypatch.setattr(plan, "measured_costs", lambda *arguments: plan.Costs(0.5, 3.0, 0.5, {0: 2, 1: 2}))
    assert run(tmp_path / "a", settings).config["settings"] == chosen
    with pytest.raises(ConfigError, match="holds another run"):  # other sizes were asked for
        run(tmp_path / "a", {**settings, "distill.outer_steps": 40})
    other = run(tmp_path / "b", settings).config["settings"]
    assert other["distill"]["outer_steps"] < chosen["distill"]["outer_steps"]


def test_plan__measures_the_form_that_runs(tiny, monkeypatch):
    kinds = []
    plain = plan.outer_step
    monkeypatch.setattr(plan, "outer_step", lambda task, state: kinds.append(task) or plain(task, state))
    asked = made(tiny, **{"distill.segments": 2, "distill.together": "always", "distill.compile": "never"})
    found = plan.make_plan(asked, prepare(asked))
    assert {stage["name"] for stage in found["stages"]} >= {"outer steps", "validation networks", "evaluation networks"}
    assert all(stage["seconds_each"] > 0 for stage in found["stages"])
    assert all(task.objective.engine.together and task.settings.segments == 2 for task in kinds)
    assert all(task.objective.engine.kept > 0 for task in kinds)
    json.dumps(found)


def test_plan__takes_the_length_of_given_experts(tmp_path, tiny):
    """``experts.epochs`` may be less than what the experts of ``experts.source`` have."""
    run(tmp_path / "a", {**tiny, "experts.epochs": 6, "experts.train_to": "end"})
    fingerprint = next((tmp_path / "cache" / "experts").iterdir()).name
    given = {"experts.source": fingerprint, "distill.max_start_epoch": 4, "experts.epochs": 2}
    asked = made(tiny, **given, **{"distill.expert_epochs": 2})
    assert "outer steps" in {stage["name"] for stage in plan.make_plan(asked)["stages"]}


def test_stage_costs__count_the_networks_that_choose_the_baselines_learning_rates(tiny):
    settings = {
        "evaluate.baselines": ["random", "kmeans", "full"],
        "evaluate.networks": 4,
        "distill.select_networks": 2,
    }
    costs = plan.Costs(1.0, 1.0, 1.0, {})

    def counts(method, **changes):
        layers = [SettingsLayer("test", {**tiny, **settings, **changes})]
        asked = make_run(compose("digits", 1, method, "smoke", "cpu", layers), torch.device("cpu"))
        return {stage.name: stage.steps for stage in plan.stage_costs(asked, costs)}

    found = counts("mtt")  # the set, its 8-bit view, random, k-means; two baselines at three rates
    assert (found["evaluation networks"], found["baselines' validation networks"]) == (4 * 4, 2 * 3 * 2)
    soft = counts("datm")  # hard labels too, and random images with the experts' labels, a third baseline
    assert (soft["evaluation networks"], soft["baselines' validation networks"]) == (6 * 4, 3 * 3 * 2)
    assert "baselines' validation networks" not in counts("mtt", **{"evaluate.lr": 0.01})


def test_processes__share_experts_students_and_networks(tiny):
    assert [plan.share(pieces, 4) for pieces in (1, 4, 5, 8)] == [1.0, 0.25, 0.4, 0.25]
    asked = made(tiny, **{"distill.segments": 4, "experts.count": 5, "distill.select_networks": 3}).settings
    costs = plan.Costs(10.0, 8.0, 3.0, dict.fromkeys(range(5), 2))
    dealt = plan.dealt_costs(asked, costs, 2)
    assert (dealt.expert_epoch, dealt.outer_step, dealt.fresh_network) == (6.0, 4.0, 2.0)  # 3 of 5, 2 of 4, 2 of 3
    stage = plan.StageCost("expert epochs", 10, 10.0, 5)
    assert [stage.seconds(processes) for processes in (1, 2, 5, 99)] == [100, 60, 20, 20]
