"""Models and numbers that callers hand in: refused in one sentence before anything is computed, or taken."""

import inspect
import shutil
from collections import UserDict
from types import MappingProxyType

import numpy as np
import pytest
import torch
from torch import nn

import distillkit
from distillkit import evaluate, load_distilled
from distillkit.errors import ConfigError, DivergenceError
from distillkit.records import ImageSet, Pixels
from distillkit.settings import NetworkSettings
from distillkit.stages.tune import TuneOptions, tune
from tests.helpers import TINY


class Answers(nn.Module):
    """A linear network whose logits are wrapped by ``how``."""

    def __init__(self, how):
        super().__init__()
        self.linear, self.how = nn.Linear(64, 10), how

    def forward(self, images):
        return self.how(self.linear(images.flatten(1)))


def plain():
    return Answers(lambda logits: logits)


@pytest.fixture
def ds(made):
    return load_distilled(made)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda logits: {"logits": logits}, r"returns a dict, not a tensor of logits \[B, 10\]"),
        (lambda logits: (logits, logits), r"returns a tuple, not a tensor"),
        (lambda logits: logits * float("nan"), r"outputs are not finite"),
        (lambda logits: logits[:, :3], r"outputs of shape \(3,\), the set has 10 classes"),
        (lambda logits: logits[0], r"outputs of shape \(\), the set has 10 classes"),
    ],
)
def test_models_that_give_something_else(ds, how, message):
    with pytest.raises(ConfigError, match=message):
        ds.train(Answers(how), epochs=1)
    with pytest.raises(ConfigError, match=message):
        ds.evaluate(Answers(how))


