"""What a label column may hold, which classes it makes, and which of them are used."""

import re
from decimal import Decimal

import datasets
import numpy  # noqa: F401
import PIL.Image  # noqa: F401
import pytest

from distillkit.data.load import load_data
from distillkit.errors import ConfigError, DataError
from distillkit.settings import DatasetSettings
from tests.data.pictures import COLOURS, png, put, table
from tests.helpers import Notes


def load(folder, **settings):
    return load_data(DatasetSettings(name=str(folder), **settings), Notes())


def said(data):
    return "; ".join(data.info.notes)


def counts(data):
    """Images of each class in all splits."""
    return [
        sum(part)
        for part in zip(*(split.class_counts() for split in (data.train, data.validation, data.test)), strict=True)
    ]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["cat", "dog", "cat"], ("cat", "dog")),
        (["10", "9", "10"], ("9", "10")),
        ([True, False, True], ("False", "True")),
        ([0.0, 1.0, 2.0], ("0", "1", "2")),
        ([3.0, None, 7.0], ("3", "7")),
        ([-1, 1, -1], ("-1", "1")),
        ([-2, -1, 0], ("-2", "-1", "0")),
        ([b"cat", b"dog", b"cat"], ("cat", "dog")),
        ([[4], [6], [4]], ("4", "6")),
        ([Decimal(1), Decimal(2), Decimal(1)], ("1", "2")),
    ],
)
def test_labels__words_truth_values_and_whole_floats_are_classes(tmp_path, labels, classes):
    data = load(
        table(tmp_path / "set", labels * 4) if not isinstance(labels[0], list) else listed(tmp_path, labels * 4)
    )
    assert data.classes == classes
    assert sum(counts(data)) == 4 * sum(label is not None for label in labels)


def listed(tmp_path, labels):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "set").mkdir()
    cells = [{"bytes": png(COLOURS[label[0] % 4]), "path": None} for label in labels]
    pq.write_table(pa.table({"image": cells, "label": labels}), tmp_path / "set" / "train.parquet")
    return tmp_path / "set"


def test_labels__minus_one_among_others_is_no_label(tmp_path):
    data = load(table(tmp_path / "set", [0, 1, -1] * 4))
    assert data.classes == ("0", "1")
    assert "4 of 12 images of split 'train' have no class" in said(data)


def test_labels__colours_go_with_their_class(tmp_path):
    data = load(table(tmp_path / "set", ["wet", "dry"] * 6))  # wet is red, dry is green
    dry = data.train.images[data.train.labels == data.classes.index("dry")]
    assert dry[:, 0].max() == 0
    assert dry[:, 1].min() > 100


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, 1.0], r"whole numbers.*0\.5"),
        ([[1, 2], [3]], "one label an"),
        ([None, None], "have no labels"),
        (["a red dog", "a cat", "two cats"], "each of the 3 training images has a label of its own"),
    ],
)
def test_labels__what_can_be_no_class_is_refused(tmp_path, labels, message):
    folder = tmp_path / "set"
    folder.mkdir()
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": png(), "path": None}] * len(labels)
    pq.write_table(pa.table({"image": cells, "label": labels}), folder / "train.parquet")
    with pytest.raises(DataError, match=message):
        load(folder)


@pytest.mark.parametrize("name", ["labels", "Category", "class", "fine_label", "target", "class_name"])
def test_columns__of_usual_names_are_found(tmp_path, name):
    assert load(table(tmp_path / "set", [0, 1] * 4, name=name)).classes == ("0", "1")


def test_columns__label_goes_before_others_and_that_is_said(tmp_path):
    data = load(table(tmp_path / "set", [0, 1] * 4, name=("label", "category")))
    assert "labels are those of column 'label', not of category" in said(data)
    with pytest.raises(ConfigError, match=r"several label columns \(class, category\)"):
        load(table(tmp_path / "two", [0, 1] * 4, name=("class", "category")))


def test_columns__of_paths_or_pixels_get_the_line_that_converts(tmp_path):
    """And it does."""
    for name in ("a", "b"):
        put(tmp_path / f"{name}.png", COLOURS[name == "b"])
    paths = [str(tmp_path / f"{name}.png") for name in "ab"] * 4
    pixels = [[[position % 2 * 200] * 8] * 8 for position in range(8)]
    array = datasets.Features({"image": datasets.Array2D((8, 8), "uint8"), "label": datasets.Value("int64")})
    for column, features, message in ((paths, None, "holds text, not images"), (pixels, array, "holds numbers")):
        table = datasets.Dataset.from_dict({"image": column, "label": [0, 1] * 4}, features=features)
        folder = tmp_path / message.replace(" ", "")
        folder.mkdir()
        table.to_parquet(str(folder / "train.parquet"))
        with pytest.raises(ConfigError, match=message) as refused:
            load(folder, image_column="image")
        line = re.search(r"table\.\w+\(.*?disk\(\"images\"\)", str(refused.value))[0]
        eval(line.replace('"images"', repr(str(folder / "images"))))
        assert load(folder / "images").classes == ("0", "1")


