"""What is counted of each stage, by hand."""

import pytest
import torch

from distillkit.config import compose
from distillkit.methods import SettingsLayer
from distillkit.stages.context import make_run, prepare
from distillkit.stages.costs import Costs, StageCost, dealt_costs, share, stage_costs
from distillkit.stages.step_times import expert_seconds
from tests.helpers import made


def test_stage_costs__count_the_networks_that_choose_the_baselines_learning_rates(tiny):
    settings = {
        "evaluate.baselines": ["random", "kmeans", "full"],
        "evaluate.networks": 4,
        "distill.select_networks": 2,
    }
    costs = Costs(1.0, 1.0, 1.0, {})

    def counts(method, **changes):
        layers = [SettingsLayer("test", {**tiny, **settings, **changes})]
        asked = make_run(compose("digits", 1, method, "smoke", "cpu", layers), torch.device("cpu"))
        return {stage.name: stage.steps for stage in stage_costs(asked, costs)}

    found = counts(
        "mtt"
    )  # the set, its 8-bit view, random, k-means; two baselines at three rates, by three networks each
    assert (found["evaluation networks"], found["baselines' validation networks"]) == (4 * 4, 2 * 3 * 3)
    more = counts("mtt", **{"distill.select_networks": 5})
    assert more["baselines' validation networks"] == 2 * 3 * 5
    soft = counts("datm")  # hard labels too, and random images with the experts' labels, a third baseline
    assert (soft["evaluation networks"], soft["baselines' validation networks"]) == (6 * 4, 3 * 3 * 3)
    assert "baselines' validation networks" not in counts("mtt", **{"evaluate.lr": 0.01})


def test_expert_seconds__an_epoch_of_few_images_is_one_step(tiny, monkeypatch):
    """A batch is never more than there are images: 60 of them are one step, not a quarter of one."""
    monkeypatch.setattr("distillkit.stages.step_times._step_seconds", lambda *given: 3.0)
    for count, batch, steps in ((60, 256, 1.0), (60, 20, 3.0), (60, 40, 1.5)):
        asked = made(
            tiny, **{"dataset.max_train": count, "dataset.validation_fraction": 0.0, "experts.batch_size": batch}
        )
        prepared = prepare(asked)
        assert expert_seconds(asked, prepared, {0: 2}) == pytest.approx(3.0 * steps * len(prepared.train_labels) / 60)


def test_processes__share_experts_students_and_networks(tiny):
    assert [share(pieces, 4) for pieces in (1, 4, 5, 8)] == [1.0, 0.25, 0.4, 0.25]
    asked = made(tiny, **{"distill.segments": 4, "experts.count": 5, "distill.select_networks": 3}).settings
    costs = Costs(10.0, 8.0, 3.0, dict.fromkeys(range(5), 2))
    dealt = dealt_costs(asked, costs, 2)
    assert (dealt.expert_epoch, dealt.outer_step, dealt.fresh_network) == (6.0, 4.0, 2.0)  # 3 of 5, 2 of 4, 2 of 3
    stage = StageCost("expert epochs", 10, 10.0, 5)
    assert [stage.seconds(processes) for processes in (1, 2, 5, 99)] == [100, 60, 20, 20]