def test_models_that_cannot_be_trained(ds):
    with pytest.raises(ConfigError, match="all parameters of the model are frozen"):
        ds.train(plain().requires_grad_(False))
    with pytest.raises(ConfigError, match="has no parameters"):
        ds.train(nn.Flatten())
    with pytest.raises(ConfigError, match=r"is a str, expected a network.*prepare_model\(NAME"):
        ds.train("resnet18")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({}, r"\(architecture: field required\); ds.recipe has it"),
        ({"lr": "x"}, "has not the form of recipe.json"),
        ([], r"\(all of it: "),
        ({"lr": {1}}, r"\(set is nothing that JSON has\)"),
    ],
)
def test_recipes_that_are_none(ds, recipe, message):
    with pytest.raises(ConfigError, match=message):
        ds.train(plain(), recipe=recipe)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lr": float("inf")}, "lr must be positive and finite, got inf"),
        ({"lr": float("nan")}, "lr must be positive and finite, got nan"),
        ({"lr": "0.1"}, "lr must be positive and finite, got '0.1'"),
        ({"epochs": 1.5}, "epochs must be positive, a whole number, got 1.5"),
        ({"epochs": 0}, "epochs must be positive, a whole number, got 0"),
        ({"batch_size": True}, "batch_size must be positive, a whole number, got True"),
        ({"seed": "a"}, "seed must be 0 or more, a whole number, got 'a'"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_train__numbers(ds, arguments, message):
    model = plain()
    before = model.linear.weight.clone()
    with pytest.raises(ConfigError, match=message):
        ds.train(model, **arguments)
    assert torch.equal(model.linear.weight, before)


def test_recipes_in_which_a_truth_value_stands_for_a_number(ds):
    given = {**ds.recipe, "optimizer": {**ds.recipe["optimizer"], "momentum": False}}
    with pytest.raises(ConfigError, match=r"\(optimizer\.momentum: input should be a valid number\)"):
        ds.train(plain(), recipe=given)


def test_recipes_with_numbers_of_numpy(ds):
    epochs = {**ds.recipe["schedule"], "epochs": np.int64(1), "lr_drop_epochs": np.array([], int)}
    ds.train(plain(), recipe=MappingProxyType({**ds.recipe, "lr": np.float32(0.01), "schedule": UserDict(epochs)}))


def test_evaluate__architectures_of_any_iterable(ds, tmp_path):
    found = evaluate(ds, (name for name in ["mlp"]), networks=1, device=torch.device("cpu"))
    assert list(found) == ["mlp"]


def test_tune__numbers_of_numpy(ds, tmp_path, monkeypatch):
    monkeypatch.setattr("distillkit.evaluation.tuning.FIRST_STEPS", 2)
    options = TuneOptions(np.float32(0.001), np.int64(1), np.int64(1), np.int64(20), (), np.int32(0))
    assert tune(ds, "mlp", options).row()["n"] == 1


FLAGGED = {
    "compress": lambda ds, folder: (distillkit.compress, {"dataset": "digits", "ipc": 1, "preset": "smoke"}),
    "evaluate": lambda ds, folder: (evaluate, {"artifact": ds}),
    "fitting": lambda ds, folder: (ds.fitting, {"network": NetworkSettings()}),
    "export": lambda ds, folder: (ds.export, {"format": "pt", "folder": folder}),
    "import_files": lambda ds, folder: (
        distillkit.import_files,
        {"paths": [folder], "kind": "pt", "dataset": "digits"},
    ),
    "load_distilled": lambda ds, folder: (load_distilled, {"source": "org/name"}),
    "loader": lambda ds, folder: (ds.loader, {}),
    "push_to_hub": lambda ds, folder: (ds.push_to_hub, {"repo_id": "org/name"}),
    "train": lambda ds, folder: (ds.train, {"model": plain()}),
}
"""Everything public that takes a truth value, with the least of other arguments."""


def flags_of(call):
    """Names of the parameters that are truth values."""
    parameters = inspect.signature(call).parameters
    return [name for name, one in parameters.items() if one.annotation in ("bool", "bool | None")]


@pytest.mark.parametrize("name", FLAGGED)
def test_flags__the_text_no_is_not_taken_for_yes(ds, tmp_path, name):
    """Of each parameter that is annotated as a truth value: what is not True or False is refused, by its name."""
    call, others = FLAGGED[name](ds, tmp_path / "none")
    for flag in flags_of(call):
        with pytest.raises(ConfigError, match=f"^{flag} must be True or False, got 'no'"):
            call(**others, **{flag: "no"})
    assert not list(tmp_path.iterdir())


def test_flags__every_function_with_one_is_tested():
    owners = (distillkit, distillkit.DistilledDataset)
    every = [getattr(owner, name) for owner in owners for name in dir(owner) if not name.startswith("_")]
    found = {one.__name__ for one in every if inspect.isfunction(one) and flags_of(one)}
    assert found - {"stop_on_signals"} == set(FLAGGED)  # of programs that are launched


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"settings": "x=1"}, "`settings` must be a dict by dotted key, .*got 'x=1'"),
        ({"settings": {5: 1}}, "`settings` must be a dict by dotted key"),
        ({"settings": {"dataset.classes": {"0", "1"}}}, "dataset.classes has a set, which no setting takes"),
        ({"settings": {"distill.inner_steps": np.True_}}, "expected a number, not true or false"),
        ({"overrides": {"evaluate.baselines": []}}, "overrides is a dict, expected a list of SettingsLayer"),
        ({"overrides": None}, "overrides is a NoneType"),
        ({"ipc": 1.0}, "`ipc` must be a whole number, got 1.0"),
        ({"method": 5}, "`method` is a int, expected a name, or a Method"),
        ({"preset": None}, "`preset` is a NoneType, expected smoke, quick or paper"),
        ({"out": 5}, "`out` is a int, expected a folder"),
        ({"device": None}, "`device` is a NoneType, expected auto"),
        ({"progress": print}, "progress is a builtin_function_or_method, expected a listener"),
        ({"stop": 5}, "`stop` is a int, expected a distillkit.StopRequest"),
        ({"command": 5}, "`command` is a int"),
        ({"to_tune": 5}, "`architectures` is a int, expected one architecture or a list"),
        ({"to_tune": [5]}, "`architectures` is a int"),
        ({"settings": {"dataset.mean": [{1}]}}, "dataset.mean has a set, which no setting takes"),
    ],
)
def test_compress__arguments_of_another_kind(tmp_path, given, message):
    with pytest.raises(ConfigError, match=message):
        distillkit.compress(**{"dataset": "digits", "ipc": 1, "preset": "smoke", "out": tmp_path / "a"} | given)
    assert not list(tmp_path.iterdir())


