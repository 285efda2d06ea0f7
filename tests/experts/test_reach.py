"""Experts as far as they are read, longer ones from shorter ones, and what a kill leaves: the same bytes always."""

import json
import random
import signal

import pytest
import torch

from distillkit import compress, storage
from distillkit.config import compose
from distillkit.errors import Interrupted
from distillkit.interrupt import StopRequest
from distillkit.lab import effective
from distillkit.methods import SettingsLayer
from distillkit.stages import workshop
from distillkit.stages.context import make_run, prepare
from distillkit.stages.experts import train_experts
from distillkit.stages.fingerprints import expert_setup
from distillkit.stages.reach import expert_reach
from distillkit.trajectories.store import TrajectoryStore, experts_root
from tests.helpers import Notes

SLOW = {"experts.count": 3, "experts.epochs": 6, "dataset.max_train": 120}
MOMENTUM = {"experts.momentum": 0.9, "experts.lr_drop_epochs": [4], "experts.weight_decay": 1e-3}


def settings_of(dataset, ipc, method, preset="paper", **changes):
    layers = [SettingsLayer("test", {key.replace("__", "."): value for key, value in changes.items()})]
    return compose(dataset, ipc, method, preset, "cpu", layers).settings


@pytest.mark.parametrize(  # the columns of the review that computed them by hand: epochs read of all, of those asked
    ("method", "ipc", "read", "asked"),
    [
        ("mtt", 1, 3, 0),
        ("mtt", 10, 21, 0),
        ("mtt", 50, 41, 0),
        ("ast", 1, 3, 1),
        ("ast", 50, 41, 1),
        ("datm", 1, 5, 10),
        ("datm", 10, 21, 10),
        ("datm", 1000, 61, 10),
        ("pad", 10, 21, 10),
        ("pad-released", 50, 42, 10),
    ],
)
def test_reach__published_rows(method, ipc, read, asked):
    settings = settings_of("cifar10", ipc, method)
    reach = expert_reach(settings)
    assert sorted(reach.epochs) == [read] * (settings.experts.count - asked) + [settings.experts.epochs] * asked
    assert set(reach.init) | set(reach.labels) == {
        index for index, epochs in enumerate(reach.epochs) if epochs == settings.experts.epochs and asked
    }


def test_reach__of_waypoints_is_the_segment_and_an_epoch_for_its_mean():
    changes = {"experts__epochs": 50, "trajectories__waypoint_epochs": [0, 6, 25, 50], "distill__expert_epochs": 5}
    near = settings_of("cifar10", 1, "mct", **changes, distill__max_start_epoch=1)
    assert set(expert_reach(near).epochs) == {7}  # 1 + 5 lies in the segment that ends at 6
    assert set(expert_reach(settings_of("cifar10", 1, "mct", **changes, distill__max_start_epoch=3)).epochs) == {26}
    assert set(expert_reach(settings_of("cifar10", 1, "mct", **changes, distill__max_start_epoch=44)).epochs) == {50}
    plain = settings_of("cifar10", 1, "mct", **changes, distill__max_start_epoch=1, trajectories__smooth=False)
    assert set(expert_reach(plain).epochs) == {6}
    end = settings_of("cifar10", 1, "mct", **changes, distill__max_start_epoch=1, experts__train_to="end")
    assert set(expert_reach(end).epochs) == {50}


def test_reach__parts_that_need_no_trajectory_train_those_that_are_asked():
    asks_one = {"distill__init": "correct", "experts__count": 3}
    reach = expert_reach(settings_of("digits", 1, "rat", "quick", **asks_one))
    assert (reach.epochs, reach.trained, reach.init) == ((20, 0, 0), (0,), (0,))


def make(out, tiny, method="mtt", **changes):
    own = effective({**tiny, **SLOW, **changes}, "digits", 1, method, "smoke")
    return compress("digits", ipc=1, method=method, preset="smoke", settings=own, out=out, device="cpu")


@pytest.mark.parametrize("method", ["mtt", "ast", "mct", "datm", "pad", "best"])
def test_compress__the_same_bytes_whether_experts_stop_where_they_are_read_or_go_on(
    method, tiny, tmp_path, monkeypatch
):
    sets = []
    for name, train_to in (("short", "auto"), ("long", "end")):
        monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / f"cache-{name}"))
        changes = {"experts.train_to": train_to, "experts.opinions": 1} | ({"trajectories.waypoints": 3})
        make(tmp_path / name, tiny, method, **changes)
        sets.append((tmp_path / name / "distilled.safetensors").read_bytes())
        (folder,) = (path.parent for path in experts_root().glob("*/setup.json"))
        store = TrajectoryStore.open(folder)
        trained = [store.record(index)["epochs"] for index in store.experts()]
        assert (min(trained) == 6) == (train_to == "end"), trained
    assert sets[0] == sets[1]


def prepared_run(tiny, method="mtt", stop=None, **changes):
    layers = [SettingsLayer("test", {**tiny, **SLOW, **changes})]
    run = make_run(compose("digits", 1, method, "smoke", "cpu", layers), torch.device("cpu"), Notes(), stop)
    return run, prepare(run)


