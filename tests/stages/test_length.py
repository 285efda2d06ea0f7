"""Which number of epochs is chosen."""

from dataclasses import replace

import pytest

from distillkit.data.augment import Augmentation
from distillkit.evaluation.recipe import full_data_recipe
from distillkit.settings import EvaluateSettings
from distillkit.stages.context import prepare
from distillkit.stages.evaluation import full_row_path
from distillkit.stages.length import shortest_as_good
from distillkit.training.batches import batch_sizes
from tests.helpers import TINY, made


@pytest.mark.parametrize(
    ("accuracies", "images", "chosen"),
    [
        ({300: 0.6324, 600: 0.6315, 1000: 0.6319, 3000: 0.6337}, 5000, 300),  # one standard error is 0.68 points
        ({300: 0.60, 1000: 0.63, 3000: 0.6337}, 5000, 1000),
        ({300: 0.6324, 3000: 0.6337}, 500_000, 3000),  # 0.068 points
        ({3000: 0.5, 300: 0.5 - 0.05}, 100, 300),  # at the edge, in any order
        ({10: 1.0, 20: 1.0}, 50, 10),
        ({10: 0.98, 20: 1.0}, 50, 20),  # no error is left at 100 %
    ],
)
def test_shortest_as_good__is_within_one_standard_error_of_the_best(accuracies, images, chosen):
    assert shortest_as_good(accuracies, images) == chosen


def test_full_data_recipe__has_the_fields_batches_where_a_small_set_is_one_batch():
    recipe = full_data_recipe(
        EvaluateSettings(batch_size=10_000, optimizer="adam", full_lr=0.001), Augmentation(("flip",)), 45_000
    )
    assert (recipe.batch_size, recipe.epochs, recipe.lr) == (256, 50, 0.001)
    assert full_data_recipe(EvaluateSettings(batch_size=64), None, 10).batch_size == 64


@pytest.mark.parametrize(
    ("images", "batch", "epochs"),
    [
        (90, 128, 1000),  # one batch
        (513, 128, 250),  # four batches, since a single image joins one
        (5_000, 250, 50),  # twenty, as many steps as are asked for
        (45_000, 256, 50),
    ],
)
def test_full_data_recipe__few_images_are_passed_over_more_often_by_smaller_batches(images, batch, epochs):
    recipe = full_data_recipe(EvaluateSettings(full_epochs=50, full_steps=1000), None, images)
    assert (recipe.batch_size, recipe.epochs) == (batch, epochs)
    assert recipe.epochs * len(batch_sizes(images, recipe.batch_size)) == max(1000, 50 * -(-images // 256))
    assert full_data_recipe(EvaluateSettings(full_epochs=50), None, images).batch_size == 256  # no steps are asked for


def test_full_row_path__tells_sizes_of_batches_apart():
    run = made(TINY, **{"evaluate.full_epochs": 12, "evaluate.full_steps": 1000})
    prepared = prepare(run)
    recipe = full_data_recipe(run.settings.evaluate, None, len(prepared.train_labels))
    same_passes = run.settings.evaluate.model_copy(update={"full_epochs": recipe.epochs, "full_steps": 1})
    by_larger = replace(run, settings=run.settings.model_copy(update={"evaluate": same_passes}))
    assert full_data_recipe(same_passes, None, len(prepared.train_labels)).epochs == recipe.epochs
    assert full_row_path(run, prepared) != full_row_path(by_larger, prepared)


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [
        ("seed", 1, False),
        ("evaluate.optimizer", "adam", False),
        ("evaluate.momentum", 0.5, False),
        ("evaluate.weight_decay", 0.1, False),
        ("evaluate.full_lr", 0.3, False),
        ("evaluate.full_epochs", 7, False),
        ("evaluate.full_networks", 2, False),
        ("evaluate.augment", False, False),
        ("dataset.augmentation", "crop", False),
        ("dataset.split_seed", 1, False),
        ("network.width", 5, False),
        ("precision", "fp32", True),
        ("evaluate.networks", 7, True),
        ("evaluate.epochs", 9, True),
        ("evaluate.uint8", False, True),
        ("distill.outer_steps", 9, True),
    ],
)
def test_full_row_path__tells_apart_what_makes_another_figure_and_nothing_else(key, value, same):
    plain, other = made({**TINY, "precision": "fp32"}), made({**TINY, "precision": "fp32"}, **{key: value})
    assert (full_row_path(plain, prepare(plain)) == full_row_path(other, prepare(other))) == same
