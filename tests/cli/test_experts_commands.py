"""``distillkit experts`` as a user types it: show with the data scheduler, push, pull, and what goes wrong."""

import json

import pytest
from PIL import Image
from typer.testing import CliRunner

from distillkit.cli.app import app
from distillkit.trajectories.store import TrajectoryStore, experts_root
from tests.helpers import TINY

REPO = "org/digits-experts"
SCHEDULED = {
    "experts.add_end_epoch": 1,
    "experts.remove_epochs": [1, 2],
    "experts.difficulty_networks": 1,
    "experts.difficulty_epochs": 1,
}


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def train(method, **settings):
    assignments = [part for key, value in {**TINY, **settings}.items() for part in ("--set", f"{key}={value}")]
    result = invoke("experts", "train", "digits", "--method", method, "--preset", "smoke", "--json", "-q", *assignments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.drawn
def test_show__schedule_report_and_pictures(tmp_path):
    found = train("pad", **SCHEDULED)
    assert found["schedule"][0] == [0.0, 0.75]
    assert found["schedule"][2][0] == 0.1
    assert 0 <= found["test_accuracy"] <= 1
    shown = invoke("experts", "show", found["fingerprint"], "--out", tmp_path / "out")
    assert "Images an epoch sees, by difficulty" in shown.stdout
    assert "0.0% to 75.0%" in shown.stdout
    assert "path length" in shown.stdout
    report = json.loads((tmp_path / "out" / "experts.json").read_text())
    for row in report["experts"]:
        assert len(row["parameter_change"]) == 3
        assert abs(row["path_length"] - sum(row["parameter_change"])) < 1e-9
        assert row["largest_change"] == max(row["parameter_change"])
    for name in ("experts.png", "schedule.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.size[0] > 300


def test_push_and_pull__from_one_cache_to_another(hub, tmp_path, monkeypatch):
    found = train("mct", **{"trajectories.waypoints": 3})
    name = found["fingerprint"]
    planned = json.loads(invoke("experts", "push", name, REPO, "--dry-run", "--json").stdout)
    assert sorted(planned["files"])[-1] == "trajectories.json"
    assert hub.requests == []
    pushed = json.loads(invoke("experts", "push", name[:6], REPO, "--json").stdout)
    assert (pushed["revision"], pushed["fingerprint"]) == ("v1", name)
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "elsewhere"))
    pulled = invoke("experts", "pull", f"{REPO}@v1")
    assert pulled.exit_code == 0, pulled.output
    assert f"--set experts.source={name} --set experts.count=2" in pulled.stdout
    assert TrajectoryStore.open(experts_root() / name).experts() == [0, 1]
    assert json.loads(invoke("experts", "pull", REPO, "--json").stdout)["added"] == 0


def test_errors__say_what_to_do(hub):
    raw = train("mtt")["fingerprint"]
    refused = invoke("experts", "push", raw, REPO)
    assert (refused.exit_code, "trajectories.form=convex" in refused.stderr) == (2, True)
    assert invoke("experts", "pull", "org/nothing").exit_code == 4
    assert invoke("experts", "pull", "not a name").exit_code == 2
    assert invoke("experts", "push", "ffff", REPO).exit_code == 4
    convex = ("--set", "trajectories.form=convex", "--set", "trajectories.waypoints=99")
    unknown = invoke("experts", "train", "digits", *convex)
    assert (unknown.exit_code, "must be 2 to" in unknown.stderr) == (2, True)
    idle = invoke("experts", "train", "digits", "--preset", "smoke", "--set", "experts.clipping=[0.5]")
    assert (idle.exit_code, "experts.clipping=(0.5,) has no effect here" in idle.stderr) == (2, True), idle.stderr
    none = invoke("experts", "train", "digits", "--method", "rat")
    assert (none.exit_code, "there is nothing to train" in none.stderr) == (2, True)
