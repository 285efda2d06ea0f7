"""Distilling by the real loss against an independent unroll: prefix, window, optimiser by hand, one graph of all."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from distillkit.data import augment
from distillkit.data.augment import Augmentation
from distillkit.distill.inner_optimizers import Adam, InnerMemory, Sgd
from distillkit.distill.inner_steps import plan_inner_steps
from distillkit.distill.joined_students import Student, side_by_side
from distillkit.distill.labels import HardLabels, LabelWeights, SoftLabels
from distillkit.distill.real import RealBatch, RealTerm
from distillkit.distill.step_functions import CompiledFunctions, EagerFunctions, InnerLoss, TogetherLoss, Wanted
from distillkit.distill.unroll import Unroll
from distillkit.networks.convnet import ConvNet
from distillkit.networks.functional import FlatNetwork, flatten_parameters

SIZE, CLASSES, PIXELS, REAL = 8, 4, 8, 11
OPTIMIZERS = {"sgd": Sgd(), "momentum": Sgd(0.9), "adam": Adam()}
LABELS = {"hard": HardLabels(), "soft": SoftLabels(), "weights": LabelWeights()}
EPS, NOISE = 1e-8, 1e-6
"""Of Adam; roots of second moments up to which a gradient is rounding."""


def problem(seed=0, norm="instance"):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    torch.manual_seed(seed)
    module = ConvNet(3, (PIXELS, PIXELS), CLASSES, 5, 2, norm).double()
    labels = {
        "hard": F.one_hot(torch.arange(SIZE) % CLASSES, CLASSES).double(),
        "soft": randn(SIZE, CLASSES),
        "weights": torch.rand(SIZE, CLASSES, generator=generator, dtype=torch.float64),
    }
    return {
        "module": module,
        "start": flatten_parameters(module),
        "images": randn(SIZE, 3, PIXELS, PIXELS),
        "labels": labels,
        "real": randn(REAL, 3, PIXELS, PIXELS),
        "classes": torch.arange(REAL) % CLASSES,
        "lr": torch.tensor(0.02, dtype=torch.float64),
    }


def inner_steps(count, batch=None, seed=7):
    strategy, generator = Augmentation.parse("flip_rotate_color"), torch.Generator().manual_seed(seed)
    return plan_inner_steps(count, SIZE, batch, (3, PIXELS, PIXELS), strategy, generator)


def by_hand(p, kind, steps, prefix, optimizer):
    """Loss on real images and its derivatives; parameters as a dictionary, optimisers from their textbooks."""
    images, labels, lr = (value.clone().requires_grad_() for value in (p["images"], p["labels"][kind], p["lr"]))
    shapes = {name: q.shape for name, q in p["module"].named_parameters()}
    pieces = p["start"].split([shape.numel() for shape in shapes.values()])
    theta = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
    first = {name: torch.zeros_like(value) for name, value in theta.items()}
    second = {name: torch.zeros_like(value) for name, value in theta.items()}

    def advance(theta, first, second, step, count, constant):
        theta = {name: value.detach().requires_grad_() if constant else value for name, value in theta.items()}
        for value in theta.values():
            if not value.requires_grad:
                value.requires_grad_()
        seen = augment.apply(images[step.indices], step.draw)
        rows = labels[step.indices].softmax(1) if kind == "soft" else labels[step.indices]
        loss = -(rows * F.log_softmax(functional_call(p["module"], theta, (seen,)), 1)).sum(1).mean()
        grads = dict(zip(theta, torch.autograd.grad(loss, list(theta.values()), create_graph=True), strict=True))
        after = {}
        for name, g in grads.items():
            if optimizer == "adam":
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.999 * second[name] + 0.001 * g**2
                b1, b2 = 1 - 0.9**count, 1 - 0.999**count
                loud = (second[name] / b2).sqrt().detach() > NOISE
                root = torch.where(loud, second[name] / b2, 1).sqrt()
                quiet_root = (second[name] / b2).sqrt().detach()
                change = torch.where(
                    loud, first[name] / b1 / (root + EPS), first[name].detach() / b1 / (quiet_root + EPS)
                )
            else:
                first[name] = (0.9 if optimizer == "momentum" else 0) * first[name] + g
                change = first[name]
            after[name] = theta[name] - lr * change
        if constant:
            after, first, second = ({name: value.detach() for name, value in d.items()} for d in (after, first, second))
        return after, first, second

    for count, step in enumerate([*prefix, *steps], 1):
        theta, first, second = advance(theta, first, second, step, count, count <= len(prefix))
    loss = F.cross_entropy(functional_call(p["module"], theta, (p["real"],)), p["classes"])
    return loss.detach(), *torch.autograd.grad(loss, [images, labels, lr])


FORMS = {"eager": EagerFunctions, "functional": lambda loss: CompiledFunctions(loss, backend=None)}


def term(p, after, piece=REAL, form="eager"):
    network = FlatNetwork(p["module"])
    batch = RealBatch(p["real"], F.one_hot(p["classes"], CLASSES).double())
    return RealTerm(after, batch, FORMS[form](InnerLoss(network, HardLabels())).loss_and_gradient, piece)


def sweep(p, kind, steps, prefix, optimizer, form="eager", kept=0, piece=REAL):
    functions = FORMS[form](InnerLoss(FlatNetwork(p["module"]), LABELS[kind]))
    start, memory = Unroll(functions, prefix, OPTIMIZERS[optimizer]).arrive(
        p["start"], p["images"], p["labels"][kind], p["lr"]
    )
    unroll = Unroll(functions, steps, OPTIMIZERS[optimizer], kept=kept)
    terms = [term(p, len(steps), piece, form)]
    return unroll.hypergradient(start, p["images"], p["labels"][kind], p["lr"], terms, learn_labels=True, memory=memory)


def rel(found, expected):
    return float((found - expected).norm() / expected.norm())


def agrees(found, expected):
    values = (found.loss, found.images, found.labels, found.lr)
    return all(rel(value, wanted) <= 1e-9 for value, wanted in zip(values, expected, strict=True))


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("skipped", "window"), [(0, 1), (0, 6), (1, 4), (5, 3)])
def test_hypergradient__equals_the_independent_unroll(optimizer, kind, skipped, window):
    p, planned = problem(), inner_steps(skipped + window)
    steps, prefix = planned[skipped:], planned[:skipped]
    expected = by_hand(p, kind, steps, prefix, optimizer)
    assert agrees(sweep(p, kind, steps, prefix, optimizer), expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("form", "kept", "piece", "norm"), [("functional", 0, 4, "instance"), ("eager", 2, 3, "none")])
def test_hypergradient__whatever_the_form(optimizer, form, kept, piece, norm):
    p, planned = problem(3, norm), inner_steps(6, batch=5)
    steps, prefix = planned[2:], planned[:2]
    expected = by_hand(p, "soft", steps, prefix, optimizer)
    assert agrees(sweep(p, "soft", steps, prefix, optimizer, form, kept, piece), expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_hypergradient__side_by_side_is_the_mean(optimizer):
    p, chosen = problem(5), OPTIMIZERS[optimizer]
    students, singles = [], []
    for seed in (7, 8, 9):
        planned, start = inner_steps(5, seed=seed), p["start"] + 0.01 * seed
        students.append(Student(start, planned[2:], [term(p, 3)], 1.0, planned[:2]))
        singles.append(by_hand({**p, "start": start}, "soft", planned[2:], planned[:2], optimizer))
    joined = side_by_side(students)
    together = CompiledFunctions(TogetherLoss(InnerLoss(FlatNetwork(p["module"]), SoftLabels()), 3), backend=None)
    arguments = (p["images"], p["labels"]["soft"], p["lr"])
    start, memory = Unroll(together, joined.prefix, chosen).arrive(joined.start_P, *arguments)
    unroll = Unroll(together, joined.steps, chosen)
    found = unroll.hypergradient(start, *arguments, joined.terms, learn_labels=True, memory=memory)
    assert agrees(found, [sum(parts) / 3 for parts in zip(*singles, strict=True)])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradcheck__of_the_whole_step(optimizer):
    """Finite differences of the loss itself, in images, labels and the learning rate, from a start with a past."""
    p, planned = problem(11, "none"), inner_steps(4)
    functions = EagerFunctions(InnerLoss(FlatNetwork(p["module"]), SoftLabels()))
    start, memory = Unroll(functions, planned[:2], OPTIMIZERS[optimizer]).arrive(
        p["start"], p["images"], p["labels"]["soft"], p["lr"]
    )
    unroll = Unroll(functions, planned[2:], OPTIMIZERS[optimizer])

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images, labels, lr):
            images, labels, lr = images.detach(), labels.detach(), lr.detach()
            with torch.enable_grad():
                found = unroll.hypergradient(start, images, labels, lr, [term(p, 2)], learn_labels=True, memory=memory)
            ctx.save_for_backward(found.images, found.labels, found.lr)
            return found.loss

        @staticmethod
        def backward(ctx, grad):
            return tuple(grad * value for value in ctx.saved_tensors)

    inputs = [value.clone().requires_grad_() for value in (p["images"], p["labels"]["soft"], p["lr"])]
    assert torch.autograd.gradcheck(Step.apply, inputs, eps=1e-7, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize(("optimizer", "options"), [("adam", {}), ("momentum", {"momentum": 0.9}), ("sgd", {})])
def test_step__is_that_of_torch(optimizer, options):
    chosen, kind = OPTIMIZERS[optimizer], torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(20, generator=generator, dtype=torch.float64)
    module = torch.nn.Parameter(theta.clone())
    reference = kind([module], lr=0.03, **options)
    memory = InnerMemory(theta.new_zeros(chosen.slots, 20))
    for _ in range(6):
        gradient = torch.randn(20, generator=generator, dtype=torch.float64)
        module.grad = gradient.clone()
        reference.step()
        memory = chosen.step(theta, memory, gradient, torch.tensor(0.03, dtype=torch.float64), theta)
    assert torch.allclose(theta, module.detach(), rtol=1e-12, atol=1e-14)
    assert memory.count == 6


def test_adam__entries_without_a_gradient_pass_none():
    """A bias before a normalisation: its gradient is rounding, so what it would pass back is noise of any size."""
    p, planned = problem(2), inner_steps(3)
    found = sweep(p, "hard", planned, [], "adam")
    single = {**p, **{key: p[key].float() for key in ("start", "images", "real", "lr")}}
    single |= {
        "module": ConvNet(3, (PIXELS, PIXELS), CLASSES, 5, 2, "instance"),
        "labels": {"hard": p["labels"]["hard"].float()},
    }
    for own, reference in zip(single["module"].parameters(), p["module"].parameters(), strict=True):
        own.data = reference.data.float()
    batch = RealBatch(single["real"], F.one_hot(p["classes"], CLASSES).float())
    functions = EagerFunctions(InnerLoss(FlatNetwork(single["module"]), HardLabels()))
    low = Unroll(functions, planned, Adam()).hypergradient(
        single["start"], single["images"], single["labels"]["hard"], single["lr"],
        [RealTerm(3, batch, functions.loss_and_gradient, REAL)],
    )  # fmt: skip
    assert F.cosine_similarity(low.images.double().flatten(), found.images.flatten(), dim=0) > 0.999


def test_adam__only_entries_without_a_gradient_are_held_back():
    """Of all parameters, the biases before a normalisation; where there is none, nothing."""
    for norm, held in (("instance", 2 * 5), ("none", 0)):
        p = problem(2, norm)
        functions = EagerFunctions(InnerLoss(FlatNetwork(p["module"]), HardLabels()))
        gradient = functions.gradient(p["start"], p["images"], p["labels"]["hard"])
        assert int((gradient.abs() <= NOISE).sum()) == held


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_prefix__what_is_alive_on_the_way_does_not_grow_with_it(request, optimizer):
    """Tensors of the size of the parameters, counted at every step, of 3 steps and of 30."""
    p, counts = problem(), {}
    plain = EagerFunctions(InnerLoss(FlatNetwork(p["module"]), HardLabels()))
    gc.freeze()  # what is there already is not looked at again and again
    request.addfinalizer(gc.unfreeze)

    def alive():
        gc.collect()
        return sum(type(one) is torch.Tensor and one.numel() % len(p["start"]) == 0 for one in gc.get_objects())

    for count in (3, 30):
        seen = []

        class Counting:
            def gradient(self, theta, images, labels, seen=seen):
                seen.append(alive())
                return plain.gradient(theta, images, labels)

        Unroll(Counting(), inner_steps(count), OPTIMIZERS[optimizer]).arrive(
            p["start"], p["images"], p["labels"]["hard"], p["lr"]
        )
        counts[count] = max(seen[1:]) - seen[0]
    assert counts[30] == counts[3] <= 3


@pytest.mark.parametrize(("optimizer", "vectors"), [("sgd", 1), ("momentum", 1), ("adam", 4)])
def test_window__keeps_so_many_vectors_of_a_step(optimizer, vectors):
    p = problem()
    unroll = Unroll(
        EagerFunctions(InnerLoss(FlatNetwork(p["module"]), HardLabels())), inner_steps(5), OPTIMIZERS[optimizer]
    )
    path = unroll._path(
        p["start"],
        unroll._seen(p["images"]),
        p["labels"]["hard"],
        p["lr"],
        Wanted(),
        unroll.fresh_memory(p["start"]),
    )
    assert path.points.shape == (6, len(p["start"]))
    assert path.remembered.shape == (5, vectors - 1, len(p["start"]))
    assert path.traces == {}
