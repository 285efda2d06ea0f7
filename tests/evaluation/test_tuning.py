"""Recipes of further networks: the search by hand, what is kept, and who takes it."""

import json
import shutil
import signal
import warnings
from dataclasses import replace

import pytest
import timm
import torch
import torch.nn.functional as F

from distillkit import load_distilled, prepare_model, storage
from distillkit.artifact.card import render_card
from distillkit.artifact.layout import is_published, recipe_file
from distillkit.data.augment import ComposedAugmentation, CutMix, parse_augmentation
from distillkit.data.registry import DSA_NO_FLIP
from distillkit.distributed import ALONE
from distillkit.errors import ArtifactError, ConfigError, FewImagesWarning, Interrupted
from distillkit.evaluation import protocol, tuning
from distillkit.evaluation.recipe import recipe_from_json, recipe_words
from distillkit.evaluation.tuning import Candidate, Tried, challenged, search
from distillkit.hub.address import parse_address
from distillkit.hub.client import Cache
from distillkit.interrupt import StopRequest
from distillkit.networks.convnet import ConvNet
from distillkit.records import EvalReport
from distillkit.settings import DSA, NetworkSettings
from distillkit.sharing.pull import plan_pull, pull
from distillkit.sharing.push import PushOptions, push
from distillkit.stages import tune as tune_stage
from distillkit.stages.contest import Contest
from distillkit.stages.kept_recipes import Tuned, keep_recipe
from distillkit.stages.searches import tried_for
from distillkit.stages.tune import TuneOptions, name_on, tune
from distillkit.training.fit import fit
from distillkit.training.stack import Stack, TrainingForm, fit_stack
from tests.helpers import Notes

QUICK = TuneOptions(seconds=60.0, networks=2, scorers=1, validated=30)


