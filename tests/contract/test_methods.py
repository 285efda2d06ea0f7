"""Every method keeps the same contracts: a new one earns its tests by being in METHODS."""

import pytest
import torch

from distillkit import compress
from distillkit.config import compose, known_keys
from distillkit.distill.labels import LABELS
from distillkit.distill.matching import MASKS, MATCHING
from distillkit.distill.segments import SEGMENTS
from distillkit.distill.start import INNER_SCALES, PERTURBATIONS
from distillkit.distill.synthetic_init import INITS
from distillkit.errors import ConfigError
from distillkit.experts.recipe import LOSSES, OPTIMIZERS, ORDERS
from distillkit.methods import METHODS, Problem
from distillkit.trajectories.convex import BETAS
from distillkit.trajectories.forms import FORMS

PARTS = {
    "experts.optimizer": OPTIMIZERS,
    "experts.loss": LOSSES,
    "experts.order": ORDERS,
    "trajectories.form": FORMS,
    "trajectories.beta": BETAS,
    "distill.segments": SEGMENTS,
    "distill.matching": MATCHING,
    "distill.init": INITS,
    "distill.labels": LABELS,
    "distill.mask": MASKS,
    "distill.perturbation": PERTURBATIONS,
    "distill.inner_scale": INNER_SCALES,
}
each_method = pytest.mark.parametrize("method", METHODS)


@each_method
def test_parts__exist(method):
    for key, name in METHODS[method].parts.items():
        assert name in PARTS[key]


@each_method
@pytest.mark.parametrize("preset", ["smoke", "quick"])
@pytest.mark.parametrize("dataset", ["digits", "cifar10", "some/thing"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_presets__compose_for_any_data_set(method, preset, dataset, device):
    for ipc in (1, 10, 50):
        composed = compose(dataset, ipc, method, preset, device)
        assert set(composed.origins) <= set(known_keys())
        settings = composed.settings
        if settings.distill.outer_steps:
            assert settings.distill.max_start_epoch - 1 + settings.distill.expert_epochs <= settings.experts.epochs


@each_method
def test_paper_preset__composes_where_published_and_says_so_where_not(method):
    composed = compose("cifar10", 10, method, "paper", "cuda")
    assert composed.settings.ipc == 10
    if METHODS[method].published(Problem("x/y", 3, "cpu")) is None:
        with pytest.raises(ConfigError, match="no published settings"):
            compose("x/y", 3, method, "paper", "cpu")


@each_method
def test_run__repeats_to_the_byte_and_trains(method, tiny, tmp_path, monkeypatch):
    if METHODS[method].quick(Problem("digits", 1, "cpu")).values.get("distill.outer_steps") == 0:
        for key in ("distill.outer_steps", "experts.count"):
            tiny.pop(key)
    made = [
        compress(
            "digits",
            ipc=2,
            method=method,
            preset="smoke",
            settings=tiny,
            out=tmp_path / name,
            device="cpu",
            command="x",
        )
        for name in "ab"
    ]
    for name in ("distilled.safetensors", "preprocess.safetensors", "recipe.json", "results.json", "preview.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    ds = made[0]
    assert ds.images.shape == (20, 1, 8, 8)
    assert ds.class_ids.tolist() == [k for k in range(10) for _ in range(2)]
    assert torch.allclose(ds.targets.sum(1), torch.ones(20))
    assert ds.lr > 0
    soft = {"random-soft"} if ds.config["label_kind"] == "logits" else set()
    assert set(ds.results["baselines"]) == {"random", "kmeans", "full"} | soft
    for row in [ds.results["architectures"]["convnet"], ds.results["uint8"], *ds.results["baselines"].values()]:
        assert row["n"] == len(row["accuracies"])
        assert all(0 <= accuracy <= 1 for accuracy in row["accuracies"])


def test_ast__published_rows_have_the_parts_of_the_authors_commands():
    first = compose("cifar10", 10, "ast", "paper", "cuda").settings
    assert (first.distill.init, first.distill.inner_scale, first.distill.perturbation) == (
        "real",
        "log-balanced",
        "conv-relative",
    )
    last = compose("cifar100", 50, "ast", "paper", "cuda").settings
    assert (last.distill.init, last.distill.matching) == ("kmeans-logits", "parameter-distance")
    assert (last.distill.perturbation, last.distill.inner_scale, last.distill.batch_size) == ("none", "none", 700)
    for settings in (first, last):
        assert (settings.experts.loss, settings.experts.lr_drop_epochs) == ("clipping-gradient-penalty", (27,))
        assert settings.distill.inner_momentum == 0.9
