"""Odd data, by kind: what is read, what is left out and said, what is refused."""

import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image, features

from distillkit import compress, load_distilled
from distillkit.data import decode, decoding
from distillkit.data.decode import nominal_range, to_eight_bit
from distillkit.data.load import load_data
from distillkit.data.sources import locate as locate_data
from distillkit.data.sources import read
from distillkit.errors import ConfigError, DataError, NetworkError
from distillkit.lab import effective
from distillkit.settings import DatasetSettings
from tests.artifact.small import write_small
from tests.helpers import TINY, Notes

COLOURS = ("red", "green", "blue", "yellow")


def picture(path, colour="red", size=(8, 8), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path, **options)


def classes(folder, names=("a", "b"), count=6, size=(8, 8), suffix=".png"):
    for position, name in enumerate(names):
        for index in range(count):
            picture(folder / name / f"{index}{suffix}", COLOURS[position % 4], size)
    return folder


def load(folder, **settings):
    notes = Notes()
    return load_data(DatasetSettings(name=str(folder), **settings), notes), notes.notes


def said(data):
    return "; ".join(data.info.notes)


def test_orientation__is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    for name in "ab":
        for index in range(4):
            image = Image.new("RGB", (8, 8), "black")
            image.paste("white", (0, 0, 8, 4))  # the upper half
            path = tmp_path / name / f"{index}.jpg"
            path.parent.mkdir(exist_ok=True)
            image.save(path, exif=exif, quality=95)
    data, _ = load(tmp_path)
    pixel = data.train.images[0].float().mean(0)
    assert pixel[:, 4:].mean() > 250  # turned clockwise: the upper half is the right one
    assert pixel[:, :4].mean() < 5


@pytest.mark.parametrize(
    ("orientation", "white"),
    [(1, np.s_[:4, :]), (3, np.s_[4:, :]), (6, np.s_[:, 4:]), (8, np.s_[:, :4])],
)
def test_orientation__is_applied_to_a_pillow_image_too(tmp_path, orientation, white):
    ds = load_distilled(write_small(tmp_path / "set", shape=(3, 8, 8)))  # mean 1/2, std 1/4
    image = Image.new("RGB", (8, 8), "black")
    image.paste("white", (0, 0, 8, 4))  # the upper half
    image.getexif()[0x0112] = orientation
    expected = torch.full((8, 8), -2.0)
    expected[white] = 2.0
    assert torch.equal(ds.preprocess(image), expected.expand(3, 8, 8))


