import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from distillkit import compress, load_distilled
from distillkit.artifact.layout import FILES, PUBLISHED, check_format
from distillkit.artifact.views import eight_bit
from distillkit.data.preprocess import Standardise
from distillkit.errors import ArtifactError, ConfigError
from distillkit.lab import effective
from distillkit.records import SyntheticSet
from tests.helpers import TINY


def test_folder__has_every_promised_file_and_no_pickle(made):
    for name in set(vars(FILES).values()) - {FILES.recipes}:  # which tuning makes
        assert (made / name).exists(), name
    suffixes = {path.suffix for path in made.rglob("*") if path.is_file()}
    assert suffixes <= {".md", ".json", ".safetensors", ".parquet", ".png", ".jsonl", ""}


def test_tensors__names_shapes_dtypes_and_one_metadata_key(made):
    tensors = load_file(made / FILES.tensors)
    assert {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()} == {
        "images": ((20, 1, 8, 8), torch.float32),
        "labels": ((20, 10), torch.float32),
        "class_ids": ((20,), torch.int64),
        "lr": ((), torch.float64),
    }
    assert set(load_file(made / FILES.preprocess)) == {"mean", "std"}


def test_config__says_everything_and_nothing_of_this_machine(made):
    config = json.loads((made / FILES.config).read_text())
    wanted = "format_version method ipc image_shape classes label_kind settings source seed versions hardware"
    assert set(wanted.split()) <= set(config)
    assert config["settings"]["distill"]["inner_steps"] == 2
    assert config["origins"]["distill.inner_steps"] == "argument"
    assert str(made.parent) not in json.dumps(config)


def test_dataset__is_a_torch_dataset_with_the_promised_attributes(made):
    ds = load_distilled(made)
    image, target = ds[3]
    assert (image.shape, target.shape, len(ds)) == ((1, 8, 8), (10,), 20)
    for name in [
        "images",
        "labels",
        "class_ids",
        "lr",
        "classes",
        "num_classes",
        "config",
        "recipe",
        "results",
        "revision",
        "preprocess",
        "augment",
    ]:
        assert hasattr(ds, name)
    batches = list(ds.loader(batch_size=8))
    assert [len(images) for images, _ in batches] == [8, 8, 4]
    assert torch.cat([images for images, _ in batches]).sum().item() == pytest.approx(ds.images.sum().item(), rel=1e-4)
    assert float(ds.criterion()(torch.zeros(20, 10), ds.targets)) == pytest.approx(np.log(10), rel=1e-5)
    assert ds.augment(ds.images, torch.Generator().manual_seed(0)).shape == ds.images.shape


def test_preprocess__tensors_and_pictures_agree(made):
    ds = load_distilled(made)
    pixels = torch.randint(0, 256, (1, 8, 8), dtype=torch.uint8)
    inputs = ds.preprocess(pixels)
    assert torch.equal(ds.preprocess(Image.fromarray(pixels[0].numpy())), inputs)
    assert torch.equal(ds.preprocess(pixels[None])[0], inputs)
    with pytest.raises(ConfigError, match="uint8 images of shape"):
        ds.preprocess(pixels.float())


def test_train__any_module_by_the_recipe_and_bad_modules_are_refused(made):
    ds = load_distilled(made)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    before = model[1].weight.clone()
    epochs = []
    assert ds.train(model, epochs=2, progress=lambda epoch, loss: epochs.append(epoch)) is model
    assert epochs == [0, 1]
    assert not torch.equal(model[1].weight, before)
    assert 0 <= ds.evaluate(model) <= 1
    with pytest.raises(ConfigError, match="10 classes"):
        ds.train(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)))
    with pytest.raises(ConfigError, match="does not take images"):
        ds.train(torch.nn.Linear(7, 10))


def test_train__without_parameters_or_on_a_device_that_is_not_there(made):
    ds = load_distilled(made)
    with pytest.raises(ConfigError, match="no parameters"):
        ds.train(torch.nn.Flatten())
    with pytest.raises(ConfigError, match="asks for a GPU"):
        ds.train(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), device="cuda:77")


def test_compress__a_command_longer_than_the_format_allows_is_cut_not_fatal(tmp_path):
    settings = effective(TINY | {"distill.outer_steps": 0}, "digits", 1, "random", "smoke")
    words, out = "x" * 50_000, tmp_path / "set"
    compress("digits", ipc=1, method="random", preset="smoke", settings=settings, out=out, device="cpu", command=words)
    assert load_distilled(out).config["command"] == "x" * 14_997 + "..."


def test_save__and_load_again_is_the_same(made, tmp_path):
    ds = load_distilled(made)
    ds.save(tmp_path / "again")
    for name in PUBLISHED:
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes()
    assert not (tmp_path / "again" / "run").exists()
    with pytest.raises(ConfigError, match="not an empty folder"):
        ds.save(tmp_path / "again")


