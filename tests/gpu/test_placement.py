"""Every part of the pipeline on a GPU that is not there: no operation mixes devices, nothing makes the host wait but
what must, numbers and dtypes are those of the CPU. Cases are made from the tables of parts: a new part is one more."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from distillkit import rng
from distillkit.data import augment
from distillkit.data.augment import OPERATIONS, Augmentation, CutMix, parse_augmentation
from distillkit.data.preprocess import fit as fit_preprocess
from distillkit.data.preprocess import to_inputs
from distillkit.distill.gradient_matching import GRADIENT_MASKS
from distillkit.distill.inner_optimizers import INNER_OPTIMIZERS
from distillkit.distill.labels import LABELS, SoftLabels, label_part
from distillkit.distill.loop import DistillTask, _advance, start_state
from distillkit.distill.matching import MASKS, MATCHING
from distillkit.distill.objectives import OBJECTIVES, Resources, check_objective, objective
from distillkit.distill.outer_optimizers import OUTER_OPTIMIZERS, outer_optimizer
from distillkit.distill.real import REAL_ORDERS, RealImages, all_images, scheduled_images
from distillkit.distill.segments import SEGMENTS
from distillkit.distill.start import INNER_SCALES, PERTURBATIONS, STARTS
from distillkit.distill.step_functions import CompiledFunctions, InnerLoss, TogetherLoss
from distillkit.distill.synthetic_init import ARTIFACT, INITS, RealData, initial_images
from distillkit.distill.windows import WINDOWS
from distillkit.distilled import load_distilled
from distillkit.evaluation.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.experts.difficulty import SCORES, score_images
from distillkit.experts.recipe import LOSSES, OPTIMIZERS, ORDERS, expert_recipe
from distillkit.experts.smooth import PENALTIES
from distillkit.experts.train import ExpertData, fit_experts
from distillkit.networks.build import build_network
from distillkit.networks.field import FIELD
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.precision import PRECISIONS, in_precision
from distillkit.records import ImageSet
from distillkit.settings import DistillSettings, ExpertSettings, NetworkSettings
from distillkit.stages.engine_trials import eager_engine
from distillkit.training.fit import accuracy, fit
from distillkit.training.recipe import Adam, AdamW, Recipe, Sgd, cross_entropy, shuffle
from distillkit.training.stack import Stack, TrainingForm, fit_stack
from tests.gpu.pretended import MixedDevicesError, OnGpu, PretendedGpu

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
CLASSES, IPC, PIXELS = 2, 2, 8
SMALL = NetworkSettings(width=3, depth=1)
EVERYTHING = Augmentation.parse("_".join(OPERATIONS))


@pytest.fixture
def gpu():
    with PretendedGpu() as found:
        yield found


def build(index=0, settings=SMALL):
    return build_network(settings, (1, PIXELS, PIXELS), CLASSES, 0, "placement", index)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES, IDS = drawn(12, 1, PIXELS, PIXELS), torch.arange(12) % CLASSES


def equal(found, expected, tolerance=1e-5):
    """Of the GPU and of the CPU; the same operations in the same order, but for what is done side by side."""
    assert isinstance(found, OnGpu)
    assert found.dtype == expected.dtype
    assert torch.allclose(found.detach().cpu(), expected.detach(), rtol=tolerance, atol=tolerance)


# -------------------------------------------------------------------------------- networks, augmentation


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["convnet", "lenet", "mlp", *sorted({*FIELD} - {"lenet", "mlp"}), "timm/resnet10t"])
def test_networks(gpu, name, precision):
    if precision != "fp32" and name != "convnet":
        pytest.skip("arithmetic is that of the convolutions, whichever network")
    pixels = PIXELS if name == "convnet" else 32
    network = build_network(NetworkSettings(name=name, width=3), (1, pixels, pixels), CLASSES, 0, "placement")
    module, x = in_precision(network, precision).to(CUDA), drawn(2, 1, pixels, pixels).to(CUDA)
    with gpu.counting() as (waits, copies, _):
        logits = module(x)
        logits.sum().backward()
    assert (logits.device, logits.dtype) == (torch.device("cuda", 0), torch.float32)
    assert (waits, copies) == ({}, {})
    assert (torch.bfloat16 in gpu.dtypes) == (precision == "bf16")


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_augmentation(gpu, operation, deterministic):
    draw = Augmentation((operation,)).draw(4, PIXELS, PIXELS, torch.Generator().manual_seed(1))
    expected = augment.apply(IMAGES[:4], draw)
    there = IMAGES[:4].to(CUDA).requires_grad_()
    torch.use_deterministic_algorithms(deterministic)
    try:
        with gpu.counting() as (waits, copies, kernels):
            found = augment.apply(there, draw)
            found.square().sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    equal(found, expected)
    assert (waits, sum(copies.values())) == ({}, 1)  # its numbers
    assert not (deterministic and any("grid_sampler" in name for name in kernels))


# -------------------------------------------------------------------------------- outer steps

PARTS = {
    "objective": OBJECTIVES,
    "start": STARTS,
    "window": WINDOWS,
    "sampler": SEGMENTS,
    "matching": MATCHING,
    "mask": MASKS,
    "labels": LABELS,
    "inner_optimizer": INNER_OPTIMIZERS,
    "outer_optimizer": OUTER_OPTIMIZERS,
    "perturbation": PERTURBATIONS,
    "inner_scale": INNER_SCALES,
    "real_order": REAL_ORDERS,
}
MATCHED = {
    "expert_epochs": 2,
    "max_start_epoch": 4,
    "batch_size": 3,
    "lr_label": 0.1,
    "real_batch": 5,
    "real_piece": 3,
    "real_per_class": 3,
    "outer_steps": 4,
}
FRESH = {"start": "fresh", "matching": "real-loss", "horizon": 6, "segments": 2}
OF_REAL_IMAGES = {"objective": "gradients", "lr_lr": 0, "restart_every": 3, "network_epochs": 1}
TOGETHER_WITH = {
    ("objective", "gradients"): OF_REAL_IMAGES,
    ("objective", "embeddings"): {"lr_lr": 0},
    ("start", "fresh"): FRESH,
    ("matching", "real-loss"): FRESH,
    **{("window", name): FRESH for name in WINDOWS},
    **{("real_order", name): FRESH for name in REAL_ORDERS},
}
"""Settings that a part does not go without."""
CASES = {
    f"{key}={name}": {key: name, **TOGETHER_WITH.get((key, name), {})} for key, table in PARTS.items() for name in table
}
CASES |= {f"gradients, mask={name}": {"mask": name, "mask_ratio": 0.3, **OF_REAL_IMAGES} for name in GRADIENT_MASKS}
CASES |= {
    "momentum, average, clipped": {"inner_momentum": 0.5, "ema": 0.9, "clip": 2.0, "final_rate": 0.1},
    "gradients, learned labels": {"labels": "soft", **OF_REAL_IMAGES},
    "truncated": {"hypergradient": "truncated"},
}


class Walks:
    """Three experts that wander about; their points lie on the host."""

    count, final_epoch = 3, 6

    def __init__(self, size, continuous):
        self.size, self.continuous = size, continuous

    def point(self, expert, epoch):
        return drawn(7, self.size, seed=expert).mul(0.1).cumsum(0)[int(epoch)]

    def end(self, expert):
        return self.final_epoch


def outer_task(device, chosen, form="eager", images=None):
    """A task of the settings ``chosen`` and its state, all that lives on a device there; ``images``: real ones."""
    settings = DistillSettings(**{**MATCHED, "inner_steps": 2, **chosen})
    check_objective(settings)
    network, labels = FlatNetwork(build().to(device)), label_part(settings)
    engine = eager_engine(network, labels)
    if form == "kept":
        engine = replace(engine, kept=1)
    if form != "eager" and form != "kept":
        loss = InnerLoss(network, labels)
        loss = TogetherLoss(loss, settings.segments) if form == "together" else loss
        engine = replace(engine, inner=CompiledFunctions(loss, backend=None), together=form == "together")
    available = all_images(len(IDS))
    if settings.real_order != "shuffle":
        available = scheduled_images(lambda epoch: torch.arange(6 + epoch), 4, 4)
    real = RealImages(IMAGES.to(device) if images is None else images, IDS.to(device), CLASSES)
    assert real.classes.device == CPU  # read once, for all steps
    resources = Resources(
        settings=settings,
        network=network,
        engine=engine,
        build=build,
        labels=labels,
        augmentation=EVERYTHING,
        seed=0,
        real=real,
        available=available,
        trajectories=Walks(network.size, settings.sampler == "continuous"),
    )
    ids = torch.arange(CLASSES).repeat_interleave(IPC)
    first = labels.initial(ids, CLASSES, drawn(1, len(ids), CLASSES)).to(device)
    state = start_state(drawn(len(ids), 1, PIXELS, PIXELS, seed=5).to(device), ids, first, labels.kind, 0.03)
    return DistillTask(settings, objective(resources), outer_optimizer(settings)), state


def stepped(device, chosen, form="eager", images=None):
    """Loss and gradient norm of the first outer step, and the state after it."""
    task, state = outer_task(device, chosen, form, images)
    return _advance(task, state), state


@pytest.mark.parametrize("name", CASES)
def test_outer_step(name):
    told, expected = stepped(CPU, CASES[name])
    with PretendedGpu() as gpu:
        task, found = outer_task(CUDA, CASES[name])
        with gpu.counting() as (waits, _, kernels):
            found_told = _advance(task, found)
        equal(found.images, expected.images)
        equal(found.labels, expected.labels)
        memory = {key: value.device.type for key, value in found.memory.items()}
    assert memory.pop("images.velocity", "cuda") == "cuda"
    assert found.lr == pytest.approx(expected.lr, rel=1e-5)
    assert found_told == pytest.approx(told, rel=1e-4)
    assert sum(kernels.values()) > 100
    assert waits == {"to the host": 1}, "the host waits more than once in an outer step"


FORMS = ("eager", "kept", "functional", "together")
MANY = {
    "segments": 2,
    "inner_momentum": 0.5,
    "matching": "intermediate",
    "perturbation": "conv-relative",
    "labels": "soft",
}


@pytest.mark.parametrize("form", FORMS)
def test_outer_step__in_every_form__nothing_grows_with_the_inner_steps(form):
    chosen = {**MANY, "inner_scale": "log-balanced"}
    (loss, norm), expected = stepped(CPU, chosen)
    counted = []
    with PretendedGpu() as gpu:
        for steps in (2, 4):
            task, state = outer_task(CUDA, {**chosen, "inner_steps": steps}, form)
            with gpu.counting() as (waits, copies, _):
                told = _advance(task, state)
            counted.append((waits, copies))
            if steps == 2:
                assert told == pytest.approx((loss, norm), rel=1e-4)
                equal(state.images, expected.images, 1e-4)
    assert counted[0] == counted[1]
    assert counted[0][0] == {"to the host": 1}
    doubles = gpu.dtypes[torch.float64]
    assert doubles <= 2 * 4 * 3 * 4, "no float64 on the GPU but the numbers of the steps"


# -------------------------------------------------------------------------------- training, experts


def expert_settings(**chosen):
    early = {"add_end_epoch": 0, "remove_epochs": (0, 1), "remove_fractions": (0.2, 0.4)}
    return ExpertSettings(**{"epochs": 1, "batch_size": 4, "momentum": 0.9, **early, **chosen})


RANKING = (torch.arange(0, 12, 2), torch.arange(1, 12, 2))
EXPERTS = {
    **{f"optimizer={name}": {"optimizer": name} for name in OPTIMIZERS},
    **{f"loss={name}": {"loss": name} for name in LOSSES},
    **{f"penalty={name}": {"penalty": name, "loss": "gradient-penalty"} for name in PENALTIES},
    **{f"order={name}": {"order": name} for name in ORDERS},
    "all of them": {"optimizer": "gsam", "loss": "clipping-gradient-penalty", "lr_drop_epochs": (0,)},
}


def fresh_experts(device, recipe, count):
    data = ExpertData(IMAGES.to(device), IDS.to(device), IMAGES[:2].to(device), IDS[:2].to(device), CLASSES)
    points = [[] for _ in range(count)]
    keep = [lambda epoch, point, own=own: own.append(point) for own in points]
    fit_experts(range(count), data, SMALL, recipe, 0, keep, lambda loss, score: None, TrainingForm(count))
    return points


@pytest.mark.parametrize("name", EXPERTS)
def test_experts(gpu, name):
    recipe = expert_recipe(expert_settings(**EXPERTS[name]), EVERYTHING, RANKING)
    expected = fresh_experts(CPU, recipe, 2)
    with gpu.counting() as (waits, copies, _):
        found = fresh_experts(CUDA, recipe, 2)
    for own, theirs in zip(found, expected, strict=True):
        assert [point.device for point in own] == [CPU] * 2
        assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(own, theirs, strict=True))
    with gpu.counting() as (in_one_step, copied, _):
        fresh_experts(CUDA, replace(recipe, batch_size=12), 2)
    assert (waits, copies) == (in_one_step, copied), "an expert is read between epochs, not in them"


RECIPES = {
    "sgd": Recipe(1, 4, 0.01, Sgd(0.9, 0.1), cross_entropy, shuffle, EVERYTHING),
    "adam": Recipe(1, 4, 0.01, Adam(), cross_entropy, shuffle, parse_augmentation("crop+flip"), (), 0.1),
    "adamw, cosine, cutmix": Recipe(
        2, 4, 0.01, AdamW(), cross_entropy, shuffle, EVERYTHING, cosine=True, mixing=CutMix(), lr_drop_epochs=(1,)
    ),
}
SOFT = drawn(12, CLASSES, seed=3).softmax(1)


def trained(device, recipe, together):
    """Parameters of network 0 after training, alone or beside another one."""
    images, targets = IMAGES.to(device), SOFT.to(device)
    models = [build(index).to(device) for index in range(2)]
    if together:
        stack = Stack(models, recipe.loss, TrainingForm(2))
        list(fit_stack(stack, [images] * 2, [targets] * 2, recipe, 0, [("t", 0), ("t", 1)]))
        stack.unstacked()
    else:
        list(fit(models[0], images, targets, recipe, 0, "t", 0))
    return flatten_parameters(models[0])


@pytest.mark.parametrize("together", [False, True], ids=["alone", "stacked"])
@pytest.mark.parametrize("name", RECIPES)
def test_training__no_step_waits_and_an_epoch_is_one_transfer(gpu, name, together):
    """What is random of an epoch is drawn on the host and goes to the GPU at once, however many steps there are."""
    with gpu.counting() as (waits, copies, _):
        found = trained(CUDA, RECIPES[name], together)
    with gpu.counting() as (_, copied, _):
        trained(CUDA, replace(RECIPES[name], batch_size=12), together)
    assert waits == {}
    assert copies == copied
    equal(found, trained(CPU, RECIPES[name], together), 1e-4)


@pytest.mark.parametrize("size", [1, 2])
def test_evaluation(gpu, size):
    def report(device):
        training = TrainingSet(IMAGES.to(device), SOFT.to(device))
        exam = Examination(IMAGES.to(device), IDS.to(device))
        return evaluate_networks(build, training, exam, RECIPES["sgd"], 0, 2, form=TrainingForm(size))

    expected = report(CPU)
    with gpu.counting() as (waits, _, _):
        found = report(CUDA)
    assert found.accuracies == pytest.approx(expected.accuracies)
    assert sum(waits.values()) == 2, "a network is asked once"


# -------------------------------------------------------------------------------- data


PIXEL_IMAGES = (drawn(12, 1, PIXELS, PIXELS, seed=9).sigmoid() * 255).to(torch.uint8)


@pytest.mark.parametrize("kind", ["standardise", "zca", "unit-zca", "unit-dct", "none"])
def test_preprocessing(gpu, kind):
    preprocess = fit_preprocess(kind, PIXEL_IMAGES, 0.1)
    found, expected = to_inputs(preprocess, PIXEL_IMAGES, CUDA), to_inputs(preprocess, PIXEL_IMAGES)
    back = preprocess.invert(found)
    assert gpu.waits == {}
    equal(found, expected)
    equal(back, preprocess.invert(expected), 1e-3)


@pytest.mark.parametrize("name", [name for name in INITS if name != ARTIFACT])
def test_initial_images(gpu, name):
    def chosen(device):
        images = IMAGES.to(device)

        def ask(expert, indices, wanted):
            return wanted((images if indices is None else images[indices.to(device)]).flatten(1)[:, :CLASSES]).cpu()

        return initial_images(name, RealData(images, IDS.to(device), CLASSES, (0, 1), ask), IPC, 0)

    found, expected = chosen(CUDA), chosen(CPU)
    assert torch.equal(found.images, expected.images)
    assert found.images.device == CPU


@pytest.mark.parametrize("name", SCORES)
def test_difficulty(gpu, name):
    model = build()
    expected = score_images(SCORES[name].build, model, IMAGES, IDS)
    found = score_images(SCORES[name].build, model.to(CUDA), IMAGES.to(CUDA), IDS.to(CUDA))
    assert (found.device, gpu.waits) == (CPU, {"to the host": 1})
    assert torch.allclose(found, expected, atol=1e-6)


# -------------------------------------------------------------------------------- the finished set


def test_distilled_set(gpu, made):
    ds = load_distilled(made)
    model = ds.train(ds.network(), device="cuda", epochs=2)
    alone = ds.train(ds.network(), device="cpu", epochs=2)
    equal(flatten_parameters(model), flatten_parameters(alone), 1e-4)
    images = (drawn(6, *ds.image_shape).sigmoid() * 255).to(torch.uint8)
    tested = ImageSet(images, torch.arange(6) % ds.num_classes, ds.classes)
    assert ds.evaluate(model, tested) == pytest.approx(ds.evaluate(alone, tested))
    batches = list(ds.loader(7, "cuda"))
    assert all(image.is_cuda and target.is_cuda for image, target in batches)
    equal(ds.preprocess(images.to(CUDA)), ds.preprocess(images))
    equal(
        ds.augment(batches[0][0], torch.Generator().manual_seed(1)),
        ds.augment(batches[0][0].cpu(), torch.Generator().manual_seed(1)),
    )
    assert gpu.waits["aten.nonzero.default"] == 0
    soft = accuracy(model, batches[0][0], batches[0][1].argmax(1))
    assert 0 <= soft <= 1


# -------------------------------------------------------------------------------- the tests themselves


class OnTheHost(nn.Module):
    def forward(self, x):
        return x + torch.ones(x.shape[1:])  # planted


def planted_augmentation(monkeypatch):
    monkeypatch.setitem(augment._OPERATIONS, "flip", (augment._draw_one, lambda images, values: images * torch.ones(8)))
    augment.apply(IMAGES.to(CUDA), augment.Draw("flip", torch.zeros(12, 1)))


def planted_network(monkeypatch):
    nn.Sequential(OnTheHost(), build()).to(CUDA)(IMAGES.to(CUDA))


def planted_loss(monkeypatch):
    monkeypatch.setattr(SoftLabels, "loss", lambda self, logits, labels: (logits * torch.ones(CLASSES)).sum())
    stepped(CUDA, MANY)


def planted_start(monkeypatch):
    monkeypatch.setitem(
        PERTURBATIONS, "none", replace(PERTURBATIONS["none"], build=lambda *_: lambda p, n: p.to(CUDA) + p)
    )
    stepped(CUDA, {})


def planted_matching(monkeypatch):
    from distillkit.distill import unrolled

    monkeypatch.setattr(
        unrolled.UnrolledStudents,
        "_points",
        lambda self, beginning, device: lambda epoch: torch.ones(self.engine.network.size),
    )
    stepped(CUDA, {})


def planted_outer_optimizer(monkeypatch):
    task, state = outer_task(CUDA, {})
    state.memory = {"images.velocity": torch.zeros(4, 1, PIXELS, PIXELS)}
    _advance(task, state)


def planted_training(monkeypatch):
    recipe = replace(RECIPES["sgd"], loss=lambda model, batch, scale: (model(batch.images) * torch.ones(CLASSES)).sum())
    list(fit(build().to(CUDA), IMAGES.to(CUDA), IDS.to(CUDA), recipe, 0, "t"))


def planted_stack(monkeypatch):
    recipe = replace(RECIPES["sgd"], loss=lambda model, batch, scale: (model(batch.images) * torch.ones(CLASSES)).sum())
    stack = Stack([build(index).to(CUDA) for index in range(2)], recipe.loss, TrainingForm(2))
    list(fit_stack(stack, [IMAGES.to(CUDA)] * 2, [IDS.to(CUDA)] * 2, recipe, 0, [("t", 0), ("t", 1)]))


def planted_evaluation(monkeypatch):
    accuracy(build().to(CUDA), IMAGES.to(CUDA), IDS)


def planted_preprocessing(monkeypatch):
    preprocess = fit_preprocess("standardise", PIXEL_IMAGES, 0.1)
    monkeypatch.setattr(type(preprocess), "__call__", lambda self, pixels: pixels - self.mean.float().view(-1, 1, 1))
    to_inputs(preprocess, PIXEL_IMAGES, CUDA)


def planted_score(monkeypatch):
    score_images(
        lambda model, x, y: (model(x) - torch.ones(CLASSES)).norm(dim=1), build().to(CUDA), IMAGES.to(CUDA), IDS
    )


def planted_init(monkeypatch):
    IMAGES.to(CUDA)[torch.tensor([1, 2])]


PLANTED = [value for name, value in sorted(globals().items()) if name.startswith("planted_")]


@pytest.mark.parametrize("stage", PLANTED, ids=lambda stage: stage.__name__)
def test_planted__a_tensor_of_the_host_is_found(gpu, monkeypatch, stage):
    with pytest.raises(MixedDevicesError):
        stage(monkeypatch)


@pytest.mark.parametrize(
    "wait",
    [
        *(lambda x: x.sum().item(), lambda x: float(x[0]), lambda x: x[x > 0], lambda x: x.tolist(), lambda x: x.cpu()),
        *(lambda x: bool((x > 0).any()), lambda x: x.nonzero(), lambda x: torch.equal(x, x), lambda x: x.unique()),
    ],
)
def test_planted__a_wait_of_the_host_is_counted(gpu, wait):
    x = torch.arange(3.0, device=CUDA)
    wait(x)
    assert sum(gpu.waits.values()) == 1


def test_planted__float64_and_size_are_seen():
    with PretendedGpu(largest=4000) as gpu:
        torch.zeros(100, device=CUDA).double()
        assert gpu.dtypes[torch.float64] == 100
        with pytest.raises(torch.OutOfMemoryError):
            torch.zeros(1001, device=CUDA)
    assert torch.zeros(3).device == CPU
    assert not torch.cuda.is_available() or torch.cuda.device_count()


def test_default_device__of_the_program_that_calls(gpu, made):
    """Draws are made on the host all the same, and the numbers are those of without."""
    images = drawn(3, *load_distilled(made).image_shape)

    def all_of_it():
        ds = load_distilled(made)
        model = ds.train(ds.network(1), epochs=1, device="cuda")
        batch, _ = next(iter(ds.loader(5, "cuda")))
        augmented = ds.augment(images, torch.Generator().manual_seed(1))
        tested = ImageSet(PIXEL_IMAGES, torch.arange(12, device="cpu") % ds.num_classes, ds.classes)
        return flatten_parameters(model).cpu(), batch.cpu(), augmented.cpu(), ds.evaluate(model, tested)

    expected = all_of_it()
    with torch.device("cuda"):  # what torch.set_default_device does
        assert torch.zeros(1).is_cuda
        found = all_of_it()
    assert all(torch.equal(a, b) for a, b in zip(found[:3], expected[:3], strict=True))
    assert found[3] == expected[3]


def test_augment__by_a_generator_of_another_device(made, monkeypatch):
    class Elsewhere:
        device = torch.device("cuda")

    draws = []
    monkeypatch.setattr(
        torch, "randint", lambda high, size, generator, device: draws.append(device) or torch.tensor([7])
    )
    found = rng.on_the_host(Elsewhere())
    monkeypatch.undo()
    assert draws == [Elsewhere.device]
    assert (found.device, found.initial_seed()) == (CPU, 7)
    own = torch.Generator()
    assert rng.on_the_host(own) is own
    assert rng.on_the_host(None) is torch.default_generator
