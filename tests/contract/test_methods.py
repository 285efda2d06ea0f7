"""Every method keeps the same contracts: a new one earns its tests by being in METHODS."""

import re

import pytest
import torch

from distillkit import compress
from distillkit.config import compose, known_keys
from distillkit.distill.gradient_matching import GRADIENT_MASKS
from distillkit.distill.inner_optimizers import INNER_OPTIMIZERS
from distillkit.distill.labels import LABELS
from distillkit.distill.matching import MASKS, MATCHING
from distillkit.distill.objectives import OBJECTIVES, needs
from distillkit.distill.outer_optimizers import OUTER_OPTIMIZERS
from distillkit.distill.real import REAL_ORDERS
from distillkit.distill.segments import SEGMENTS
from distillkit.distill.start import INNER_SCALES, PERTURBATIONS, STARTS
from distillkit.distill.synthetic_init import INITS
from distillkit.distill.windows import WINDOWS
from distillkit.errors import ConfigError
from distillkit.experts.recipe import LOSSES, OPTIMIZERS, ORDERS
from distillkit.lab import effective
from distillkit.methods import METHODS, Problem
from distillkit.parts import OF_EXPERTS
from distillkit.settings import RunSettings
from distillkit.trajectories.convex import BETAS
from distillkit.trajectories.forms import FORMS

PARTS = {
    "experts.optimizer": OPTIMIZERS,
    "experts.loss": LOSSES,
    "experts.order": ORDERS,
    "trajectories.form": FORMS,
    "trajectories.beta": BETAS,
    "distill.sampler": SEGMENTS,
    "distill.matching": MATCHING,
    "distill.init": INITS,
    "distill.labels": LABELS,
    "distill.mask": MASKS | GRADIENT_MASKS,
    "distill.objective": OBJECTIVES,
    "distill.start": STARTS,
    "distill.window": WINDOWS,
    "distill.inner_optimizer": INNER_OPTIMIZERS,
    "distill.outer_optimizer": OUTER_OPTIMIZERS,
    "distill.real_order": REAL_ORDERS,
    "distill.perturbation": PERTURBATIONS,
    "distill.inner_scale": INNER_SCALES,
}
each_method = pytest.mark.parametrize("method", METHODS)


@each_method
def test_parts__exist(method):
    for key, name in METHODS[method].parts.items():
        assert name in PARTS[key]


@each_method
def test_record__says_what_it_is_and_when_to_take_it(method):
    record = METHODS[method]
    assert record.name == method
    for line in (record.title, record.summary, record.when):
        assert line
        assert "\n" not in line


