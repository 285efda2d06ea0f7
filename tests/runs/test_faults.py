"""Faults that users met, each with the right value."""

import io
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from distillkit import compress, load_distilled
from distillkit.cli import console
from distillkit.data.preprocess import Standardise
from distillkit.errors import ConfigError
from distillkit.records import ImageSet
from tests.helpers import TINY


def test_classes__are_the_same_by_name_in_any_order(copy):
    ds = load_distilled(copy)
    images = torch.randint(0, 255, (10, 1, 8, 8), dtype=torch.uint8)
    model = ds.network()
    own = model.eval()(ds.preprocess(images)).argmax(1)
    turned = tuple(reversed(ds.classes))
    assert ds.evaluate(model, ImageSet(images, 9 - own.detach(), turned)) == 1.0
    with pytest.raises(ConfigError, match="without '9' and with 'nine'"):
        ds.evaluate(model, ImageSet(images, own, (*ds.classes[:9], "nine")))
    with pytest.raises(ConfigError, match="without '2', '3'"):
        ds.evaluate(model, ImageSet(images, own.clamp_max(1), ds.classes[:2]))


def test_classes__of_a_whole_data_set_are_the_same_by_name_in_any_order(copy):
    ds = load_distilled(copy)
    source = ds.load_source()
    inputs = ds.preprocess(source.train.images).flatten(1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10, bias=False))  # that knows the digits
    with torch.no_grad():
        model[1].weight.copy_((torch.linalg.pinv(inputs) @ F.one_hot(source.train.labels, 10).float()).T)
    usual = ds.evaluate(model, source)
    order = torch.tensor([(3 * k + 1) % 10 for k in range(10)])  # where each class is in the other order
    turned = tuple(ds.classes[int(k)] for k in order.argsort())
    parts = {name: getattr(source, name) for name in ("train", "validation", "test")}
    other = {name: ImageSet(part.source, order[part.labels], turned) for name, part in parts.items()}
    assert ds.evaluate(model, replace(source, **other)) == usual > 0.7
    assert ds.evaluate(model) == usual


def exported(ds, tmp_path):
    ds.export("ddranking", tmp_path / "out")
    return [torch.load(tmp_path / "out" / f"{name}.pt", weights_only=True) for name in ("images", "labels")]


def test_ddranking__labels_are_what_its_losses_take_a_softmax_of(tmp_path, tiny):
    ds = compress("digits", ipc=1, method="datm", preset="smoke", settings=tiny, out=tmp_path / "a", device="cpu")
    images, labels = exported(ds, tmp_path)
    logits = torch.randn(10, 10, generator=torch.Generator().manual_seed(0))
    its_loss = -(F.softmax(labels / 1.0, 1) * F.log_softmax(logits, 1)).sum(1).mean()  # ddranking/loss/sce.py
    assert float(its_loss) == pytest.approx(float(F.cross_entropy(logits, ds.targets)), rel=1e-5)
    assert torch.equal(images, ds.images)


def test_ddranking__images_are_in_the_space_of_its_test_images(copy, tmp_path):
    ds = load_distilled(copy)
    colour = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    own = Standardise(torch.tensor([0.5, 0.4, 0.3]).double(), torch.tensor([0.2, 0.3, 0.25]).double())
    object.__setattr__(ds._artifact.synthetic, "images", own(colour))
    object.__setattr__(ds._artifact, "preprocess", own)
    ds._artifact.config["source"]["name"] = "cifar10"
    images, labels = exported(ds, tmp_path)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
    assert torch.allclose(images, (colour - mean) / std, atol=1e-5)
    assert torch.equal(labels, ds.class_ids)


def test_standstill__the_card_and_the_terminal_say_that_nothing_was_learned(tmp_path, capsys):
    from tests.helpers import Notes

    notes, settings = Notes(), {**TINY, "distill.select_margin": 0.99}
    ds = compress("digits", ipc=1, preset="smoke", settings=settings, out=tmp_path / "a", device="cpu", progress=notes)
    assert ds.results["selection"]["step"] == 0
    assert any("nothing was learned" in note for note in notes.notes)
    card = (tmp_path / "a" / "README.md").read_text()
    assert "10 real images" in card
    assert "nothing was learned" in card
    assert "(learned)" not in card
    assert ds.config["learned_here"] is False


def test_steps_without_a_finite_loss_are_told(tmp_path):
    from tests.helpers import Notes

    notes = Notes()
    settings = {**TINY, "distill.lr_img": 1e30, "distill.select_margin": 0.0}
    compress("digits", ipc=1, preset="smoke", settings=settings, out=tmp_path / "a", device="cpu", progress=notes)
    warning = "had no finite loss and changed nothing; lower distill.lr_img"
    assert any(warning in note for note in notes.notes)
    assert warning in (tmp_path / "a" / "README.md").read_text().replace("\\_", "_")


def test_learning_rate_that_collapsed_is_told_on_the_terminal_and_in_the_card(tmp_path):
    from tests.helpers import Notes

    notes, settings = Notes(), {**TINY, "distill.outer_steps": 12, "distill.lr_lr": 1e6}
    ds = compress("digits", ipc=1, preset="smoke", settings=settings, out=tmp_path / "a", device="cpu", progress=notes)
    (warning,) = ds.results["selection"]["warnings"]
    assert warning.startswith("the learning rate fell from ")
    assert warning in notes.notes
    assert warning in (tmp_path / "a" / "README.md").read_text()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_terminal__of_any_encoding_gets_its_table(copy, encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "distillkit", "info", str(copy)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"accuracy" in done.stdout


def test_encoding__of_streams_that_are_no_text_wrappers_is_left_alone(monkeypatch):
    text = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", text)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    console.speak_any_encoding()
    text.write("\u00b1")
    text.flush()
    assert text.buffer.getvalue() == b"?"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_hub__reading_is_as_patient_as_pushing(hub, made, status):
    hub.add("org/set", made)
    for pattern in ("api/datasets/org/set", r"resolve/.*distill_config\.json", r"resolve/.*distilled\.safetensors"):
        hub.fail(pattern, status, 1)
    assert load_distilled("org/set").images.shape == (20, 1, 8, 8)


def test_cache__that_cannot_be_written_costs_no_result(tmp_path, monkeypatch):
    from tests.helpers import Notes

    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "file" / "cache"))
    notes, settings = Notes(), {"evaluate.networks": 1, "evaluate.epochs": 2, "evaluate.full_epochs": 1}
    ds = compress(
        "digits",
        ipc=1,
        method="random",
        preset="smoke",
        settings=settings | {"evaluate.baselines": ["full"]},
        out=tmp_path / "a",
        device="cpu",
        progress=notes,
    )
    assert ds.results["baselines"]["full"]["n"] >= 1
    assert any("other runs will train on the full data again" in note for note in notes.notes)


def test_validation_images_that_are_all_recognised_are_told(tmp_path, monkeypatch):
    from distillkit.records import EvalReport
    from distillkit.stages import recorder
    from tests.helpers import Notes

    monkeypatch.setattr(recorder, "validated", lambda *given: {"convnet": EvalReport((1.0, 1.0))})
    notes = Notes()
    compress("digits", ipc=1, preset="smoke", settings=TINY, out=tmp_path / "a", device="cpu", progress=notes)
    sentence = "validation images, which then tell no better set from this one"
    assert [note.split(" recognise ")[0] for note in notes.notes if sentence in note] == [
        "the initial images already teach to",
        "networks trained on the set",
    ]
    assert sentence in (tmp_path / "a" / "README.md").read_text()
