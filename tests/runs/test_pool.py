"""Students of several architectures that take turns: whose turn it is, and that nothing else of a run changes."""

import pytest
import torch

from distillkit import compress, load_distilled, pipeline, storage
from distillkit.config import compose
from distillkit.distill.pooled import Pooled
from distillkit.distill.state import EngineChoice, OuterState
from distillkit.errors import ConfigError, Interrupted
from distillkit.interrupt import StopRequest
from distillkit.lab import effective
from distillkit.methods import SettingsLayer
from distillkit.metrics_file import rows_of
from distillkit.networks.build import build_network
from distillkit.plan import make_plan
from distillkit.records import EvalReport
from distillkit.settings import NetworkSettings
from distillkit.stages import costs, step_times, validation
from distillkit.stages.architectures import selecting_networks
from distillkit.stages.context import make_run, prepare
from distillkit.stages.costs import Costs
from distillkit.stages.step_times import FreshNetwork
from distillkit.stages.time_budget import within
from tests.helpers import Notes, StopAfter, same_bytes
from tests.processes.worlds import in_threads

METHODS = {
    "rat": {"distill.horizon": 4, "distill.lr_img": 0.01},
    "dsa": {"distill.restart_every": 2, "distill.outer_steps": 5},
    "dm": {},
}
TWO = ["convnet", "convnet:width=3,norm=batch"]


@pytest.fixture
def settings(tiny):
    tiny.pop("experts.count")
    more = {"distill.real_batch": 30, "distill.real_per_class": 5, "evaluate.baselines": [], "evaluate.uint8": False}
    return tiny | more


def run(out, method, base, pool=None, **more):
    chosen = {**base, **METHODS[method], **({} if pool is None else {"network.pool": pool})}
    arguments = {"ipc": 1, "method": method, "preset": "smoke", "device": "cpu", "command": "x", **more}
    chosen = effective(chosen, "digits", arguments["ipc"], method, "smoke")
    return compress("digits", settings=chosen, out=out, **arguments)


def images(folder):
    return (folder / "distilled.safetensors").read_bytes()