@pytest.mark.parametrize(("channels", "mode", "colour"), [(3, "RGB", (51, 102, 153)), (1, "L", 51)])
def test_pillow_image__is_prepared_without_torchvision(tmp_path, monkeypatch, channels, mode, colour):
    """Which the plain install does not bring."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    ds = load_distilled(write_small(tmp_path / "set", shape=(channels, 8, 8)))
    found = ds.preprocess(Image.new(mode, (8, 8), colour))
    assert (found.shape, found.dtype) == ((channels, 8, 8), torch.float32)
    wanted = (torch.tensor(colour).view(-1) / 255 - 0.5) / 0.25
    assert torch.allclose(found[:, 3, 5], wanted, atol=1e-6)


def test_orientation__damaged_exif_is_no_reason_to_stop():
    image = Image.new("RGB", (4, 4))
    image.info["exif"] = b"Exif\x00\x00garbage"
    assert decode.to_mode(image, gray=False).size == (4, 4)


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ((0, 255), np.int32, (0, 255)),
        ((2, 222), np.float32, (2, 222)),
        ((0, 1), np.float32, (0, 255)),
        ((0, 4095), np.uint16, (0, 255)),
        ((0, 65535), np.uint16, (0, 255)),
        ((0, 2048), np.uint16, (0, 128)),
        ((-1000, 1000), np.float32, (0, 255)),
    ],
)
def test_greys__of_any_depth_by_one_range(tmp_path, values, dtype, expected):
    low, high = values
    for name in "ab":
        for index in range(4):
            array = np.full((8, 8), low, dtype)
            if (name, index) == ("a", 0):
                array[:, 4:] = high  # one image has the extremes, all are read by them
            path = tmp_path / name / f"{index}.tif"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(array).save(path)
    data, _ = load(tmp_path, validation_fraction=0.0, test_fraction=0.25)
    images = torch.cat([data.train.images, data.test.images])
    assert images.shape[1] == 1
    assert (int(images.min()), int(images.max())) == expected
    assert "become 8 bits" in said(data)


def test_greys__big_endian_is_grey_too(tmp_path):
    for name in "ab":
        for index in range(4):
            array = np.array([[0, 65535] * 4] * 8, dtype=">u2")
            path = tmp_path / name / f"{index}.tif"
            path.parent.mkdir(exist_ok=True)
            Image.frombytes("I;16B", (8, 8), array.tobytes()).save(path)
    data, _ = load(tmp_path)
    assert data.image_shape[0] == 1
    assert set(data.train.images.unique().tolist()) == {0, 255}


def test_size__a_few_odd_images_do_not_decide(tmp_path):
    classes(tmp_path, count=30, size=(16, 16))
    picture(tmp_path / "a" / "tiny.png", size=(5, 5))
    picture(tmp_path / "b" / "strip.png", size=(2000, 4))
    data, _ = load(tmp_path)
    assert data.image_shape == (3, 16, 16)
    assert "2 smaller images are enlarged, b/strip.png" in said(data)


def test_size__all_too_small_names_one(tmp_path):
    with pytest.raises(DataError, match=r"fewer than 4 pixels \(a/0\.png"):
        load(classes(tmp_path, size=(2, 2)))


@pytest.mark.parametrize(("resize", "corner", "width"), [("crop", 255, 8), ("pad", 0, 4), ("squash", 255, 8)])
def test_resize__crop_pad_or_squash(tmp_path, resize, corner, width):
    for name in "ab":
        for index in range(4):
            picture(tmp_path / name / f"{index}.png", "white" if name == "a" else "red", (16, 32))
    data, _ = load(tmp_path, image_size=8, resize=resize)
    image = data.train.images[data.train.labels == 0][0][0]
    assert int(image[0, 0]) == corner
    assert int((image[4] > 128).sum()) == width


def test_files__other_suffixes_are_read_and_what_is_no_image_is_counted(tmp_path):
    classes(tmp_path, ("a",))
    for index in range(6):
        picture(tmp_path / "c" / f"{index}.jfif", "blue", format="JPEG")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "Makefile").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "x.txt").write_text("x")
    data, _ = load(tmp_path)
    assert data.classes == ("a", "c")
    assert "left out: 1 .txt, 1 no suffix" in said(data).replace("2 .txt", "1 .txt")
    assert "'words' holds no images and is no class" in said(data)


def test_files__hidden_ones_are_no_images(tmp_path):
    classes(tmp_path)
    for index in range(3):
        picture(tmp_path / "a" / ".ipynb_checkpoints" / f"{index}.png")
        picture(tmp_path / "__MACOSX" / "a" / f"{index}.png")
    (tmp_path / "a" / "._0.png").write_bytes(b"resource fork")
    data, _ = load(tmp_path)
    assert data.classes == ("a", "b")
    assert len(data.train) + len(data.validation) + len(data.test) == 12


def test_classes__numbers_are_in_their_order(tmp_path):
    names = [str(number) for number in range(12)]
    data, _ = load(classes(tmp_path, names), class_names=tuple(f"n{number}" for number in range(12)))
    assert data.classes == tuple(f"n{number}" for number in range(12))
    settings = DatasetSettings(name=str(tmp_path))
    assert read(locate_data(settings), settings).classes == tuple(names)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ({"bus": 0, "car": 0, "train": 0}, ("bus", "car", "train")),
        ({"valid": 0, "invalid": 0}, ("invalid", "valid")),
        ({"control": 0, "test": 0}, ("control", "test")),
        ({"bus": 0, "car": 0, "train/steam": 0, "train/diesel": 0}, ("bus", "car", "train")),
        ({"control/p1": 0, "control/p2": 0, "test/p1": 0, "test/p2": 0}, ("control", "test")),
        ({"train/a": 0, "train/b": 0, "test/a": 0, "test/b": 0}, ("a", "b")),
        ({"train/a": 0, "train/b": 0, "eval/a": 0, "eval/b": 0}, ("a", "b")),
        ({"train/a": 0, "train/b": 0}, ("a", "b")),
    ],
)
def test_splits__are_folders_that_hold_class_folders(tmp_path, layout, expected):
    for position, name in enumerate(layout):
        for index in range(6):
            picture(tmp_path / name / f"{index}.png", COLOURS[position % 4])
    data, _ = load(tmp_path)
    assert data.classes == expected


def test_splits__an_unlabelled_test_folder_is_passed_over_and_said(tmp_path):
    classes(tmp_path / "train")
    for index in range(5):
        picture(tmp_path / "test" / f"{index}.png")
    data, _ = load(tmp_path)
    assert data.classes == ("a", "b")
    assert data.info.test_split.startswith("none given")
    assert "test/ holds images but no class folders" in said(data)


def test_splits__can_be_named_by_their_folders(tmp_path):
    for part in ("good", "held", "val"):
        classes(tmp_path / part)
    data, _ = load(tmp_path, train_split="good", test_split="held")
    assert (data.info.train_split, data.info.test_split) == ("good", "held")
    classes(tmp_path / "train")
    again, _ = load(tmp_path, train_split="train", test_split="val")
    assert (again.info.train_split, again.info.test_split) == ("train", "val")
    assert "passed over beside the splits: good, held" in said(again)


@pytest.mark.parametrize("beside", ["samples", "unlabeled", "extra/x"])
def test_splits__of_the_same_classes_are_splits_beside_anything(tmp_path, beside):
    for part in ("train", "test"):
        classes(tmp_path / part)
    for index in range(3):
        picture(tmp_path / beside / f"{index}.png")
    data, _ = load(tmp_path)
    assert (data.classes, data.info.test_split) == (("a", "b"), "test")
    assert f"passed over beside the splits: {beside.partition('/')[0]}" in said(data)


def test_splits__of_other_classes_beside_others_are_classes(tmp_path):
    """``train`` and ``test`` may be classes, sorted by who made them."""
    for part, names in (("bus", ("day", "night")), ("test", ("lab",)), ("train", ("steam", "diesel"))):
        classes(tmp_path / part, names)
    assert load(tmp_path)[0].classes == ("bus", "test", "train")


def test_greys__test_images_beyond_the_range_of_the_training_images_are_said(tmp_path):
    for part, top in (("train", 1000), ("test", 60000)):
        for name in ("a", "b"):
            for index in range(4):
                ramp = np.linspace(0, top, 64).reshape(8, 8).astype(np.uint16)
                path = tmp_path / part / name / f"{index}.tiff"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(ramp).save(path)
    data, _ = load(tmp_path)
    assert "greys from 0 to 1023 become 8 bits (seen: 0 to 1000)" in said(data)
    assert "8 images of split 'test' have greys beyond that range (seen: 0 to 60000), which become black or" in said(
        data
    )


@pytest.mark.parametrize(("colour", "mode", "value"), [("black", "RGB", 0), ((255, 255, 255, 0), "RGBA", 255)])
def test_images__with_nothing_in_them_are_refused_again_and_again(tmp_path, colour, mode, value):
    for name in ("a", "b"):
        for index in range(6):
            path = tmp_path / "images" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new(mode, (8, 8), colour).save(path)
    for _ in range(2):
        with pytest.raises(
            DataError, match=f"all pixels of the .* have the value {value}, so there is nothing to learn"
        ):
            load(tmp_path / "images")


def test_size__one_odd_image_of_seven_does_not_decide(tmp_path):
    for index in range(6):
        picture(tmp_path / ("a" if index < 4 else "b") / f"{index}.png", size=(64, 64))
    picture(tmp_path / "b" / "tiny.png", size=(5, 5))
    data, _ = load(tmp_path)
    assert data.train.images.shape[-1] == 64
    assert "1 smaller image is enlarged, b/tiny.png (row 6) the smallest" in said(data)


def parquet(folder, rows, **features):
    import datasets

    feature = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=["a", "b"])})
    table = datasets.Dataset.from_dict(rows, features=feature)
    folder.mkdir()
    table.to_parquet(str(folder / "train.parquet"))
    return folder


def test_images__that_may_not_be_read_are_not_called_damaged(tmp_path, monkeypatch):
    folder = classes(tmp_path / "set")
    opened = Image.open

    def guarded(file, *others):
        if str(file).endswith("a/1.png"):
            raise PermissionError(13, "Permission denied")
        return opened(file, *others)

    monkeypatch.setattr(Image, "open", guarded)
    with pytest.raises(DataError, match=r"^image .*1\.png .* may not be read \(PermissionError\); "):
        load(folder, image_size=8, color="rgb")


def test_tables__may_not_name_files_of_this_machine(tmp_path):
    """A hostile data set put a local picture into a set that was published."""
    secret = tmp_path / "secret.png"
    picture(secret, "blue")
    rows = {"image": [{"bytes": None, "path": str(secret)}] * 8, "label": [0, 1] * 4}
    with pytest.raises(DataError, match=r"no image can be decoded|cannot be decoded"):
        load(parquet(tmp_path / "hostile", rows))
    with pytest.raises(DataError, match="cannot be decoded") as refused:
        load(tmp_path / "hostile", image_size=8, color="rgb")
    assert str(tmp_path) not in str(refused.value)


def test_tables__rows_without_a_class_are_counted(tmp_path):
    import io

    def content(colour):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
        return {"bytes": buffer.getvalue(), "path": None}

    rows = {"image": [content("red")] * 12, "label": [0, 1, -1] * 4}
    data, _ = load(parquet(tmp_path / "set", rows))
    assert "4 of 12 images of split 'train' have no class" in said(data)


def test_names__a_folder_that_shares_a_registered_one_is_said(tmp_path, monkeypatch):
    classes(tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    _, notes = load("digits")
    assert any("'digits' is the registered data set; for the folder here say ./digits" in note for note in notes)
    data, notes = load("./digits")
    assert data.classes == ("a", "b")


def test_names__a_folder_that_shares_one_of_the_hub_is_said_offline_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NetworkError) as refused:
        load("mnist")
    assert str(refused.value).endswith("; for a local copy pass `dataset.data_root`")
    classes(tmp_path / "mnist")
    with pytest.raises(NetworkError) as refused:
        load("mnist")
    assert str(refused.value).endswith("`dataset.data_root`; for the folder here say ./mnist")
    assert load("./mnist")[0].classes == ("a", "b")


def test_names__of_left_out_images_are_no_paths_of_this_machine(tmp_path):
    classes(tmp_path)
    (tmp_path / "a" / "0.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"image a/0\.png"):
        load(tmp_path)
    data, _ = load(tmp_path, skip_corrupt=True)
    assert "a/0.png" in said(data)
    assert str(tmp_path) not in said(data)


@pytest.mark.parametrize(
    ("path", "named"),
    [
        (b"a/caf\xe9.png", r"a/caf\xe9.png"),
        (b"a\xe9/0.png", r"a\xe9"),
        (b"train/a\xe9/0.png", r"train/a\xe9"),
        (b"data-\xff.parquet", r"data-\xff.parquet"),
    ],
)
def test_names__that_are_no_utf8_are_told(tmp_path, path, named):
    folder = classes(tmp_path / "set")
    odd = folder / os.fsdecode(path)
    odd.parent.mkdir(parents=True, exist_ok=True)
    odd.write_bytes((folder / "a" / "0.png").read_bytes())
    with pytest.raises(DataError) as refused:
        load(folder)
    assert str(refused.value) == f"the name of {folder / named} is not UTF-8 and cannot be read; rename it"


def test_names__that_are_no_utf8_of_the_folder_itself_are_told(tmp_path, monkeypatch):
    folder = classes(tmp_path / os.fsdecode(b"caf\xe9"))
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=r"the name of \S*/caf\\xe9 is not UTF-8"):
        load(".")


def test_names__that_are_no_utf8_of_files_that_are_no_images_do_no_harm(tmp_path):
    folder = classes(tmp_path / "set")
    for name in (b"a/x.t\xe9t", b"caf\xe9.csv"):
        (folder / os.fsdecode(name)).write_text("x,y\n1,2\n")
    data, _ = load(folder)
    assert len(data.train) + len(data.validation) + len(data.test) == 12
    assert r"left out: 1 .t\xe9t" in said(data)
    assert said(data).isprintable()


def test_corrupt__several_are_counted_and_the_first_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(decoding, "MOST_AT_ONCE", 16)
    for split in ("train", "test"):
        classes(tmp_path / split, count=40)
    odd = [tmp_path / "train" / "a" / f"{index}.png" for index in (25, 26, 27)]
    odd += [tmp_path / "train" / "b" / "11.png", *((tmp_path / "test" / "b" / f"{index}.png") for index in (3, 4))]
    before = [path.read_bytes() for path in odd]
    for path in odd:
        path.write_bytes(b"no picture")
    for _ in range(2):  # the second time after the chunk that the first one kept
        notes = Notes()
        with pytest.raises(DataError) as refused:
            load_data(DatasetSettings(name=str(tmp_path)), notes)
        listed = ", ".join(f"train/a/{index}.png (row {row})" for index, row in ((25, 18), (26, 19), (27, 20)))
        listed += ", train/b/11.png (row 43), test/b/3.png (row 63), ..."
        ending = "repair or remove them, or pass `dataset.skip_corrupt=True`"
        assert str(refused.value) == f"6 images cannot be decoded: {listed}; {ending}"
        told = [note for note in notes.notes if "looking for others" in note]
        assert told == ["image train/a/25.png (row 18) cannot be decoded; looking for others like it"]
    for path, content in zip(odd, before, strict=True):
        path.write_bytes(content)
    data, _ = load(tmp_path, validation_fraction=0)
    for part in (data.train, data.test):
        assert part.class_counts() == [40, 40]


def test_configs__several_are_named(tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: one\n  data_files: one/*.parquet\n"
        "- config_name: two\n  data_files: two/*.parquet\n---\n"
    )
    rows = {"image": [None] * 2, "label": [0, 1]}
    for name in ("one", "two"):
        parquet(tmp_path / name, rows)
    with pytest.raises(ConfigError, match=r"one.*two.*`dataset\.config_name=NAME`"):
        load(tmp_path)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_files__avif_is_read(tmp_path):
    for name, color in (("a", "blue"), ("b", "red")):
        for index in range(6):
            picture(tmp_path / name / f"{index}.avif", color, format="AVIF")
    data, _ = load(tmp_path)
    means = torch.stack([data.train.images[data.train.labels == label].float().mean((0, 2, 3)) for label in (0, 1)])
    assert means[0, 2] > 200 > 50 > means[0, 0]  # blue
    assert means[1, 0] > 200 > 50 > means[1, 2]  # red


def test_classes__of_two_images_hold_one_out_each_or_say_the_way(tmp_path):
    classes(tmp_path, ("a", "b"), count=1)
    for fraction in (0.1, 0.0):
        with pytest.raises(DataError, match="no class has two images, so none can be held out to test with"):
            load(tmp_path, test_split="none", test_fraction=0.01, validation_fraction=fraction)
    classes(tmp_path / "set" / "train", ("a", "b"), count=1)
    classes(tmp_path / "set" / "test", ("a", "b"), count=1)
    with pytest.raises(DataError, match=r"no class has two training images.*`dataset\.validation_fraction=0`"):
        load(tmp_path / "set")
    assert len(load(tmp_path / "set", validation_fraction=0.0)[0].test) == 2


def test_folders__behind_links_are_read_and_known_by_what_they_hold(tmp_path):
    classes(tmp_path / "real", ("a", "b"), count=6)
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / name)
    (tmp_path / "real" / "a" / "loop").symlink_to(tmp_path / "set")
    (tmp_path / "real" / "b" / "nowhere").symlink_to(tmp_path / "gone")
    first, _ = load(tmp_path / "set", without_classes=())
    assert first.classes == ("a", "b")
    assert len(first.train) + len(first.validation) + len(first.test) == 12  # each once, whatever leads to it
    for index in range(6):
        picture(tmp_path / "real" / "a" / f"{index}.png", "yellow")
    second, _ = load(tmp_path / "set")
    assert first.info.fingerprint != second.info.fingerprint  # the pictures are others, not those of before


def test_folders__that_cannot_be_read_are_named(tmp_path, monkeypatch):
    classes(tmp_path, ("a", "b"), count=4)
    real = os.scandir

    def scandir(folder):
        if str(folder).endswith("b"):
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=r"folder .*b cannot be read: permission denied"):
        load(tmp_path)


@pytest.mark.parametrize("splits", [("train", "test"), ("train", "val", "test")])
def test_folders__of_splits_without_classes_are_not_classes(tmp_path, splits):
    classes(tmp_path, splits, count=6)
    with pytest.raises(DataError, match="hold images but no class folders, so nothing tells their labels"):
        load(tmp_path)


@pytest.mark.parametrize("names", ["a,a", ",", "a,"])
def test_class_names__are_each_of_one_class(tmp_path, names):
    classes(tmp_path, ("a", "b"), count=6)
    with pytest.raises(ConfigError, match=r"class(es are| is) called .*; give each a name of its own"):
        load(tmp_path, class_names=tuple(names.split(",")))


def test_greys__of_sixteen_bits_are_scaled_later_as_those_of_the_data_set_were(tmp_path):
    for name, level in (("a", 60_000), ("b", 900)):
        for index in range(6):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            array = np.full((8, 8), level + index, dtype=np.uint16)
            Image.fromarray(array).save(tmp_path / "set" / name / f"{index}.png")
    settings = effective(TINY, str(tmp_path / "set"), 1, "random", "smoke")
    ds = compress(tmp_path / "set", ipc=1, method="random", preset="smoke", out=tmp_path / "out", settings=settings)
    assert ds.config["source"]["grey_range"] == [0, 65535]
    dark = Image.open(tmp_path / "set" / "b" / "0.png")
    eight = torch.full((1, 8, 8), round(900 / 65535 * 255), dtype=torch.uint8)
    assert torch.equal(ds.preprocess(dark), ds.preprocess(eight))
    plain = load_distilled(write_small(tmp_path / "plain"))
    with pytest.raises(ConfigError, match="convert it to 8 bits as the images of the data set were"):
        plain.preprocess(dark)


def test_files__none_of_which_is_an_image(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"no image can be decoded, a.x\.png \(row 0\) for one"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("low", "high", "whole", "wanted"),
    [
        (0.0, 1.0, False, (0.0, 1.0)),
        (7e-5, 1.26, False, (7e-5, 1.26)),  # reflectance: by the next largest value, 255, all would be black
        (0.0, 200.5, False, (0.0, 255.0)),
        (0.0, 100.0, False, (0.0, 100.0)),
        (2, 90, True, (0.0, 255.0)),
        (0, 3000, True, (0.0, 4095.0)),
        (-1.0, 1.0, False, (-1.0, 1.0)),
    ],
)
def test_greys__the_range_of_floats_is_theirs_unless_it_is_nearly_that_of_whole_numbers(low, high, whole, wanted):
    assert nominal_range(low, high, whole) == wanted


def test_greys__infinite_ones_are_white_or_black_without_a_warning():
    image = Image.fromarray(np.array([[np.inf, 0.5], [-np.inf, np.nan]], np.float32))
    assert np.asarray(to_eight_bit(image, (0.0, 1.0))).tolist() == [[255, 128], [0, 0]]
