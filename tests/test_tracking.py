"""Experiment trackers, with stand-ins for their packages: what they are told, and that they are closed."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from distillkit import DistillkitError
from distillkit.distill import loop
from tests.helpers import run


class Told:
    """What a stand-in was told."""

    def __init__(self):
        self.steps, self.opened, self.closed = {}, {}, 0

    def note(self, step, values):
        self.steps.setdefault(step, {}).update(values)

    def close(self):
        self.closed += 1


def module(monkeypatch, name, **content):
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    for key, value in content.items():
        setattr(made, key, value)
    monkeypatch.setitem(sys.modules, name, made)


@pytest.fixture(params=["wandb", "tensorboard"])
def tracker(request, monkeypatch):
    """The tracker's name, and what it was told."""
    told = Told()

    class Run:
        def log(self, values, step):
            told.note(step, values)

        def finish(self):
            told.close()

    class SummaryWriter:
        def __init__(self, folder):
            told.opened = {"dir": folder}

        def add_scalar(self, name, value, step):
            told.note(step, {name: value})

        def close(self):
            told.close()

    def init(**given):
        told.opened = given
        return Run()

    module(monkeypatch, "wandb", init=init)
    module(monkeypatch, "tensorboard")
    module(monkeypatch, "torch.utils.tensorboard", SummaryWriter=SummaryWriter)
    return request.param, told


def test_tracker__hears_every_outer_step_and_validation_and_is_closed(tracker, tmp_path, tiny):
    name, told = tracker
    ds = run(tmp_path / "set", tiny, method="mtt", tracker=name)
    assert set(told.steps) >= {1, 2, 3, 4}
    assert all(values["loss"] >= 0 and values["lr"] > 0 for step, values in told.steps.items() if step > 0)
    chosen = told.steps[ds.results["selection"]["step"]]
    assert chosen["validation_accuracy"] == pytest.approx(ds.results["selection"]["validation_accuracy"])
    assert str(told.opened["dir"]).startswith(str(tmp_path / "set" / "run"))
    if name == "wandb":
        assert told.opened["config"]["method"] == "mtt"
    assert told.closed == 1


def test_tracker__is_closed_after_an_error(tracker, tmp_path, tiny, monkeypatch):
    name, told = tracker

    def fail(*given, **named):
        raise DistillkitError("as a test has it")

    monkeypatch.setattr(loop, "outer_step", fail)
    with pytest.raises(DistillkitError, match="as a test has it"):
        run(tmp_path / "set", tiny, method="mtt", tracker=name)
    assert (bool(told.opened), told.closed) == (True, 1)
