"""Layouts of data sets on disk: tables beside images, Tiny ImageNet, webdataset, save_to_disk, single files."""

import io
import json
import tarfile

import datasets
import pytest

from distillkit.data.load import load_data
from distillkit.errors import ConfigError, DataError, NetworkError, NotFoundError
from distillkit.settings import DatasetSettings
from tests.data.pictures import COLOURS, png, put, table
from tests.helpers import Notes


def load(folder, **settings):
    return load_data(DatasetSettings(name=str(folder), **settings), Notes())


def said(data):
    return "; ".join(data.info.notes)


def sizes(data):
    return len(data.train) + len(data.validation), len(data.test)


def flat(folder, count=8, suffix=".png"):
    """Images 0, 1, ... in one folder, even ones red and odd ones green."""
    for index in range(count):
        put(folder / f"{index}{suffix}", COLOURS[index % 2])
    return folder


def is_right(data, first="cat"):
    """Whether images of class ``first`` are the red ones, in training and in test."""
    for part in (data.train, data.test):
        red = part.images[part.labels == data.classes.index(first)]
        if not (red[:, 0].min() > 200 and red[:, 1].max() == 0):
            return False
    return True


KINDS = ("cat", "dog")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "file_name,label\n" + "".join(f"{i}.png,{KINDS[i % 2]}\n" for i in range(8))),
        ("metadata.csv", "file_name;animal\r\n" + "".join(f"./{i}.png;{KINDS[i % 2]}\r\n" for i in range(8))),
        (
            "metadata.jsonl",
            "".join(json.dumps({"file_name": f"{i}.png", "label": KINDS[i % 2]}) + "\n" for i in range(8)),
        ),
        ("train.csv", "id,Category\n" + "".join(f"{i},{KINDS[i % 2]}\n" for i in range(8))),
        ("list.csv", "Image,Class Name\n" + "".join(f"{i}.PNG,{KINDS[i % 2]}\n" for i in range(8))),
        ("labels.tsv", "who\tclass\n" + "".join(f"old\\{i}.png\t{KINDS[i % 2]}\n" for i in range(8))),
    ],
)
def test_table__beside_the_images_tells_their_labels(tmp_path, name, content):
    flat(tmp_path / "set")
    (tmp_path / "set" / name).write_text("\ufeff" + content, encoding="utf-8" if ";" not in content else "utf-16-le")
    data = load(tmp_path / "set", label_column="animal" if "animal" in content else None)
    assert data.classes == ("cat", "dog")
    assert sizes(data) == (6, 2)
    assert is_right(data)


def test_table__in_parquet_beside_the_images(tmp_path):
    flat(tmp_path / "set")
    rows = {"file_name": [f"{i}.png" for i in range(8)], "label": [i % 2 for i in range(8)]}
    datasets.Dataset.from_dict(rows).to_parquet(str(tmp_path / "set" / "metadata.parquet"))
    data = load(tmp_path / "set")
    assert data.classes == ("0", "1")
    assert is_right(data, "0")


def test_table__splits_by_folder_by_own_table_and_by_column(tmp_path):
    lines = [f"{{}}/{i}.png,{KINDS[i % 2]}\n" for i in range(8)]
    for split in ("train", "test"):
        flat(tmp_path / "one" / split)
    text = "file_name,label\n" + "".join(line.format(split) for split in ("train", "test") for line in lines)
    (tmp_path / "one" / "metadata.csv").write_text(text)
    assert sizes(load(tmp_path / "one")) == (8, 8)

    for split in ("train", "val"):
        flat(tmp_path / "two" / split)
        own = "file_name,label\n" + "".join(f"{i}.png,{KINDS[i % 2]}\n" for i in range(8))
        (tmp_path / "two" / split / "metadata.csv").write_text(own)
    two = load(tmp_path / "two")
    assert (sizes(two), two.info.test_split) == ((8, 8), "validation")

    flat(tmp_path / "three" / "images", 12)
    rows = [f"images/{i}.png,{KINDS[i % 2]},{'test' if i < 4 else 'train'}\n" for i in range(12)]
    (tmp_path / "three" / "list.csv").write_text("path,label,split\n" + "".join(rows))
    three = load(tmp_path / "three")
    assert sizes(three) == (8, 4)
    assert is_right(three)


