"""DSA's and DM's objectives against code of other means; windows, real batches and parts that need no expert."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from distillkit import rng
from distillkit.config import compose
from distillkit.data.augment import Augmentation
from distillkit.distill.distribution_matching import DistributionMatching
from distillkit.distill.gradient_matching import (
    GUARD,
    GradientMatching,
    deep_entries,
    different_entries,
    layerwise_distance,
)
from distillkit.distill.labels import HardLabels, SoftLabels
from distillkit.distill.loop import start_state
from distillkit.distill.objectives import needs
from distillkit.distill.real import ClassBatches, RealBatches, RealImages, all_images, scheduled_images, siamese
from distillkit.distill.start import at_a_fresh_network
from distillkit.distill.step_functions import CompiledFunctions, InnerLoss
from distillkit.distill.synthetic_init import experts_asked
from distillkit.distill.windows import mean_prefix_steps, window_part
from distillkit.errors import ConfigError
from distillkit.networks.convnet import ConvNet
from distillkit.networks.embedding import Embedding
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.networks.timm_models import prepare_model
from distillkit.settings import DistillSettings
from distillkit.stages.checks import check_distillation
from distillkit.stages.engine_trials import eager_engine

CLASSES, IPC, PIXELS, COUNT = 3, 2, 8, 5
AUGMENTATION = Augmentation.parse("color_crop_cutout_flip_scale_rotate")


def build(number, norm="instance"):
    torch.manual_seed(number)
    return ConvNet(2, (PIXELS, PIXELS), CLASSES, 4, 2, norm).double()


def real_images():
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(30) % CLASSES
    return RealImages(torch.randn(30, 2, PIXELS, PIXELS, generator=generator, dtype=torch.float64), labels, CLASSES)


def batches(segments=1):
    return ClassBatches(real_images(), all_images(30), COUNT, 0, segments)


def state(labels=None):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(CLASSES * IPC, 2, PIXELS, PIXELS, generator=generator, dtype=torch.float64)
    ids = torch.arange(CLASSES).repeat_interleave(IPC)
    rows = F.one_hot(ids, CLASSES).double() if labels is None else labels
    return start_state(images, ids, rows, "probabilities", 0.01)


def dsa(labels=None, **settings):
    network, part = FlatNetwork(build(0)), labels or HardLabels()
    chosen = DistillSettings(objective="gradients", **settings)
    return GradientMatching(chosen, eager_engine(network, part), build, batches(), part, AUGMENTATION, 0)


def dm(**settings):
    network = FlatNetwork(build(0))
    chosen = DistillSettings(objective="embeddings", **settings)
    return DistributionMatching(
        chosen, eager_engine(network, HardLabels()), build, batches(), HardLabels(), AUGMENTATION, 0
    )


def gradient_distance_by_hand(module, images, rows, ids, number):
    """DSA's loss with the graph through the gradients, rows of each layer in a loop."""
    names = dict(module.named_parameters())
    total = 0.0
    for class_id in range(CLASSES):
        augment = siamese(AUGMENTATION, images, 0, number, class_id)
        real = augment(batches().images(number, class_id))
        target = torch.full((len(real),), class_id)
        parameters = {name: value.detach().requires_grad_() for name, value in names.items()}
        loss = F.cross_entropy(functional_call(module, parameters, (real,)), target)
        wanted = torch.autograd.grad(loss, list(parameters.values()))
        seen, own = augment(images[ids == class_id]), rows[ids == class_id]
        loss = -(own * F.log_softmax(functional_call(module, parameters, (seen,)), 1)).sum(1).mean()
        found = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        for g, h in zip(found, wanted, strict=True):
            if g.ndim == 1:
                continue
            for row in range(len(g)):
                a, b = g[row].flatten(), h[row].flatten()
                total = total + 1 - (a @ b) / (a.norm() * b.norm() + GUARD)
    return total