@each_method
@pytest.mark.parametrize("preset", ["smoke", "quick"])
@pytest.mark.parametrize("dataset", ["digits", "cifar10", "some/thing"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_presets__compose_for_any_data_set(method, preset, dataset, device):
    for ipc in (1, 10, 50):
        composed = compose(dataset, ipc, method, preset, device)
        assert set(composed.origins) <= set(known_keys())
        settings = composed.settings
        if "trajectories" in needs(settings.distill):
            assert settings.distill.max_start_epoch - 1 + settings.distill.expert_epochs <= settings.experts.epochs


@each_method
def test_paper_preset__composes_where_published_and_says_so_where_not(method):
    named = re.match(r"(\S+) at ipc (\d+)", METHODS[method].published_problems[0])  # some have any data set
    dataset, ipc = named.groups() if named else ("cifar10", "10")
    composed = compose(dataset, int(ipc), method, "paper", "cuda")
    assert composed.settings.ipc == int(ipc)
    if METHODS[method].published(Problem("x/y", 3, "cpu")) is None:
        with pytest.raises(ConfigError, match="no published settings"):
            compose("x/y", 3, method, "paper", "cpu")


@each_method
def test_run__repeats_to_the_byte_and_trains(method, tiny, tmp_path, monkeypatch):
    nothing_learned = METHODS[method].quick(Problem("digits", 1, "cpu")).values.get("distill.outer_steps") == 0
    own = tiny | ({"distill.outer_steps": 0} if nothing_learned else {})
    own = effective(own, "digits", 2, method, "smoke")
    made = [
        compress(
            "digits",
            ipc=2,
            method=method,
            preset="smoke",
            settings=own,
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
    if not needs(RunSettings.model_validate(ds.config["settings"]).distill) & OF_EXPERTS:
        assert ds.config["experts"] is None
        assert not (tmp_path / "cache" / "experts").exists()
    for row in [ds.results["architectures"]["convnet"], ds.results["uint8"], *ds.results["baselines"].values()]:
        assert row["n"] == len(row["accuracies"])
        assert all(0 <= accuracy <= 1 for accuracy in row["accuracies"])


@pytest.mark.parametrize("method", METHODS)
def test_gate_of_gradients__is_on_in_quick_presets_that_match_trajectories_of_photographs(method):
    quick = compose("cifar10", 10, method, "quick", "cpu").settings.distill
    assert quick.gate_norm == (4.0 if "trajectories" in needs(quick) else None)
    assert compose("digits", 10, method, "quick", "cpu").settings.distill.gate_norm is None
    if METHODS[method].published(Problem("cifar10", 10, "cpu")) is not None:
        assert compose("cifar10", 10, method, "paper", "cpu").settings.distill.gate_norm is None


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
        assert (settings.experts.loss, settings.experts.lr_drop_epochs) == ("clipping", (27,))
        assert settings.distill.inner_momentum == 0.9


def test_published__standardised_rows_take_the_released_statistics_and_mct_the_authors_image_step():
    mct = compose("cifar10", 10, "mct-no-zca", "paper", "cuda").settings
    assert (mct.dataset.preprocessing, mct.dataset.std) == ("standardise", (0.2023, 0.1994, 0.2010))
    assert (mct.distill.lr_img, mct.trajectories.form, mct.distill.sampler) == (500, "convex", "continuous")
    assert compose("tiny-imagenet", 1, "ast", "paper", "cuda").settings.dataset.mean == (0.485, 0.456, 0.406)
    for method in ("mtt", "datm", "pad"):
        whitened = compose("cifar10", 10, method, "paper", "cuda").settings.dataset
        assert (whitened.preprocessing, whitened.mean) == ("zca", None)


def test_published__datm_and_pad_rows():
    datm = compose("cifar100", 50, "datm", "paper", "cuda").settings
    assert (datm.distill.init, datm.distill.labels, datm.distill.first_max_start_epoch) == ("real", "soft", None)
    pad = compose("cifar10", 50, "pad", "paper", "cuda").settings
    assert (pad.distill.mask, pad.distill.mask_ratio, pad.distill.lr_lr, pad.distill.gate) == ("depth", 0.25, 1e-5, 1.0)
    assert (pad.distill.first_max_start_epoch, pad.distill.max_start_epoch, pad.distill.expansion_end_step) == (
        20,
        40,
        2000,
    )
    released = compose("cifar10", 50, "pad-released", "paper", "cuda").settings
    assert (released.distill.mask, released.distill.expert_epochs, released.distill.batch_size) == ("loss", 3, 1000)
    assert (released.experts.order, released.experts.optimizer) == ("easy-to-hard", "gsam")


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_best__has_the_paths_of_mct_and_the_labels_and_start_of_datm(preset):
    best, mct, datm = (compose("cifar10", 10, name, preset, "cpu").settings for name in ("best", "mct", "datm"))
    assert (best.experts.optimizer, best.trajectories.form, best.distill.sampler) == ("sgd", "convex", "continuous")
    assert (mct.experts.optimizer, mct.trajectories.form, mct.distill.sampler) == ("sgd", "convex", "continuous")
    assert (best.distill.labels, best.distill.init) == (datm.distill.labels, datm.distill.init) == ("soft", "correct")
    assert best.distill.lr_label == datm.distill.lr_label > 0


@each_method
def test_quick__many_images_a_class_are_five_of_digits_and_ten_of_others(method):
    def learned(dataset, ipc):
        settings = compose(dataset, ipc, method, "quick", "cpu").settings
        return settings.distill.model_dump(exclude={"outer_steps", "expansion_end_step", "mask_ratio"})

    assert learned("digits", 5) == learned("digits", 10)
    assert learned("cifar10", 9) == learned("cifar10", 1)
    assert (learned("digits", 4) == learned("digits", 5)) == (method in ("dm", "rat"))  # one setting for all
    assert (learned("cifar10", 9) == learned("cifar10", 10)) == (method == "dm")
