import pytest
import torch
import torch.nn.functional as F

from distillkit import compress
from distillkit.lab import effective
from distillkit.networks.build import build_network, parse_architecture
from distillkit.records import EvalReport
from distillkit.settings import NetworkSettings
from distillkit.stages import distillation, image_length, recorder
from distillkit.stages.image_length import sees_length

OWN = NetworkSettings(name="convnet", width=8)


def network(name, size=8):
    return build_network(parse_architecture(name, OWN), (1, size, size), 10, 0, "init")


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "sees"),
    [("convnet", False), ("convnet:norm=batch", True), ("convnet:norm=none", True), ("mlp", True), ("lenet", True)],
)
def test_sees_length(name, sees):
    assert (
        sees_length(
            network(name, 32 if name == "lenet" else 8).double(), drawn(4, 1, *[32 if name == "lenet" else 8] * 2)
        )
        is sees
    )


def test_sees_length__of_a_residual_network():
    assert not sees_length(network("resnet18", 32), drawn(2, 1, 32, 32).float())


def trained_on(images, targets):
    """Logits, for unseen images, of a ConvNet trained a few steps on ``images``."""
    model = network("convnet").double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        F.cross_entropy(model(images), targets).backward()
        optimizer.step()
    return model(3 * drawn(6, 1, 8, 8).flip(0)).detach()


def test_training__is_that_on_images_of_any_other_length():
    images, targets = drawn(10, 1, 8, 8), torch.arange(10)
    factors = torch.linspace(5, 50, 10).double()[:, None, None, None]
    one, other = trained_on(10 * images, targets), trained_on(factors * images, targets)
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(one.abs().max()))
    assert not torch.allclose(one, trained_on(10 * images.flip(0), targets), rtol=0.1)


@pytest.fixture
def made(tmp_path, tiny):
    def make(method="rat", out="set", **settings):
        base = dict(tiny)
        if method == "rat":
            base.pop("experts.count")
            base |= {"distill.real_batch": 30, "distill.horizon": 4, "distill.init": "noise"}
            base |= {"dataset.validation_fraction": 0.0, "evaluate.lengths": []}
        wanted = effective(base | settings, "digits", 1, method, "smoke")
        common = {"ipc": 1, "method": method, "preset": "smoke", "device": "cpu"}
        return compress("digits", settings=wanted, out=tmp_path / out, **common)

    return make


def real_length(ds):
    return float(ds.preprocess(ds.load_source().train.images).flatten(1).norm(dim=1).mean())


@pytest.mark.parametrize("kind", ["unit-zca", "unit-dct", "standardise"])
def test_learned_images__are_as_long_as_real_ones(made, kind):
    ds = made(**{"dataset.preprocessing": kind})
    wanted = real_length(ds)
    assert ds.images.flatten(1).norm(dim=1).tolist() == pytest.approx([wanted] * 10, rel=2e-2)
    told = ds.results["selection"]["image_length"]
    assert (told["kept"], told["real"]) == ("real", pytest.approx(wanted, rel=2e-2))
    assert told["learned"] < wanted / 2  # they began as noise of unit length


@pytest.mark.parametrize(
    "settings",
    [
        {"network.norm": "batch"},
        {"distill.outer_steps": 0},
        {"network.pool": ["convnet", "mlp"]},
        {"distill.student": "mlp"},
    ],
)
def test_learned_images__keep_a_length_that_means_something(made, settings):
    assert "image_length" not in made(**settings).results["selection"]


@pytest.mark.parametrize(("accuracy", "kept"), [(0.97, "real"), (0.2, "learned")])
def test_brightness__shows_lengths_so_validation_data_choose(made, monkeypatch, accuracy, kept):
    """What the networks score is dictated: 0.3, then 0.5 of the validation images, and ``accuracy`` after it."""
    scores = iter([0.3, *[0.5] * 20])
    monkeypatch.setattr(recorder, "validated", lambda *_: {"convnet": EvalReport((next(scores),))})
    monkeypatch.setattr(image_length, "_validated", lambda *_: accuracy)
    ds = made("mtt", **{"dataset.augmentation": "color_flip"})
    selection = ds.results["selection"]
    told = selection["image_length"]
    assert (selection["validation_accuracy"], told["validation_accuracy"], told["kept"]) == (0.5, accuracy, kept)
    assert float(ds.images.flatten(1).norm(dim=1).mean()) == pytest.approx(told[kept], rel=1e-3)
    assert told["learned"] != pytest.approx(told["real"], rel=1e-3)


def test_brightness__of_a_pool_is_judged_by_the_mean_that_selected(made, monkeypatch):
    scores = iter([0.3, *[0.5] * 20])
    monkeypatch.setattr(recorder, "validated", lambda *_: {"convnet": EvalReport((next(scores),))})
    monkeypatch.setattr(
        image_length, "validated", lambda *_: {"a": EvalReport((0.9, 0.9)), "b": EvalReport((0.1, 0.3))}
    )
    pool = ["convnet", "convnet:width=3"]
    ds = made(**{"dataset.augmentation": "color_flip", "network.pool": pool, "dataset.validation_fraction": 0.2})
    told = ds.results["selection"]["image_length"]
    assert (told["validation_accuracy"], told["kept"]) == (pytest.approx(0.55), "real")


@pytest.mark.parametrize(
    ("accuracy", "before", "good"), [(0.4, 0.5, True), (0.38, 0.5, False), (None, 0.5, False), (0.4, None, False)]
)
def test_as_good__is_within_one_standard_error(accuracy, before, good):
    assert image_length._as_good(accuracy, before, 20) is good  # sqrt(0.25 / 20) = 0.112


def begun(made, tmp_path, monkeypatch, outer_steps=2, **settings):
    """A set, the images that a run begins with that goes on from it, and the set of that run."""
    seen, plain = [], distillation.start_state
    first = made()
    monkeypatch.setattr(distillation, "start_state", lambda images, *more: seen.append(images) or plain(images, *more))
    start = {"distill.init": "artifact", "distill.init_from": str(tmp_path / "set"), "distill.outer_steps": outer_steps}
    second = made(out="more", **start, **settings)
    return first, seen[0], second


def test_a_run_from_an_artifact__begins_at_the_length_that_was_learned(made, tmp_path, monkeypatch):
    """A step of so much is a larger one for shorter images."""
    first, images, second = begun(made, tmp_path, monkeypatch)
    told = first.results["selection"]["image_length"]
    assert torch.equal(images, first.images * (told["learned"] / told["real"]))
    assert second.results["selection"]["image_length"]["learned"] == pytest.approx(told["learned"], rel=0.1)
    assert second.images.flatten(1).norm(dim=1).tolist() == pytest.approx([told["real"]] * 10, rel=1e-3)


@pytest.mark.parametrize("settings", [{"network.norm": "batch"}, {"outer_steps": 0}])
def test_a_run_from_an_artifact__that_sees_lengths_or_takes_no_step_takes_it_as_it_is(
    made, tmp_path, monkeypatch, settings
):
    first, images, second = begun(made, tmp_path, monkeypatch, **settings)
    assert torch.equal(images, first.images)
    if settings == {"outer_steps": 0}:
        assert torch.equal(second.images, first.images)
