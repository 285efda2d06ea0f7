"""The plan: what it times is what will run."""

import json

from distillkit.plan import make_plan
from distillkit.stages import step_times
from distillkit.stages.context import prepare
from tests.helpers import made, run


def test_plan__measures_the_form_that_runs(tiny, monkeypatch):
    kinds = []
    plain = step_times.outer_step
    monkeypatch.setattr(step_times, "outer_step", lambda task, state: kinds.append(task) or plain(task, state))
    asked = made(tiny, **{"distill.segments": 2, "distill.together": "always", "distill.compile": "never"})
    found = make_plan(asked, prepare(asked))
    assert {stage["name"] for stage in found["stages"]} >= {"outer steps", "validation networks", "evaluation networks"}
    assert all(stage["seconds_each"] > 0 for stage in found["stages"])
    assert all(task.objective.engine.together and task.settings.segments == 2 for task in kinds)
    assert all(task.objective.engine.kept > 0 for task in kinds)
    json.dumps(found)


def test_plan__times_evaluation_networks_in_the_precision_that_they_are_trained_in(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(step_times, "in_precision", lambda model, precision: seen.append(precision) or model)
    asked = made(tiny)
    prepared = prepare(asked)
    prepared.decided["experts"] = "bf16"
    step_times.evaluation_seconds(asked, prepared, prepared.network)
    step_times.full_seconds(asked, prepared)
    assert set(seen) == {asked.steady_precision} == {"fp32"}
    step_times.expert_seconds(asked, prepared, {0: 2})
    assert seen[-1] == "bf16"


def test_plan__takes_the_length_of_given_experts(tmp_path, tiny):
    """``experts.epochs`` may be less than what the experts of ``experts.source`` have."""
    run(tmp_path / "a", {**tiny, "experts.epochs": 6, "experts.train_to": "end"})
    fingerprint = next((tmp_path / "cache" / "experts").iterdir()).name
    given = {"experts.source": fingerprint, "distill.max_start_epoch": 4, "experts.epochs": 2}
    asked = made(tiny, **given, **{"distill.expert_epochs": 2})
    assert "outer steps" in {stage["name"] for stage in make_plan(asked)["stages"]}
