"""Networks side by side end where they end alone: same seeds, same data order, same augmentation, every recipe part."""

import shutil

import pytest
import torch
from torch import nn

from distillkit.data.augment import Augmentation
from distillkit.errors import ConfigError
from distillkit.evaluation import protocol
from distillkit.evaluation.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.experts.recipe import expert_recipe
from distillkit.experts.train import ExpertData, fit_experts
from distillkit.networks.build import build_network
from distillkit.settings import ExpertSettings, NetworkSettings
from distillkit.training import stack
from distillkit.training.stack import TrainingForm, stackable
from tests.helpers import run

NETWORK = NetworkSettings(width=4, depth=2)
DSA = Augmentation.parse("color_crop_cutout_flip_scale_rotate")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
RECIPES = {
    "momentum and a drop": {"momentum": 0.9, "weight_decay": 0.01, "lr_drop_epochs": (2,)},
    "gsam": {"optimizer": "gsam", "sharpness_radius": 0.1, "gap_weight": 0.3},
    "gsam, not adaptive": {"optimizer": "gsam", "sharpness_radius": 0.1, "adaptive": False},
    "clipping and penalty": {"loss": "clipping-gradient-penalty", "penalty_weight": 0.5},
    "one-sided penalty": {"loss": "gradient-penalty", "penalty": "one-sided-loss", "penalty_weight": 5.0},
}


def data(n=22):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.arange(n) % 3
    return ExpertData(images, labels, images[:9], labels[:9], 3)


def experts(settings, groups, form=TrainingForm()):  # noqa: B008 - it is frozen
    """Snapshots [T, P] and curve by expert, trained in groups; the last batch of an epoch is a short one."""
    recipe = expert_recipe(ExpertSettings(**{"epochs": 3, "batch_size": 8, "lr": 0.1, **settings}), DSA)
    found = {}
    for group in groups:
        snapshots = [[] for _ in group]
        keep = [lambda epoch, parameters, own=own: own.append(parameters) for own in snapshots]
        runs = fit_experts(group, data(), NETWORK, recipe, 0, keep, lambda loss, accuracy: None, form, nn.Module.double)
        found |= {index: (torch.stack(own), one.curve) for index, own, one in zip(group, snapshots, runs, strict=True)}
    return found


def assert_same(found, alone, tolerance):
    for index, (snapshots, curve) in alone.items():
        moved = (snapshots[-1] - snapshots[0]).norm()
        assert float((found[index][0] - snapshots).norm() / moved) < tolerance
        assert found[index][1]["loss"] == pytest.approx(curve["loss"], rel=tolerance)
        assert found[index][1]["validation_accuracy"] == curve["validation_accuracy"]


@pytest.mark.parametrize("name", RECIPES)
def test_experts__side_by_side_end_where_they_end_alone(name):
    alone = experts(RECIPES[name], [[0], [1], [2]])
    assert float((alone[0][0] - alone[1][0]).norm()) > 0.1
    assert_same(experts(RECIPES[name], [[0, 2], [1]]), alone, 1e-9)


@needs_compiler
def test_experts__compiled():
    settings = {"loss": "clipping", "momentum": 0.9, "batch_size": 22}
    alone = experts(settings, [[0], [1]])
    assert_same(experts(settings, [[0, 1]], TrainingForm(2, compiled=True, must=True)), alone, 1e-9)


def test_experts__what_cannot_be_compiled_is_trained_eagerly_and_says_so(monkeypatch):
    def no_compiler(function, **options):
        def fail(*arguments):
            raise RuntimeError("no g++ here\nand more lines")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    notes = []
    found = experts({}, [[0, 1]], TrainingForm(2, compiled=True, note=notes.append))
    assert notes == ["the training step cannot be compiled here (RuntimeError: no g++ here); training eagerly"]
    assert_same(found, experts({}, [[0], [1]]), 1e-9)
    with pytest.raises(ConfigError, match=r"compile=always, but the training step cannot be compiled here \(Runtime"):
        experts({}, [[0, 1]], TrainingForm(2, compiled=True, must=True))