def files(store):
    return {path.name: storage.sha256_file(path) for path in sorted(store.folder.glob("expert-*.safetensors"))}


KINDS = {
    "raw": ("mtt", {}),
    "raw, momentum and a drop": ("mtt", MOMENTUM),
    "gsam, momentum": ("datm", {**MOMENTUM, "experts.opinions": 1}),
    "data scheduler": (
        "pad",
        {
            "experts.opinions": 1,
            "experts.add_end_epoch": 2,
            "experts.remove_epochs": [3, 4],
            "experts.difficulty_epochs": 1,
        },
    ),
    "clipping and penalty": ("ast", {}),
    "convex": ("mct", {**MOMENTUM, "trajectories.waypoints": 3}),
    "convex and raw": ("mct", {"trajectories.waypoints": 3, "trajectories.keep_raw": True}),
    "side by side": ("mtt", {**MOMENTUM, "experts.together": 3}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_experts__longer_ones_go_on_from_shorter_ones_to_the_same_bytes(kind, tiny, tmp_path, monkeypatch):
    method, changes = KINDS[kind]
    run, prepared = prepared_run(tiny, method, **changes, **{"experts.train_to": "end"})
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "whole"))
    whole = files(train_experts(run, prepared))
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "grown"))
    shorter = train_experts(*prepared_run(tiny, method, **changes))
    assert files(shorter) != whole
    grown = train_experts(run, prepared)
    assert grown.folder == shorter.folder
    assert files(grown) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_experts__stopped_after_any_epoch_they_go_on_to_the_same_bytes(kind, tiny, tmp_path, monkeypatch):
    method, changes = KINDS[kind]
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "whole"))
    run, prepared = prepared_run(tiny, method, **changes, **{"experts.train_to": "end"})
    whole = train_experts(run, prepared)
    expected = files(whole)
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "stopped"))
    epochs, after = [], workshop.Workshop._after_epoch
    dice = random.Random(kind)

    def count(self, loss, accuracy):
        epochs.append(loss)
        if dice.random() < 0.4:
            self.run.stop.signal = signal.SIGTERM
        after(self, loss, accuracy)

    monkeypatch.setattr(workshop.Workshop, "_after_epoch", count)
    stops = 0
    while True:
        try:
            store = train_experts(*prepared_run(tiny, method, StopRequest(), **changes, **{"experts.train_to": "end"}))
            break
        except Interrupted:
            stops += 1
    assert stops > 2
    assert files(store) == expected
    assert len(epochs) <= 18 + stops * changes.get("experts.together", 1)  # not an epoch twice but what was cut short
    assert not list(store.folder.glob("training-*"))
    assert [store.record(index)["curve"] for index in range(3)] == [whole.record(index)["curve"] for index in range(3)]


def test_experts__of_an_older_version_are_taken_over(tiny, tmp_path, monkeypatch):
    """Version 0.4 told folders apart by the number of epochs."""
    run, prepared = prepared_run(tiny, **{"experts.train_to": "end"})
    store = train_experts(run, prepared)
    setup = {**store.setup, "recipe": {**store.setup["recipe"], "epochs": 6}}
    older = experts_root() / storage.fingerprint(setup)
    for index in store.experts():
        storage.write_json(store.record_path(index), store.record(index))  # which did not say whose they are
    store.folder.rename(older)
    storage.write_json(older / "setup.json", setup)
    for path in older.glob("*.state.safetensors"):
        path.unlink()
    monkeypatch.setattr(workshop, "fit_experts", None)
    again = train_experts(run, prepared)
    assert files(again) == files(TrajectoryStore.open(older))
    assert [again.state(index, 6) for index in range(3)] == ["good"] * 3


def test_experts__a_damaged_or_foreign_standing_begins_anew_and_says_so(tiny):
    run, prepared = prepared_run(tiny, **MOMENTUM)
    store = train_experts(run, prepared)
    store.state_path(1).write_bytes(b"x" * 200)
    longer, _ = prepared_run(tiny, **MOMENTUM, **{"experts.train_to": "end"})
    grown = train_experts(longer, prepared)
    assert [grown.record(index)["epochs"] for index in range(3)] == [6, 6, 6]
    folder = store.folder / "training-0003-0003"
    folder.mkdir()
    (folder / "standing.safetensors").write_bytes(b"no tensors")
    more, _ = prepared_run(tiny, **MOMENTUM, **{"experts.count": 4})
    assert train_experts(more, prepared).state(3) == "good"


def test_setup__does_not_depend_on_how_many_epochs_are_wanted_but_waypoints_do(tiny):
    def fingerprint(method, **changes):
        return storage.fingerprint(expert_setup(*prepared_run(tiny, method, **changes)))

    assert fingerprint("mtt") == fingerprint("mtt", **{"experts.epochs": 9, "experts.train_to": "end"})
    assert fingerprint("mtt") != fingerprint("mtt", **{"experts.lr": 0.5})
    assert fingerprint("mct") != fingerprint("mct", **{"experts.epochs": 9})
    json.dumps(expert_setup(*prepared_run(tiny, "mct")))
