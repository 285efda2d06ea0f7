"""The field's files: read without executing anything, completed with what they lost, measured; and written."""

import contextlib
import dataclasses
import json
import pickle
import random
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import distillkit
from distillkit import compress, load_distilled, pipeline, storage
from distillkit.data.preprocess import Standardise
from distillkit.data.published_statistics import published_statistics
from distillkit.data.sources import locate, read
from distillkit.errors import ConfigError, DataError, NotFoundError
from distillkit.interchange.export import folder_names
from distillkit.interchange.read_pt import FieldFiles, read_field_files
from distillkit.interchange.to_set import images_per_class, label_kind, to_synthetic
from distillkit.lab import effective
from distillkit.methods import SettingsLayer
from distillkit.settings import DatasetSettings
from distillkit.stages.importing import SEARCHED_LRS, Lost, preprocessing_layer, told_beside
from tests.artifact.small import write_small
from tests.helpers import TINY, images


def save(folder, **values):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        torch.save(value, folder / f"{name}.pt")
    return folder


def import_set(tmp_path, folder, kind="pt", lost=None, replace=False, **settings):
    overrides = [SettingsLayer("--set", {**TINY, "dataset.max_train": 200, **settings})]
    known = lost or Lost(False, mean=(0.3,), std=(0.4,))
    out = tmp_path / "imported"
    return pipeline.import_files(
        [folder], kind, "digits", known, preset="smoke", out=out, device="cpu", overrides=overrides, replace=replace
    )


