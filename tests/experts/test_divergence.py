"""Experts that diverge, and arithmetic that is wrong for a shape: noticed by size, early, and told by its cause."""

import pytest
import torch

from distillkit import compress, precision, storage
from distillkit.config import compose
from distillkit.errors import TrajectoryError
from distillkit.experts import train
from distillkit.methods import SettingsLayer
from distillkit.networks.low_precision import Bfloat16Conv2d
from distillkit.run_folder import RunFolder
from distillkit.stages import expert_precision as chooser
from distillkit.stages.context import make_run, prepare
from distillkit.stages.workshop import advice_of
from tests.helpers import Notes

EXACT = [torch.tensor([3.0, 4.0]), torch.tensor([1e-5, 0.0]), torch.tensor([0.5, 0.5])]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([EXACT[0], torch.tensor([0.0, 1e-4]), EXACT[2]], None),  # a negligible tensor may be rounding alone
        ([1.05 * EXACT[0], EXACT[1], EXACT[2]], None),
        ([1.2 * piece for piece in EXACT], "is 1.2 times as long"),
        ([-EXACT[0], EXACT[1], EXACT[2]], "cosine to float32's is -0.9"),
        ([EXACT[0], EXACT[1], torch.tensor([0.5, 0.0])], "of a tensor 2 is off by 0.71 of its length"),
        ([EXACT[0], torch.tensor([0.0, 0.4]), EXACT[2]], "of a tensor 2 is off by"),
        ([EXACT[0], EXACT[1], torch.tensor([0.5, float("inf")])], "is not finite"),
    ],
)
def test_disagreement__in_direction_length_or_any_tensor(found, message):
    why = chooser.disagreement(found, EXACT)
    assert why is None if message is None else message in why


def asked(tiny, kind, **changes):
    layers = [SettingsLayer("test", {**tiny, "precision": kind, "experts.batch_size": 64, **changes})]
    run = make_run(compose("digits", 1, "mtt", "smoke", "cpu", layers), torch.device("cpu"), Notes())
    return run, prepare(run)


class Stale(torch.autograd.Function):
    """A convolution whose weight gradient is what lay in its memory, as a faulty kernel leaves it."""

    @staticmethod
    def forward(context, images, weight):
        context.save_for_backward(images, weight)
        return torch.nn.functional.conv2d(images, weight, padding=1)

    @staticmethod
    def backward(context, adjoint):
        images, weight = context.saved_tensors
        at_images = torch.nn.grad.conv2d_input(images.shape, weight, adjoint, padding=1)
        return at_images, torch.empty_like(weight)


def test_auto__takes_no_precision_whose_kernel_is_wrong(tiny, monkeypatch):
    monkeypatch.setattr(precision, "available", lambda device: ("bf16", "fp32"))
    run, prepared = asked(tiny, "auto")
    assert chooser.expert_precision(run, prepared) == "bf16"
    monkeypatch.setattr(
        Bfloat16Conv2d, "forward", lambda self, images: Stale.apply(images, self.weight) + self.bias.view(1, -1, 1, 1)
    )
    run, prepared = asked(tiny, "auto")
    assert chooser.expert_precision(run, prepared) == "fp32"
    assert any(
        "networks that learn from real images do not compute in bf16: its gradient" in note
        for note in run.progress.notes
    )


def test_auto__looks_at_every_size_of_batch(tiny, monkeypatch):
    monkeypatch.setattr(precision, "available", lambda device: ("bf16", "fp32"))
    sizes = []
    gradient = chooser._gradient
    monkeypatch.setattr(
        chooser,
        "_gradient",
        lambda run, prepared, kind, size: sizes.append(size) or gradient(run, prepared, kind, size),
    )
    run, prepared = asked(tiny, "auto")
    chooser.expert_precision(run, prepared)
    count = len(prepared.train_labels)
    assert set(sizes) == {64, count % 64}


def test_a_precision_that_was_asked_for_is_taken_and_doubted(tiny, monkeypatch):
    run, prepared = asked(tiny, "bf16")
    assert chooser.expert_precision(run, prepared) == "bf16"
    assert not any("bf16" in note for note in run.progress.notes)
    monkeypatch.setattr(chooser, "AGREEMENT", 1.1)
    run, prepared = asked(tiny, "bf16")
    assert chooser.expert_precision(run, prepared) == "bf16"
    assert any("as asked, though its gradient's cosine" in note for note in run.progress.notes)