@pytest.mark.parametrize("kept", [0, 1])
def test_dsa__loss_and_gradients_by_hand(kept):
    s = state()
    images = s.images.clone().requires_grad_()
    loss = gradient_distance_by_hand(build(4), images, s.labels, s.class_ids, 4)
    (expected,) = torch.autograd.grad(loss, images)
    task = dsa()
    task = task.run_by(replace(task.engine, kept=kept))
    found = task.gradient(s, [4])
    assert float(found.loss) == pytest.approx(float(loss.detach()), rel=1e-10)
    assert (found.images - expected).norm() <= 1e-9 * expected.norm()
    assert found.labels is None
    assert torch.equal(found.carried, flatten_parameters(build(4))[None])


def test_dsa__learned_labels_have_their_derivative():
    rows = torch.randn(CLASSES * IPC, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    s = state(rows)
    leaf = rows.clone().requires_grad_()
    loss = gradient_distance_by_hand(build(1), s.images, leaf.softmax(1), s.class_ids, 1)
    (expected,) = torch.autograd.grad(loss, leaf)
    found = dsa(SoftLabels()).gradient(s, [1])
    assert (found.labels - expected).norm() <= 1e-9 * expected.norm()


def test_dsa__functional_form_and_several_networks():
    s, task = state(), dsa()
    loss = InnerLoss(FlatNetwork(build(0)), HardLabels())
    functions = CompiledFunctions(loss, backend=None)
    other = task.run_by(replace(task.engine, inner=functions, real=functions))
    one, two, both = task.gradient(s, [2]), task.gradient(s, [3]), other.gradient(s, [2, 3])
    assert torch.allclose(both.images, (one.images + two.images) / 2, rtol=1e-9, atol=1e-12)
    assert both.carried.shape == (2, task.engine.network.size)


def test_dsa__each_network_of_a_step_goes_on_from_its_own__also_where_another_process_has_the_others():
    task = dsa(restart_every=2, network_epochs=1, batch_size=4, network_lr=0.05, segments=2)
    s = state()
    rows = [flatten_parameters(build(10)), flatten_parameters(build(20))]
    s.carried, s.step = torch.stack(rows), 1
    both = task.gradient(s, [2, 3]).carried
    assert torch.equal(both[1], task.gradient(s, [3]).carried[0])
    for place in (0, 1):  # a pass does not lead far
        gaps = [(both[place] - row).norm() for row in rows]
        assert gaps[place] < gaps[1 - place]


def test_dsa__the_network_is_trained_on_the_set_between_two_steps_and_fresh_after_them():
    task = dsa(restart_every=2, network_epochs=3, batch_size=4, network_lr=0.05)
    s = state()
    s.carried, s.step = task.gradient(s, [0]).carried, 1
    trained = task.gradient(s, [1]).carried[0]
    assert not torch.equal(trained, flatten_parameters(build(0)))
    without = replace(task, augmentation=None)
    model, images = build(0), s.images
    s.carried = flatten_parameters(model)[None]
    found = without.gradient(s, [1]).carried[0]
    from distillkit import rng
    from distillkit.distill.inner_steps import plan_inner_steps

    generator = rng.generator(0, "distill", "network", 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    steps = plan_inner_steps(6, len(images), 4, (2, PIXELS, PIXELS), None, generator)
    for step in steps:  # three passes in batches of 2 and 4 (the remainder of six images comes first)
        optimizer.zero_grad()
        F.cross_entropy(model(images[step.indices]), s.class_ids[step.indices]).backward()
        optimizer.step()
    assert [len(step.indices) for step in steps] == [2, 4] * 3
    assert torch.allclose(found, flatten_parameters(model), rtol=1e-9)
    s.step = 2
    assert torch.equal(task.gradient(s, [2]).carried[0], flatten_parameters(build(2)))


def test_dsa__masks_leave_entries_out():
    network = FlatNetwork(build(0))
    generator = torch.Generator().manual_seed(0)
    g, h = torch.randn(2, network.size, generator=generator, dtype=torch.float64)
    assert int(deep_entries(g, h, 0.25).sum()) == network.size - int(0.25 * network.size)
    assert not deep_entries(g, h, 0.25)[: int(0.25 * network.size)].any()
    kept = different_entries(g, h, 0.5)
    assert float((g - h).abs()[kept].min()) >= float((g - h).abs()[~kept].max())
    everything = layerwise_distance(network, g, h)
    assert torch.equal(layerwise_distance(network, g, h, torch.ones_like(g, dtype=torch.bool)), everything)
    first = network.sizes[0]  # without the first tensor
    rest = layerwise_distance(network, g, h, torch.arange(network.size) >= first)
    a, b = (side[:first].view(network.shapes[0]).flatten(1) for side in (g, h))
    own = (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + GUARD)).sum()
    assert float(everything - rest) == pytest.approx(float(own), rel=1e-10)
    masked, plain = dsa(mask="depth", mask_ratio=0.5).gradient(state(), [0]), dsa().gradient(state(), [0])
    assert float(masked.loss) < float(plain.loss)
    assert not torch.allclose(masked.images, plain.images)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_dm__loss_and_gradient_by_hand(norm):
    s = state()
    images = s.images.clone().requires_grad_()
    module = build(5, norm)
    augments = [siamese(AUGMENTATION, images, 0, 5, class_id) for class_id in range(CLASSES)]
    real = torch.cat([augment(batches().images(5, c)) for c, augment in enumerate(augments)])
    seen = torch.cat([augment(images[s.class_ids == c]) for c, augment in enumerate(augments)])
    targets, means = (module.train().features(x).flatten(1).view(CLASSES, -1, 4 * 2 * 2).mean(1) for x in (real, seen))
    loss = ((means - targets.detach()) ** 2).sum()
    (expected,) = torch.autograd.grad(loss, images)
    task = dm()
    network = FlatNetwork(build(0, norm))
    task = replace(task, engine=eager_engine(network, HardLabels()), build=lambda number: build(number, norm))
    found = task.gradient(s, [5])
    assert float(found.loss) == pytest.approx(float(loss.detach()), rel=1e-10)
    assert (found.images - expected).norm() <= 1e-9 * expected.norm()
    assert (found.labels, found.carried) == (None, None)


def test_embedding__is_what_the_last_layer_sees():
    images = torch.randn(2, 3, 32, 32)
    convnet = ConvNet(3, (32, 32), 5, 4, 3, "instance")
    assert torch.allclose(convnet.classifier(Embedding(convnet)(images)), convnet(images))
    timm = prepare_model("resnet10t", num_classes=5, image_size=32)[0].eval()
    assert torch.allclose(timm.get_classifier()(Embedding(timm)(images)), timm(images), atol=1e-5)
    with pytest.raises(ConfigError, match="does not say what its last layer is"):
        Embedding(nn.Linear(2, 2))


def test_siamese__one_draw_for_all_images_of_both_sides():
    images = torch.randn(1, 2, PIXELS, PIXELS, dtype=torch.float64)
    for number in range(8):
        augment = siamese(AUGMENTATION, images, 0, number, 1)
        once, thrice = augment(images), augment(images.expand(3, -1, -1, -1))
        assert all(torch.equal(one, once[0]) for one in thrice)
    assert siamese(None, images, 0, 0, 0)(images) is images


def test_windows__random_reaches_both_ends_and_last_is_last():
    settings = DistillSettings(start="fresh", horizon=7, inner_steps=3)
    drawn = [window_part(settings, 0)(step) for step in range(300)]
    assert set(drawn) == {0, 1, 2, 3, 4}
    assert min(drawn.count(value) for value in range(5)) > 30
    assert mean_prefix_steps(settings) == 2
    last = settings.model_copy(update={"window": "last"})
    assert {window_part(last, 0)(step) for step in range(5)} == {4}
    assert mean_prefix_steps(last) == 4
    assert {window_part(DistillSettings(inner_steps=3), 0)(step) for step in range(5)} == {0}
    with pytest.raises(ConfigError, match=r"distill.horizon=2 is shorter than the window, distill.inner_steps=3"):
        window_part(settings.model_copy(update={"horizon": 2}), 0)
    with pytest.raises(ConfigError, match=r"distill.window='early' is unknown; known: random, last"):
        window_part(settings.model_copy(update={"window": "early"}), 0)


def test_real_batches__a_pass_shows_every_image_once():
    real = RealBatches(real_images(), all_images(30), 7, None, 0)
    first = torch.cat([real.indices(number) for number in range(4)])
    assert len(first.unique()) == 28
    second = torch.cat([real.indices(number) for number in range(4, 8)])
    assert len(second.unique()) == 28
    assert not torch.equal(first, second)
    found = real.batch(2)
    assert torch.equal(found.seen, real_images().images[real.indices(2)])
    assert torch.equal(found.labels.argmax(1), real_images().labels[real.indices(2)])
    few = RealBatches(real_images(), all_images(30), 500, None, 0)
    assert sorted(few.indices(0).tolist()) == list(range(30))


def test_real_batches__of_a_schedule():
    easy = scheduled_images(lambda epoch: torch.arange(10 * (epoch + 1)), epochs=3, outer_steps=6)
    assert [len(easy(step)) for step in range(6)] == [10, 10, 20, 20, 30, 30]
    drawn = RealBatches(real_images(), easy, 5, None, 0, segments=2)
    assert all(int(drawn.indices(number).max()) < 10 for number in range(4))  # two batches a step, two steps
    classes = ClassBatches(real_images(), easy, 50, 0)
    shown = classes.images(0, 1)
    assert len(shown) == 3  # of the first ten images those of class 1
    assert {tuple(image.flatten().tolist()) for image in shown} == {
        tuple(real_images().images[index].flatten().tolist()) for index in (1, 4, 7)
    }


def test_class_batches__two_of_a_step_draw_from_its_images():
    easy = scheduled_images(lambda epoch: torch.arange(10 * (epoch + 1)), epochs=3, outer_steps=6)
    classes = ClassBatches(real_images(), easy, 50, 0, segments=2)
    assert [len(classes.images(number, 0)) for number in range(6)] == [4, 4, 4, 4, 7, 7]  # of 10, 10, 20 images


def test_start__students_of_a_step_share_its_window_and_each_has_a_network():
    settings = DistillSettings(start="fresh", window="random", segments=2, inner_steps=3, horizon=40)
    begin, window = at_a_fresh_network(settings, build, 0), window_part(settings, 0)
    found = [begin(number) for number in range(8)]
    assert [one.prefix_steps for one in found] == [window(step) for step in (0, 0, 1, 1, 2, 2, 3, 3)]
    assert len({one.prefix_steps for one in found}) > 1
    assert not torch.equal(found[0].theta_P, found[1].theta_P)
    assert torch.equal(found[5].theta_P, flatten_parameters(build(5)))


def test_siamese__each_class_has_a_draw_of_its_own_and_repeats_it():
    like = state().images
    one, again, other = (siamese(AUGMENTATION, like, 0, 4, class_id)(like) for class_id in (0, 0, 1))
    later = siamese(AUGMENTATION, like, 0, 5, 0)(like)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, later)