def test_table__kaggle_with_an_unlabelled_test_folder(tmp_path):
    """The same names in train/ and test/; test.csv has no labels."""
    flat(tmp_path / "train", 10, ".jpg")
    flat(tmp_path / "test", 4, ".jpg")
    (tmp_path / "train.csv").write_text("image_id,label\n" + "".join(f"{i},{i % 2}\n" for i in range(10)))
    (tmp_path / "test.csv").write_text("image_id\n" + "".join(f"{i}\n" for i in range(4)))
    data = load(tmp_path)
    assert (data.classes, sizes(data)) == (("0", "1"), (8, 2))
    assert data.info.test_split.startswith("none given")
    assert "split 'test' has no labels, and was passed over" in said(data)


def test_table__class_folders_go_before_a_list_of_them(tmp_path):
    for name in ("a", "b"):
        flat(tmp_path / name)
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"a/{i}.png,x{i % 2}\n" for i in range(8)))
    assert load(tmp_path).classes == ("a", "b")


def test_table__names_are_looked_up_and_never_opened(tmp_path):
    put(tmp_path / "secret.png", "blue")
    flat(tmp_path / "set")
    names = ["../secret.png", str(tmp_path / "secret.png"), *(f"{i}.png" for i in range(6))]
    (tmp_path / "set" / "metadata.csv").write_text(
        "file_name,label\n" + "".join(f"{name},{i % 2}\n" for i, name in enumerate(names))
    )
    data = load(tmp_path / "set")
    assert sum(sizes(data)) == 6
    assert "2 rows of metadata.csv name no image here (../secret.png)" in said(data)
    assert "2 images are in no row of metadata.csv" in said(data)


def test_table__an_image_named_twice_is_used_once(tmp_path):
    """Else the same image would be trained and tested on."""
    flat(tmp_path)
    rows = [f"{i % 8}.png,{KINDS[i % 2]}\n" for i in range(16)]
    (tmp_path / "metadata.csv").write_text("file_name,label\n" + "".join(rows))
    data = load(tmp_path, image_column="file_name")
    assert sum(sizes(data)) == 8
    assert "8 rows of metadata.csv name an image once more" in said(data)


def test_splits__of_other_names_are_told(tmp_path):
    flat(tmp_path)
    rows = [f"{i}.png,{KINDS[i % 2]},{'train' if i < 6 else 'PublicTest'}\n" for i in range(8)]
    (tmp_path / "metadata.csv").write_text("file_name,label,split\n" + "".join(rows))
    assert "a test split is cut from 'train'; `dataset.test_split` uses another: PublicTest" in said(load(tmp_path))
    data = load(tmp_path, test_split="PublicTest")
    assert (data.info.test_split, sizes(data)) == ("PublicTest", (6, 2))


def test_splits__that_are_used_for_nothing_are_told(tmp_path):
    for split, count in (("train", 6), ("val", 2), ("test", 4)):
        for name in ("a", "b"):
            flat(tmp_path / split / name, count)
    data = load(tmp_path, validation_fraction=0.5)
    assert sizes(data) == (12, 8)
    said_of_it = "validation images are cut from 'train', test images are those of 'test'"
    assert f"not used: split 'validation' (4 images); {said_of_it}" in said(data)
    assert "not used: split 'test' (8 images)" in said(load(tmp_path, test_split="val"))


