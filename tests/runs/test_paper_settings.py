"""What papers do their own way: rows, recipes, protocols; training on all images; rankings of others."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from distillkit import compress, load_distilled
from distillkit.config import compose
from distillkit.data.ranking import read_ranking
from distillkit.errors import ConfigError, NotFoundError
from distillkit.evaluation.recipe import evaluation_recipe, recipe_from_json, recipe_json
from distillkit.lab import effective
from distillkit.methods import SettingsLayer
from distillkit.networks.convnet import ConvNet
from distillkit.precision import AGREEMENT
from distillkit.settings import EvaluateSettings
from distillkit.stages import expert_precision as stage
from distillkit.stages.context import make_run, prepare
from distillkit.stages.difficulty import ranked
from distillkit.training.fit import fit
from tests.helpers import Notes

ALL_IMAGES = {"dataset.validation_fraction": 0.0}


def paper(dataset, ipc, method, **changes):
    layers = [SettingsLayer("test", {key.replace("__", "."): value for key, value in changes.items()})]
    return compose(dataset, ipc, method, "paper", "cpu", layers)


def columns(settings):
    d = settings.distill
    zca = settings.dataset.preprocessing == "zca"
    return (d.inner_steps, d.expert_epochs, d.max_start_epoch, d.batch_size, zca, d.lr_img, d.lr_lr, d.lr_init)


MTT = {
    ("cifar10", 1): (50, 2, 2, None, True, 100, 1e-7, 0.01),
    ("cifar10", 10): (30, 2, 20, None, True, 100, 1e-5, 0.001),
    ("cifar10", 50): (30, 2, 40, None, False, 1000, 1e-5, 0.001),
    ("cifar100", 1): (20, 3, 20, None, True, 1000, 1e-5, 0.01),
    ("cifar100", 10): (20, 2, 20, None, False, 1000, 1e-5, 0.01),
    ("cifar100", 50): (80, 2, 40, 125, True, 1000, 1e-5, 0.01),
    ("tiny-imagenet", 1): (10, 2, 10, None, False, 1e4, 1e-4, 0.01),
    ("tiny-imagenet", 10): (20, 2, 40, 200, False, 1e4, 1e-4, 0.01),
    ("tiny-imagenet", 50): (20, 2, 40, 300, False, 1e4, 1e-4, 0.01),
}
"""N, M, T+, batch, ZCA, lr of the images, of the learning rate, and the first one; its readme's table."""


@pytest.mark.parametrize(("dataset", "ipc"), MTT)
def test_mtt__rows_are_those_of_its_table(dataset, ipc):
    assert columns(paper(dataset, ipc, "mtt").settings) == MTT[dataset, ipc]


def test_ast__rows_belong_to_the_experts_that_they_were_run_on():
    ten = paper("cifar10", 10, "ast").settings
    assert columns(ten) == (30, 2, 20, None, True, 100, 1e-6, 0.01)
    assert (ten.experts.loss, ten.experts.momentum) == ("clipping", 0.9)
    tiny = paper("tiny-imagenet", 1, "ast").settings  # the folder of MTT's experts
    assert (tiny.experts.loss, tiny.experts.momentum, tiny.experts.lr_drop_epochs) == ("cross-entropy", 0.0, ())
    assert tiny.distill.inner_momentum == 0.9
    assert paper("cifar10", 50, "ast").settings.distill.lr_init == 0.01
    penalised = [
        (dataset, ipc)
        for dataset, ipc in (("cifar10", 1), ("cifar10", 10), ("cifar100", 1), ("cifar100", 10), ("cifar100", 50))
        if "penalty" in paper(dataset, ipc, "ast").settings.experts.loss
    ]
    assert penalised == [("cifar100", 1)]
    assert columns(paper("cifar100", 1, "ast-no-zca").settings) == (40, 3, 15, None, False, 100, 1e-5, 0.01)
    assert "distill.sh" in paper("cifar10", 10, "ast").origins["distill.lr_img"]


