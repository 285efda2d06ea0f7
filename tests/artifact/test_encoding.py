"""float32, float16 and uint8 tensors: what is stored, what comes back, and that it is what was measured."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from distillkit import compress, load_distilled, storage
from distillkit.artifact import own_section
from distillkit.artifact.encoding import as_stored
from distillkit.artifact.layout import FILES, recipe_file
from distillkit.data.preprocess import Standardise
from distillkit.errors import ConfigError
from distillkit.evaluation.tuning import Candidate, Tried
from distillkit.lab import effective
from distillkit.records import EvalReport, SyntheticSet
from distillkit.stages.kept_recipes import Tuned, keep_recipe
from tests.artifact.small import write_small
from tests.helpers import TINY

PREPROCESS = Standardise(torch.full((3,), 0.5).double(), torch.full((3,), 0.2).double())


def synthetic(scale=2.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randn(4, 4, generator=generator).softmax(1)
    return SyntheticSet(torch.randn(4, 3, 5, 5, generator=generator) * scale, labels, torch.arange(4), 0.1)


def test_as_stored__float32_is_exact_and_the_others_within_half_a_step():
    before = synthetic()
    assert torch.equal(as_stored(before, PREPROCESS, "float32").images, before.images)
    half = as_stored(before, PREPROCESS, "float16")
    assert torch.equal(half.images, before.images.half().float())
    assert torch.equal(half.labels, before.labels.half().float())
    pixels = PREPROCESS.invert(before.images)
    step = float(max(pixels.max(), torch.tensor(1.0)) - min(pixels.min(), torch.tensor(0.0))) / 255
    eight = as_stored(before, PREPROCESS, "uint8")
    assert (PREPROCESS.invert(eight.images) - pixels).abs().max() <= step / 2 + 1e-6
    assert not torch.equal(eight.images, before.images)


def test_as_stored__twice_is_once():
    for dtype in ("float32", "float16", "uint8"):
        once = as_stored(synthetic(), PREPROCESS, dtype)
        twice = as_stored(once, PREPROCESS, dtype)
        torch.testing.assert_close(twice.images, once.images, rtol=0, atol=1e-5)


def test_as_stored__too_large_for_float16_is_refused():
    with pytest.raises(ConfigError, match="too large for float16"):
        as_stored(synthetic(1e6), PREPROCESS, "float16")


@pytest.mark.parametrize(("dtype", "stored"), [("float16", torch.float16), ("uint8", torch.uint8)])
def test_compress__stores_what_was_measured_and_packs_a_finished_run_again(tmp_path, dtype, stored):
    arguments = {"ipc": 2, "preset": "smoke", "out": tmp_path / "set", "device": "cpu"}
    first = compress("digits", settings=TINY, **arguments)
    rows = storage.read_sealed_json(tmp_path / "set" / "run" / "evaluation.json")["content"]
    ds = compress("digits", settings={**TINY, "artifact.dtype": dtype}, **arguments)
    tensors = load_file(tmp_path / "set" / FILES.tensors)
    assert tensors["images"].dtype == stored
    assert ds.results["float32"] == first.results["architectures"]["convnet"]
    assert ds.results["baselines"] == first.results["baselines"]
    after = storage.read_sealed_json(tmp_path / "set" / "run" / "evaluation.json")["content"]
    assert ds.results["architectures"]["convnet"] == after[dtype]
    assert {key: after[key] for key in rows} == rows  # nothing was measured twice
    expected = as_stored(first._artifact.synthetic, first._artifact.preprocess, dtype)
    torch.testing.assert_close(ds.images, expected.images, rtol=0, atol=0 if dtype == "float16" else 1e-6)
    assert f"Stored as {dtype}" in (tmp_path / "set" / FILES.card).read_text()
    view = ds.to_hf_dataset()
    assert view.to_dict() == load_distilled(tmp_path / "set").to_hf_dataset().to_dict()


def found_for(name):
    candidate = Candidate("sgd", 0.03, 100, "none")
    recipe = candidate.to_json(20) | {"architecture": {"name": name}, "tuned_for": name}
    return Tuned(name, recipe, (Tried(candidate, 0.5, 1.0),), EvalReport((0.5, 0.75), {"lr": 0.03}), {}, 1.0)


def save_report(folder, name):
    results = json.loads((folder / FILES.results).read_text())
    results["architectures"][name] = EvalReport((0.25,), {"lr": 0.02}).to_json()
    (folder / FILES.results).write_text(json.dumps(results))


def test_compress__packed_again_keeps_repository_and_own_section(tmp_path):
    arguments = {"ipc": 2, "preset": "smoke", "out": tmp_path / "set", "device": "cpu"}
    compress("digits", settings=TINY, **arguments)
    path = tmp_path / "set" / FILES.config
    home = {"repo": "org/x", "revision": "v3", "own_section": "0" * 64}
    path.write_text(json.dumps({**json.loads(path.read_text()), "hub": home}))
    card = tmp_path / "set" / FILES.card
    card.write_text(card.read_text().replace(own_section.wrap(""), own_section.wrap("MY NOTES")))
    for name in ("mlp", "lenet"):
        keep_recipe(tmp_path / "set", found_for(name))
    (tmp_path / "set" / recipe_file("lenet")).write_text("{}")
    save_report(tmp_path / "set", "convnet:width=5")
    ds = compress("digits", settings={**TINY, "artifact.dtype": "float16"}, **arguments)
    assert ds.config["hub"] == home
    assert own_section.find(card.read_text()) == "MY NOTES"
    assert (list(ds.recipes), ds.config["recipes"]) == (["mlp"], ["mlp"])  # the other one cannot be read any more
    assert ds.recipe_for("mlp")["lr"] == 0.03
    assert ds.results["tuned"]["mlp"]["accuracies"] == [0.5, 0.75]
    assert ds.results["architectures"]["convnet:width=5"]["accuracies"] == [0.25]
    assert "sgd 0.03, 100 steps, none (measured on float32 images) | 62.5" in card.read_text()
    assert "| convnet:width=5 (measured on float32 images) | 25.0" in card.read_text()
    again = compress("digits", settings=TINY, **arguments)
    assert list(again.results["tuned"]) == ["mlp"]
    assert "measured on float32 images" not in card.read_text()
    own = effective(TINY | {"distill.outer_steps": 0}, "digits", 3, "random", "smoke")
    other = compress("digits", method="random", replace=True, **{**arguments, "ipc": 3}, settings=own)
    assert own_section.find(card.read_text()) == "MY NOTES"  # another run in the same folder
    assert other.config.get("hub") is None
    assert (other.recipes, other.results.get("tuned")) == ({}, None)
    assert not (tmp_path / "set" / FILES.curves).exists()  # nothing was learned, and the old picture is another run's


def test_load__dtype_of_the_config_and_of_the_file_must_agree(tmp_path):
    folder = write_small(tmp_path / "a", dtype="float16", soft=True)
    assert load_distilled(folder).images.dtype == torch.float32
    config = json.loads((folder / FILES.config).read_text())
    (folder / FILES.config).write_text(json.dumps({**config, "dtype": "float32"}))
    with pytest.raises(Exception, match="images F16"):
        load_distilled(folder)


def test_parquet__of_every_dtype_is_the_view_that_was_written(tmp_path):
    for dtype in ("float32", "float16", "uint8"):
        folder = write_small(tmp_path / dtype, dtype=dtype)
        stored = pq.read_table(folder / FILES.parquet).to_pydict()
        assert load_distilled(folder).to_hf_dataset().data.to_pydict() == stored