def test_divergence__is_noticed_by_size_before_anything_is_written(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(train, "EXPLODED", 0.5)
    settings = tiny | {"precision": "fp32"}  # in bfloat16, where a CPU is fast in it, arithmetic is doubted first
    with pytest.raises(
        TrajectoryError, match=r"expert 0 diverged in epoch 1 \(loss .*, parameters of length .*\); lower"
    ):
        compress("digits", ipc=1, preset="smoke", settings=settings, out=tmp_path / "a", device="cpu")


def test_divergence__of_a_large_lr_is_an_error_of_ours_whatever_overflows(tmp_path, tiny):
    for lr in (1e9, 1e30):
        with pytest.raises(TrajectoryError, match=r"lower experts\.lr"):
            compress(
                "digits",
                ipc=1,
                preset="smoke",
                settings=tiny | {"experts.lr": lr},
                out=tmp_path / str(lr),
                device="cpu",
            )


def test_advice__doubts_arithmetic_before_the_lr():
    assert advice_of("fp32") == "lower experts.lr"
    assert advice_of("bf16").startswith("it was trained in bf16: take `precision=fp32`")


def flattened(pieces):
    return torch.cat([piece.reshape(-1) for piece in pieces])


def test_gsam__is_not_trained_where_its_perturbation_is_rounded_away(tiny, monkeypatch):
    """The plain gradient agrees; the difference of two that flatness is known by is rounding alone."""
    monkeypatch.setattr(precision, "available", lambda device: ("bf16", "fp32"))
    run, prepared = asked(tiny, "auto", **{"experts.optimizer": "gsam"})
    assert chooser.disagreement(*(chooser._gradient(run, prepared, kind, 64) for kind in ("bf16", "fp32"))) is None
    assert chooser.expert_precision(run, prepared) == "fp32"
    assert any("experts of GSAM are not trained in bf16" in note for note in run.progress.notes)
    run, prepared = asked(tiny, "bf16", **{"experts.optimizer": "gsam"})
    assert chooser.expert_precision(run, prepared) == "bf16"
    assert any("as asked, though the cosine to float32's of the difference" in note for note in run.progress.notes)


def test_gsam__without_a_radius_has_no_difference_to_round(tiny, monkeypatch):
    monkeypatch.setattr(precision, "available", lambda device: ("bf16", "fp32"))
    run, prepared = asked(tiny, "auto", **{"experts.optimizer": "gsam", "experts.sharpness_radius": 0.0})
    assert chooser.expert_precision(run, prepared) == "bf16"


def test_resume__goes_on_with_the_experts_that_the_run_had(tmp_path, tiny, monkeypatch):
    """Another version or machine chooses other arithmetic for them; the set is not learned from two kinds."""
    monkeypatch.setattr(precision, "available", lambda device: ("bf16", "fp32"))
    settings = tiny | {"precision": "auto", "evaluate.networks": 1}
    made = {"ipc": 1, "method": "mtt", "preset": "smoke", "out": tmp_path / "a", "settings": settings}
    whole = compress("digits", **made)
    assert RunFolder(tmp_path / "a").expert_precision() == "bf16"
    caches = sorted(path.name for path in (storage.cache_root() / "experts").iterdir())
    for name in ("synthetic.safetensors", "../distill_config.json", "../distilled.safetensors"):
        (tmp_path / "a" / "run" / name).unlink()
    monkeypatch.setattr(chooser, "AGREEMENT", 1.1)
    again = compress("digits", **made)
    assert torch.equal(again.images, whole.images)
    assert sorted(path.name for path in (storage.cache_root() / "experts").iterdir()) == caches


def test_gsam__what_it_knows_of_flatness_is_the_difference_of_its_two_gradients(tiny):
    run, prepared = asked(tiny, "fp32", **{"experts.optimizer": "gsam"})
    found = flattened(chooser._flatness(run, prepared, "fp32", 64))
    model = prepared.build(prepared.network, 0, "agreement")(0).double()
    images, labels = prepared.train_images[:64].double(), prepared.train_labels[:64]

    def gradient():
        return torch.autograd.grad(torch.nn.functional.cross_entropy(model(images), labels), list(model.parameters()))

    g0 = gradient()
    scaled = flattened([p.abs() * g for p, g in zip(model.parameters(), g0, strict=True)])
    factor = run.settings.experts.sharpness_radius / scaled.norm()
    with torch.no_grad():
        for parameter, piece in zip(model.parameters(), g0, strict=True):
            parameter += factor * parameter.square() * piece
    exact = flattened(gradient()) - flattened(g0)
    assert torch.nn.functional.cosine_similarity(found.double(), exact, dim=0) > 0.99
    assert found.norm() == pytest.approx(float(exact.norm()), rel=0.05)