def test_mct__the_printed_figure_is_the_row_with_zca():
    one = paper("cifar10", 1, "mct").settings
    assert columns(one) == (50, 5, 3, None, True, 500, 1e-7, 0.01)
    assert one.trajectories.waypoint_epochs == (0, 6, 25, 50)
    assert columns(paper("cifar10", 10, "mct").settings)[:5] == (30, 5, 4, None, True)
    other = paper("cifar10", 1, "mct-no-zca").settings
    assert columns(other) == (60, 6, 4, None, False, 500, 1e-7, 0.01)
    assert other.trajectories.waypoint_epochs is None


def test_ftd__has_flat_experts_an_average_and_its_own_gap_weight():
    one, fifty = (paper("cifar10", ipc, "ftd").settings for ipc in (1, 50))
    assert (one.experts.optimizer, one.experts.gap_weight, one.distill.ema) == ("gsam", 0.3, 0.9999)
    assert (fifty.experts.gap_weight, fifty.distill.ema, fifty.distill.lr_init) == (1.0, 0.999, 0.01)


@pytest.mark.parametrize(
    ("method", "every", "networks", "peak"),
    [("mtt", 100, 5, None), ("mct", 100, 3, None), ("datm", 500, 1, None), ("pad", 500, 1, None), ("ast", 100, 1, 20)],
)
def test_paper_protocol__is_each_papers_own(method, every, networks, peak):
    found = paper("cifar10", 10, method, evaluate__paper_protocol=True)
    settings = found.settings
    assert (settings.distill.select_every, settings.distill.select_networks) == (every, networks)
    assert settings.evaluate.peak_every == peak
    assert found.origins["distill.select_every"] == f"{method}'s own protocol"
    mine = paper("cifar10", 10, method, evaluate__paper_protocol=True, distill__select_every=7)
    assert mine.settings.distill.select_every == 7
    assert "own protocol" not in str(paper("cifar10", 10, method).origins)


def test_ast__trains_on_its_set_by_its_own_recipe_unless_the_common_one_is_asked_for():
    own = paper("cifar10", 10, "ast").settings.evaluate
    assert (own.weight_decay, own.lr_drop_factor, own.momentum_after_drop) == (1e-3, 0.5, 0.8)
    common = paper("cifar10", 10, "ast", evaluate__recipe="common").settings.evaluate
    assert (common.weight_decay, common.lr_drop_factor, common.momentum_after_drop) == (5e-4, 0.1, None)


def test_recipe__of_adam_stays_adam_after_a_drop_and_in_json():
    given = {"evaluate__optimizer": "adam"}
    settings = paper("cifar10", 10, "ast", **given).settings.evaluate
    recipe = evaluation_recipe(settings, 1e-3, None)
    assert recipe.lr_drop_epochs
    assert recipe.later_optimizer is None
    again = recipe_from_json(json.loads(json.dumps(recipe_json(recipe, settings, "none", {}))))
    assert (again.later_optimizer, again.optimizer) == (None, recipe.optimizer)


def test_recipe__momentum_after_the_drop_is_sgd_written_by_hand_and_survives_json():
    settings = EvaluateSettings(
        epochs=4, batch_size=8, lr_drop_epochs=(2,), lr_drop_factor=0.5, momentum_after_drop=0.3, weight_decay=0.01
    )
    settings = settings.model_copy(update={"augment": False})
    recipe = evaluation_recipe(settings, 0.1, None)
    again = recipe_from_json(json.loads(json.dumps(recipe_json(recipe, settings, "none", {}))))
    assert (again.later_optimizer, again.optimizer) == (recipe.later_optimizer, recipe.optimizer)
    x, y = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double(), torch.arange(8) % 2
    torch.manual_seed(0)
    model = ConvNet(1, (8, 8), 2, width=2, depth=1, norm="instance").double()
    values = [p.detach().clone() for p in model.parameters()]
    list(fit(model, x, y, recipe, 0, "test"))
    velocity, lr = None, 0.1
    other = ConvNet(1, (8, 8), 2, width=2, depth=1, norm="instance").double()
    for epoch in range(4):
        if epoch == 2:
            velocity, lr = None, 0.05
        momentum = 0.9 if epoch < 2 else 0.3
        with torch.no_grad():
            for parameter, value in zip(other.parameters(), values, strict=True):
                parameter.copy_(value)
        loss = torch.nn.functional.cross_entropy(other(x), y)
        gradients = [g + 0.01 * v for g, v in zip(torch.autograd.grad(loss, other.parameters()), values, strict=True)]
        velocity = (
            gradients if velocity is None else [momentum * v + g for v, g in zip(velocity, gradients, strict=True)]
        )
        values = [value - lr * v for value, v in zip(values, velocity, strict=True)]
    for parameter, value in zip(model.parameters(), values, strict=True):
        assert torch.allclose(parameter, value, rtol=1e-9, atol=1e-12)


