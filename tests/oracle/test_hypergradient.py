"""The reverse sweep against an independent unroll: written by hand, differentiated by autograd through all steps."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.utils import counters
from torch.func import functional_call

from distillkit.data import augment
from distillkit.data.augment import Augmentation
from distillkit.distill.inner_optimizers import Sgd
from distillkit.distill.inner_steps import InnerStep, plan_inner_steps
from distillkit.distill.labels import HardLabels, SoftLabels
from distillkit.distill.matching import MASKS, normalised_parameter_distance
from distillkit.distill.step_functions import (
    CompiledFunctions,
    EagerFunctions,
    InnerLoss,
    Wanted,
    trace_bytes,
    try_functions,
)
from distillkit.distill.unroll import MatchingTerm, Unroll
from distillkit.networks.convnet import ConvNet
from distillkit.networks.functional import FlatNetwork

SIZE, CLASSES, PIXELS = 12, 4, 16
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")


def problem(seed=0, norm="instance"):
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    torch.manual_seed(seed)
    module = ConvNet(3, (PIXELS, PIXELS), CLASSES, 6, 2, norm).double()
    start = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    start = start + 0.05 * randn(start.numel())
    return {
        "module": module,
        "start": start,
        "target": start + 0.1 * randn(start.numel()),
        "middle": start + 0.05 * randn(start.numel()),
        "images": randn(SIZE, 3, PIXELS, PIXELS),
        "labels": randn(SIZE, CLASSES),
        "lr": torch.tensor(0.03, dtype=torch.float64),
    }


def inner_steps(count, batch, augmented=True):
    strategy = Augmentation.parse("color_crop_cutout_flip_scale_rotate") if augmented else None
    generator = torch.Generator().manual_seed(7)
    return plan_inner_steps(count, SIZE, batch, (3, PIXELS, PIXELS), strategy, generator)


def unroll_by_hand(p, steps, momentum, middle_at=None):
    """θ and v as plain dictionaries, one graph over everything, gradients by one backward call."""
    images, labels, lr = (p[name].clone().requires_grad_() for name in ("images", "labels", "lr"))
    names = [name for name, _ in p["module"].named_parameters()]
    shapes = [q.shape for q in p["module"].parameters()]
    pieces = p["start"].split([s.numel() for s in shapes])
    theta = {n: piece.view(s).clone().requires_grad_() for n, piece, s in zip(names, pieces, shapes, strict=True)}
    velocity, total = None, 0.0

    def distance(target):
        flat = torch.cat([theta[n].reshape(-1) for n in names])
        return ((flat - target) ** 2).sum() / ((p["start"] - target) ** 2).sum()

    for i, step in enumerate(steps):
        seen = images[step.indices]
        if step.draw is not None:
            seen = augment.apply(seen, step.draw)
        logits = functional_call(p["module"], theta, (seen,))
        loss = -(labels[step.indices].softmax(1) * F.log_softmax(logits, 1)).sum(1).mean()
        g = torch.autograd.grad(loss, [theta[n] for n in names], create_graph=True)
        velocity = g if velocity is None else [momentum * v + q for v, q in zip(velocity, g, strict=True)]
        theta = {n: theta[n] - lr * v for n, v in zip(names, velocity, strict=True)}
        if middle_at == i + 1:
            total = total + 0.5 * distance(p["middle"])
    total = total + distance(p["target"])
    return total.detach(), *torch.autograd.grad(total, [images, labels, lr])


FORMS = {
    "eager": EagerFunctions,
    "functional": lambda loss: CompiledFunctions(loss, backend=None),
    "compiled": CompiledFunctions,
}


def sweep(p, steps, momentum, middle_at=None, form="eager", kept=0):
    terms = [MatchingTerm(len(steps), lambda s: normalised_parameter_distance(s, p["start"], p["target"]))]
    if middle_at is not None:
        terms.append(MatchingTerm(middle_at, lambda s: 0.5 * normalised_parameter_distance(s, p["start"], p["middle"])))
    unroll = Unroll(FORMS[form](InnerLoss(FlatNetwork(p["module"]), SoftLabels())), steps, Sgd(momentum), kept=kept)
    return unroll.hypergradient(p["start"], p["images"], p["labels"], p["lr"], terms, learn_labels=True)


def rel(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("batch", [None, 5])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 20])
def test_hypergradient__equals_the_independent_unroll(count, batch, momentum):
    p, steps = problem(), inner_steps(count, batch)
    assert len({step.draw.operation for step in steps}) > 1 or count < 3
    loss, images, labels, lr = unroll_by_hand(p, steps, momentum)
    found = sweep(p, steps, momentum)
    assert rel(found.loss, loss) <= 1e-12
    assert rel(found.images, images) <= 1e-9
    assert rel(found.labels, labels) <= 1e-9
    assert rel(found.lr, lr) <= 1e-9


KEPT = [(form, kept, momentum) for form in ("eager", "functional") for kept, momentum in [(1, 0.0), (3, 0.9), (5, 0.0)]]


@pytest.mark.parametrize(("form", "kept", "momentum"), [*KEPT, pytest.param("compiled", 3, 0.9, marks=needs_compiler)])
def test_hypergradient__kept_graphs(form, kept, momentum):
    p, steps = problem(5), inner_steps(5, 5)
    loss, images, labels, lr = unroll_by_hand(p, steps, momentum, middle_at=3)
    found = sweep(p, steps, momentum, middle_at=3, form=form, kept=kept)
    assert rel(found.loss, loss) <= 1e-12
    assert rel(found.images, images) <= 1e-9
    assert rel(found.labels, labels) <= 1e-9
    assert rel(found.lr, lr) <= 1e-9


@pytest.mark.parametrize("mask", ["depth", "loss"])
def test_hypergradient__masked_with_soft_labels(mask):
    """PAD: distances of the kept entries alone, in dictionaries of tensors; which entries is not differentiated."""
    p, steps = problem(2), inner_steps(5, 5)
    images, labels, lr = (p[name].clone().requires_grad_() for name in ("images", "labels", "lr"))
    names = [name for name, _ in p["module"].named_parameters()]
    shapes = [q.shape for q in p["module"].parameters()]
    pieces = p["start"].split([s.numel() for s in shapes])
    theta = {n: piece.view(s).clone().requires_grad_() for n, piece, s in zip(names, pieces, shapes, strict=True)}
    for step in steps:
        seen = augment.apply(images[step.indices], step.draw)
        logits = functional_call(p["module"], theta, (seen,))
        loss = -(labels[step.indices].softmax(1) * F.log_softmax(logits, 1)).sum(1).mean()
        g = torch.autograd.grad(loss, [theta[n] for n in names], create_graph=True)
        theta = {n: theta[n] - lr * q for n, q in zip(names, g, strict=True)}
    flat = torch.cat([theta[n].reshape(-1) for n in names])
    squares, progress = (flat - p["target"]) ** 2, (p["start"] - p["target"]) ** 2
    keep = torch.ones_like(flat, dtype=torch.bool)
    dropped = (
        range(int(0.3 * len(flat))) if mask == "depth" else sorted(range(len(flat)), key=squares.tolist().__getitem__)
    )
    keep[list(dropped)[: int(0.3 * len(flat))]] = False
    expected_loss = squares[keep].sum() / progress[keep].sum()
    expected = torch.autograd.grad(expected_loss, [images, labels, lr])

    matching = MASKS[mask].build(0.3)
    terms = [MatchingTerm(5, lambda s: matching(s, p["start"], p["target"]))]
    unroll = Unroll(EagerFunctions(InnerLoss(FlatNetwork(p["module"]), SoftLabels())), steps)
    found = unroll.hypergradient(p["start"], p["images"], p["labels"], p["lr"], terms, learn_labels=True)
    assert rel(found.loss, expected_loss.detach()) <= 1e-12
    for one, other in zip((found.images, found.labels, found.lr), expected, strict=True):
        assert rel(one, other) <= 1e-9


@pytest.mark.parametrize("form", ["functional", pytest.param("compiled", marks=needs_compiler)])
def test_hypergradient__of_the_functions_that_are_compiled(form):
    p, steps = problem(), inner_steps(6, 6)
    loss, images, labels, lr = unroll_by_hand(p, steps, 0.9, 3)
    found = sweep(p, steps, 0.9, 3, form)
    assert rel(found.loss, loss) <= 1e-12
    assert max(rel(found.images, images), rel(found.labels, labels), rel(found.lr, lr)) <= 1e-9


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_hypergradient__terms_at_earlier_steps_are_additional_adjoints(momentum):
    p, steps = problem(1), inner_steps(8, 5)
    for middle_at in (1, 4, 8):
        loss, images, labels, lr = unroll_by_hand(p, steps, momentum, middle_at)
        found = sweep(p, steps, momentum, middle_at)
        assert rel(found.loss, loss) <= 1e-12
        assert max(rel(found.images, images), rel(found.labels, labels), rel(found.lr, lr)) <= 1e-9


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
def test_hypergradient__other_normalisations(norm):
    p, steps = problem(2, norm), inner_steps(4, None)
    flat = FlatNetwork(p["module"])  # batch normalisation by the batch at hand, in the unroll by hand as well
    assert flat.size == p["start"].numel()
    _, images, _, lr = unroll_by_hand(p, steps, 0.9)
    found = sweep(p, steps, 0.9)
    assert max(rel(found.images, images), rel(found.lr, lr)) <= 1e-9


def test_hypergradient__gradcheck_on_a_tiny_smooth_net():
    class Tanh(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.second(torch.tanh(self.first(x.flatten(1))))

    torch.manual_seed(0)
    network = FlatNetwork(Tanh().double())
    start = torch.randn(network.size, dtype=torch.float64)
    target = start + torch.randn(network.size, dtype=torch.float64)
    unroll = Unroll(
        EagerFunctions(InnerLoss(network, SoftLabels())), [InnerStep(torch.tensor([2, 0]), None)] * 4, Sgd(0.5)
    )
    term = MatchingTerm(4, lambda s: normalised_parameter_distance(s, start, target))

    class Matching(torch.autograd.Function):
        @staticmethod
        def forward(ctx, images, labels, lr):
            with torch.enable_grad():  # the sweep builds its graphs itself
                inputs = [value.detach() for value in (images, labels, lr)]
                result = unroll.hypergradient(start, *inputs, [term], learn_labels=True)
            ctx.save_for_backward(result.images, result.labels, result.lr)
            return result.loss

        @staticmethod
        def backward(ctx, upstream):
            return tuple(upstream * gradient for gradient in ctx.saved_tensors)

    inputs = (
        torch.randn(3, 1, 2, 2, dtype=torch.float64, requires_grad=True),
        torch.randn(3, 2, dtype=torch.float64, requires_grad=True),
        torch.tensor(0.3, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(Matching.apply, inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


def test_hypergradient__closed_form_of_a_linear_student():
    """One weight, one image x, squared error of label 0: θ' = θ(1 - 2ηx²); L = (θ' - t)²/(θ - t)²."""

    class Squared:
        learned = False

        def loss(self, logits, labels):
            return (logits**2).mean()

    network = FlatNetwork(torch.nn.Linear(1, 1, bias=False).double())
    theta, target, x, lr = 2.0, 1.0, 0.7, 0.1
    start = torch.tensor([theta], dtype=torch.float64)
    unroll = Unroll(EagerFunctions(InnerLoss(network, Squared())), [InnerStep(torch.tensor([0]), None)])
    term = MatchingTerm(1, lambda s: normalised_parameter_distance(s, start, torch.tensor([target]).double()))
    image = torch.tensor([[x]], dtype=torch.float64)
    found = unroll.hypergradient(
        start, image, torch.zeros(1, 1).double(), torch.tensor(lr, dtype=torch.float64), [term]
    )
    moved = theta * (1 - 2 * lr * x**2)
    outer = 2 * (moved - target) / (theta - target) ** 2
    assert float(found.loss) == pytest.approx((moved - target) ** 2 / (theta - target) ** 2, rel=1e-12)
    assert float(found.images) == pytest.approx(outer * theta * -4 * lr * x, rel=1e-12)
    assert float(found.lr) == pytest.approx(outer * theta * -2 * x**2, rel=1e-12)
    assert found.labels is None


def test_matching__is_one_without_moving_and_zero_at_the_target():
    start, target = torch.zeros(5), torch.arange(5.0)
    assert float(normalised_parameter_distance(start, start, target)) == 1.0
    assert float(normalised_parameter_distance(target, start, target)) == 0.0


def test_hypergradient__loss_is_one_at_lr_zero_and_order_of_a_batch_does_not_matter():
    p = problem(3)
    steps = inner_steps(3, None, augmented=False)
    still = sweep({**p, "lr": torch.zeros((), dtype=torch.float64)}, steps, 0.0)
    assert float(still.loss) == pytest.approx(1.0, abs=1e-14)
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))
    shuffled = sweep({**p, "images": p["images"][order], "labels": p["labels"][order]}, steps, 0.0)
    plain = sweep(p, steps, 0.0)
    assert float(shuffled.loss) == pytest.approx(float(plain.loss), rel=1e-12)
    assert rel(shuffled.images, plain.images[order]) < 1e-10


def test_hypergradient__hard_labels_are_the_limit_of_saturated_logits():
    p, steps = problem(4), inner_steps(4, None)
    onehot = F.one_hot(torch.arange(SIZE) % CLASSES, CLASSES).double()
    soft = sweep({**p, "labels": 200 * onehot}, steps, 0.0)
    unroll = Unroll(EagerFunctions(InnerLoss(FlatNetwork(p["module"]), HardLabels())), steps)
    term = MatchingTerm(len(steps), lambda s: normalised_parameter_distance(s, p["start"], p["target"]))
    hard = unroll.hypergradient(p["start"], p["images"], onehot, p["lr"], [term])
    assert rel(hard.images, soft.images) < 1e-12


@needs_compiler
def test_compiled__kept_graphs_hold_what_convolutions_made_and_little_else():
    network = FlatNetwork(ConvNet(1, (8, 8), CLASSES, 8, 2, "instance"))
    loss, wanted = InnerLoss(network, SoftLabels()), Wanted(labels=True)
    batch = torch.randn(SIZE, 1, 8, 8), torch.randn(SIZE, CLASSES)
    eager, compiled = (
        trace_bytes(functions, network.size, *batch, wanted)
        for functions in (EagerFunctions(loss), CompiledFunctions(loss))
    )
    made = 4 * SIZE * 8 * (8 * 8 + 4 * 4)  # by two convolutions of width 8, in bytes
    assert made <= compiled < 0.5 * eager


@needs_compiler
def test_compiled__one_function_for_every_augmentation_and_none_left_to_compile_in_the_loop():
    p, strategy = problem(3), Augmentation.parse("color_crop_cutout_flip_scale_rotate")
    grey = FlatNetwork(ConvNet(1, (8, 8), CLASSES, 3, 2, "instance"))
    loss = InnerLoss(grey, SoftLabels())
    functions = CompiledFunctions(loss)
    images, labels = torch.randn(SIZE, 1, 8, 8), p["labels"].float()
    before = counters["stats"]["unique_graphs"]
    try_functions(functions, loss.network.size, images, labels, Wanted(labels=True))
    assert counters["stats"]["unique_graphs"] == before + 2
    steps = plan_inner_steps(12, SIZE, None, (1, 8, 8), strategy, torch.Generator().manual_seed(7))
    assert len({step.draw.operation for step in steps}) > 4
    start = torch.cat([q.reshape(-1) for q in ConvNet(1, (8, 8), CLASSES, 3, 2, "instance").parameters()]).detach()
    terms = [MatchingTerm(12, lambda student: (student - start - 0.1).square().sum())]
    Unroll(functions, steps).hypergradient(start, images, labels, torch.tensor(0.01), terms, learn_labels=True)
    assert counters["stats"]["unique_graphs"] == before + 2