def test_table__its_column_of_names_may_be_called_image(tmp_path):
    flat(tmp_path)
    (tmp_path / "metadata.csv").write_text("image,label\n" + "".join(f"{i}.png,{KINDS[i % 2]}\n" for i in range(8)))
    assert is_right(load(tmp_path, image_column="image"))
    assert is_right(load(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.csv", "file,label\nx1,0\nx2,1\n", "no column of metadata.csv names the images"),
        ("metadata.jsonl", "{nonsense\n", "line 1 of metadata.jsonl is not JSON"),
        ("metadata.jsonl", "[1]\n", "line 1 of metadata.jsonl is not an object"),
        ("notes.csv", "a,b\nx,y\n", "has no class folders with images.*metadata.csv.*notes.csv .* names none of them"),
        ("list.csv", "image,red,green\n1,0,1\n", r"no column of labels \(red, green\).*`dataset.label_column`"),
    ],
)
def test_table__that_does_not_fit_is_told(tmp_path, name, content, message):
    flat(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_folders__of_an_archive_unpacked_into_its_own(tmp_path):
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        for index in range(4):
            put(tmp_path / "set" / "set" / name / f"{index}.png", COLOURS[name.endswith("dog")])
    data = load(tmp_path / "set")
    assert (data.classes, sizes(data)) == (("cat", "dog"), (8, 8))
    assert "the data set is what set/ holds" in said(data)


def tiny_imagenet(folder):
    for name in ("n01", "n02"):
        for index in range(6):
            put(folder / "train" / name / "images" / f"{name}_{index}.JPEG", COLOURS[name == "n02"])
        (folder / "train" / name / f"{name}_boxes.txt").write_text("x\t0\t0\t1\t1\n")
    for index in range(4):
        put(folder / "val" / "images" / f"val_{index}.JPEG", COLOURS[index % 2])
        put(folder / "test" / "images" / f"test_{index}.JPEG")
    lines = [f"val_{index}.JPEG\tn0{index % 2 + 1}\t0\t0\t9\t9\n" for index in range(4)]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    (folder / "wnids.txt").write_text("n01\nn02\n")
    return folder


def test_tiny_imagenet__as_distributed(tmp_path):
    tiny_imagenet(tmp_path / "tiny-imagenet-200")
    data = load(tmp_path / "tiny-imagenet-200")
    assert (data.classes, sizes(data), data.info.test_split) == (("n01", "n02"), (12, 4), "validation")
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    assert data.test.images[data.test.labels == 1][:, 1].min() > 100  # green
    assert "test/ holds images but no class folders" in said(data)
    tiny_imagenet(tmp_path / "root" / "tiny-imagenet")
    registered = load("tiny-imagenet", data_root=str(tmp_path / "root"))
    assert (registered.info.name, registered.info.test_split) == ("tiny-imagenet", "validation")
    (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("other.JPEG\tn01\n")
    with pytest.raises(DataError, match=r"val_annotations\.txt names no image"):
        load(tmp_path / "tiny-imagenet-200")


def test_registered__a_local_copy_in_class_folders_has_other_columns(tmp_path):
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        for index in range(4):
            put(tmp_path / "cifar10" / name / f"{index}.png", COLOURS[name.endswith("dog")], (32, 32))
    data = load("cifar10", data_root=str(tmp_path))  # on the Hub its images are in a column img
    assert (data.info.source, sizes(data)) == ("uoft-cs/cifar10", (8, 8))


def test_choices_of_what_is_here__without_effect_are_refused(tmp_path):
    """There is one version of it, and images as files have no configurations."""
    split = {f"{name}/{index}.png": COLOURS[index % 2] for name in KINDS for index in range(4)}
    for name, colour in split.items():
        put(tmp_path / "cifar10" / name, colour)
    file = table(tmp_path / "parquet", [0, 1] * 4) / "train.parquet"
    for name, settings, words in (
        ("cifar10@v9", {"data_root": str(tmp_path)}, "has no dataset.revision to choose"),
        ("cifar10", {"data_root": str(tmp_path), "config_name": "x"}, "has no configurations"),
        (tmp_path / "cifar10", {"revision": "v9"}, "has no dataset.revision to choose"),
        (tmp_path / "cifar10", {"config_name": "x"}, "has no configurations"),
        (file, {"revision": "v9"}, "has no dataset.revision to choose"),
        (file, {"config_name": "x"}, "has no configurations"),
    ):
        name, _, revision = str(name).partition("@")
        with pytest.raises(ConfigError, match=words):
            load(name, **settings, **({"revision": revision} if revision else {}))


def shard(path, count, member):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for index in range(count):
            for suffix, content in (("png", png(COLOURS[index % 2])), member(index)):
                info = tarfile.TarInfo(f"{index:04d}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("member", "first"),
    [
        (lambda index: ("cls", str(index % 2).encode()), "0"),
        (lambda index: ("json", json.dumps({"label": KINDS[index % 2], "more": index}).encode()), "cat"),
    ],
)
@pytest.mark.parametrize(("train", "test"), [("train-0000", "test-0000"), ("Train", "Test"), ("TRAIN/0", "TEST/0")])
def test_webdataset__folder_of_tars(tmp_path, member, first, train, test):
    shard(tmp_path / "set" / f"{train}.tar", 8, member)
    shard(tmp_path / "set" / f"{test}.tar", 4, member)
    data = load(tmp_path / "set")
    assert sizes(data) == (8, 4)
    assert is_right(data, first)


def test_webdataset__single_tar(tmp_path):
    shard(tmp_path / "shades.tar", 10, lambda index: ("cls", str(index % 2).encode()))
    data = load(tmp_path / "shades.tar")
    assert (sizes(data), data.info.source) == ((8, 2), "shades.tar")


def test_webdataset__of_class_folders_is_labelled_by_them(tmp_path):
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        for index in range(10):
            info = tarfile.TarInfo(f"pets/{KINDS[index % 2]}/{index}.png")
            info.size = len(png(COLOURS[index % 2]))
            archive.addfile(info, io.BytesIO(png(COLOURS[index % 2])))
    data = load(tmp_path / "pets.tar")
    assert data.classes == KINDS
    assert is_right(data)


@pytest.mark.parametrize(("name", "content"), [("x.tar", b"no tar"), ("dataset_dict.json", b"{}")])
def test_damaged__is_told_by_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match="is damaged, or not what its name says"):
        load(tmp_path)


def test_save_to_disk__with_and_without_splits(tmp_path):
    cells = [{"bytes": png(COLOURS[index % 2]), "path": None} for index in range(10)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    one = datasets.Dataset.from_dict({"image": cells, "label": [0, 1] * 5}, features=features)
    one.save_to_disk(str(tmp_path / "one"))
    assert sizes(load(tmp_path / "one")) == (8, 2)
    datasets.DatasetDict({"train": one, "test": one.select(range(4))}).save_to_disk(str(tmp_path / "two"))
    data = load(tmp_path / "two")
    assert sizes(data) == (10, 4)
    assert is_right(data)


def test_single_parquet__is_read(tmp_path):
    table(tmp_path / "set", [0, 1] * 5)
    data = load(tmp_path / "set" / "train.parquet")
    assert (sizes(data), data.info.name) == ((8, 2), "train.parquet")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("set.zip", "unpack it first and name its folder: unzip .*set.zip -d .*set$"),
        ("set.tar.gz", "tar xf .*set.tar.gz -C .*/set$"),
        ("set.csv", "name the folder that it lies in"),
        ("set.arrow", "save_to_disk"),
        ("set.npz", "of a kind that is not read; expected a folder of class folders"),
    ],
)
def test_single_file__of_another_kind_gets_the_way_on(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / name)
    if name == "set.zip":
        with pytest.raises(ConfigError, match="unpack them first"):
            load(tmp_path)