def make(out, tiny, method="mtt", **changes):
    own = effective({**tiny, **changes}, "digits", 1, method, "smoke")
    return compress("digits", ipc=1, method=method, preset="smoke", settings=own, out=out, device="cpu")


def test_paper_protocol__the_peak_of_a_training_is_at_least_its_end(tiny, tmp_path):
    peak = make(tmp_path / "a", tiny, **{"evaluate.paper_protocol": True, "evaluate.peak_every": 1})
    last = make(tmp_path / "b", tiny, **{"evaluate.paper_protocol": True})
    found = [ds.results["paper_protocol"] for ds in (peak, last)]
    assert all(found[0]["checkpoints"][step] >= found[1]["checkpoints"][step] for step in found[1]["checkpoints"])
    assert "of each its best reading every 1 epochs" in found[0]["what"]
    assert "3 checkpoints, 2 networks each: the habit" in found[1]["what"]


@pytest.mark.parametrize("method", ["mtt", "datm", "rat"])
def test_all_images__the_last_step_is_kept_and_that_is_said(method, tiny, tmp_path):
    tiny |= {**ALL_IMAGES, "distill.outer_steps": 3}
    if method == "rat":
        tiny.pop("experts.count")
    ds = make(tmp_path / "a", tiny, method)
    chosen = ds.results["selection"]
    assert (chosen["step"], chosen["images"], chosen["validation_accuracy"]) == (3, 0, None)
    assert ds.config["source"]["validation_split"].startswith("none")
    card = (tmp_path / "a" / "README.md").read_text()
    assert "no images were held out to choose by; kept: outer step 3 of 3, the last." in card
    again = load_distilled(tmp_path / "a")
    assert len(again.load_source().train) == tiny["dataset.max_train"]


def test_all_images__lengths_cannot_be_chosen(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"`evaluate\.lengths=\[\]`"):
        make(tmp_path / "a", tiny | ALL_IMAGES, "mtt", **{"evaluate.lengths": [2, 3], "evaluate.lr_drop_epochs": []})


def prepared_run(tiny, method="pad", **changes):
    layers = [SettingsLayer("test", {**tiny, **changes})]
    run = make_run(compose("digits", 1, method, "smoke", "cpu", layers), torch.device("cpu"), Notes())
    return run, prepare(run)


def whole_ranking(prepared, seed=0):
    """A ranking of every image of the training split, the last first."""
    from distillkit.data.load import _digits
    from distillkit.settings import DatasetSettings

    labels = _digits(DatasetSettings(name="digits")).labels["train"]
    return [torch.nonzero(labels == k).flatten().flip(0) for k in range(10)]


@pytest.mark.parametrize("kind", [".json", ".pt", ".safetensors", ".npy"])
def test_ranking__of_a_file_is_that_of_the_images_that_are_trained_on(kind, tiny, tmp_path):
    _, prepared = prepared_run(tiny)
    rows = whole_ranking(prepared)
    path = tmp_path / f"ranking{kind}"
    if kind == ".json":
        path.write_text(json.dumps([row.tolist() for row in rows]))
    else:  # as many of each class: the easiest of them
        equal = torch.stack([row[: min(map(len, rows))] for row in rows])
        if kind == ".pt":
            torch.save(equal, path)
        elif kind == ".npy":
            np.save(path, equal.numpy())
        else:
            from safetensors.torch import save_file

            save_file({"ranking": equal}, path)
        assert torch.equal(torch.stack(read_ranking(path)), equal)
        return
    run, prepared = prepared_run(tiny, **{"experts.ranking": str(path)})
    found = ranked(run, prepared, {}, 0)
    for class_id, row in enumerate(found):
        assert bool((prepared.train_labels[row] == class_id).all())
        assert prepared.data.train_rows[row].tolist() == sorted(prepared.data.train_rows[row].tolist(), reverse=True)
    assert sorted(torch.cat(found).tolist()) == list(range(len(prepared.train_labels)))


