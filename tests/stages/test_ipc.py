"""More images a class than a class has: which classes, where their images went, and the ways on."""

import pytest
import torch

from distillkit.cli.app import compress as app_compress
from distillkit.cli.flags import Flags
from distillkit.errors import ConfigError
from distillkit.records import ImageSet, SourceData, SourceInfo
from distillkit.settings import DatasetSettings, RunSettings
from distillkit.stages.ipc import check_ipc


def split(counts, classes):
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return ImageSet(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels, classes)


def refused(train, held, classes="abcd", test_split="test", **dataset):
    classes = tuple(classes)
    info = SourceInfo("x", "x", None, None, "train", test_split, "", "")
    data = SourceData(split(train, classes), split(held, classes), split(held, classes), info, torch.arange(sum(train)))
    settings = RunSettings(dataset=DatasetSettings(name="x", **dataset), ipc=10, method="random", preset="smoke")
    with pytest.raises(ConfigError) as error:
        check_ipc(data, settings)
    return str(error.value)


def test_names_the_classes_and_both_ways():
    said = refused([9, 50, 4, 50], [1, 5, 0, 5])
    assert said == (
        "`ipc=10` is more than 2 classes have: 'a' (9 training images), 'c' (4); a part is held out for validation "
        "(dataset.validation_fraction); use `ipc=4` or less, or leave out what is too small: "
        '`dataset.without_classes=["a", "c"]`'
    )


def test_nothing_is_held_out__nothing_is_said_of_it():
    said = refused([9, 50, 50, 50], [0, 0, 0, 0])
    assert said.startswith("`ipc=10` is more than a class has: 'a' (9 training images); use `ipc=9` or less")


@pytest.mark.parametrize(
    ("train", "limit", "acts"),
    [([9, 9, 9, 9], 40, True), ([9, 9, 9, 9], 400, False), ([3, 90, 90, 90], 277, False), ([3, 9, 9, 9], 34, True)],
)
def test_max_train_is_blamed_only_where_it_cuts_these_classes(train, limit, acts):
    assert ("dataset.max_train" in refused(train, [1, 1, 1, 1], max_train=limit)) == acts


def test_leaving_out_is_no_way_where_too_little_stays():
    said = refused([9, 9, 9, 50], [1, 1, 1, 1], test_split="none given: 20% of train, stratified, seed 0")
    assert "another for testing (dataset.test_fraction)" in said
    assert said.endswith("use `ipc=9` or less")


@pytest.mark.parametrize(
    ("first", "second", "flag"),
    [
        ("a, b", "it's", """--set 'dataset.without_classes=["a, b", "it'"'"'s"]'"""),
        ("big dog", "x", "--without-classes 'big dog,x'"),
        ("a`b", "x", "--without-classes 'a`b,x'"),
    ],
)
def test_names_with_commas_and_quotes_are_fit_for_a_shell(first, second, flag):
    said = refused([3, 3, 50, 50], [0] * 4, classes=(first, second, "c", "d"))
    assert Flags.of(app_compress).spoken(said).endswith(f"leave out what is too small: {flag}")