def test_names__empty_or_misspelled_are_told(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="name of the data set is empty"):
        load("")
    flat(tmp_path / "d" / "pets" / "a")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        NotFoundError, match=r"no folder d/pest, and d/pest needs the Hub.*; did you mean d/pets\?"
    ) as no:
        load("d/pest")
    with pytest.raises(NetworkError, match="there is no folder org/pets here") as refused:  # nothing here is called org
        load("org/pets")
    assert "did you mean" not in str(refused.value)
    assert "data_root" not in str(no.value)
    with pytest.raises(NotFoundError, match=r"did you mean d/pets\?"):
        load("./d/pest")
    with pytest.raises(NetworkError, match=r"pass `dataset\.data_root`"):
        load("cifar10")


def cached(tmp_path, monkeypatch, name, **shards):
    """A data set in the Hub's own cache, as `hf download` leaves it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "a" * 40
    folder = tmp_path / "hub" / ("datasets--" + name.replace("/", "--"))
    for file in shards["files"]:
        table(folder / "snapshots" / commit / "data", [0, 1] * 5, split=file)
    (folder / "snapshots" / commit / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    return commit


def test_offline__a_data_set_in_the_hubs_cache_is_read(tmp_path, monkeypatch):
    commit = cached(tmp_path, monkeypatch, "org/shades", files=["train-00000-of-00002", "train-00001-of-00002"])
    data = load("org/shades")
    assert (data.info.revision, data.info.license, sum(sizes(data))) == (commit, "mit", 20)
    with pytest.raises(NetworkError):
        load("org/shades", revision="../../x")


def test_offline__a_part_of_a_data_set_is_not_taken_for_it(tmp_path, monkeypatch):
    cached(tmp_path, monkeypatch, "org/part", files=["train-00000-of-00002"])
    with pytest.raises(NetworkError, match="org/part cannot be fetched"):
        load("org/part")


def test_names__a_folder_that_cannot_be_listed_is_no_reason_to_fail(tmp_path, monkeypatch):
    flat(tmp_path / "d" / "pets" / "a")

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)  # root, who runs tests in containers, may list anything
    with pytest.raises(NotFoundError, match=r"there is no folder .*pest$"):
        load(str(tmp_path / "d" / "pest"))


def test_table__whose_only_other_column_is_the_label_whatever_its_name(tmp_path):
    for index in range(8):
        put(tmp_path / "train" / f"{index}.png", COLOURS[index % 2])
        put(tmp_path / "test" / f"t{index}.png", COLOURS[index % 2])
    rows = [f"{name},{KINDS[i % 2]} \n" for i in range(8) for name in (i, f"t{i}")]
    (tmp_path / "labels.csv").write_text("id,breed\n" + "".join(rows))
    data = load(tmp_path)
    assert data.classes == KINDS
    assert is_right(data)
    assert "labels are the column 'breed' of labels.csv" in said(data)


def test_table__of_several_columns_none_of_which_is_called_like_a_label_is_refused(tmp_path):
    flat(tmp_path)
    (tmp_path / "table.csv").write_text("id,breed,age\n" + "".join(f"{i},{KINDS[i % 2]},{i}\n" for i in range(8)))
    with pytest.raises(DataError, match=r"no column of labels \(breed, age\); name one with `dataset.label_column`"):
        load(tmp_path)
    assert load(tmp_path, label_column="breed").classes == KINDS


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_table__that_is_not_utf8_is_refused_with_the_line(tmp_path, name):
    flat(tmp_path)
    labels = ["b\xe4r", "b\xf6r"]
    if name.endswith("csv"):
        text = "file_name,label\n" + "".join(f"{i}.png,{labels[i % 2]}\n" for i in range(8))
    else:
        lines = (json.dumps({"file_name": f"{i}.png", "label": labels[i % 2]}, ensure_ascii=False) for i in range(8))
        text = "".join(f"{line}\n" for line in lines)
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=rf"line \d of {name} is not UTF-8; save the table as UTF-8"):
        load(tmp_path)
    (tmp_path / name).write_bytes(text.encode())
    assert load(tmp_path).classes == tuple(labels)


def test_table__blanks_around_a_label_are_no_part_of_it(tmp_path):
    flat(tmp_path)
    rows = [f"{i}.png,{' ' * (i % 3)}{KINDS[i % 2]}\n" for i in range(8)]
    (tmp_path / "metadata.csv").write_text("file_name,label\n" + "".join(rows))
    assert load(tmp_path).classes == KINDS
