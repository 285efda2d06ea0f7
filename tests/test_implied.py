"""What follows from a user's words and from the kind of data, for settings that a method or preset chose."""

import pytest

from distillkit.config import compose
from distillkit.data.registry import DATASETS
from distillkit.methods import METHODS, SettingsLayer


def composed(dataset, method, preset="quick", ipc=1, **given):
    layers = [SettingsLayer("--set", {key.replace("__", "."): value for key, value in given.items()}, asked=True)]
    return compose(dataset, ipc, method, preset, "cpu", layers)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", ["quick", "smoke", "paper"])
@pytest.mark.parametrize("ipc", [1, 10])
def test_no_method_mirrors_images_of_data_that_are_not_to_be(method, preset, ipc):
    for name, known in DATASETS.items():
        if preset == "paper" and METHODS[method].published is not None:
            from distillkit.methods import Problem

            if METHODS[method].published(Problem(name, ipc, "cpu", known.num_classes)) is None:
                continue
        strategy = composed(name, method, preset, ipc).settings.dataset.augmentation.split("_")
        assert "flip" not in strategy or "flip" in known.augmentation.split("_"), name


def test_user__may_mirror_whatever_they_like():
    assert composed("digits", "rat", dataset__augmentation="flip").settings.dataset.augmentation == "flip"
    assert composed("photos", "rat").settings.dataset.augmentation == "flip_rotate"


@pytest.mark.parametrize(
    ("given", "student"),
    [
        ({}, "convnet:width=32"),
        ({"network__width": 128}, "convnet:width=32"),
        ({"network__depth": 2}, "convnet:width=32"),
        ({"network__width": 32}, None),
        ({"network__width": 16}, None),
        ({"network__name": "resnet18"}, None),
        ({"network__name": "resnet18", "distill__student": "convnet:width=8"}, "convnet:width=8"),
    ],
)
def test_students__are_of_the_network_that_was_asked_for_unless_they_are_narrower(given, student):
    assert composed("cifar10", "rat", **given).settings.distill.student == student


def test_epochs__that_are_given_are_the_length():
    assert composed("cifar10", "rat").settings.evaluate.lengths == (100, 300)
    found = composed("cifar10", "rat", evaluate__epochs=1000)
    assert (found.settings.evaluate.epochs, found.settings.evaluate.lengths) == (1000, ())
    assert found.origins["evaluate.lengths"] == "follows from other settings"
    both = composed("cifar10", "rat", evaluate__epochs=1000, evaluate__lengths=(5, 9))
    assert both.settings.evaluate.lengths == (5, 9)


def test_statistics__go_with_standardising_alone():
    published = composed("cifar10", "mtt", "paper", 50).settings.dataset
    assert published.mean is not None
    white = composed("cifar10", "mtt", "paper", 50, dataset__preprocessing="zca").settings.dataset
    assert (white.mean, white.std) == (None, None)
    given = composed("cifar10", "rat", dataset__mean=(0.5,) * 3, dataset__std=(0.2,) * 3).settings.dataset
    assert given.preprocessing == "standardise"