def test_experts_asked__those_that_are_trained_to_the_end_anyway_else_the_first():
    assert experts_asked("correct", 9, 0, ()) == (0,)
    assert experts_asked("correct", 9, 0, (0, 1, 2)) == (0, 1, 2)
    drawn = {experts_asked("kmeans-logits", 9, seed, (0, 1)) for seed in range(20)}
    assert len(drawn) > 3
    assert all(len(one) == 1 and 0 <= one[0] < 9 for one in drawn)


def test_class_batches__of_a_pool_that_changes_and_comes_back_are_those_of_a_search_through_it():
    real, divided = real_images(), []

    def used(epoch):
        divided.append(epoch)
        return torch.randperm(30, generator=torch.Generator().manual_seed(epoch % 2))[: 20 + epoch]

    classes = ClassBatches(real, scheduled_images(used, epochs=3, outer_steps=6), 50, 0)
    for number in (0, 1, 2, 3, 4, 0):
        pool = used(number // 2)
        for class_id in range(CLASSES):
            members = pool[real.labels[pool] == class_id]
            order = torch.randperm(len(members), generator=rng.generator(0, "distill", "real class", number, class_id))
            assert torch.equal(classes.images(number, class_id), real.images[members[order]])
    assert len(divided) == 6 + 4  # each epoch's once, for all classes and steps of it, and the first again


@pytest.mark.parametrize(
    ("method", "changes", "wanted"),
    [
        ("rat", {}, {"real batches"}),
        ("dsa", {}, {"real batches"}),
        ("dm", {"distill.real_order": "easy-to-hard"}, {"real batches", "ranking"}),
        ("rat", {"distill.labels": "soft"}, {"real batches", "opinion"}),
        ("mtt", {}, {"trajectories"}),
        ("datm", {}, {"trajectories", "opinion"}),
        ("datm", {"distill.outer_steps": 0}, {"opinion"}),
        ("random", {}, set()),
        ("mtt", {"distill.matching": "real-loss"}, {"trajectories", "real batches"}),
    ],
)
def test_needs__are_those_of_the_chosen_parts(method, changes, wanted):
    from distillkit.methods import SettingsLayer

    settings = compose("digits", 1, method, "quick", "cpu", [SettingsLayer("test", changes)]).settings
    assert needs(settings.distill) == wanted


@pytest.mark.parametrize(
    ("method", "changes", "words"),
    [
        ("rat", {"distill.mask": "depth"}, r"distill.mask=depth leaves out parameters, and distill.matching=real-loss"),
        ("dm", {"distill.mask": "depth"}, r"distill.objective=embeddings compares none; `distill.mask=none`"),
        (
            "rat",
            {"distill.matching": "parameter-distance"},
            r"with distill.start=fresh take distill.matching=real-loss",
        ),
        (
            "rat",
            {"distill.labels": "soft", "distill.lr_label": 0.1},
            r"experts.count=0, but a part of this run matches or asks experts",
        ),
        ("rat", {"distill.horizon": 2}, r"distill.horizon=2 is shorter than the window"),
        ("rat", {"distill.start": "moon"}, r"distill.start='moon' is unknown; known: expert, fresh"),
        ("rat", {"distill.objective": "moon"}, r"distill.objective='moon' is unknown; known: unroll, gradients"),
        ("rat", {"distill.inner_optimizer": "moon"}, r"distill.inner_optimizer='moon' is unknown; known: sgd, adam"),
        ("rat", {"distill.real_order": "moon"}, r"distill.real_order='moon' is unknown; known: shuffle, easy-to-hard"),
        ("rat", {"distill.perturbation": "conv-relative"}, r"only apply to students that begin at experts"),
        ("mtt", {"distill.horizon": 50}, r"distill.horizon only applies to students that begin at fresh networks"),
        ("mtt", {"distill.student": "convnet:width=4"}, r"distill.student is of students that begin fresh"),
        ("mtt", {"evaluate.lengths": [2, 3]}, r"`evaluate.lr_drop_epochs=\[\]`"),
        ("dsa", {"distill.lr_lr": 1e-3}, r"has no student whose learning rate could be learned; `distill.lr_lr=0`"),
        ("dm", {"distill.labels": "weights"}, r"distill.objective=embeddings does not look at labels"),
        ("rat", {"distill.labels": "weights"}, r"distill.labels=weights are learned, but distill.lr_label=0"),
        ("datm", {"distill.lr_label": 0.0}, r"distill.labels=soft are learned, but distill.lr_label=0"),
        ("mtt", {"distill.real_order": "easy-to-hard"}, r"for experts take experts.order"),
    ],
)
def test_check__what_does_not_fit_is_one_sentence(method, changes, words):
    from distillkit.methods import SettingsLayer

    settings = compose("digits", 1, method, "smoke", "cpu", [SettingsLayer("test", changes)]).settings
    with pytest.raises(ConfigError, match=words):
        check_distillation(settings)


def test_dsa__a_network_that_diverged_is_not_gone_on_with():
    from distillkit.distill.loop import DistillTask, distill
    from distillkit.distill.outer_optimizers import outer_optimizer
    from tests.helpers import Watcher

    settings = DistillSettings(objective="gradients", restart_every=50, network_epochs=1, outer_steps=14, lr_img=1e-3)
    network = FlatNetwork(build(0))
    task = GradientMatching(settings, eager_engine(network, HardLabels()), build, batches(), HardLabels(), None, 0)
    s, watcher = state(), Watcher()
    s.carried, s.step = torch.full((1, network.size), float("nan"), dtype=torch.float64), 1
    distill(DistillTask(settings, task, outer_optimizer(settings)), s, watcher)
    assert [record.skipped for record in watcher.records] == [1] * 13
    assert bool(torch.isfinite(s.images).all())
