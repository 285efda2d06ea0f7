"""What each row of results.json is measured on, by hand; and that what chooses looks at no test image."""

from dataclasses import replace

import pytest
import torch

from distillkit.artifact.views import eight_bit
from distillkit.data.coresets import select_coreset
from distillkit.records import EvalReport, SyntheticSet
from distillkit.stages import evaluation
from distillkit.stages.context import Prepared, prepare
from distillkit.stages.importing import _searched_lr
from distillkit.stages.length import chosen_length
from tests.helpers import TINY, made


@pytest.fixture
def prepared_run():
    """A run of digits, its data, and a set of noise with soft labels."""
    run = made(TINY)
    prepared, drawn = prepare(run), torch.Generator().manual_seed(0)
    count, classes = run.settings.ipc * prepared.num_classes, prepared.num_classes
    ids = torch.arange(classes).repeat_interleave(run.settings.ipc)
    images = torch.randn(count, *prepared.image_shape, generator=drawn)
    return run, prepared, SyntheticSet(images, torch.randn(count, classes, generator=drawn), ids, 0.03, "logits")


@pytest.fixture
def seen(prepared_run, monkeypatch):
    """What the networks of a row are trained on: the images and labels of networks 0 and 1, and what is asked."""
    run, prepared, synthetic = prepared_run

    def of(name):
        found = []

        def watched(build, training, exam, recipe, *rest, **named):
            each = [training(index) if callable(training) else training for index in (0, 1)]
            found.append((each, exam))
            return EvalReport((0.5,), {"lr": recipe.lr})

        monkeypatch.setattr(evaluation, "evaluate_networks", watched)
        exam = prepared.test(run.device)
        evaluation._row(run, prepared, synthetic, exam, name, lambda: pytest.fail("no row here asks experts"))
        (each, asked), *more = found
        assert (more, asked) == ([], exam)
        return each

    return of


def test_set__is_the_images_with_their_soft_labels(prepared_run, seen):
    _, _, synthetic = prepared_run
    for training in seen("set"):
        assert torch.equal(training.images, synthetic.images)
        assert torch.allclose(training.targets, synthetic.labels.softmax(1))


def test_float16__is_the_images_as_sixteen_bits_keep_them(prepared_run, seen):
    _, _, synthetic = prepared_run
    training = seen("float16")[0]
    assert torch.equal(training.images, synthetic.images.half().float())
    assert not torch.equal(training.images, synthetic.images)


def test_uint8__is_the_8_bit_view_as_a_network_sees_it(prepared_run, seen):
    _, prepared, synthetic = prepared_run
    view = eight_bit(synthetic, prepared.preprocess)
    pixels = view.low + (view.high - view.low) * view.images.float() / 255
    training = seen("uint8")[0]
    assert torch.allclose(training.images, prepared.preprocess(pixels), atol=1e-5)
    assert not torch.allclose(training.images, synthetic.images, atol=1e-4)
    assert torch.allclose(training.targets, synthetic.targets(), atol=1e-2)


def test_hard_labels__is_the_same_images_with_one_class_each(prepared_run, seen):
    _, _, synthetic = prepared_run
    for training in seen(evaluation.HARD):
        assert torch.equal(training.images, synthetic.images)
        assert torch.equal(training.targets, synthetic.class_ids)


def test_random__is_other_real_images_for_each_network(prepared_run, seen):
    run, prepared, synthetic = prepared_run
    first, second = seen("random")
    assert not torch.equal(first.images, second.images)
    for training in (first, second):
        assert training.targets.bincount().tolist() == [run.settings.ipc] * prepared.num_classes
        for image, label in zip(training.images, training.targets, strict=True):
            same = (prepared.train_images[:] == image).flatten(1).all(1)
            assert int(label) in prepared.train_labels[same].tolist()
    assert len(first.images) == len(synthetic.images)


def test_kmeans__is_one_coreset_for_all_networks(prepared_run, seen):
    run, prepared, _ = prepared_run
    first, second = seen("kmeans")
    images, labels = prepared.train_images, prepared.train_labels
    rows = select_coreset("kmeans", images, labels, prepared.num_classes, run.settings.ipc, run.settings.seed, 0)
    assert torch.equal(first.images, images[rows])
    assert torch.equal(second.images, first.images)
    assert torch.equal(first.targets, labels[rows])


def test_full__is_all_training_images(prepared_run, seen):
    _, prepared, _ = prepared_run
    training = seen("full")[0]
    assert torch.equal(training.images[:], prepared.train_images[:])
    assert torch.equal(training.targets, prepared.train_labels)


def test_choices__of_a_length_and_of_an_imports_learning_rate_look_at_no_test_image(prepared_run, monkeypatch):
    run, prepared, synthetic = prepared_run
    monkeypatch.setattr(Prepared, "test", lambda *arguments: pytest.fail("test images were asked for"))
    lengths = run.settings.evaluate.model_copy(update={"lengths": (2, 3)})
    run = replace(run, settings=run.settings.model_copy(update={"evaluate": lengths}))
    assert chosen_length(run, prepared, synthetic)["chosen"] in (2, 3)
    assert _searched_lr(run, prepared, synthetic) > 0