def declared(tmp_path, train, test=None):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c", "d"])})
    (tmp_path / "set").mkdir()
    for split, labels in (("train", train), ("test", test)):
        if labels is not None:
            cells = [{"bytes": png(COLOURS[label]), "path": None} for label in labels]
            rows = datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features)
            rows.to_parquet(str(tmp_path / "set" / f"{split}.parquet"))
    return tmp_path / "set"


def test_classes__without_training_images_are_left_out_and_said(tmp_path):
    data = load(declared(tmp_path, [0, 2] * 6, [0, 1, 2, 1]))
    assert data.classes == ("a", "c")
    assert data.test.labels.tolist() == [0, 1]
    assert "classes without training images are left out: 'b', 'd'" in said(data)
    assert "2 of 4 images of split 'test' are of classes that are not used ('b')" in said(data)
    assert "no test image" not in said(data)


def test_classes__without_test_images_are_said(tmp_path):
    data = load(declared(tmp_path, [0, 1, 2] * 6, [0, 1, 1]))
    assert data.classes == ("a", "b", "c")
    assert "no test image is of class 'c': test accuracies are of the others" in said(data)


def test_classes__of_a_folder_only_in_test_are_left_out_and_said(tmp_path):
    for name in ("train/a", "train/b", "test/a", "test/b", "test/z"):
        for index in range(4):
            put(tmp_path / "set" / name / f"{index}.png")
    data = load(tmp_path / "set")
    assert data.classes == ("a", "b")
    assert len(data.test) == 8
    assert "left out: 'z'" in said(data)


def test_classes__can_be_chosen_in_an_order(tmp_path):
    folder = declared(tmp_path, [0, 1, 2, 3] * 5)
    data = load(folder, classes=("c", "a"))
    assert data.classes == ("c", "a")
    blue = data.train.images[data.train.labels == 0]
    assert blue[:, 2].min() == 255
    assert blue[:, 0].max() == 0
    assert load(folder, without_classes=("b", "d")).classes == ("a", "c")
    assert "10 of 20 images of split 'train' are of classes that are not used ('b', 'd')" in said(data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"classes": ("a", "cc")}, "there is no class 'cc'; did you mean 'c'"),
        ({"without_classes": ("zebra",)}, "there is no class 'zebra'; there are 'a', 'b', 'c', 'd'"),
        ({"classes": ("a", "a")}, "twice"),
        ({"classes": ("a",)}, "fewer than two classes"),
        ({"classes": ("a", "d")}, "no training image is of class 'd'"),
        ({"class_names": ("x", "x", "y", "z"), "classes": ("x", "y")}, "two classes are called 'x'"),
    ],
)
def test_classes__choices_that_are_none_are_told(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        load(declared(tmp_path, [0, 1, 2] * 4), **settings)


def test_classes__of_the_digits_can_be_chosen_by_numbers():
    settings = DatasetSettings.model_validate({"name": "digits", "classes": [7, 3]})
    seven = load_data(settings, Notes())
    whole = load("digits")
    assert seven.classes == ("7", "3")
    assert sum(counts(seven)[:1]) == counts(whole)[7]
    assert seven.test.images[seven.test.labels == 1].equal(whole.test.images[whole.test.labels == 3])
    with pytest.raises(ConfigError, match=r"digits is embedded and has no dataset\.image_column"):
        load("digits", image_column="image")


def test_splits__none_cuts_a_test_split_from_train(tmp_path):
    table(tmp_path / "set", [0, 1] * 10)
    table(tmp_path / "set", [0, 1] * 4, split="test")
    assert load(tmp_path / "set").info.test_split == "test"
    data = load(tmp_path / "set", test_split="none")
    assert data.info.test_split.startswith("none given")
    assert len(data.train) + len(data.validation) + len(data.test) == 20


@pytest.mark.parametrize("hidden", [[-1] * 4, [None] * 4, [float("nan")] * 4])
def test_splits__test_without_labels_is_passed_over(tmp_path, hidden):
    labels = [0, 1] * 6 if not isinstance(hidden[0], float) else [0.0, 1.0] * 6
    table(tmp_path / "set", labels)
    table(tmp_path / "set", labels[:4], split="validation")
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = pa.float64() if isinstance(hidden[0], float) else pa.int64()
    cells = [{"bytes": png(), "path": None}] * 4
    pq.write_table(pa.table({"image": cells, "label": pa.array(hidden, kind)}), tmp_path / "set" / "test.parquet")
    data = load(tmp_path / "set")
    assert data.info.test_split == "validation"
    assert "split 'test' has no labels" in said(data)
    with pytest.raises(ConfigError, match=r"'test' has no labels to test on.*`dataset.test_split=none`"):
        load(tmp_path / "set", test_split="test")
