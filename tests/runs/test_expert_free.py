"""Runs of methods without experts: what is made and said, and that an interrupted one ends at the same bytes."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file

from distillkit import compress, load_distilled, storage
from distillkit.artifact import layout
from distillkit.artifact.read import read_artifact
from distillkit.config import compose
from distillkit.distill.objective import Engine
from distillkit.distill.start import Beginning
from distillkit.errors import ArtifactError, ConfigError, DistillkitError, Interrupted
from distillkit.interrupt import StopRequest
from distillkit.lab import effective
from distillkit.methods import SettingsLayer
from distillkit.plan import make_plan
from distillkit.identities import completed
from distillkit.stages import distillation, step_times
from distillkit.stages.context import make_run, prepare
from distillkit.stages.costs import Costs, measured_costs
from distillkit.stages.length import shortest_as_good
from distillkit.stages.step_times import _unrolled_seconds
from distillkit.stages.time_budget import within
from tests.helpers import Notes, StopAfter, same_bytes

METHODS = {
    "rat": {"distill.horizon": 4, "distill.segments": 2, "distill.labels": "weights", "distill.lr_label": 0.01},
    "dsa": {"distill.restart_every": 3, "distill.network_epochs": 2, "distill.segments": 2},
    "dm": {"distill.real_order": "easy-to-hard", "experts.difficulty_networks": 1, "experts.difficulty_epochs": 1},
}
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def settings(tiny):
    """Settings of a run of a second or two without experts."""
    tiny.pop("experts.count")
    return tiny | {"distill.real_batch": 30, "distill.real_per_class": 5}


def run(out, method, base, **more):
    settings = {**base, **METHODS[method], **more.pop("settings", {})}
    settings = effective(settings, "digits", more.get("ipc", 1), method, "smoke")
    arguments = {"ipc": 1, "method": method, "preset": "smoke", "device": "cpu", "command": "x", **more}
    return compress("digits", settings=settings, out=out, **arguments)


@each_method
def test_compress__stopped_at_every_step_in_turn_ends_at_the_same_bytes(tmp_path, settings, method):
    run(tmp_path / "whole", method, settings)
    out, stops = tmp_path / "stopped", 0
    for _ in range(60):
        stop = StopRequest()
        try:
            run(out, method, settings, stop=stop, progress=StopAfter(stop, 3))
            break
        except Interrupted:
            stops += 1
    assert stops > 3
    same_bytes(tmp_path / "whole", out)


@each_method
def test_card__says_learned_and_nothing_of_experts(tmp_path, settings, method):
    last = {"dataset.validation_fraction": 0.0, "evaluate.lengths": []}  # the last step is kept, whatever it is worth
    ds = run(tmp_path / "set", method, settings, settings=last)
    assert (ds.config["experts"], ds.config["learned_here"]) == (None, True)
    assert not (tmp_path / "set" / "run" / "experts.json").exists()
    card = (tmp_path / "set" / "README.md").read_text()
    assert "10 learned images" in card
    assert "real images:" not in card.split("## ")[0]
    assert "![loss and accuracy over the run](curves.png)" in card
    assert "(learned)" not in card  # the rate was given
    words = re.sub(r"```.*?```", "", card, flags=re.DOTALL)
    assert "expert" not in words
    assert f"label {'weights' if method == 'rat' else 'probabilities'}" in words
    assert ds.results["selection"]["step"] <= 4


def test_rat__recipe_preprocessing_and_format(tmp_path, settings, monkeypatch):
    own = {"evaluate.lengths": [2, 5], "distill.labels": "hard", "dataset.preprocessing": "unit-zca"}
    ds = run(tmp_path / "set", "rat", settings, settings=own)
    assert ds.recipe["optimizer"]["name"] == "adam"
    assert ds.recipe["schedule"]["lr_drop_epochs"] == []
    chosen = ds.results["selection"]["epochs"]
    images = ds.results["selection"]["images"]
    measured = {int(epochs): accuracy for epochs, accuracy in chosen["validation_accuracy"].items()}
    assert chosen["chosen"] == shortest_as_good(measured, images)
    assert ds.recipe["schedule"]["epochs"] == ds.config["settings"]["evaluate"]["epochs"] == chosen["chosen"]
    assert ds.config["origins"]["evaluate.epochs"] == "validation data, of evaluate.lengths"
    assert ds.config["format_version"] == "2.0"
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    flat = pixels.double().flatten(1)
    unit = flat - flat.mean(1, keepdim=True)
    unit = unit / unit.norm(dim=1, keepdim=True)
    matrix = load_file(tmp_path / "set" / "preprocess.safetensors")["unit_zca_matrix"].double()
    assert torch.allclose(ds.preprocess(pixels).flatten(1).double(), unit @ matrix, atol=1e-4)
    card = (tmp_path / "set" / "README.md").read_text()
    assert "Adam" in card
    assert "momentum" not in card
    assert "unit_zca_matrix" in card
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    trained = ds.train(model, epochs=300, lr=0.05, augment=False)
    assert torch.equal(trained(ds.images).argmax(1), ds.class_ids)  # ten images in 64 dimensions: a plane parts them
    assert 0 <= ds.evaluate(trained) <= 1
    monkeypatch.setattr(layout, "FORMAT_VERSION", "1.0")  # an older reader
    with pytest.raises(ArtifactError, match=r"has format 2.0, this distillkit reads up to 1.0; upgrade it"):
        load_distilled(tmp_path / "set")


def test_unit_dct__in_an_artifact(tmp_path, settings, monkeypatch):
    from scipy.fft import dctn, idctn

    ds = run(tmp_path / "set", "rat", settings, settings={"dataset.preprocessing": "unit-dct"})
    assert ds.config["format_version"] == "3.0"
    matrices = load_file(tmp_path / "set" / "preprocess.safetensors")["unit_dct_matrices"].double()
    pixels = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    unit = pixels.double() - pixels.double().mean((1, 2, 3), keepdim=True)
    unit = unit / unit.flatten(1).norm(dim=1)[:, None, None, None]
    mixed = dctn(unit.numpy(), axes=(2, 3), norm="ortho") * matrices[..., 0, 0].numpy()
    expected = torch.from_numpy(idctn(mixed, axes=(2, 3), norm="ortho"))
    assert torch.allclose(ds.preprocess(pixels).double(), expected, atol=1e-4)
    assert "unit_dct_matrices" in (tmp_path / "set" / "README.md").read_text()
    again = load_distilled(ds.save(tmp_path / "copy"))
    assert torch.equal(again.images, ds.images)
    monkeypatch.setattr(layout, "FORMAT_VERSION", "2.0")  # an older reader
    with pytest.raises(ArtifactError, match=r"has format 3.0, this distillkit reads up to 2.0; upgrade it"):
        load_distilled(tmp_path / "set")


def test_format__is_the_oldest_that_says_all(tmp_path, settings, made):
    assert load_distilled(made).config["format_version"] == "1.0"  # of MTT
    assert run(tmp_path / "dm", "dm", settings).config["format_version"] == "2.0"  # 1.0 would call it real images
    ds = run(tmp_path / "rat", "rat", settings, settings={"dataset.preprocessing": "standardise"})
    assert (ds.config["label_kind"], ds.config["format_version"]) == ("weights", "2.0")
    assert bool((ds.targets >= 0).all())
    again = load_distilled(ds.save(tmp_path / "copy"))
    assert torch.equal(again.targets, ds.targets)


def test_rat__side_by_side_is_in_turn_to_the_rounding(tmp_path, settings):
    once = {"distill.outer_steps": 1, "distill.outer_optimizer": "sgd"}
    for name, changes in {"still": {"distill.lr_img": 0.0}, "turn": {}, "side": {"distill.together": "always"}}.items():
        run(tmp_path / name, "rat", settings, settings={"distill.lr_img": 1.0, **once, **changes})
    still, turn, side = (load(tmp_path / name).double() for name in ("still", "turn", "side"))
    assert float((turn - side).norm()) <= 1e-3 * float((turn - still).norm())


def load(folder):
    from distillkit.distill.state import OuterState

    return OuterState.load(folder / "run" / "checkpoint.safetensors", "cpu").images


def test_rat__labels_of_experts_are_had_when_an_expert_is_asked_for(tmp_path, settings):
    soft = {"distill.labels": "soft", "distill.init": "real", "experts.count": 1}
    ds = run(tmp_path / "set", "rat", settings, settings=soft)
    assert ds.config["experts"]["count"] == 1
    assert ds.config["label_kind"] == "logits"
    with pytest.raises(ConfigError, match=r"asks experts about real images; take distill.init=real"):
        run(tmp_path / "noise", "rat", settings, settings={**soft, "distill.init": "noise"})


def test_rat__experts_that_only_label_leave_students_their_own_network(tmp_path, settings):
    soft = {"distill.labels": "soft", "distill.init": "real", "experts.count": 1}
    still = {"distill.lr_img": 0.0, "distill.lr_label": 1e-30}  # labels stay as the experts gave them
    first, narrow = (
        run(tmp_path / name, "rat", settings, settings={**soft, **still, **student})
        for name, student in {"own": {}, "narrow": {"distill.student": "convnet:width=2"}}.items()
    )
    assert torch.equal(narrow.labels, first.labels)  # by experts of the set's network, whatever the students are
    assert narrow.config["experts"] == first.config["experts"]
    pool = {"network.pool": ["convnet:width=2", "mlp"]}
    run(tmp_path / "pool", "rat", settings, settings={**soft, **pool, "distill.lr_label": 0.1})
    assert not torch.equal(load(tmp_path / "pool"), load(tmp_path / "own"))


def test_student__narrow_ones_learn_for_a_wide_network_that_a_second_run_finishes_with(tmp_path, settings):
    narrow = run(tmp_path / "narrow", "rat", settings, settings={"distill.student": "convnet:width=2"})
    assert narrow.recipe["architecture"]["width"] == settings["network.width"]
    source = {"distill.init": "artifact", "distill.init_from": str(tmp_path / "narrow")}
    ds = run(tmp_path / "wide", "rat", settings, settings={**source, "distill.lr_img": 0.0, "distill.lr_label": 1e-30})
    assert torch.equal(load(tmp_path / "wide"), narrow.images)
    assert torch.allclose(ds.labels, narrow.labels, rtol=0, atol=1e-20)
    assert str(tmp_path) not in json.dumps(ds.config)
    [before] = ds.config["earlier_runs"]
    assert (before["method"], before["outer_steps"]) == ("rat", narrow.config["settings"]["distill"]["outer_steps"])
    assert before["command"] == narrow.config["command"]
    assert before["seconds"] == pytest.approx(sum(narrow.config["wall_time_seconds"].values()))
    assert f"- rat, {before['outer_steps']} outer steps, " in (tmp_path / "wide" / "README.md").read_text()
    third = {"distill.init": "artifact", "distill.init_from": str(tmp_path / "wide"), "distill.outer_steps": 1}
    chain = run(tmp_path / "third", "rat", settings, settings=third).config["earlier_runs"]
    assert chain[0] == before
    assert chain[1]["command"] == ds.config["command"]
    assert "earlier_runs" not in narrow.config
    other = {**source, "distill.lr_img": 0.0, "dataset.preprocessing": "unit-dct"}
    notes = Notes()
    seen = run(tmp_path / "other", "rat", settings, settings=other, progress=notes)
    assert any("come by way of their pixels" in note for note in notes.notes)
    assert seen.images.shape == narrow.images.shape
    unit = {"dataset.preprocessing": "unit-zca"}
    first = run(tmp_path / "unit", "rat", settings, settings=unit)
    unlike = {**unit, "dataset.zca_eps": 0.3, "distill.init": "artifact", "distill.init_from": str(tmp_path / "unit")}
    pixels = read_artifact(tmp_path / "unit").preprocess.invert(first.images)
    for name, changes in (("unlike", {}), ("frequency", {"dataset.preprocessing": "unit-dct"})):
        run(tmp_path / name, "rat", settings, settings={**unlike, **changes, "distill.lr_img": 0.0})
        start = load(tmp_path / name)
        assert not torch.allclose(start, first.images, atol=1e-2)  # the same pixels and lengths, otherwise whitened
        assert torch.allclose(read_artifact(tmp_path / name).preprocess.invert(start), pixels, atol=1e-4)
    assert seen.lr == narrow.lr != settings.get("distill.lr_init")
    given = run(tmp_path / "given", "rat", settings, settings={**source, "distill.lr_init": 0.002})
    assert given.lr == 0.002
    with pytest.raises(ConfigError, match=r"has ipc 1, this run has 2"):
        run(tmp_path / "two", "rat", settings, settings=source, ipc=2)
    with pytest.raises(ConfigError, match=r"needs an artifact folder: `distill.init_from=FOLDER`"):
        run(tmp_path / "none", "rat", settings, settings={"distill.init": "artifact"})


def test_init__from_a_set_of_another_optimizer_does_not_take_its_learning_rate(tmp_path, settings):
    run(tmp_path / "adam", "rat", settings, settings={"distill.labels": "hard"})
    source, notes = {"distill.init": "artifact", "distill.init_from": str(tmp_path / "adam")}, Notes()
    sgd = run(tmp_path / "sgd", "dm", settings, settings=source, progress=notes)
    assert sgd.lr == 0.01
    said = "was learned with adam at 0.003; this run trains with sgd, at distill.lr_init=0.01"
    assert any(said in one for one in notes.notes)


def test_init__that_cannot_be_is_refused_before_experts_are_trained(tmp_path, settings, monkeypatch):
    def trained(*_):
        raise AssertionError("experts were trained")

    monkeypatch.setattr(distillation, "train_experts", trained)
    for values, words in (
        ({"distill.init": "artifact"}, "needs an artifact folder"),
        ({"distill.init": "artifact", "distill.init_from": str(tmp_path / "nowhere")}, "nowhere"),
        ({"distill.init": "noise", "distill.labels": "soft"}, "take distill.init=real"),
    ):
        with pytest.raises(DistillkitError, match=words):
            compress("digits", ipc=1, method="mtt", preset="smoke", out=tmp_path / "out", settings=values)


@each_method
def test_plan__has_outer_steps_and_no_experts(settings, method):
    layers = [SettingsLayer("test", {**settings, **METHODS[method], "distill.outer_steps": 50})]
    composed = compose("digits", 1, method, "smoke", "cpu", layers)
    made = make_plan(make_run(composed, torch.device("cpu")))
    names = [stage["name"] for stage in made["stages"]]
    assert "expert epochs" not in names
    assert made["stages"][names.index("outer steps")]["steps"] == 50
    assert made["seconds"] > 0
    assert made["disk_bytes"] == 0


@each_method
def test_time_budget__becomes_outer_steps(settings, method):
    sizes = {"distill.outer_steps": 100_000, "time_budget": 60.0, "dataset.augmentation": "flip"}
    sizes["distill.select_networks"] = 1
    layers = [SettingsLayer("test", {**settings, **METHODS[method], **sizes})]
    asked = make_run(compose("digits", 1, method, "smoke", "cpu", layers), torch.device("cpu"))
    costs = Costs(expert_epoch=0.0, outer_step=0.5, fresh_network=1.0, missing={}, measuring=4.0)
    found = within(asked, costs, 60.0).settings
    assert (found.experts.count, found.distill.outer_steps) == (0, math.floor((0.9 * 60 - 4 - 2) / (0.5 + 1 / 2)))
    with pytest.raises(ConfigError, match=r"is too little: here an outer step takes 0.50 s"):
        within(asked, costs, 5.0)


def test_plan__steps_before_the_window_and_the_real_batch_are_counted_once(settings, monkeypatch):
    """Of clocks that tell 8 for a step of two, 2 for the real batch, 3 for two steps before: 2 + 3 * 5 + 1.5 * 2.5."""
    composed = compose(
        "digits", 1, "rat", "smoke", "cpu", [SettingsLayer("test", {**settings, "distill.inner_steps": 5})]
    )
    chosen = composed.settings.distill.model_copy(update={"horizon": 10})
    prepared = prepare(make_run(composed, torch.device("cpu")))
    assert len(prepared.train_labels) > 0
    told = iter([2.0, 3.0])
    monkeypatch.setattr(step_times, "_time", lambda action, device: next(told))

    class Students:
        real = object()

        engine = Engine(None, None, None)

        def begin(self, number):
            return Beginning(torch.zeros(1))

    seconds = _unrolled_seconds(chosen, Students(), None, 8.0, 2, torch.device("cpu"))
    assert seconds == pytest.approx(2 + 3 * 5 + 1.5 * 2.5)


def test_plan__measures_students_side_by_side(settings):
    changes = {**settings, **METHODS["rat"], "distill.together": "always", "distill.horizon": 9}
    composed = compose("digits", 1, "rat", "smoke", "cpu", [SettingsLayer("test", changes)])
    asked = make_run(composed, torch.device("cpu"))
    assert measured_costs(asked, prepare(asked)).outer_step > 0


def test_completed__settings_added_since_are_at_their_defaults(tmp_path, settings):
    run(tmp_path / "set", "dm", settings)
    config = tmp_path / "set" / "run" / "config.json"
    stored = storage.read_sealed_json(config)
    assert completed(stored) == stored
    assert stored["format"] == "1.0"  # as before there were such settings
    del stored["settings"]["distill"]["student"], stored["settings"]["evaluate"]["lengths"]
    stored["settings"].pop("budget_asked")
    config.write_text(json.dumps(stored))
    notes = Notes()
    run(tmp_path / "set", "dm", settings, progress=notes)
    assert any("is finished already" in note for note in notes.notes)
    with pytest.raises(ConfigError, match=r"differs in settings\.distill\.student"):
        run(tmp_path / "set", "dm", settings, settings={"distill.student": "convnet:width=2"})
