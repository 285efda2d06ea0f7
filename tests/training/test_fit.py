import pytest
import torch
from torch import nn

from distillkit.data.augment import Augmentation
from distillkit.evaluation.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.evaluation.recipe import default_drop, evaluation_recipe, recipe_from_json, recipe_json
from distillkit.records import EvalReport
from distillkit.settings import EvaluateSettings
from distillkit.training.fit import accuracy, fit
from distillkit.training.recipe import Recipe, Sgd, cross_entropy, shuffle


def recipe(**changes):
    values = {"epochs": 3, "batch_size": 4, "lr": 0.1, "optimizer": Sgd(), "loss": cross_entropy, "order": shuffle}
    return Recipe(**{**values, **changes})


def linear():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))


def test_fit__an_epoch_sees_every_image_once_and_drops_the_lr_with_fresh_momentum():
    seen, made = [], []

    def loss(model, batch, scale):
        seen.append((scale, batch.clean.flatten().tolist()))
        return cross_entropy(model, batch, scale)

    def optimizer(parameters, lr):
        made.append(lr)
        return Sgd(0.9)(parameters, lr)

    images = torch.arange(10.0).view(10, 1, 1, 1).expand(-1, 1, 2, 2)
    rates = [
        s.lr
        for s in fit(
            linear(),
            images,
            torch.arange(10) % 3,
            recipe(loss=loss, optimizer=optimizer, lr_drop_epochs=(2,), loss_scale=float),
            0,
            "t",
        )
    ]
    assert rates == pytest.approx([0.1, 0.1, 0.01])
    assert made == pytest.approx([0.1, 0.01])
    for epoch in range(3):
        values = sorted(value for e, chunk in seen if e == epoch for value in chunk)
        assert values == sorted(float(i) for i in range(10) for _ in range(4))
    assert seen[0][1] != seen[3][1]


def test_fit__clean_and_augmented_images_reach_the_loss():
    pairs = []

    def loss(model, batch, scale):
        pairs.append((batch.images, batch.clean))
        return cross_entropy(model, batch, scale)

    images = torch.randn(4, 1, 2, 2)
    list(
        fit(
            linear(),
            images,
            torch.tensor([0, 1, 2, 0]),
            recipe(loss=loss, augmentation=Augmentation(("color",))),
            0,
            "t",
        )
    )
    assert all(not torch.equal(a, b) for a, b in pairs)


def test_fit__hard_ids_and_one_hot_probabilities_are_the_same():
    images, ids = torch.randn(6, 1, 2, 2), torch.tensor([0, 1, 2, 2, 1, 0])
    results = []
    for targets in (ids, torch.eye(3)[ids]):
        model = linear()
        list(fit(model, images, targets, recipe(), 0, "t"))
        results.append(model[1].weight.detach())
    assert torch.allclose(*results, atol=1e-6)


def test_fit__dropout_repeats():
    def trained():
        torch.manual_seed(torch.randint(1000, ()).item())
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3))
        images = torch.ones(8, 1, 2, 2)
        list(fit(model, images, torch.arange(8) % 3, recipe(), 0, "t"))
        return model[2].weight.detach()

    assert torch.equal(trained(), trained())


def test_default_drop__is_the_released_one():
    assert default_drop(1001) == (502,)  # range(1001), lr dropped after epoch index 501
    assert evaluation_recipe(EvaluateSettings(), 0.02, None).lr_drop_epochs == (502,)


def test_recipe_json__comes_back():
    settings = EvaluateSettings(epochs=7, momentum=0.8)
    made = evaluation_recipe(settings, 0.02, Augmentation.parse("crop_flip"))
    again = recipe_from_json(recipe_json(made, settings, "crop_flip", {"name": "convnet"}))
    assert again == made
    plain = evaluation_recipe(settings, 0.02, None)
    assert recipe_from_json(recipe_json(plain, settings, "crop_flip", {})).augmentation is None


def test_evaluate_networks__reads_the_last_epoch_once_and_gives_each_network_its_own_set():
    images = torch.randn(12, 1, 2, 2)
    exam = Examination(images, torch.arange(12) % 3)
    used = []

    def training(index):
        used.append(index)
        return TrainingSet(images[:6], torch.arange(6) % 3)

    report = evaluate_networks(lambda index: linear(), training, exam, recipe(), 0, 3)
    assert used == [0, 1, 2]
    model = linear()
    list(fit(model, images[:6], torch.arange(6) % 3, recipe(), 0, "evaluate", 1))
    assert report.accuracies[1] == accuracy(model, exam.images, exam.labels)


def test_report__sample_standard_deviation():
    report = EvalReport((0.5, 0.7, 0.9), {"lr": 0.1})
    assert report.mean == pytest.approx(0.7)
    assert report.std == pytest.approx(0.2)
    assert EvalReport((0.5,)).std == 0.0
    assert EvalReport.from_json(report.to_json()) == report