def test_parquet__datasets_reads_images_labels_and_soft_labels(made, tmp_path):
    table = datasets.load_dataset(
        "parquet", data_files=str(made / FILES.parquet), cache_dir=str(tmp_path), split="train"
    )
    assert isinstance(table.features["image"], datasets.Image)
    assert table.features["label"].names == [str(k) for k in range(10)]
    assert table[3]["label"] == 1
    assert table[3]["soft_label"] == pytest.approx(load_distilled(made).targets[3].tolist())
    view = load_distilled(made).to_hf_dataset()
    assert view[3]["image"].size == (8, 8)
    assert pq.read_schema(made / FILES.parquet).names == ["image", "label", "soft_label"]


def test_eight_bit__keeps_the_range_and_comes_back_within_half_a_step():
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 3
    preprocess = Standardise(torch.full((3,), 0.5).double(), torch.full((3,), 0.2).double())
    view = eight_bit(SyntheticSet(images, torch.eye(4), torch.arange(4), 0.1), preprocess)
    pixels = preprocess.invert(images)
    assert (view.low, view.high) == (pytest.approx(float(pixels.min())), pytest.approx(float(pixels.max())))
    assert (view.pixels() - pixels).abs().max() <= (view.high - view.low) / 255 / 2 + 1e-6


def test_card__has_valid_front_matter_and_the_measured_numbers(made):
    text = (made / FILES.card).read_text()
    _, front, body = text.split("---\n", 2)
    matter = yaml.safe_load(front)
    assert matter["license"] == "cc-by-4.0"
    assert "distillkit" in matter["tags"]
    results = json.loads((made / FILES.results).read_text())
    row = results["architectures"]["convnet"]
    assert f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}" in body
    assert "$" not in body


def damage(folder, name, change):
    path = folder / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_read__refuses_what_is_no_artifact(tmp_path):
    with pytest.raises(ArtifactError, match="does not exist"):
        load_distilled(tmp_path / "absent")
    with pytest.raises(ArtifactError, match=r"has no distill_config\.json"):
        load_distilled(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format_version="99.0"), "upgrade"),
        (lambda c: c.update(format_version="x"), "format_version"),
        (lambda c: c.update(ipc=3), "the config says"),
        (lambda c: c.update(image_shape=[1, 8]), "image_shape"),
        (lambda c: c.pop("classes"), "classes"),
        (lambda c: c.update(label_kind="words"), "label_kind"),
    ],
)
def test_read__config_and_tensors_must_agree(copy, change, message):
    damage(copy, FILES.config, change)
    with pytest.raises(ArtifactError, match=message):
        load_distilled(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["images"].fill_(float("nan")), "images has values that are not finite"),
        (lambda t: t["class_ids"].fill_(11), "class_ids are not 2 of each of 10 classes, class by class"),
        (lambda t: t["class_ids"].fill_(0), "class_ids are not 2 of each of 10 classes, class by class"),
        (lambda t: t["class_ids"].copy_(t["class_ids"].flip(0)), "class_ids are not 2 of each of 10 classes"),
        (lambda t: t["lr"].fill_(-1), "not positive"),
        (lambda t: t["labels"].mul_(0.5), "labels are said to be probabilities, but are not"),
        (lambda t: t["labels"][0, :2].copy_(torch.tensor([-1.0, 2.0])), "labels are said to be probabilities, but"),
        (lambda t: t.update(extra=torch.zeros(1)), "the config says"),
        (lambda t: t.update(labels=t["labels"].to(torch.int32)), "the config says"),
    ],
)
def test_read__tensors_are_checked(copy, change, message):
    tensors = load_file(copy / FILES.tensors)
    change(tensors)
    save_file(tensors, copy / FILES.tensors)
    with pytest.raises(ArtifactError, match=message):
        load_distilled(copy)


@pytest.mark.parametrize("name", [FILES.tensors, FILES.preprocess, FILES.recipe, FILES.results, FILES.config])
def test_read__cut_or_missing_files_are_named(copy, name):
    path = copy / name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        load_distilled(copy)
    path.unlink()
    with pytest.raises(ArtifactError, match=name.replace(".", r"\.")):
        load_distilled(copy)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (FILES.recipe, lambda r: r.clear(), r"recipe\.json"),
        (FILES.recipe, lambda r: r.update(lr=-1), r"recipe\.json: lr"),
        (FILES.recipe, lambda r: r["schedule"].update(epochs="many"), r"schedule\.epochs"),
        (FILES.results, lambda r: r.update(architectures=3), r"results\.json: architectures"),
        (FILES.config, lambda c: c.update(image_shape=[1, 0, 8]), r"image_shape\.1"),
    ],
)
def test_read__json_files_are_checked(copy, name, change, message):
    damage(copy, name, change)
    with pytest.raises(ArtifactError, match=message):
        load_distilled(copy)


def test_read__std_must_be_positive(copy):
    save_file({"mean": torch.zeros(1), "std": torch.zeros(1)}, copy / FILES.preprocess)
    with pytest.raises(ArtifactError, match="std is not positive"):
        load_distilled(copy)


def test_load_source__keys_of_a_newer_minor_format_do_not_matter(copy):
    damage(copy, FILES.config, lambda c: c["settings"]["dataset"].update(invented=1))
    assert len(load_distilled(copy).load_source().test) == 450


def test_format__older_and_same_majors_are_read():
    check_format("1.9")
    check_format("0.1")
    with pytest.raises(ArtifactError):
        check_format(None)