def test_import_files__takes_paths_as_compress_does(made, tmp_path, monkeypatch):
    """Text or Path, one or several, the home folder as ``~``; the folder's default name is that of ``compress``."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    load_distilled(made).export("pt", tmp_path / "pt")
    overrides = [SettingsLayer("--set", {**TINY, "dataset.max_train": 200})]
    few = {"preset": "smoke", "device": "cpu", "overrides": overrides}
    one = distillkit.import_files("~/pt", "pt", "digits", out="~/a", **few)
    assert one.folder == tmp_path / "a"
    several = distillkit.import_files(
        ["pt/images_best.pt", tmp_path / "pt" / "labels_best.pt", "pt/lr_best.pt"], "pt", "digits", **few
    )
    assert several.folder == Path("runs/digits-ipc2-pt-imported")
    assert torch.equal(one.images, several.images)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"paths": 3}, "`paths` is a int, expected a file or folder"),
        ({"paths": [3]}, "`paths` is a int, expected a file or folder"),
        ({"dataset": 3}, "`dataset` is a int, expected a name or a path"),
        ({"lost": 3}, "`lost` is a int, expected a distillkit.Lost"),
        ({"overrides": {"seed": 1}}, "overrides is a dict, expected a list"),
        ({"out": 3}, "`out` is a int, expected a folder"),
        ({"kind": "mtt"}, "the files do not say whether the images are ZCA-whitened; give `zca=True` or False"),
    ],
)
def test_import_files__what_it_cannot_take_is_refused_in_a_sentence(tmp_path, given, message):
    folder = save(tmp_path / "x", images=images(), labels=torch.arange(20) % 10, lr=0.1)
    call = {"paths": folder, "kind": "pt", "dataset": "digits", **given}
    with pytest.raises(ConfigError, match=message):
        distillkit.import_files(**call)


def test_round_trip__an_exported_set_comes_back_and_trains_as_before(made, tmp_path):
    ds = load_distilled(made)
    files = ds.export("pt", tmp_path / "pt")
    assert {path.name for path in files} == {"images_best.pt", "labels_best.pt", "lr_best.pt", "distillkit.json"}
    rate = torch.load(tmp_path / "pt" / "lr_best.pt", weights_only=True)  # DATM: syn_lr = torch.load(...).to(device)
    assert (rate.shape, float(rate)) == ((), ds.lr)
    again = import_set(tmp_path, tmp_path / "pt", kind="pt", lost=Lost(False))  # distillkit.json has their mean and std
    assert torch.equal(again.images, ds.images)
    assert torch.equal(again.labels, ds.labels)
    assert (again.lr, again.recipe["lr"]) == (ds.lr, ds.recipe["lr"])
    for row in ("random", "kmeans", "full"):
        assert again.results["baselines"][row]["n"] == ds.results["baselines"][row]["n"]
    ours, theirs = again.results["architectures"]["convnet"], ds.results["architectures"]["convnet"]
    assert ours["accuracies"] == theirs["accuracies"]
    assert again.config["imported_from"] == "images_best.pt, labels_best.pt, lr_best.pt"
    card = (tmp_path / "imported" / "README.md").read_text()
    assert "20 learned images" in card
    assert "curves.png" not in card


def test_told_beside__what_was_said_counts_and_a_wrong_note_is_none(tmp_path):
    note = {"preprocessing": "standardise", "preprocess": {"mean": [0.1], "std": [0.2]}}
    file, path = tmp_path / "distillkit.json", tmp_path / "images_best.pt"
    file.write_text(json.dumps(note))
    for place in (tmp_path, path):
        told = told_beside([place], Lost(False, lr=0.3))
        assert (told.mean, told.std, told.lr) == ((0.1,), (0.2,), 0.3)
    said = Lost(False, mean=(0.5,), std=(0.5,))
    assert told_beside([tmp_path], said) is said
    file.write_text(json.dumps(note | {"preprocessing": "zca"}))
    assert told_beside([tmp_path], Lost()).zca
    with pytest.raises(ConfigError, match=r"are in the space zca, another one than was said"):
        told_beside([tmp_path], Lost(False))
    for space in ("unit-zca", "unit-dct"):
        file.write_text(json.dumps(note | {"preprocessing": space, "preprocess": {"mean": [], "std": []}}))
        told = told_beside([tmp_path], Lost())
        assert told.space == space
        files = FieldFiles(torch.zeros(1, 3, 8, 8), torch.zeros(1), 0.1, ())
        layer = preprocessing_layer("mtt", "cifar10", files, told)
        assert layer.values["dataset.preprocessing"] == space
        with pytest.raises(ConfigError, match=rf"are in the space {space}, another one"):
            told_beside([tmp_path], Lost(True))
    for wrong in ("[", "[]", "{}", json.dumps(note | {"preprocess": {"mean": ["x"], "std": [1]}})):
        file.write_text(wrong)
        assert told_beside([tmp_path], Lost(False)) == Lost(False)


def test_import__lr_that_the_files_lack_is_searched_on_validation_data(tmp_path):
    folder = save(tmp_path / "mtt", images_best=images(), labels_best=torch.arange(10).repeat_interleave(2))
    ds = import_set(tmp_path, folder)
    assert ds.lr in SEARCHED_LRS
    assert "on validation" in ds.results["selection"]["split"]
    again = import_set(tmp_path, folder)  # finished work is taken up
    assert again.lr == ds.lr


def test_import__unsorted_hard_labels_and_their_images_are_put_in_class_order(tmp_path):
    ids = torch.arange(10).repeat(2)
    files = read_field_files([save(tmp_path / "x", images=images(), labels=ids, lr=torch.tensor(0.02))])
    synthetic = to_synthetic(files, 10, 0.02, "probabilities")
    assert synthetic.class_ids.tolist() == sorted(ids.tolist())
    assert torch.equal(synthetic.images[0:2], files.images[[0, 10]])
    assert torch.equal(synthetic.labels.argmax(1), synthetic.class_ids)
    assert (images_per_class(files), files.lr) == (2, pytest.approx(0.02))


def test_import__soft_labels_are_told_apart_and_what_was_said_is_checked(tmp_path):
    logits = torch.randn(20, 10) + 9 * torch.eye(10).repeat_interleave(2, 0)
    soft = read_field_files([save(tmp_path / "p", images_best=images(), labels_best=logits.softmax(1), lr_best=0.1)])
    raw = read_field_files([save(tmp_path / "l", images_best=images(), labels_best=logits, lr_best=0.1)])
    assert (label_kind(soft, None), label_kind(raw, None)) == ("probabilities", "logits")
    assert label_kind(soft, "logits") == "logits"
    with pytest.raises(ConfigError, match="do not add up to 1"):
        label_kind(raw, "probabilities")
    synthetic = to_synthetic(raw, 10, 0.1, "logits")
    torch.testing.assert_close(synthetic.targets(), logits.softmax(1))
    assert synthetic.class_ids.tolist() == [k for k in range(10) for _ in range(2)]


def test_import__nothing_in_a_pickle_runs(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    save(tmp_path / "x", labels=torch.arange(20))
    (tmp_path / "x" / "images.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match=r"holds more than tensors, or is damaged|no file of torch\.save"):
        read_field_files([tmp_path / "x"])
    torch.save(Bomb(), tmp_path / "x" / "images.pt")
    (tmp_path / "ran").unlink(missing_ok=True)
    with pytest.raises(DataError, match="was not executed"):
        read_field_files([tmp_path / "x"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"labels": torch.arange(20)}, NotFoundError, "no images_best.pt|no file of images"),
        ({"images": torch.zeros(20, 8, 8), "labels": torch.arange(20)}, DataError, "expected a float tensor"),
        ({"images": torch.zeros(20, 1, 8, 9), "labels": torch.arange(20)}, DataError, "expected .S, 1 or 3"),
        ({"images": torch.full((2, 1, 8, 8), torch.nan), "labels": torch.arange(2)}, DataError, "not finite"),
        ({"images": torch.zeros(4, 1, 8, 8), "labels": torch.arange(2)}, DataError, "do not belong together"),
        ({"images": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([0.5, 1])}, DataError, "not class ids"),
        ({"images": torch.zeros(2, 1, 8, 8), "labels": torch.arange(2), "lr": -1.0}, DataError, "expected a positive"),
        (
            {"images": torch.zeros(2, 1, 8, 8), "labels": torch.arange(2), "lr": [1, 2]},
            DataError,
            "expected one number",
        ),
    ],
)
def test_import__what_does_not_fit_is_told(tmp_path, values, error, message):
    with pytest.raises(error, match=message):
        read_field_files([save(tmp_path / "x", **values)])


@pytest.mark.parametrize(
    "values",
    [
        {"images": torch.zeros(0, 1, 8, 8), "labels": torch.arange(0)},
        {"images": torch.zeros(20, 1, 8, 8), "labels": torch.zeros(20, 0)},
        {"images": torch.zeros(20, 1, 8, 8), "labels": torch.zeros(20, 1)},
        {"images": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([0, 2**40])},
        {"images": torch.zeros(2, 1, 8, 8).to_sparse(), "labels": torch.arange(2)},
        {"images": torch.zeros(2, 1, 8, 8, device="meta"), "labels": torch.arange(2)},
        {"images": torch.zeros(2, 1, 8, 8), "labels": torch.arange(2), "lr": 10**400},
        {"images": [1, 2], "labels": {"a": 1}},
    ],
)
def test_import__odd_tensors_are_our_error(tmp_path, values):
    with pytest.raises(DataError):
        read_field_files([save(tmp_path / "x", **values)])


def test_import__flipped_bytes_are_our_error(tmp_path):
    buffer = tmp_path / "good.pt"
    torch.save(images(4), buffer, _use_new_zipfile_serialization=False)
    good, numbers = buffer.read_bytes(), random.Random(0)
    save(tmp_path / "x", labels=torch.arange(4))
    for _ in range(300):
        content = bytearray(good)
        for _ in range(numbers.randint(1, 4)):
            content[numbers.randrange(min(600, len(content)))] = numbers.randrange(256)
        (tmp_path / "x" / "images.pt").write_bytes(content)
        with contextlib.suppress(DataError):
            read_field_files([tmp_path / "x"])


def test_import__contradictions_are_told(tmp_path):
    good = save(tmp_path / "good", images=images(), labels=torch.arange(10).repeat_interleave(2), lr=0.1)
    with pytest.raises(ConfigError, match="contradict"):
        import_set(tmp_path, good, lost=Lost(True, mean=(0.0,), std=(1.0,)))
    searched = import_set(tmp_path, good, lost=Lost(False, search=True, mean=(0.3,), std=(0.4,)))
    assert searched.lr in SEARCHED_LRS
    assert "chosen from" in searched.results["selection"]["split"]


@pytest.mark.parametrize("bad", [torch.tensor(float("nan")), torch.tensor(-0.5), torch.zeros(3)])
def test_import__a_bad_lr_in_a_file_does_not_matter_where_another_is_given(tmp_path, bad):
    ids = torch.arange(10).repeat_interleave(2)
    folder = save(tmp_path / "x", images_best=images(), labels_best=ids, lr_best=bad)
    space = {"mean": (0.3,), "std": (0.4,)}
    with pytest.raises(DataError, match="the learning rate is"):
        import_set(tmp_path, folder, lost=Lost(False, **space))
    assert import_set(tmp_path, folder, lost=Lost(False, lr=0.25, **space)).lr == 0.25
    with pytest.raises(ConfigError, match="another run"):
        import_set(tmp_path, folder, lost=Lost(False, search=True, **space))
    files = read_field_files([folder], with_lr=False)
    assert (files.lr, files.names) == (None, ("images_best.pt", "labels_best.pt"))


def test_import__a_bad_lr_in_a_file_does_not_matter_where_it_is_searched(tmp_path):
    ids = torch.arange(10).repeat_interleave(2)
    folder = save(tmp_path / "x", images_best=images(), labels_best=ids, lr_best=torch.tensor(float("nan")))
    assert import_set(tmp_path, folder, lost=Lost(False, search=True, mean=(0.3,), std=(0.4,))).lr in SEARCHED_LRS


def test_import__soft_labels_in_another_order_are_sorted_by_class(tmp_path):
    order = torch.arange(10).repeat(2)
    soft = (torch.randn(20, 10) + 9 * torch.eye(10)[order]).softmax(1)
    files = read_field_files([save(tmp_path / "x", images=images(), labels=soft, lr=0.1)])
    synthetic = to_synthetic(files, 10, 0.1, "probabilities")
    assert synthetic.class_ids.tolist() == sorted(order.tolist())
    assert torch.equal(synthetic.labels.argmax(1), synthetic.class_ids)
    assert torch.equal(synthetic.images[1], files.images[10])
    learned = soft[torch.argsort(order, stable=True)].clone()
    learned[3] = torch.eye(10)[7]  # one that was learned to look like another class keeps its place
    kept = to_synthetic(
        read_field_files([save(tmp_path / "y", images=images(), labels=learned)]), 10, 0.1, "probabilities"
    )
    assert kept.class_ids.tolist() == sorted(order.tolist())
    shuffled = save(tmp_path / "z", images=images(), labels=torch.eye(10)[torch.randint(1, 3, (20,))])
    with pytest.raises(DataError, match="fit no order of classes"):
        to_synthetic(read_field_files([shuffled]), 10, 0.1, "probabilities")


def test_import__card_says_whose_images_these_are_and_claims_nothing_of_their_choice(made, tmp_path):
    load_distilled(made).export("pt", tmp_path / "pt")
    again = import_set(tmp_path, tmp_path / "pt")
    card = (tmp_path / "imported" / "README.md").read_text()
    assert "Made elsewhere by" in card
    assert "imported with distillkit from `images_best.pt, labels_best.pt, lr_best.pt`" in card
    assert "It may have been on these test data" in card
    assert "Test data chose nothing" not in card
    source = again.load_source()
    assert again.config["source"]["train_images"] == len(source.train) + len(source.validation)


def test_import__files_and_data_must_agree(tmp_path):
    ids = torch.arange(10).repeat_interleave(2)
    nine = save(tmp_path / "nine", images=images(18), labels=torch.arange(9).repeat_interleave(2), lr=0.1)
    with pytest.raises(DataError, match="9 classes, the data set has 10"):
        import_set(tmp_path, nine)
    uneven = save(tmp_path / "uneven", images=images(), labels=torch.tensor([0] * 11 + list(range(1, 10))))
    with pytest.raises(DataError, match="as many of each class"):
        import_set(tmp_path, uneven)
    good = save(tmp_path / "good", images=images(), labels=ids, lr=0.1)
    with pytest.raises(ConfigError, match="give `mean` and `std`"):
        import_set(tmp_path, good, lost=Lost(False))
    with pytest.raises(ConfigError, match="as the images have channels, 1, standard deviations above 0; got 2 and 2"):
        import_set(tmp_path, good, lost=Lost(False, mean=(0.1, 0.2), std=(1.0, 1.0)))
    picture = save(tmp_path / "zca", images_zca_best=images(), labels=ids)
    with pytest.raises(DataError, match="say `zca=True`"):
        read_field_files([picture / "images_zca_best.pt"])


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        ({"images": images(18), "labels": torch.arange(9).repeat_interleave(2)}, {}, "9 classes, the data set has 10"),
        ({"images": torch.zeros(20, 3, 8, 8)}, {"dataset.color": "gray"}, r"hold images of \[3, 8, 8\]"),
        ({"lr": torch.tensor(float("nan"))}, {}, "the learning rate is nan"),
        ({}, {"network.name": "resnet"}, "network 'resnet' is unknown"),
        ({}, {"network.depth": 9}, "depth"),
        ({}, {"dataset.mean": (0.3, 0.3)}, "as the images have channels, 1, standard deviations above 0; got 2 and 1"),
    ],
)
def test_import__that_is_refused_leaves_the_set_that_it_was_to_replace(made, tmp_path, values, settings, message):
    good = {"images": images(), "labels": torch.arange(10).repeat_interleave(2), "lr": torch.tensor(0.1)}
    folder, out = save(tmp_path / "x", **good | values), shutil.copytree(made, tmp_path / "imported")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises((ConfigError, DataError), match=message):
        import_set(tmp_path, folder, replace=True, **settings)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    load_distilled(out)


def test_import__zca_is_fitted_on_all_training_images(tmp_path):
    ids = torch.arange(10).repeat_interleave(2)
    ds = import_set(tmp_path, save(tmp_path / "x", images=images(), labels=ids, lr=0.1), lost=Lost(True))
    assert ds.config["settings"]["dataset"]["preprocessing"] == "zca"
    data = ds.load_source()
    pixels = torch.cat([data.train.images, data.validation.images]).flatten(1).double() / 255
    centred = pixels - pixels.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (len(pixels) - 1))
    matrix = vectors @ torch.diag((values.clamp_min(0) + 0.1) ** -0.5) @ vectors.T
    torch.testing.assert_close(ds._artifact.preprocess.matrix, matrix, rtol=0, atol=1e-6)
    rows = storage.cache_root() / "baselines"
    assert len(list(rows.glob("full-*.json"))) == 1
    own = TINY | {"dataset.preprocessing": "zca", "distill.outer_steps": 0}
    own = effective(own, "digits", 2, "random", "smoke")
    compress("digits", ipc=2, method="random", preset="smoke", settings=own, out=tmp_path / "own", device="cpu")
    assert len(list(rows.glob("full-*.json"))) == 2  # another whitening, so another row for the full data


def test_normalisation__constants_of_the_mtt_family():
    assert published_statistics("cifar100") == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert published_statistics("imagenet-nette") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert published_statistics("digits") is None


def test_export__ddranking_files_are_tensors_that_load_safely(made, tmp_path):
    ds = load_distilled(made)
    ds.export("ddranking", tmp_path / "dd")
    stored = {
        name: torch.load(tmp_path / "dd" / f"{name}.pt", weights_only=True) for name in ("images", "labels", "lr")
    }
    assert torch.equal(stored["images"], ds.images)
    assert torch.equal(stored["labels"], ds.class_ids)
    assert float(stored["lr"]) == pytest.approx(ds.lr)


@pytest.mark.parametrize("kind", ["hard", "probabilities", "logits"])
def test_export__the_note_beside_a_ddranking_export_is_of_what_was_exported(tmp_path, kind):
    """DD-Ranking standardises CIFAR-10 by constants of its own and takes logits; ``import`` believes the note."""
    ds = load_distilled(write_small(tmp_path / "set", shape=(3, 4, 4), soft=kind != "hard"))
    ds._artifact.config["source"]["name"] = "cifar10"
    if kind == "logits":
        labels = torch.tensor([[0.7, 0.3], [0.2, 0.8]])  # that look like probabilities
        ds._artifact = dataclasses.replace(
            ds._artifact, synthetic=dataclasses.replace(ds._artifact.synthetic, labels=labels, label_kind="logits")
        )
    ds.export("ddranking", tmp_path / "dd")
    note = json.loads((tmp_path / "dd" / "distillkit.json").read_text())
    assert note["preprocess"]["mean"] == pytest.approx([0.4914, 0.4822, 0.4465])
    assert note["preprocess"]["std"] == pytest.approx([0.2023, 0.1994, 0.2010])
    assert note["label_kind"] == ("probabilities" if kind == "hard" else "logits")
    files, told = read_field_files([tmp_path / "dd"]), told_beside([tmp_path / "dd"], Lost(False))
    space = Standardise(torch.tensor(told.mean), torch.tensor(told.std))
    pixels = ds._artifact.preprocess.invert(ds.images)
    torch.testing.assert_close(space.invert(files.images), pixels, rtol=0, atol=1e-6)
    again = to_synthetic(files, 2, files.lr, label_kind(files, told.labels))
    assert again.label_kind == note["label_kind"]
    torch.testing.assert_close(again.targets(), ds._artifact.synthetic.targets())


def test_export__imagefolder_is_read_by_datasets(made, tmp_path):
    ds = load_distilled(made)
    ds.export("imagefolder", tmp_path / "folder")
    table = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "folder"), split="train", cache_dir=str(tmp_path)
    )
    assert sorted(table["label"]) == ds.class_ids.tolist()
    low, high = (ds.config["uint8_range"][key] for key in ("low", "high"))
    picture = Image.open(tmp_path / "folder" / "train" / "03_3" / "00006.png")
    pixels = torch.from_numpy(np.array(picture))[None].float() / 255 * (high - low) + low
    assert (pixels - ds._artifact.preprocess.invert(ds.images[6:7])[0]).abs().max() <= (high - low) / 510 + 1e-6


def test_export__pictures_are_in_the_range_that_the_note_beside_them_says(copy, tmp_path):
    """That which the config says, as of the images before they were stored in sixteen bits."""
    ds = load_distilled(copy)
    ds._artifact.config["uint8_range"] = {"low": -3.0, "high": 4.0}
    ds.export("imagefolder", tmp_path / "folder")
    note = json.loads((tmp_path / "folder" / "distillkit.json").read_text())
    assert note["uint8_range"] == {"low": -3.0, "high": 4.0}
    picture = np.array(Image.open(tmp_path / "folder" / "train" / "03_3" / "00006.png"))
    pixels = torch.from_numpy(picture)[None].float() / 255 * 7.0 - 3.0
    assert (pixels - ds._artifact.preprocess.invert(ds.images[6:7])[0]).abs().max() <= 7.0 / 510 + 1e-6


ODD_CLASSES = ["Zebra", "ant", "a/b", "a_b_2", "a_b", "10", "9", "Straße", "straße", "CON", "trailing. ", "", "x" * 300]


def test_export__imagefolder_is_numbered_as_the_classes_by_every_reader(tmp_path):
    """Torchvision and ``datasets`` sort by letters, timm naturally and without case; ten classes and more than ten."""
    from timm.data.readers.reader_image_folder import find_images_and_targets
    from torchvision.datasets import ImageFolder

    names = folder_names(ODD_CLASSES)
    for class_id, name in enumerate(names):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        Image.new("L", (8, 8), class_id).save(tmp_path / "set" / "train" / name / "0.png")
    assert ImageFolder(str(tmp_path / "set" / "train")).class_to_idx == {name: k for k, name in enumerate(names)}
    found, order = find_images_and_targets(str(tmp_path / "set" / "train"))
    assert order == {name: k for k, name in enumerate(names)}
    assert [target for _, target in found] == list(range(len(names)))
    table = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), split="train", cache_dir=str(tmp_path))
    assert table.features["label"].names == names
    settings = DatasetSettings(name=str(tmp_path / "set"), validation_fraction=0)
    assert read(locate(settings), settings).classes == tuple(names)


def test_export__folder_names_are_safe_on_every_file_system():
    names = folder_names(ODD_CLASSES)
    assert len({name.casefold() for name in names}) == len(names)
    assert all(re.fullmatch(r"\d\d(_[\w (),+-]*[\w(),+-])?", name, re.ASCII) and len(name) < 100 for name in names)
    assert folder_names(["x"] * 1001)[7] == "0007_x"


def test_export__a_class_map_lies_beside_the_images(made, tmp_path):
    files = load_distilled(made).export("imagefolder", tmp_path / "folder")
    assert tmp_path / "folder" / "classes.txt" in files
    lines = (tmp_path / "folder" / "classes.txt").read_text().splitlines()
    assert lines == [f"{digit:02d}_{digit}" for digit in range(10)]
    notes = json.loads((tmp_path / "folder" / "distillkit.json").read_text())
    assert dict(zip(notes["classes"], notes["folders"], strict=True)) == {str(k): f"{k:02d}_{k}" for k in range(10)}


def test_export__class_names_never_leave_the_folder(made, tmp_path):
    names = folder_names(["../../evil", "a/b", "..", "", "cat", "cat", "a b"])
    assert len(set(names)) == len(names)
    assert all(name not in (".", "..", "") and "/" not in name and not name.startswith(".") for name in names)
    assert names[4] == "04_cat"
    with pytest.raises(ConfigError, match="is unknown"):
        load_distilled(made).export("zip", tmp_path / "x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(ConfigError, match="not an empty folder"):
        load_distilled(made).export("pt", tmp_path / "full")
    with pytest.raises(ConfigError, match=r"mine\.txt is a file; expected a folder"):
        load_distilled(made).export("pt", tmp_path / "full" / "mine.txt")


def test_round_trip__weights_of_labels_and_another_optimiser_come_back(tmp_path):
    changes = {"distill.labels": "weights", "distill.lr_label": 1.0, "dataset.preprocessing": "standardise"}
    known = {**TINY, "dataset.max_train": 200, "evaluate.networks": 2}
    known = effective({**known, **changes, "distill.inner_steps": 2}, "digits", 2, "rat", "smoke")
    ds = compress("digits", ipc=2, method="rat", preset="smoke", settings=known, out=tmp_path / "set", device="cpu")
    assert not torch.allclose(ds.targets.sum(1), torch.ones(20))
    ds.export("pt", tmp_path / "pt")
    same = {"evaluate.epochs": ds.recipe["schedule"]["epochs"], "evaluate.networks": 2, "evaluate.baselines": []}
    overrides = [SettingsLayer("--set", {"dataset.max_train": 200, **same})]
    again = pipeline.import_files(
        [tmp_path / "pt"], "pt", "digits", Lost(), preset="smoke", out=tmp_path / "b", device="cpu", overrides=overrides
    )
    assert again.config["label_kind"] == "weights"
    assert torch.equal(again.targets, ds.targets)
    assert again.recipe == ds.recipe
    ours, theirs = (one.results["architectures"]["convnet"]["accuracies"] for one in (again, ds))
    assert ours == theirs
    ds.export("ddranking", tmp_path / "dd")  # whose losses take a softmax: what an image counts goes into the note
    weight = torch.tensor(json.loads((tmp_path / "dd" / "distillkit.json").read_text())["label_weight"])
    shares = torch.load(tmp_path / "dd" / "labels.pt", weights_only=True).softmax(1)
    assert torch.allclose(shares * weight[:, None], ds.targets, atol=1e-6)
    assert json.loads((tmp_path / "pt" / "distillkit.json").read_text())["label_weight"] is None
    files = read_field_files([tmp_path / "pt"])
    assert label_kind(files, "weights") == "weights"
    with pytest.raises(ConfigError, match="but some are negative; these are logits"):
        label_kind(dataclasses.replace(files, labels=-files.labels - 1), "weights")


def test_import__lr_cannot_be_searched_where_nothing_is_held_out(tmp_path):
    folder = save(tmp_path / "mtt", images_best=images(), labels_best=torch.arange(10).repeat_interleave(2))
    with pytest.raises(ConfigError, match=r"searched on validation images, and .* holds none out; give `lr`"):
        import_set(tmp_path, folder, **{"dataset.validation_fraction": 0})
    lost = Lost(False, lr=0.1, mean=(0.3,), std=(0.4,))
    assert import_set(tmp_path, folder, lost=lost, **{"dataset.validation_fraction": 0}).lr == 0.1


def test_export__takes_the_place_of_an_earlier_one_and_of_nothing_else(made, tmp_path):
    out, ds = tmp_path / "out", load_distilled(made)
    ds.export("imagefolder", out)
    (out / "mine.txt").write_text("x")
    listed = json.loads((out / "distillkit.json").read_text())
    assert len(listed["files"]) == 21
    outside = tmp_path / "outside.png"
    outside.write_text("x")
    listed["files"] += ["../outside.png", str(outside), 3, "train"]
    (out / "distillkit.json").write_text(json.dumps(listed))
    files = ds.export("ddranking", out, replace=True)
    left = {path for path in out.rglob("*") if path.is_file()}
    assert left == {*files, out / "mine.txt"}
    assert outside.exists()