def test_evaluation__fewer_at_a_time_where_memory_ends(monkeypatch):
    sizes, notes = [], []

    def too_many(build, training, exam, recipe, seed, indices, form, after_epoch):
        sizes.append(len(indices))
        if len(indices) > 2:
            raise torch.OutOfMemoryError
        return [0.5] * len(indices)

    monkeypatch.setattr(protocol, "train_and_score_together", too_many)
    whole = data()
    sets, exam = TrainingSet(whole.images, whole.labels), Examination(whole.images, whole.labels)

    def build(index):
        return build_network(NETWORK, (1, 8, 8), 3, 0, "t", index)

    recipe = expert_recipe(ExpertSettings(epochs=1), None)
    found = evaluate_networks(build, sets, exam, recipe, 0, 5, form=TrainingForm(5, note=notes.append))
    assert (sizes, len(found.accuracies)) == ([5, 2, 2, 1], 5)
    assert notes == ["5 networks at once do not fit into memory; taking 2"]


@pytest.mark.parametrize("own_sets", [False, True])
def test_evaluation__side_by_side_scores_as_one_by_one(own_sets):
    whole, recipe = data(), expert_recipe(ExpertSettings(epochs=6, batch_size=4, lr=0.05, momentum=0.9), DSA)
    targets = nn.functional.one_hot(whole.labels, 3).double()

    def training(index):
        chosen = torch.randperm(22, generator=torch.Generator().manual_seed(index if own_sets else 0))[:10]
        return TrainingSet(whole.images[chosen], targets[chosen])

    exam = Examination(whole.images, whole.labels)

    def build(index):
        return build_network(NETWORK, (1, 8, 8), 3, 0, "t", index).double()

    heard = []
    one_by_one = evaluate_networks(build, training, exam, recipe, 0, 5)
    together = evaluate_networks(build, training, exam, recipe, 0, 5, heard.append, form=TrainingForm(2))
    assert len(set(one_by_one.accuracies)) > 1
    assert together == one_by_one
    assert heard == list(together.accuracies)


def test_stackable__no_state_but_parameters_and_no_randomness():
    assert stackable(build_network(NETWORK, (1, 8, 8), 3, 0, "t"))
    assert not stackable(build_network(replace_norm("batch"), (1, 8, 8), 3, 0, "t"))
    assert not stackable(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)))


def replace_norm(norm):
    return NETWORK.model_copy(update={"norm": norm})


def test_evaluation__networks_with_batch_statistics_are_trained_one_by_one():
    whole, recipe = data(), expert_recipe(ExpertSettings(epochs=2, batch_size=4), None)
    sets = TrainingSet(whole.images, whole.labels)

    def build(index):
        return build_network(replace_norm("batch"), (1, 8, 8), 3, 0, "t", index).double()

    exam = Examination(whole.images, whole.labels)
    assert evaluate_networks(build, sets, exam, recipe, 0, 2, form=TrainingForm(2)) == evaluate_networks(
        build, sets, exam, recipe, 0, 2
    )


def test_compress__experts_and_networks_side_by_side(tmp_path, tiny, monkeypatch):
    sizes, plain = [], stack.Stack.__init__
    monkeypatch.setattr(
        stack.Stack, "__init__", lambda self, models, *rest: sizes.append(len(models)) or plain(self, models, *rest)
    )
    tiny |= {"distill.select_networks": 3}
    tiny |= {"precision": "fp32"}  # rounding to bfloat16 is another one side by side
    settings = {"experts.count": 3, "experts.together": 2, "evaluate.together": 3}
    alone = run(tmp_path / "a", {**tiny, "experts.count": 3})
    assert sizes == []
    together = run(tmp_path / "b", {**tiny, **settings})  # another form, so experts of its own
    assert sizes[0] == 2  # experts 0 and 1; number 2 alone is trained as ever
    assert set(sizes[1:]) == {2, 3}  # networks of a row, of a validation
    assert torch.allclose(together.images, alone.images, atol=1e-4)
    rows = [ds.results["architectures"]["convnet"]["accuracies"] for ds in (together, alone)]
    assert rows[0] == pytest.approx(rows[1], abs=0.1)