@pytest.mark.parametrize("method", ["rat", "dsa"])
def test_a_pool_of_one_makes_the_bytes_of_none(tmp_path, settings, method):
    run(tmp_path / "none", method, settings)
    ds = run(tmp_path / "one", method, settings, ["convnet"])
    assert images(tmp_path / "one") == images(tmp_path / "none")
    for name in ("recipe.json", "results.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "none" / name).read_bytes()
    assert ds.config["settings"]["network"]["pool"] == ["convnet"]


def test_a_pool_of_twins_is_one_of_them(tmp_path, settings):
    run(tmp_path / "none", "dsa", settings)
    run(tmp_path / "twins", "dsa", settings, ["convnet", "convnet:width=4"])
    states = [OuterState.load(tmp_path / n / "run" / "checkpoint.safetensors", "cpu") for n in ("none", "twins")]
    assert torch.equal(states[0].images, states[1].images)


@pytest.mark.parametrize(("method", "turns"), [("rat", "aabb"), ("dsa", "aabba"), ("dm", "abab")])
def test_students_take_turns_by_outer_step_or_by_fresh_network(tmp_path, settings, monkeypatch, method, turns):
    if method == "rat":
        settings |= {"distill.segments": 2, "distill.outer_steps": 2}
    built = []

    def build(chosen, shape, classes, seed, *names):
        if names[0] == "student" and seed == 7:
            built.append((names[1], "ab"[chosen.width == 3]))
        return build_network(chosen, shape, classes, seed, *names)

    monkeypatch.setattr("distillkit.stages.context.build_network", build)
    run(tmp_path / "a", method, {**settings, "seed": 7}, TWO)
    expected = dict(enumerate(turns))
    if method == "dsa":  # a network is built at every second step, and used by both
        expected = {number: turn for number, turn in expected.items() if number % 2 == 0}
    assert dict(built) == expected


@pytest.mark.parametrize("method", ["rat", "dsa"])
def test_an_interrupted_run_of_a_pool_ends_at_the_same_bytes(tmp_path, settings, method):
    settings |= {"evaluate.networks": 1, "evaluate.epochs": 1}
    run(tmp_path / "whole", method, settings, TWO)
    out, stops = tmp_path / "stopped", 0
    for _ in range(60):
        stop = StopRequest()
        try:
            run(out, method, settings, TWO, stop=stop, progress=StopAfter(stop, 3))
            break
        except Interrupted:
            stops += 1
    assert stops >= 2
    same_bytes(tmp_path / "whole", out)
    state = OuterState.load(out / "run" / "checkpoint.safetensors", "cpu")
    assert [form["precision"] for form in state.forms] == ["fp32", "fp32"]


def test_several_processes_make_the_bytes_of_one(tmp_path, settings):
    settings |= {"distill.segments": 3}
    run(tmp_path / "one", "dsa", settings, TWO)
    in_threads(2, lambda world: run(tmp_path / "two", "dsa", settings, TWO, world=world) and None)
    found = [storage.sha256_file(tmp_path / name / "distilled.safetensors") for name in ("one", "two")]
    assert found[0] == found[1]


def test_the_card_and_the_results_say_it(tmp_path, settings):
    ds = run(tmp_path / "a", "dm", {**settings, "dataset.validation_fraction": 0.0}, TWO)
    card = (tmp_path / "a" / "README.md").read_text()
    assert "It was learned with students that took turns: `convnet`, `convnet:width=3,norm=batch`." in card
    assert [one["network"] for one in ds.results["selection"]["pool"]] == TWO
    assert "pool" not in ds.recipe["architecture"]


def test_a_set_for_several_networks_is_selected_by_their_mean(tmp_path, settings, monkeypatch):
    """By hand: what each network of the pool scores, and which step is best by the mean (not by either alone)."""
    scores = {"convnet": [0.5, 0.9, 0.6, 0.1], "batch": [0.2, 0.1, 0.6, 0.9]}
    asked = {name: iter(own) for name, own in scores.items()}

    def trained_on(run, prepared, synthetic, network, exam, after_epoch):
        return EvalReport((next(asked["batch" if network.norm == "batch" else "convnet"]),) * 2)

    monkeypatch.setattr(validation, "trained_on", trained_on)
    more = {"distill.outer_steps": 3, "distill.select_every": 1, "evaluate.lengths": []}
    ds = run(tmp_path / "a", "dm", {**settings, **more}, TWO)
    selection = ds.results["selection"]
    assert (selection["step"], selection["validation_accuracy"]) == (2, pytest.approx(0.6))
    assert selection["selected_by"] == TWO
    rows = rows_of((tmp_path / "a" / "run" / "metrics.jsonl").read_bytes())
    each = [[row.get(f"validation_accuracy_{name}") for row in rows if "validation_accuracy" in row] for name in TWO]
    assert each == [scores["convnet"], scores["batch"]]
    card = (tmp_path / "a" / "README.md").read_text()
    assert "by the mean accuracy of `convnet`, `convnet:width=3,norm=batch`" in card


def test_networks_of_the_pool_select_as_fresh_ones_of_each_do(tmp_path, settings):
    run(tmp_path / "a", "dm", {**settings, "distill.outer_steps": 1, "distill.select_networks": 2}, TWO)
    rows = rows_of((tmp_path / "a" / "run" / "metrics.jsonl").read_bytes())
    first, last = (row for row in rows if "validation_accuracy" in row)
    for row in (first, last):
        mean = sum(row[f"validation_accuracy_{name}"] for name in TWO) / 2
        assert row["validation_accuracy"] == pytest.approx(mean, abs=1e-12)
    for name in TWO:  # each alone finds the same
        run(tmp_path / name, "dm", {**settings, "distill.outer_steps": 1, "distill.select_networks": 2}, [name])
        alone = next(r for r in rows_of((tmp_path / name / "run" / "metrics.jsonl").read_bytes()) if r["step"] == 0)
        assert alone["validation_accuracy"] == first[f"validation_accuracy_{name}"]
        assert not any(key.startswith("validation_accuracy_") for key in alone)
    named = [load_distilled(tmp_path / name).results["selection"].get("selected_by") for name in TWO]
    assert named == [None, TWO[1:]]  # the run's own goes without saying
    card = (tmp_path / TWO[1] / "README.md").read_text()
    assert f"by `{TWO[1]}`." in next(line for line in card.splitlines() if "Test data chose nothing" in line)


def test_twins_select_once(settings):
    layers = [SettingsLayer("test", {**settings, **METHODS["dm"], "network.pool": ["convnet", "convnet:width=4"]})]
    asked = make_run(compose("digits", 1, "dm", "smoke", "cpu", layers), torch.device("cpu"), Notes())
    assert list(selecting_networks(asked, prepare(asked))) == ["convnet"]


def test_a_run_that_was_selected_by_its_own_network_is_not_gone_on_with(tmp_path, settings, monkeypatch):
    """Of a pool, as older versions did it: accuracies of the two kinds are not to be compared."""
    stop, out, today = StopRequest(), tmp_path / "a", pipeline.run_identity
    with monkeypatch.context() as before, pytest.raises(Interrupted):
        before.setattr(pipeline, "run_identity", lambda *given: {**today(*given), "selected_by": None})
        run(out, "dm", settings, TWO, stop=stop, progress=StopAfter(stop, 3))
    with pytest.raises(ConfigError, match="another run .*differs in selected_by"):
        run(out, "dm", settings, TWO)


def test_a_budget_pays_for_every_network_that_selects(settings):
    changes = {"distill.outer_steps": 9999, "distill.select_every": 10, "distill.select_networks": 2}
    layers = [SettingsLayer("test", {**settings, **METHODS["dm"], **changes, "dataset.augmentation": "flip"})]
    asked = make_run(compose("digits", 1, "dm", "smoke", "cpu", layers), torch.device("cpu"), Notes())
    alone, both = Costs(0.0, 0.5, 1.0, {}), Costs(0.0, 0.5, 1.0, {}, selectors=(1.0, 4.0))
    steps = [within(asked, one, 1000).settings.distill.outer_steps for one in (alone, both)]
    # of 900 s, but for two looks at the beginning and end; a step with its share of a look: 0.5 + 2 / 10, 0.5 + 10 / 10
    assert steps == [int((900 - 4) / 0.7), int((900 - 20) / 1.5)]


def test_the_plan_of_a_pool_times_each_member_as_it_was_decided(settings, monkeypatch):
    chosen = [SettingsLayer("test", {**settings, **METHODS["rat"], "network.pool": TWO})]
    asked = make_run(compose("digits", 1, "rat", "smoke", "cpu", chosen), torch.device("cpu"), Notes())
    begun = OuterState(torch.zeros(10, 1, 8, 8), torch.eye(10), torch.arange(10), "probabilities", 0.25)
    begun.decide_each([EngineChoice(precision="tf32", kept=40), EngineChoice(precision="fp32", compiled=False)])
    timed = []
    monkeypatch.setattr(step_times, "_seconds_of_a_step", lambda run, prepared, state: timed.append(state) or 1.0)
    assert step_times.outer_seconds(asked, prepare(asked), begun) == 1.0
    assert [(one.precision, one.compiled, one.kept) for one in timed] == [("tf32", None, None), ("fp32", False, None)]
    assert {one.lr for one in timed} == {0.25}


def test_the_plan_of_a_pool_is_the_mean_of_its_members(settings, monkeypatch):
    chosen = [SettingsLayer("test", {**settings, **METHODS["dm"], "network.pool": TWO})]
    asked = make_run(compose("digits", 1, "dm", "smoke", "cpu", chosen), torch.device("cpu"), Notes())
    seconds = {("convnet",): 1.0, (TWO[1],): 4.0}
    monkeypatch.setattr(step_times, "_seconds_of_a_step", lambda run, *given: seconds[run.settings.network.pool])
    fresh = {"instance": 5.0, "batch": 1.0}
    for where in (costs, step_times):
        monkeypatch.setattr(
            where, "evaluation_seconds", lambda run, prepared, network: FreshNetwork(fresh[network.norm], 0.0)
        )
    found = make_plan(asked, prepare(asked))
    (steps,) = (stage for stage in found["stages"] if stage["name"] == "outer steps")
    assert steps["seconds_each"] == 2.5
    (looks,) = (stage for stage in found["stages"] if stage["name"] == "validation networks")
    (tests,) = (stage for stage in found["stages"] if stage["name"] == "evaluation networks")
    assert asked.settings.distill.select_networks == 2
    assert looks["steps"] == 2 * 2 * 4  # two of each architecture at 0, 2, 4 steps and at the length of real images
    assert (looks["seconds_each"], tests["seconds_each"]) == (3.0, 5.0)  # mean of 5 (the run's own) and 1


@pytest.mark.parametrize(
    ("method", "pool", "message"),
    [
        ("mtt", TWO, "network.pool is of students that begin fresh"),
        ("random", TWO, "distill.outer_steps=0 has none"),
        ("rat", ["convnet", "resnet9"], "'resnet9' is unknown"),
        ("rat", ["convnet", "lenet"], "lenet does not take images of 8x8 pixels"),
        ("dsa", ["convnet", "timm/resnet10t"], "one image with `ipc=1`"),
        ("dm", ["convnet", "resnet18:norm=batch"], "evaluate.batch_size=1; take 2 or more"),
    ],
)
def test_pools_that_cannot_be(tmp_path, tiny, method, pool, message):
    settings = {**tiny, "network.pool": pool, **({"distill.outer_steps": 0} if method == "random" else {})}
    settings |= {"evaluate.batch_size": 1} if method == "dm" else {}
    settings = effective(settings, "digits", 1, method, "smoke")
    with pytest.raises(ConfigError, match=message):
        compress("digits", ipc=1, method=method, preset="smoke", settings=settings, out=tmp_path / "a", device="cpu")
    assert not (tmp_path / "a").exists()


def test_gradients_of_several_networks_are_not_measured_by_one_mean(tmp_path, settings):
    """Those of one may be ten times as long as those of the other, which then would learn alone."""
    with pytest.raises(ConfigError, match=r"whose gradients differ in length: `distill.gate_norm=null`"):
        run(tmp_path / "a", "dsa", {**settings, "distill.gate_norm": 4.0}, TWO)
    assert not (tmp_path / "a").exists()


def test_pooled__turns_by_hand():
    pooled = Pooled((None, None, None), 2)
    assert [pooled.turn(step) for step in range(8)] == [0, 0, 1, 1, 2, 2, 0, 0]


def test_settings__an_empty_pool_is_not_written():
    assert "pool" not in NetworkSettings().model_dump()
    assert NetworkSettings(pool=("mlp",)).model_dump(mode="json", exclude={"replace_norm"})["pool"] == ["mlp"]
    assert "replace_norm" not in NetworkSettings().model_dump(mode="json", exclude={"replace_norm"})


def test_a_run_from_before_there_were_pools_is_still_this_run(tmp_path, settings):
    stop = StopRequest()
    with pytest.raises(Interrupted):
        run(tmp_path / "a", "dm", settings, stop=stop, progress=StopAfter(stop, 2))
    assert "pool" not in (tmp_path / "a" / "run" / "config.json").read_text()
    run(tmp_path / "a", "dm", settings)  # goes on
    with pytest.raises(ConfigError, match=r"differs in .*settings\.network\.pool"):
        run(tmp_path / "a", "dm", settings, TWO)