def test_compress__numbers_and_arrays_of_numpy_and_torch(tmp_path):
    settings = {
        **TINY,
        "evaluate.networks": np.int64(1),
        "evaluate.epochs": torch.tensor(2),
        "distill.lr_init": np.float32(0.5),
        "dataset.classes": np.array(["3", "1"]),
        "dataset.mean": [np.float32(0.5)],
        "dataset.std": torch.tensor([0.25]),
        "dataset.data_root": tmp_path,
        "evaluate.baselines": [],
    }
    ds = distillkit.compress(
        "digits",
        ipc=np.int64(1),
        method="random",
        preset="smoke",
        out=tmp_path / "a",
        device=torch.device("cpu"),
        settings=settings,
    )
    assert (ds.classes, len(ds), ds.results["architectures"]["convnet"]["n"]) == (("3", "1"), 2, 1)
    assert '--set \'dataset.classes=["3", "1"]\'' in ds.config["command"]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ds: load_distilled(None), "`source` is a NoneType, expected a folder, org/name"),
        (lambda ds: load_distilled(b"x"), "`source` is a bytes"),
        (lambda ds: ds.recipe_for(None), "`model` is a NoneType, expected a network"),
        (lambda ds: evaluate(ds, None), "`architectures` is a NoneType"),
        (lambda ds: evaluate(ds, [5]), "`architectures` is a int"),
        (lambda ds: evaluate(ds, progress=print), "progress is a builtin_function_or_method"),
        (lambda ds: evaluate(ds, stop=5), "`stop` is a int"),
        (lambda ds: evaluate(ds, keep=5), "`keep` is a int, expected a function"),
        (lambda ds: tune("folder", "mlp"), "`ds` is a str, expected a loaded set"),
        (lambda ds: tune(ds, "mlp", progress=print), "progress is a builtin_function_or_method"),
        (lambda ds: ds.push_to_hub(5), "`repo_id` is a int"),
        (lambda ds: ds.push_to_hub("org/name", tag=5), "`tag` is a int"),
        (lambda ds: ds.export("pt", 5), "`folder` is a int"),
        (lambda ds: load_distilled("org/name", revision=5), "`revision` is a int"),
        (lambda ds: ds.augment(ds[0][0][None], 5), "`generator` is a int"),
        (lambda ds: ds.train(plain(), progress=3), "`progress` is a int, expected a function"),
        (lambda ds: tune(ds, None), "`architecture` is a NoneType, expected the name of one network"),
        (lambda ds: tune(ds, "mlp", "10m"), "`options` is a str, expected TuneOptions"),
        (lambda ds: tune(ds, "mlp", TuneOptions(1, baselines="random")), "`baselines` is a str, expected some of"),
        (lambda ds: tune(ds, "mlp", TuneOptions(1, baselines=("foo",))), "baseline 'foo' is unknown; known: random, k"),
        (lambda ds: ds.preprocess(np.zeros((1, 8, 8), np.uint8)), "uint8 tensor or one Pillow image, got a ndarray"),
        (lambda ds: ds.preprocess("x.png"), "got a str; .*PIL.Image.open"),
        (lambda ds: ds.preprocess(torch.zeros(2, 2, 1, 8, 8, dtype=torch.uint8)), "uint8 images of shape"),
        (lambda ds: ds.augment(ds[0][0]), r"augment expects inputs float \[B, C, H, W\]"),
        (lambda ds: ds.augment(np.zeros((1, 1, 8, 8))), "augment expects inputs float"),
    ],
)
def test_a_set__arguments_of_another_kind(ds, call, message):
    with pytest.raises(ConfigError, match=message):
        call(ds)


def test_train__takes_numbers_of_numpy(ds):
    calls = []
    ds.train(
        plain(),
        epochs=np.int64(2),
        lr=np.float32(0.01),
        seed=np.int32(1),
        augment=np.bool_(False),
        progress=lambda *given: calls.append(given),
    )
    assert [epoch for epoch, _ in calls] == [0, 1]
    assert all(isinstance(loss, float) for _, loss in calls)


