"""A preset depends on the number of classes; of data that nobody knows by name it is found when they are read."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from distillkit import compress
from distillkit.config import compose
from distillkit.methods import SettingsLayer
from distillkit.methods.rat import lengths
from distillkit.stages.context import make_run, of_its_classes
from distillkit.training.batches import batch_sizes
from tests.helpers import TINY


def settled(dataset, classes, method="rat", **given):
    layers = [SettingsLayer("--set", given, asked=True)] if given else []
    run = make_run(compose(dataset, 10, method, "quick", "cpu", layers), torch.device("cpu"))
    return of_its_classes(run, SimpleNamespace(num_classes=classes))


@pytest.mark.parametrize("method", ["rat", "mtt", "best", "dsa"])
def test_data_without_a_name_are_set_up_as_registered_ones_of_as_many_classes(method):
    known, own = settled("cifar100", 100, method).settings, settled("some/photographs", 100, method).settings
    apart = {"distill", "evaluate", "network", "experts"}
    assert known.model_dump(include=apart) == own.model_dump(include=apart)


@pytest.mark.parametrize(("classes", "batch", "passes"), [(2, None, (100, 300)), (25, None, (100, 300))])
def test_lengths__of_sets_that_a_step_sees_whole(classes, batch, passes):
    found = settled("some/photographs", classes).settings
    assert (found.distill.batch_size, found.evaluate.lengths) == (batch, passes)


def test_lengths__a_single_image_that_is_left_over_makes_no_batch_of_its_own():
    for size, batch in ((257, 256), (258, 256), (256, 256), (513, 256), (7, 3), (5, 1), (1, None)):
        a_pass = len(batch_sizes(size, min(batch or size, size)))
        assert lengths((600,), size, batch) == (600 // a_pass,), (size, batch)


@pytest.mark.parametrize("classes", [26, 100, 1000])
def test_lengths__count_steps_of_larger_sets(classes):
    """A hundred and three hundred steps of a training, however many steps a pass takes."""
    found = settled("some/photographs", classes).settings
    assert found.distill.batch_size == found.evaluate.batch_size == 100
    a_pass = -(-10 * classes // 100)
    assert found.evaluate.lengths == tuple(dict.fromkeys(max(1, steps // a_pass) for steps in (100, 300)))
    assert found.evaluate.epochs == found.evaluate.lengths[0]


def test_what_the_user_gave_stays_and_which_images_are_used():
    run = settled("some/photographs", 100, **{"distill.batch_size": 64, "evaluate.lengths": [7]})
    assert (run.settings.distill.batch_size, run.settings.evaluate.lengths) == (64, (7,))
    assert run.asked == {"distill.batch_size", "evaluate.lengths"}
    before = compose("some/photographs", 10, "rat", "quick", "cpu").settings.dataset
    assert settled("some/photographs", 1000).settings.dataset == before


def test_compress__of_a_folder_takes_the_settings_of_its_classes(tmp_path):
    for label in range(14):
        (tmp_path / "own" / f"{label:02d}").mkdir(parents=True)
        for index in range(30):
            Image.new("RGB", (8, 8), (17 * label, 8 * index, 99)).save(
                tmp_path / "own" / f"{label:02d}" / f"{index}.png"
            )
    for ipc, batch in ((1, None), (19, 100)):
        made = compress(
            tmp_path / "own",
            ipc=ipc,
            method="mtt",
            preset="smoke",
            device="cpu",
            out=tmp_path / f"set{ipc}",
            settings={**TINY, "dataset.max_train": None, "evaluate.baselines": []},
        )
        assert made.config["settings"]["distill"]["batch_size"] == batch