def test_ranking__another_one_makes_other_experts_and_its_path_does_not_leave(tiny, tmp_path):
    _, prepared = prepared_run(tiny)
    rows = whole_ranking(prepared)
    sets = []
    for name, own in (("a", rows), ("b", [row.flip(0) for row in rows])):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([row.tolist() for row in own]))
        sets.append(make(tmp_path / name, tiny, "pad", **{"experts.ranking": str(path)}))
    assert sets[0].config["experts"]["fingerprint"] != sets[1].config["experts"]["fingerprint"]
    assert sets[0].config["settings"]["experts"]["ranking"] == "a.json"
    assert str(tmp_path) not in (tmp_path / "a" / "distill_config.json").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[[0, 1], [2]]", "every training image once"),
        ('{"a": 1}', "is no file of a ranking|must hold a row"),
        ("[[0.5]]", "whole numbers"),
        ("no json", "is no file of a ranking"),
        ("[]", "must hold a row"),
    ],
)
def test_ranking__of_other_images_or_none_is_refused(content, message, tiny, tmp_path):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        make(tmp_path / "a", tiny, "pad", **{"experts.ranking": str(tmp_path / "r.json")})


def test_ranking__rows_of_other_classes_and_missing_files(tiny, tmp_path):
    _, prepared = prepared_run(tiny)
    rows = whole_ranking(prepared)
    (tmp_path / "r.json").write_text(json.dumps([row.tolist() for row in reversed(rows)]))
    with pytest.raises(ConfigError, match="an image of another class in its row 0"):
        make(tmp_path / "b", tiny, "pad", **{"experts.ranking": str(tmp_path / "r.json")})
    with pytest.raises(NotFoundError, match="there is no file"):
        make(tmp_path / "c", tiny, "pad", **{"experts.ranking": str(tmp_path / "none.json")})
    save_file({"rankings": rows[0]}, tmp_path / "r.safetensors")
    with pytest.raises(ConfigError, match=r"r\.safetensors has no tensor 'ranking'"):
        read_ranking(tmp_path / "r.safetensors")
    (tmp_path / "r.txt").write_text("0")
    with pytest.raises(ConfigError, match=r"expected one of \.pt"):
        make(tmp_path / "d", tiny, "pad", **{"experts.ranking": str(tmp_path / "r.txt")})


def test_expert_precision__is_the_fastest_that_agrees(tiny, monkeypatch):
    run, prepared = prepared_run(tiny, "ast")
    monkeypatch.setattr(stage, "candidates", lambda precision, device: ("bf16", "tf32", "fp32"))
    exact, rough = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 0.2, 0.0])
    gradients = {"fp32": exact, "tf32": exact + 1e-3, "bf16": rough}
    asked = []
    monkeypatch.setattr(stage, "_gradient", lambda run, prepared, name, size: asked.append(name) or (gradients[name],))
    assert stage.expert_precision(run, prepared) == "tf32"
    assert any("not trained in bf16: cosine" in note or "bf16" in note for note in run.progress.notes)
    assert stage.expert_precision(run, prepared) == "tf32"
    assert list(dict.fromkeys(asked)) == ["fp32", "bf16", "tf32"]


def test_expert_precision__bfloat16_gradient_of_the_real_loss(tiny):
    run, prepared = prepared_run(tiny, "ast")
    exact, rough = (stage._vector(stage._gradient(run, prepared, name, 50)) for name in ("fp32", "bf16"))
    cosine = float(torch.nn.functional.cosine_similarity(exact, rough, dim=0))
    assert AGREEMENT * 0.9 < cosine < 1
    assert not torch.equal(exact, rough)