def test_train__a_loss_that_does_not_stay_finite_is_an_error(ds):
    with pytest.raises(DivergenceError, match="the loss did not stay finite at lr 1e\\+30"):
        ds.train(plain(), lr=1e30, epochs=30)


def test_train__compiled_and_in_bfloat16_trains_the_models_own_parameters(ds, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: lambda images: model(images))
    torch.manual_seed(0)
    model, other = plain(), plain()
    other.load_state_dict(model.state_dict())
    assert ds.train(model, epochs=3, amp=True, compiled=True) is model
    ds.train(other, epochs=3)
    assert not torch.equal(model.linear.weight, other.linear.weight)
    assert torch.allclose(model.linear.weight, other.linear.weight, atol=1e-2)


def test_loader_and_network__numbers(ds):
    with pytest.raises(ConfigError, match="batch_size must be positive"):
        ds.loader(2.5)
    with pytest.raises(ConfigError, match="seed must be 0 or more"):
        ds.network(seed="a")


@pytest.mark.parametrize("networks", [0, -1, 1.5])
def test_evaluate__networks(ds, networks):
    with pytest.raises(ConfigError, match="networks must be positive"):
        evaluate(ds, networks=networks)
    with pytest.raises(ConfigError, match="networks must be positive"):
        tune(ds, "convnet", TuneOptions(networks=networks))


@pytest.mark.parametrize("seconds", [0, -1.0, float("nan"), True, "10m"])
def test_tune__seconds_are_looked_at_before_data_are(ds, seconds):
    with pytest.raises(ConfigError, match="`seconds` must be positive and finite"):
        tune(ds, "convnet", TuneOptions(seconds=seconds))


def test_evaluate__one_architecture_by_its_name(ds):
    assert set(evaluate(ds, "convnet", networks=1, device="cpu")) == {"convnet"}


def test_evaluate__no_images_at_all(ds):
    none = ImageSet(
        Pixels(torch.zeros(0, *ds.image_shape, dtype=torch.uint8)), torch.zeros(0, dtype=torch.int64), ds.classes
    )
    with pytest.raises(ConfigError, match="there are no images to test on"):
        ds.evaluate(plain(), none)


def test_save_and_evaluate__in_the_home_folder(ds, class_folders, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert ds.save("~/copy") == tmp_path / "copy"
    class_folders(dict.fromkeys(ds.classes, 3), size=(8, 8), mode="L", root="photos")
    model = plain()
    assert ds.evaluate(model, "~/photos") == ds.evaluate(model, tmp_path / "photos")
    with pytest.raises(ConfigError, match="`folder` is a NoneType, expected a folder"):
        ds.save(None)
    assert not (tmp_path / "~").exists()


def test_a_folder_may_be_a_path(ds, class_folders, tmp_path):
    folder = class_folders(dict.fromkeys(ds.classes, 3), size=(8, 8), mode="L")
    found = [ds.evaluate(plain(), place) for place in (folder, str(folder))]
    assert all(0 <= accuracy <= 1 for accuracy in found)
    shutil.rmtree(folder)
    with pytest.raises(distillkit.errors.DistillkitError, match=str(folder)):  # it is read as a folder, and gone
        distillkit.compress(folder, ipc=1, method="random", preset="smoke", out=tmp_path / "out", device="cpu")


def test_repr__says_what_it_is(ds):
    assert repr(ds) == f"DistilledDataset({str(ds.folder)!r}: 20 images 1x8x8 of digits, 10 classes, ipc 2, mtt)"


def test_train__where_nothing_can_be_trained_is_said(made):
    ds = load_distilled(made)
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"inside torch.inference_mode"):
        ds.train(ds.network(), epochs=1)
    with pytest.raises(ConfigError, match=r"on the device meta; make it on another one"):
        ds.train(ds.network().to("meta"), epochs=1)
    with pytest.raises(ConfigError, match=r"parameters are torch.float16, the images torch.float32; model.to\(torch"):
        ds.train(ds.network().half(), epochs=1)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cuda"):
            ds.loader(device="cuda")
