"""Precision: what is rounded, what stays, and how a run chooses."""

import pytest
import torch
import torch.nn.functional as F

from distillkit import precision
from distillkit.distill.labels import HardLabels
from distillkit.distill.state import OuterState
from distillkit.distill.step_functions import CompiledFunctions, EagerFunctions, InnerLoss, Wanted
from distillkit.errors import Interrupted
from distillkit.interrupt import StopRequest
from distillkit.networks.convnet import ConvNet
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.stages import engine, engine_trials
from tests.helpers import Notes, StopAfter, run


def network(kind):
    torch.manual_seed(0)
    return precision.in_precision(ConvNet(3, (16, 16), 4, 8, 2, "instance"), kind)


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(12, 3, 16, 16, generator=generator)
    return images, F.one_hot(torch.arange(12) % 4, 4).float()


def test_bf16__rounds_convolutions_alone(data):
    images, _ = data
    low, full = network("bf16"), network("fp32")
    assert [name for name, _ in low.named_parameters()] == [name for name, _ in full.named_parameters()]
    assert torch.equal(flatten_parameters(low), flatten_parameters(full))
    assert low(images).dtype == torch.float32
    first, weight = full.features[0], full.features[0].weight
    by_hand = F.conv2d(images.bfloat16(), weight.bfloat16(), first.bias.bfloat16(), padding=1).float()
    rest = full.classifier
    seen = by_hand
    for layer in full.features[1:4]:
        seen = layer(seen)
    second = full.features[4]
    seen = F.conv2d(seen.bfloat16(), second.weight.bfloat16(), second.bias.bfloat16(), padding=1).float()
    for layer in full.features[5:]:
        seen = layer(seen)
    assert torch.equal(low(images), rest(seen.flatten(1)))


@pytest.mark.parametrize("form", [EagerFunctions, lambda loss: CompiledFunctions(loss, backend=None)])
def test_bf16__gradient_and_adjoint_stay_float32_and_agree(data, form):
    images, labels = data
    found = {}
    for kind in ("fp32", "bf16"):
        flat = FlatNetwork(network(kind))
        functions = form(InnerLoss(flat, HardLabels()))
        theta = flatten_parameters(network("fp32"))
        w = torch.randn(theta.shape, generator=torch.Generator().manual_seed(3))
        adjoint = functions.adjoint(theta, images, labels, w, Wanted())
        found[kind] = (functions.gradient(theta, images, labels), adjoint.images, adjoint.theta)
    for low, full in zip(found["bf16"], found["fp32"], strict=True):
        assert low.dtype == torch.float32
        assert not torch.equal(low, full)
        assert F.cosine_similarity(low.flatten(), full.flatten(), dim=0) > 0.99


@pytest.fixture
def fast_bf16(monkeypatch):
    """A machine on which bfloat16 is fast, and steps are compiled by leaving them as they are."""
    monkeypatch.setattr(precision, "available", lambda device: ("bf16", "fp32"))
    monkeypatch.setattr(
        engine_trials, "CompiledFunctions", lambda loss, **options: CompiledFunctions(loss, backend=None)
    )
    monkeypatch.setattr(engine_trials, "trace_bytes", lambda *arguments: 2**50)  # too much to keep
    monkeypatch.setattr(engine, "LOW_PRECISION_FROM_FLOP", 0)
    return {"distill.compile": "always"}


def test_auto__takes_the_fastest_that_agrees_and_keeps_it(tmp_path, tiny, fast_bf16):
    notes = Notes()
    ds = run(tmp_path / "a", tiny, settings=fast_bf16, progress=notes)
    chosen = ds.results["selection"]
    assert chosen["precision"] == "bf16"
    assert 0.995 <= chosen["cosine_to_fp32"]["bf16"] < 1
    assert any(note.startswith("bf16: cosine of its hypergradient") for note in notes.notes)
    kept = OuterState.load(tmp_path / "a" / "run" / "checkpoint.safetensors", "cpu")
    assert (kept.precision, kept.agreement) == ("bf16", chosen["cosine_to_fp32"])


def test_auto__is_float32_where_the_step_is_not_compiled(tmp_path, tiny, fast_bf16):
    notes = Notes()
    ds = run(tmp_path / "a", tiny, settings={"distill.compile": "never"}, progress=notes)
    assert ds.results["selection"]["precision"] == "fp32"
    assert not any("bf16" in note for note in notes.notes)


def test_auto__falls_back_where_none_agrees(tmp_path, tiny, fast_bf16, monkeypatch):
    monkeypatch.setattr("distillkit.stages.engine.AGREEMENT", 1.1)
    monkeypatch.setattr("distillkit.stages.engine.ROUNDING", 0.0)
    notes = Notes()
    found = run(tmp_path / "a", tiny, settings=fast_bf16, progress=notes).results["selection"]
    assert found["precision"] == "fp32"
    assert found["cosine_to_fp32"]["bf16"] < 1
    assert any("distilling in float32" in note for note in notes.notes)


def test_auto__rounding_that_drowns_in_the_variance_between_students_is_taken(tmp_path, tiny, fast_bf16, monkeypatch):
    monkeypatch.setattr("distillkit.stages.engine.AGREEMENT", 1.1)
    notes = Notes()
    found = run(tmp_path / "a", tiny, settings=fast_bf16, progress=notes).results["selection"]
    assert found["precision"] == "bf16"
    assert any("bf16 is taken: rounding adds" in note for note in notes.notes)


def test_rounding_share__is_a_ratio_of_variances():
    exact, other = torch.tensor([1.0, 0.0]).double(), torch.tensor([0.0, 1.0]).double()
    assert precision.rounding_share(exact + torch.tensor([0.0, 0.1]), exact, other) == pytest.approx(
        0.01
    )  # |g-g'|² = 2
    assert precision.rounding_share(exact + 1, exact, exact) == float("inf")
    draws, rounding = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0)).double(), 0.3
    rounded = draws[0] + rounding * torch.randn(100_000, generator=torch.Generator().manual_seed(1)).double()
    assert precision.rounding_share(rounded, *draws) == pytest.approx(rounding**2, rel=0.02)


def test_auto__a_run_goes_on_in_the_precision_it_was_begun_in(tmp_path, tiny, fast_bf16, monkeypatch):
    whole = run(tmp_path / "whole", tiny, settings=fast_bf16)
    stop = StopRequest()
    with pytest.raises(Interrupted):
        run(tmp_path / "a", tiny, settings=fast_bf16, stop=stop, progress=StopAfter(stop, 9))
    monkeypatch.setattr("distillkit.stages.engine._precision", None)  # nothing is decided again
    assert torch.equal(run(tmp_path / "a", tiny, settings=fast_bf16).images, whole.images)


def test_candidates__what_the_user_names_is_what_is_taken():
    cpu = torch.device("cpu")
    assert precision.candidates("bf16", cpu) == ("bf16",)
    assert precision.candidates("fp32", cpu) == ("fp32",)
    assert precision.candidates("auto", cpu)[-1] == "fp32"
