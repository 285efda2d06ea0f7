"""What could be taken for something else: classes in another order, test data for training data, a part for all."""

import io

import pytest
from PIL import Image

from distillkit.data.load import load_data
from distillkit.errors import ConfigError, DataError
from distillkit.settings import DatasetSettings
from tests.helpers import Notes


def png(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


def classes(folder, names=("cat", "dog"), count=8):
    for place, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            (folder / name / f"{index}.png").write_bytes(png((200 * place, 9 * index, 50)))
    return folder


def parquet(path, rows=16):
    import datasets

    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    images = [{"bytes": png((9 * row, 40, 90 * (row % 2))), "path": None} for row in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(
        {"image": images, "label": [row % 2 for row in range(rows)]}, features=features
    ).to_parquet(path)
    return path.parent


def load(folder, **settings):
    notes = Notes()
    return load_data(DatasetSettings(name=str(folder), **settings), notes)


def test_class_names__the_data_sets_own_do_not_change_places(tmp_path):
    folder = classes(tmp_path)
    words = r"`dataset\.class_names` calls another class 'cat', one of the data set's own names"
    with pytest.raises(ConfigError, match=rf"{words}, whose order is 'cat', 'dog'"):
        load(folder, class_names=["dog", "cat"])
    with pytest.raises(ConfigError, match=r"calls another class 'dog'"):
        load(folder, class_names=["dog", "wolf"])
    assert load(folder, class_names=["cat", "dog"]).classes == ("cat", "dog")
    assert load(folder, class_names=["Katze", "Hund"]).classes == ("Katze", "Hund")


def test_class_names__name_numbered_folders(tmp_path):
    assert load(classes(tmp_path, ("0", "1")), class_names=["zero", "one"]).classes == ("zero", "one")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train.parquet", "Test.parquet"),
        ("Train-00000-of-00001.parquet", "Test-00000-of-00001.parquet"),
        ("TRAIN/0.parquet", "TEST/0.parquet"),
        ("train.parquet", "Test.parquet"),
        ("train.parquet", "test.parquet"),
    ],
)
def test_parquet__test_images_stay_test_images_however_their_split_is_written(tmp_path, train, test):
    parquet(tmp_path / "set" / train)
    parquet(tmp_path / "set" / test, rows=6)
    found = load(tmp_path / "set")
    assert len(found.train) + len(found.validation) == 16
    assert len(found.test) == 6


def test_parquet__a_shard_that_is_missing_is_no_small_data_set(tmp_path):
    parquet(tmp_path / "set" / "train-00000-of-00002.parquet")
    with pytest.raises(DataError, match=r"set is incomplete: 1 of the 2 files of train; fetch the others, or give"):
        load(tmp_path / "set")
    parquet(tmp_path / "set" / "train-00001-of-00002.parquet")
    found = load(tmp_path / "set")
    assert len(found.train) + len(found.validation) + len(found.test) == 32


def test_parquet__a_table_of_numbers_beside_class_folders_is_no_data_set(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"file": ["cat/0.png"], "x": [0.5]}).to_parquet(classes(tmp_path) / "embeddings.parquet")
    assert load(tmp_path).classes == ("cat", "dog")


def test_tables__of_two_columns_of_one_name_are_refused(tmp_path):
    rows = "".join(f"cat/{index}.png,{index % 2},{index % 3}\n" for index in range(8))
    (classes(tmp_path) / "metadata.csv").write_text("file_name,label,label\n" + rows)
    with pytest.raises(DataError, match=r"metadata\.csv has two columns 'label'; rename one of them"):
        load(tmp_path, label_column="label")


def test_tables__begin_after_blank_lines(tmp_path):
    for index in range(12):
        (tmp_path / f"{index}.png").write_bytes(png((9 * index, 40, 90 * (index % 2))))
    rows = "".join(f"{index}.png;{'ab'[index % 2]}\n" for index in range(12))
    (tmp_path / "metadata.csv").write_text("\n  \r\nfile_name;label\n" + rows)
    assert load(tmp_path).classes == ("a", "b")


def test_folders__what_belongs_to_no_class_is_said(tmp_path):
    folder = classes(tmp_path / "pets")
    (folder / "cover.png").write_bytes(png("red"))
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "0.png").write_bytes(png("red"))
    (folder / ".git").mkdir()
    notes = load(folder).info.notes
    assert "1 images of pets/ lie beside the class folders, belong to no class, and are left out" in notes
    assert "hidden folders with images, passed over: .hidden" in notes


@pytest.mark.parametrize("choice", ["revision", "config_name"])
def test_folders__have_no_choice_of(tmp_path, choice):
    with pytest.raises(ConfigError, match=rf"dataset\.{choice}"):
        load(classes(tmp_path), **{choice: "abc"})
