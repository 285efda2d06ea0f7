"""Baselines of real images are trained at the learning rate that validation prefers; test data choose nothing."""

import pytest
import torch

from distillkit import compress
from distillkit.config import compose
from distillkit.methods import SettingsLayer
from distillkit.progress import Silent
from distillkit.records import EvalReport
from distillkit.stages import evaluation, validation
from distillkit.stages.context import Prepared, make_run, prepare


class Counts(Silent):
    """Steps of each stage: announced, and done."""

    def __init__(self):
        self.stages = {}

    def stage(self, title, total, done=0):
        self.last = self.stages[title] = [total, done]

    def advance(self, steps=1, **values):
        self.last[1] += steps


@pytest.mark.parametrize("together", [1, 2])
def test_full_row__tells_of_every_pass_over_all_images(tmp_path, tiny, together):
    more = {"evaluate.baselines": ["full"], "evaluate.full_networks": 3, "evaluate.full_epochs": 4}
    settings = {**tiny, **more, "evaluate.together": together}
    for again in range(2):  # measured, and from the cache
        counts, out = Counts(), tmp_path / f"{again}"
        arguments = {"ipc": 1, "method": "mtt", "preset": "smoke", "device": "cpu", "progress": counts}
        compress("digits", settings=settings, out=out, **arguments)
        assert counts.stages["evaluating full"] == [12, 12]


@pytest.fixture
def preferred(tiny, monkeypatch):
    """The lr that a baseline gets where fresh networks do best at ``best``, and the rates that were tried."""

    def choose(best, learned=0.02, **settings):
        layers = [SettingsLayer("test", {**tiny, "distill.lr_init": 0.01, **settings})]
        run = make_run(compose("digits", 1, "mtt", "smoke", "cpu", layers), torch.device("cpu"))
        prepared, tried = prepare(run), []

        def evaluate(build, training, exam, recipe, seed, networks, **named):
            assert exam is prepared.validation
            assert networks == max(run.settings.distill.select_networks, min(3, run.settings.evaluate.networks))
            tried.append(recipe.lr)
            return EvalReport((1 - abs(recipe.lr - best),))

        monkeypatch.setattr(validation, "evaluate_networks", evaluate)
        monkeypatch.setattr(Prepared, "test", lambda *arguments: pytest.fail("test images were asked for"))
        training = evaluation._coreset(run, prepared, "random")
        return evaluation._baseline_lr(run, prepared, training, learned), tried

    return choose


@pytest.mark.parametrize("networks", [1, 2, 5])
@pytest.mark.parametrize("best", [0.02, 0.01, 0.03])
def test_baseline_lr__the_learned_the_initial_or_thrice_that(preferred, best, networks):
    chosen, tried = preferred(best, **{"evaluate.networks": networks, "distill.select_networks": 1})
    assert chosen == pytest.approx(best)
    assert tried == pytest.approx([0.02, 0.01, 0.03])
    assert len(tried) == evaluation.BASELINE_LRS


def test_baseline_lr__a_given_one_is_taken_unasked(preferred):
    assert preferred(0.01, learned=0.5, **{"evaluate.lr": 0.5}) == (0.5, [])
