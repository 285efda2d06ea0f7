import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from distillkit.data import decode
from distillkit.data.load import load_data
from distillkit.errors import ConfigError, DataError, NetworkError, NotFoundError
from distillkit.progress import Silent
from distillkit.settings import DatasetSettings


def load(name, **settings):
    return load_data(DatasetSettings(name=str(name), **settings), Silent())


def png(color, size=(6, 6), mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(folder, split, rows, image="image", label="label"):
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = zip(*rows, strict=True)
    table = pa.table({image: [{"bytes": content, "path": None} for content in images], label: list(labels)})
    pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def test_digits__fixed_stratified_quarter_is_test_and_splits_are_disjoint():
    data = load("digits")
    assert (len(data.train) + len(data.validation), len(data.test)) == (1347, 450)
    assert data.image_shape == (1, 8, 8)
    again = load("digits", validation_fraction=0.3, split_seed=5)
    assert torch.equal(again.test.images, data.test.images)
    shares = torch.tensor(data.test.class_counts()) / 450
    assert (shares - 0.1).abs().max() < 0.01
    assert data.info.fingerprint != again.info.fingerprint


def test_class_folders__are_read_with_their_names(class_folders):
    data = load(class_folders({"cat": 20, "dog": 10}))
    assert data.classes == ("cat", "dog")
    assert (data.info.name, data.info.source) == ("images", "images")
    assert data.image_shape == (3, 12, 12)
    counts = [
        sum(counts)
        for counts in zip(*(s.class_counts() for s in (data.train, data.validation, data.test)), strict=True)
    ]
    assert counts == [20, 10]
    assert "none given" in data.info.test_split
    assert data.train.images[data.train.labels == 0].float().mean() < 60
    assert data.train.images[data.train.labels == 1].float().mean() > 110


def test_train_and_test_folders__are_splits(class_folders):
    class_folders({"a": 6, "b": 6}, root="set/train")
    folder = class_folders({"a": 3, "b": 4}, root="set/test").parent
    data = load(folder)
    assert (len(data.train) + len(data.validation), len(data.test)) == (12, 7)
    assert data.info.test_split == "test"


def test_cache__decodes_once_and_again_when_a_file_changes(class_folders, monkeypatch):
    folder = class_folders({"a": 5, "b": 5})
    first = load(folder)
    calls = []
    original = decode.decode
    monkeypatch.setattr(decode, "decode", lambda *args: calls.append(1) or original(*args))
    assert torch.equal(load(folder).train.images, first.train.images)
    assert not calls
    Image.new("RGB", (12, 12), "red").save(folder / "a" / "000.png")
    assert load(folder).info.fingerprint != first.info.fingerprint
    assert len(calls) == 10


def test_cache__a_damaged_file_is_decoded_again(class_folders, tmp_path):
    folder = class_folders({"a": 5, "b": 5})
    before = load(folder).train.images
    (cached,) = (tmp_path / "cache" / "data").glob("*.safetensors")
    cached.write_bytes(cached.read_bytes()[:100])
    assert torch.equal(load(folder).train.images, before)


def test_parquet__columns_found_or_named(tmp_path):
    rows = [(png((index * 20, 0, 0)), index % 2) for index in range(10)]
    write_parquet(tmp_path / "set" / "data", "train", rows, "picture", "kind")
    with pytest.raises(ConfigError, match=r"name one with `dataset\.label_column`"):
        load(tmp_path / "set", image_column="picture")
    data = load(tmp_path / "set", image_column="picture", label_column="kind", class_names=("even", "odd"))
    assert data.classes == ("even", "odd")
    with pytest.raises(ConfigError, match="no column 'nope'"):
        load(tmp_path / "set", image_column="nope", label_column="kind")
    with pytest.raises(ConfigError, match="no split 'nope'"):
        load(tmp_path / "set", image_column="picture", label_column="kind", test_split="nope")


def test_labels__must_be_whole_numbers(tmp_path):
    write_parquet(tmp_path / "set", "train", [(png("red"), 0.5), (png("blue"), 1.0)])
    with pytest.raises(DataError, match=r"whole numbers.*0\.5"):
        load(tmp_path / "set", image_column="image")


def test_labels__one_class_is_not_enough(tmp_path):
    write_parquet(tmp_path / "set", "train", [(png("red"), 3), (png("blue"), 3)])
    with pytest.raises(DataError, match="at least two classes, this one has 1"):
        load(tmp_path / "set", image_column="image")


def test_modes__grey_palette_and_transparent(tmp_path):
    grey = [(png(value, mode="L"), value % 2) for value in range(10)]
    write_parquet(tmp_path / "grey", "train", grey)
    assert load(tmp_path / "grey", image_column="image").image_shape == (1, 6, 6)
    clear = png((0, 0, 0, 0), mode="RGBA")
    write_parquet(tmp_path / "mixed", "train", [(clear, 0), (png(3, mode="P"), 1)] * 6)
    data = load(tmp_path / "mixed", image_column="image")
    assert data.image_shape == (3, 6, 6)
    assert (data.train.images[data.train.labels == 0] == 255).all()  # transparency on white
    assert load(tmp_path / "mixed", image_column="image", color="gray").image_shape == (1, 6, 6)


def test_mode__sixteen_bit_greys_keep_their_range():
    array = np.array([[0, 65535], [32768, 257]], dtype=np.uint16)
    assert np.array(decode.to_mode(Image.fromarray(array), gray=True)).tolist() == [[0, 255], [128, 1]]


def test_sizes__short_side_then_centre_crop(class_folders):
    wide = Image.new("RGB", (20, 10), "black")
    wide.paste((255, 255, 255), (5, 0, 15, 10))
    cropped = np.array(decode.resize_and_crop(wide, 10))
    assert cropped.shape == (10, 10, 3)
    assert (cropped == 255).all()
    data = load(class_folders({"a": 5, "b": 5}, size=(20, 14)))
    assert data.image_shape == (3, 8, 8)
    assert "resized" in data.info.notes[0]
    assert load(class_folders({"a": 5, "b": 5}, size=(20, 14)), image_size=10).image_shape == (3, 10, 10)


def test_corrupt_image__is_named_and_can_be_left_out(class_folders):
    folder = class_folders({"a": 8, "b": 8})
    broken = folder / "b" / "003.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=r"b/003\.png.*`dataset.skip_corrupt=True`"):
        load(folder)
    data = load(folder, skip_corrupt=True)
    assert len(data.train) + len(data.validation) + len(data.test) == 15
    assert any("003.png" in note for note in data.info.notes)


def test_empty_cells__are_corrupt_images(tmp_path):
    write_parquet(tmp_path / "set", "train", [(png("red"), 0), (png("blue"), 1)] * 10 + [(None, 0)])
    with pytest.raises(DataError, match="row 20"):
        load(tmp_path / "set", image_column="image")
    assert "1 corrupt" in load(tmp_path / "set", image_column="image", skip_corrupt=True).info.notes[-1]


def test_splits__test_must_not_be_train(tmp_path):
    write_parquet(tmp_path / "set", "train", [(png("red"), 0), (png("blue"), 1)] * 10)
    with pytest.raises(ConfigError, match="must not be trained on"):
        load(tmp_path / "set", image_column="image", test_split="train")


def test_digits__size_and_colour_can_be_chosen():
    data = load("digits", image_size=16, color="rgb")
    assert data.image_shape == (3, 16, 16)


def test_digits__class_names_must_be_ten():
    assert load("digits", class_names=tuple("abcdefghij")).classes[1] == "b"
    with pytest.raises(ConfigError, match="2 class names were given, the data set has 10"):
        load("digits", class_names=("a", "b"))


def test_imagenet_subset__a_local_copy_of_its_ten_classes(class_folders, tmp_path):
    ten = {f"n{index}": 4 for index in range(10)}
    class_folders(ten, root="root/imagenet-nette/train")
    class_folders(ten, root="root/imagenet-nette/val")
    data = load("imagenet-nette", data_root=str(tmp_path / "root"))
    assert (len(data.classes), len(data.test)) == (10, 40)
    for split in ("train", "val"):
        class_folders({f"n{index}": 4 for index in range(12)}, root=f"root/imagenet-woof/{split}")
    with pytest.raises(ConfigError, match="12 classes; expected 10 or all 1000"):
        load("imagenet-woof", data_root=str(tmp_path / "root"))


def test_unknown__each_kind_has_its_own_error(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'cifar10'"):
        load("cifar-10")
    with pytest.raises(NotFoundError, match="no folder"):
        load(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("nothing here")
    with pytest.raises(NotFoundError, match="no images"):
        load(tmp_path / "empty")
    with pytest.raises(NotFoundError, match=r"`dataset\.data_root` has no folder"):
        load("cifar10", data_root=str(tmp_path))
    with pytest.raises(NetworkError, match="needs the Hub, and offline mode is on"):
        load("someone/something")


def test_max_train__is_spread_evenly_over_unequal_classes(class_folders):
    folder = class_folders({"a": 40, "b": 6, "c": 40})
    data = load(folder, max_train=30, test_fraction=0.2, validation_fraction=0.2)
    assert any(
        note.startswith("30 of the ") and note.endswith("are used (`dataset.max_train`)") for note in data.info.notes
    )
    assert not any("max_train" in note for note in load(folder, max_train=10_000).info.notes)
    total = torch.tensor(data.train.class_counts()) + torch.tensor(data.validation.class_counts())
    assert total.tolist() == [13, 5, 12] or total.tolist() == [12, 5, 13]
    assert min(data.validation.class_counts()) >= 1