class Clock:
    """A second for a hundred steps."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(tuning.time, "monotonic", lambda: self.now)

    def score(self, accuracy):
        def of(candidate):
            self.now += candidate.steps / 100
            return accuracy(candidate)

        return of


def accuracy(c):
    """Best: SGD 0.01, 1000 steps, with cutmix."""
    return 0.5 + 0.1 * (c.optimizer == "sgd" and c.lr == 0.01) + 0.1 * c.cutmix + 0.05 * (c.steps == 1000)


def test_search__goes_from_optimisers_in_few_steps_to_augmentations_in_more_to_lengths(monkeypatch):
    tried = search(Clock(monkeypatch).score(accuracy), "crop_flip", 1000)
    assert tried[0].candidate == Candidate("sgd", 0.01, 1000, "crop_flip", True)
    assert [one.accuracy for one in tried] == sorted((one.accuracy for one in tried), reverse=True)
    assert len({one.candidate for one in tried}) == len(tried) == tuning.MOST_CANDIDATES == 8 + 1 + 4 + 2
    assert sorted(one.candidate.steps for one in tried) == [30] * 8 + [100] + [300] * 5 + [1000]
    assert {one.candidate.augmentation for one in tried} == {"crop_flip", "crop+flip", DSA}


def test_search__keeps_to_its_time_and_says_what_it_left_out(monkeypatch):
    notes, clock = [], Clock(monkeypatch)
    tried = search(clock.score(accuracy), "crop_flip", 10.0, notes.append)
    assert clock.now <= 10.0
    assert len(tried) == 8 + 1 + 1 + 1  # in 2.4, 3, 3 and 1 second
    assert notes == [
        "no time for 3 candidates; give more `seconds` to try all",
        "no time for a candidate; give more `seconds` to try all",
    ]
    first = search(Clock(monkeypatch).score(accuracy), "none", 0.001)
    assert [one.candidate for one in first] == [Candidate("sgd", 0.03, 30, "none")]
    with pytest.raises(ConfigError, match="must be positive"):
        search(lambda candidate: 0.0, "none", 0)


def test_search__augmentations_are_judged_where_they_pay(monkeypatch):
    """Few steps like none of them, and may be best without: the length of the first candidates decides nothing else."""

    def of(c):
        return 0.5 + (0.2 * c.cutmix if c.steps >= 300 else 0.1 - 0.2 * c.cutmix) + 0.01 * (c.optimizer == "adamw")

    tried = search(Clock(monkeypatch).score(of), "crop_flip", 1000)
    assert tried[0].candidate.cutmix
    assert tried[0].candidate.optimizer == "adamw"
    assert not [one for one in tried if one.candidate.cutmix and one.candidate.steps == 30]


def test_candidate__its_recipe_is_the_one_that_the_file_says():
    for candidate in (Candidate("sgd", 0.01, 300, "crop_flip"), Candidate("adamw", 1e-3, 100, "crop+flip", True)):
        for size in (10, 600):
            assert recipe_from_json(json.loads(json.dumps(candidate.to_json(size)))) == candidate.recipe(size)
    assert Candidate("sgd", 0.01, 300, "none").epochs(600) == 100  # three batches of 256
    assert "cutmix" in recipe_words(Candidate("adamw", 1e-3, 100, "crop+flip", True).to_json(10))


def test_usual_augmentation__flips_what_the_set_flips():
    assert tuning.usual_augmentation("color_crop_cutout_flip_scale_rotate") == "crop+flip"
    assert "flip" not in tuning.usual_augmentation("color_crop_cutout_scale_rotate")


def test_strong_augmentation__all_of_dsa_and_nothing_twice_where_the_set_has_it(monkeypatch):
    assert tuning.strong_augmentation("flip_rotate") == DSA
    assert tuning.strong_augmentation("rotate") == DSA_NO_FLIP
    tried = search(Clock(monkeypatch).score(accuracy), DSA, 1000)
    assert len(tried) == tuning.MOST_CANDIDATES - 1


def test_composed__applies_all_in_order():
    images, generator = torch.rand(3, 1, 8, 8), torch.Generator().manual_seed(1)
    found = parse_augmentation("crop+flip")(images, generator)
    again = torch.Generator().manual_seed(1)
    one_by_one = ComposedAugmentation(("flip",))(ComposedAugmentation(("crop",))(images, again), again)
    assert torch.equal(found, one_by_one)
    assert parse_augmentation("none") is None
    with pytest.raises(ConfigError, match="augmentation 'turn' is unknown"):
        parse_augmentation("crop+turn")


def test_cutmix__a_box_of_the_partner_and_as_much_of_its_label():
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 8, 8).contiguous()
    labels = F.one_hot(torch.arange(4), 5).float()
    shares = set()
    for seed in range(30):
        mixed, targets = CutMix()(images, labels, torch.Generator().manual_seed(seed))
        assert torch.allclose(targets.sum(1), torch.ones(4))
        for row in range(4):
            pixels = mixed[row].flatten()
            for value in range(4):
                share = float((pixels == value).float().mean())
                assert float(targets[row, value]) == pytest.approx(share, abs=1e-6)
        shares.add(round(float(targets[0, 0]), 3))
    assert len(shares) > 5


def recipe(**changes):
    base = Candidate("adamw", 0.01, 6, "none", True)
    return Candidate(**{**vars(base), **changes}).recipe(12)


def test_fit__adamw_on_half_a_cosine_is_written_by_hand():
    torch.manual_seed(0)
    x, y = torch.randn(12, 1, 8, 8).double(), F.one_hot(torch.arange(12) % 3, 3).double()
    model, other = (ConvNet(1, (8, 8), 3, width=2, depth=1, norm="none").double() for _ in range(2))
    other.load_state_dict(model.state_dict())
    how = recipe(cutmix=False)
    lrs = [summary.lr for summary in fit(model, x, y, how, 0, "test")]
    assert len(lrs) == 6
    states = [(torch.zeros_like(p), torch.zeros_like(p)) for p in other.parameters()]
    for epoch in range(6):
        lr = 0.01 * (1 + torch.cos(torch.tensor(torch.pi * epoch / 6, dtype=torch.float64))) / 2
        gradients = torch.autograd.grad(F.cross_entropy(other(x), y), list(other.parameters()))
        with torch.no_grad():
            for p, g, (m, v) in zip(other.parameters(), gradients, states, strict=True):
                p.mul_(1 - lr * 0.05)
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                step = epoch + 1
                p.sub_(lr * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8))
    for found, expected in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_fit__side_by_side_mixes_each_network_as_it_would_be_alone():
    x, y = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.eye(3).repeat(4, 1)

    def network(index):
        torch.manual_seed(index)
        return ConvNet(1, (8, 8), 3, width=2, depth=1, norm="instance").double()

    how = recipe()
    alone = [network(index) for index in range(2)]
    for index, model in enumerate(alone):
        list(fit(model, x.double(), y.double(), how, 0, "t", index))
    stack = Stack([network(index) for index in range(2)], how.loss, TrainingForm(2))
    list(fit_stack(stack, [x.double()] * 2, [y.double()] * 2, how, 0, [("t", index) for index in range(2)]))
    for model, expected in zip(stack.unstacked(), alone, strict=True):
        for found, wanted in zip(model.parameters(), expected.parameters(), strict=True):
            assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.fixture
def fast(monkeypatch):
    """Searches of a few steps."""
    monkeypatch.setattr(tuning, "FIRST_STEPS", 2)
    monkeypatch.setattr(tuning, "USUAL_STEPS", 3)
    monkeypatch.setattr(tuning, "STEPS", (2, 3))


@pytest.fixture
def tuned(copy, fast):
    """A copy of the tiny artifact with a recipe for a field network, its baselines tuned alike."""
    options = TuneOptions(60.0, 2, 1, 30, ("random", "kmeans"))
    found = tune(load_distilled(copy), "mlp", options)
    assert keep_recipe(copy, found) is None
    return copy, found


def test_tune__keeps_a_recipe_with_what_it_was_found_by(tuned):
    folder, found = tuned
    ds = load_distilled(folder)
    assert list(ds.recipes) == ["mlp"] == ds.config["recipes"]
    assert ds.recipes["mlp"] == found.recipe
    assert set(ds.results["tuned"]["mlp"]["baselines"]) == {"random", "kmeans"}
    assert ds.recipes["mlp"]["chosen_by"]["images"] == 20  # two of each class are held out
    assert len(ds.results["tuned"]["mlp"]["accuracies"]) == 2
    assert len(list((storage.cache_root() / "searches").iterdir())) == 3  # the set and both baselines have their own
    card = (folder / "README.md").read_text()
    assert "| `mlp` |" in card
    assert "random, tuned alike" in card
    keep_recipe(folder, found)  # once more is the same
    assert load_distilled(folder).config["recipes"] == ["mlp"]
    keep_recipe(folder, tune(ds, "convnet:width=3", TuneOptions(60.0, 1, 1, 10)))
    both = load_distilled(folder)
    assert (folder / "README.md").read_text() == render_card(both.config, both.recipe, both.results)


def test_tune__a_short_search_does_not_take_the_place_of_a_better_recipe(tuned):
    """Candidates of the recipe that the set has count where they were scored alike; nothing measured is lost."""
    folder, first = tuned
    shutil.rmtree(storage.cache_root() / "searches")  # as on another machine
    before, short = load_distilled(folder), TuneOptions(0.001, 1, 1, 30)
    found = tune(before, "mlp", short)
    assert len(found.tried) <= 2  # one of its own, and the best of those before, which was scored again
    assert found.tried[0].candidate == first.tried[0].candidate
    keep_recipe(folder, found)
    after = load_distilled(folder)
    assert after.recipes == before.recipes
    assert after.results["tuned"] == before.results["tuned"]  # two networks, and both baselines
    other = tune(before, "mlp", TuneOptions(0.001, 1, 1, 10))  # asked of other images
    assert len(other.tried) == 1
    worse = replace(other, tried=(replace(other.tried[0], candidate=Candidate("sgd", 0.5, 1, "none")),))
    assert keep_recipe(folder, worse)["recipe"] == first.tried[0].candidate.words  # which the command line tells
    assert set(load_distilled(folder).results["tuned"]["mlp"]["baselines"]) == {"random", "kmeans"}
    fewer = replace(found, baselines={"random": EvalReport((0.99,), {"lr": 0.1})})  # of one network: of two is better
    keep_recipe(folder, fewer)
    kept = load_distilled(folder).results["tuned"]["mlp"]["baselines"]
    assert kept["random"] == before.results["tuned"]["mlp"]["baselines"]["random"]


@pytest.mark.parametrize(
    "changed",
    [
        {"accuracy": 2.0},
        {"accuracy": float("nan")},
        {"lr": "x"},
        {"lr": None},
        {"steps": 1e309},
        {"steps": 900_000_000},
        {"lr": 1e6},
        {"optimizer": "x"},
        {"seconds": -1},
        {"augmentation": "turn"},
        {"augmentation": None},
    ],
)
def test_tune__what_a_strange_artifact_says_was_tried_is_passed_over(tuned, changed):
    folder, _ = tuned
    recipe = load_distilled(folder).recipes["mlp"]
    network = NetworkSettings.model_validate(recipe["architecture"])
    how = {name: one for name, one in recipe["chosen_by"].items() if name != "tried"}
    assert len(tried_for(recipe, network, how)) > 1
    assert tried_for(recipe, network, {**how, "images": 7}) == []
    assert tried_for(None, network, how) == []
    for strange in ([1], "x", None, 5):
        assert tried_for({**recipe, "chosen_by": strange}, network, how) == []
    one = recipe["chosen_by"]["tried"][0]
    assert tried_for({**recipe, "chosen_by": {**how, "tried": [{**one, **changed}]}}, network, how) == []


def test_challenged__what_others_claim_is_scored_here_before_it_is_first():
    own = [Tried(Candidate("sgd", 0.1, 30, "none"), 0.6, 1.0), Tried(Candidate("sgd", 0.03, 30, "none"), 0.5, 1.0)]
    claims = [
        Tried(Candidate("adamw", 1e-3, 300, "none"), 0.9, 9e8),
        Tried(Candidate("sgd", 0.1, 30, "none"), 1.0, 1.0),
    ]
    asked = []

    def score(candidate):
        asked.append(candidate)
        return 0.55

    found = challenged(own, claims, score)
    assert asked == [claims[0].candidate]
    assert [(one.candidate, one.accuracy) for one in found] == [
        (own[0].candidate, 0.6),
        (claims[0].candidate, 0.55),
        (own[1].candidate, 0.5),
    ]
    assert all(one.seconds < 1e8 for one in found)
    assert challenged(own, [Tried(Candidate("adamw", 1e-3, 300, "none"), 0.6, 1.0)], score) == own
    assert challenged(own, [], score) == own
    assert len(asked) == 1


def test_search__of_what_is_known_the_best_is_taken_though_no_stage_would_try_it():
    best = Tried(Candidate("sgd", 0.02, 50, "turn"), 0.9, 1.0)
    tried = search(lambda candidate: 0.5, "flip", 60.0, known=[best])
    assert tried[0] is best
    assert len(tried) == tuning.MOST_CANDIDATES + 1


def test_search__begins_with_what_was_tried_before():
    def value(candidate):
        asked.append(candidate)
        return 0.9 / (1 + abs(candidate.lr - 0.01)) + candidate.steps / 1e6

    kept, asked = [], []
    whole = search(value, "flip", 60.0, keep=lambda tried: kept.append(list(tried)))
    assert [len(one) for one in kept] == list(range(1, len(whole) + 1))
    everything, asked = asked, []
    half = [Tried.from_json(json.loads(json.dumps(one.to_json()))) for one in kept[len(kept) // 2]]
    again = search(value, "flip", 60.0, known=half)
    assert asked == everything[len(half) :]
    assert [(one.candidate, one.accuracy) for one in again] == [(one.candidate, one.accuracy) for one in whole]


def test_tune__stopped_while_it_measures_begins_with_what_was_tried(copy, fast, monkeypatch):
    ds, runs, run = load_distilled(copy), [], tune_stage._Bench._run

    def watched(self, candidate, exam, training, use, *rest):
        runs.append(use)
        if use == stopped_at:
            stop.signal = signal.SIGINT
        return run(self, candidate, exam, training, use, *rest)

    monkeypatch.setattr(tune_stage._Bench, "_run", watched)
    options = TuneOptions(60.0, 1, 1, 10)
    stop, stopped_at = StopRequest(), "evaluate"
    with pytest.raises(Interrupted, match="while a recipe was measured; the next search begins with what was done"):
        tune(ds, "mlp", options, stop=stop)
    searched, runs[:] = runs.count("tune"), []
    stop, stopped_at = StopRequest(), None
    notes = Notes()
    found = tune(ds, "mlp", options, stop=stop, progress=notes)
    assert runs == ["evaluate"]
    assert f"set: {searched} candidates tried before" in notes.notes
    assert len(found.tried) == searched
    assert found.seconds == sum(one.seconds for one in found.tried) > 0
    runs[:] = []
    tune(ds, "mlp", TuneOptions(60.0, 1, 1, 10, seed=1))  # other networks
    assert runs.count("tune") == searched
    for path in (storage.cache_root() / "searches").iterdir():
        path.write_text("[")
    runs[:] = []
    anew = tune(ds, "mlp", options)
    assert [one.candidate for one in anew.tried] == [one.candidate for one in found.tried]
    assert runs.count("tune") == searched


def test_contest__each_network_has_its_recipe_or_all_the_headlines(copy):
    candidate = Candidate("adamw", 3e-4, 100, "none")
    found = candidate.to_json(20) | {"architecture": {"name": "mlp"}, "tuned_for": "mlp"}
    keep_recipe(copy, Tuned("mlp", found, (Tried(candidate, 0.5, 1.0),), EvalReport((0.5,), {"lr": 3e-4}), {}, 1.0))
    ds = load_distilled(copy)
    contest = Contest(ds, 1, 0, torch.device("cpu"), Notes(), StopRequest(), ALONE)
    own = {name: recipe for name, (_, recipe) in contest.trials(["mlp", "convnet"], False).items()}
    assert (own["mlp"]["optimizer"]["name"], own["mlp"]["lr"]) == ("adamw", 3e-4)
    assert own["convnet"] == ds.recipe
    common = contest.trials(["mlp", "convnet"], True)
    assert all(recipe == ds.recipe for _, recipe in common.values())


def test_tune__another_seed_draws_other_real_images_beside_the_set(copy):
    ds = load_distilled(copy)
    train = ds.load_source().train

    def drawn(seed, index):
        return tune_stage._subset(ds, train, "random", seed, torch.device("cpu"))(index).images

    assert torch.equal(drawn(0, 1), drawn(0, 1))
    assert not torch.equal(drawn(0, 1), drawn(1, 1))
    assert not torch.equal(drawn(1, 0), drawn(1, 1))


def test_tune__stopped_between_two_networks_measures_those_that_are_left(copy, fast, monkeypatch):
    ds, trained, train = load_distilled(copy), [], protocol.train_and_score

    def watched(build, training, exam, recipe, seed, index, after_epoch):
        if len(exam.labels) > 10:  # test images
            trained.append((len(training.images), index))
            if len(trained) == stopped_at:
                stop.signal = signal.SIGINT
        return train(build, training, exam, recipe, seed, index, after_epoch)

    monkeypatch.setattr(protocol, "train_and_score", watched)
    options = TuneOptions(60.0, 3, 1, 10, ("random",))
    stopped_at = None
    whole = tune(ds, "mlp", options, device="cpu")
    everything, trained[:] = list(trained), []
    shutil.rmtree(storage.cache_root() / "searches")
    stop, stopped_at = StopRequest(), 5  # the second network of random images
    with pytest.raises(Interrupted):
        tune(ds, "mlp", options, device="cpu", stop=stop)
    trained[:] = []
    stop, stopped_at, notes = StopRequest(), None, Notes()
    again = tune(ds, "mlp", options, device="cpu", stop=stop, progress=notes)
    assert trained == everything[4:]
    assert "set: 3 networks measured before" in notes.notes
    assert "random: 1 network measured before" in notes.notes
    assert again.report.accuracies == whole.report.accuracies
    assert again.baselines["random"].accuracies == whole.baselines["random"].accuracies
    trained[:] = []
    tune(ds, "mlp", options, device="cpu")  # of a search that came to its end nothing is given again
    assert trained == everything


def test_train__takes_the_recipe_of_the_network_its_family_its_kind_or_the_headline(tuned):
    ds = load_distilled(tuned[0])
    assert ds.recipe_for("mlp") is ds.recipes["mlp"]
    assert ds.recipe_for("convnet") == ds.recipe == ds.recipe_for(ds.network())
    batch_norm = timm.create_model("resnet10t", num_classes=10)
    attention, _ = prepare_model("test_vit", num_classes=10, image_size=8, channels=1)
    assert ds.recipe_for(batch_norm)["optimizer"]["name"] == tuning.DEFAULTS[tuning.BATCH_NORM].optimizer
    assert ds.recipe_for(attention)["lr"] == tuning.DEFAULTS[tuning.ATTENTION].lr
    ds.recipes["timm/resnet18"] = {"mark": 1}
    assert ds.recipe_for(batch_norm) == {"mark": 1}
    assert ds.recipe_for("timm/resnet10t:norm=instance") == ds.recipe
    ds.recipes["timm/resnet10t"] = {"mark": 2}
    assert ds.recipe_for("timm/resnet10t:norm=keep") == ds.recipe_for(batch_norm) == {"mark": 2}
    ds.recipes["vgg11"] = {"mark": 3}
    assert ds.recipe_for("vgg11:norm=instance") == {"mark": 3}
    assert ds.recipe_for("vgg11:norm=batch")["optimizer"]["name"] == tuning.DEFAULTS[tuning.BATCH_NORM].optimizer
    ds.recipes["convnet:width=5,depth=2,norm=instance"] = {"mark": 4}
    assert ds.recipe_for("convnet:norm=instance,width=5,depth=2") == {"mark": 4}
    assert ds.recipe_for("convnet") == ds.recipe_for(ds.network()) == ds.recipe
    strange = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    strange.architecture = "mine:deep"  # a name of other origin
    assert ds.recipe_for(strange) == ds.recipe
    losses = []
    ds.train(ds.network(), epochs=2, progress=lambda epoch, loss: losses.append(loss))
    assert len(losses) == 2


def test_name__of_a_recipe_says_that_batch_normalisation_was_replaced(copy):
    ds = load_distilled(copy)
    assert name_on(ds, "timm/resnet10t") == "timm/resnet10t:norm=instance"  # two images a class
    assert name_on(ds, "timm/resnet10t:norm=keep") == "timm/resnet10t"
    assert name_on(ds, "convnet") == "convnet"


def test_train__warns_of_batch_normalisation_on_few_images(copy):
    ds = load_distilled(copy)
    model, _ = prepare_model("resnet10t", num_classes=10, image_size=8, channels=1)
    with pytest.warns(FewImagesWarning, match="norm='instance'") as told:
        ds.train(model, epochs=1)
    assert told[0].filename == __file__  # the line that asked for the training, not one of the library
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ds.train(prepare_model("resnet10t", num_classes=10, image_size=8, channels=1, norm="instance")[0], epochs=1)
        ds.recipes["timm/resnet10t"] = ds.recipe  # somebody looked what this very network learns, the card says it
        ds.train(model, epochs=1)


def test_train__amp_and_hard_labels_with_cutmix(copy):
    ds = load_distilled(copy)
    own = {**ds.recipe, **Candidate("adamw", 1e-3, 3, "none", True).to_json(len(ds))}
    model = ds.train(ds.network(3), recipe=own, hard_labels=True, amp=True)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert 0 <= ds.evaluate(model) <= 1


@pytest.mark.parametrize("damage", ["gone", "other network", "strange", "escape"])
def test_load__a_damaged_recipe_is_refused(tuned, damage):
    folder, path = tuned[0], tuned[0] / recipe_file("mlp")
    value = json.loads(path.read_text())
    if damage == "gone":
        path.unlink()
    elif damage == "other network":
        path.write_text(json.dumps({**value, "tuned_for": "vgg11"}))
    elif damage == "strange":
        path.write_text(json.dumps({**value, "augmentation": {"strategy": "crop+turn"}}))
    else:
        config = json.loads((folder / "distill_config.json").read_text())
        (folder / "distill_config.json").write_text(json.dumps({**config, "recipes": ["../../etc/passwd"]}))
    with pytest.raises(ArtifactError, match="is damaged"):
        load_distilled(folder)


def test_names__of_recipe_files_stay_in_their_folder():
    assert recipe_file("timm/resnet18:norm=instance") == "recipes/timm-resnet18-norm-instance.json"
    assert recipe_file("../../x") == "recipes/x.json"
    for name in ("recipes/a.json", recipe_file("convnet:width=32,depth=2,norm=instance")):
        assert is_published(name)
    for name in ("recipes/../a.json", "recipes/a/b.json", "recipes/a.py", "recipes/.json", "other/a.json"):
        assert not is_published(name)


def test_push_pull__recipes_travel_with_the_set(tuned, hub, tmp_path):
    folder = tuned[0]
    report = push(folder, "org/set", PushOptions())
    assert recipe_file("mlp") in hub.repos["org/set"].commits[report.commit]
    loaded = load_distilled("org/set")
    assert list(loaded.recipes) == ["mlp"]
    _, sizes = plan_pull(parse_address("org/set"), Cache())
    assert recipe_file("mlp") in sizes
    pull(parse_address("org/set"), tmp_path / "pulled", Cache())
    assert load_distilled(tmp_path / "pulled").recipes == loaded.recipes
    assert load_distilled(loaded.save(tmp_path / "saved")).recipes == loaded.recipes
    shutil.rmtree(tmp_path / "pulled" / "recipes")
    with pytest.raises(ArtifactError, match="is damaged"):
        load_distilled(tmp_path / "pulled")
