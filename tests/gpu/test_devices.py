"""The same numbers on every device, in every arithmetic and form, as on the CPU in float64: ``make test-gpu``.

Where there is no GPU the cases on ``cuda`` are skipped; those on the CPU are few, the oracles hold them to more.
"""

import pytest
import torch
import torch.nn.functional as F

from distillkit import compress
from distillkit.data import augment
from distillkit.data.augment import OPERATIONS, Augmentation
from distillkit.distill.inner_optimizers import Sgd
from distillkit.distill.inner_steps import plan_inner_steps, to_device
from distillkit.distill.joined_students import Student, side_by_side
from distillkit.distill.labels import SoftLabels
from distillkit.distill.matching import normalised_parameter_distance
from distillkit.distill.step_functions import CompiledFunctions, EagerFunctions, InnerLoss, TogetherLoss
from distillkit.distill.unroll import MatchingTerm, Unroll
from distillkit.experts.recipe import expert_recipe
from distillkit.lab import effective
from distillkit.methods import METHODS
from distillkit.networks.build import build_network
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.precision import arithmetic, in_precision
from distillkit.settings import ExpertSettings, NetworkSettings
from distillkit.training.fit import fit
from distillkit.training.stack import Stack, TrainingForm, fit_stack

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TOLERANCE = {"fp32": 2e-4, "tf32": 2e-2, "bf16": 1e-1}
"""Relative difference of a hypergradient of four inner steps from that of float64, by arithmetic."""
SIZE, CLASSES, PIXELS, STEPS, BATCH = 13, 4, 16, 4, 5
SETTINGS = NetworkSettings(width=8, depth=2)
FORMS = ("eager", "kept", "compiled", "graphs", "together", "together-graphs")
CASES = [
    pytest.param("cpu", "fp32", "eager"),
    pytest.param("cpu", "fp32", "kept"),
    *(pytest.param("cuda", precision, form, marks=on_gpu) for precision in TOLERANCE for form in FORMS),
]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(index=0):
    return build_network(SETTINGS, (3, PIXELS, PIXELS), CLASSES, 0, "devices", index)


def hypergradient(device, precision, form, dtype):
    """Of two students, the mean: in turn, or side by side; batches of five of thirteen images, so some are short."""
    place = torch.device(device)
    network = FlatNetwork(in_precision(build().to(dtype), precision).to(place))
    loss, together = InnerLoss(network, SoftLabels()), form.startswith("together")
    if form in ("eager", "kept"):
        functions = EagerFunctions(loss)
    else:
        functions = CompiledFunctions(TogetherLoss(loss, 2) if together else loss, cuda_graphs="graphs" in form)

    def student(number):
        start = (flatten_parameters(build(number)).double() + 0.05 * drawn(network.size, seed=number)).to(place, dtype)
        target = start + (0.1 * drawn(network.size, seed=9 + number)).to(place, dtype)
        generator = torch.Generator().manual_seed(number)
        strategy = Augmentation.parse("_".join(OPERATIONS))
        steps = plan_inner_steps(STEPS, SIZE, BATCH, (3, PIXELS, PIXELS), strategy, generator)
        term = MatchingTerm(STEPS, lambda theta: normalised_parameter_distance(theta, start, target))
        return Student(start, to_device(steps, place), [term])

    images, labels = (
        value.to(place, dtype) for value in (drawn(SIZE, 3, PIXELS, PIXELS), drawn(SIZE, CLASSES, seed=1))
    )
    lr = torch.tensor(0.03, dtype=dtype, device=place)
    students = [student(0), student(1)]
    with arithmetic(precision, place):
        found = [
            Unroll(functions, own.steps, Sgd(0.5), kept=2 if form == "kept" else 0).hypergradient(
                own.start_P, images, labels, lr, own.terms, learn_labels=True
            )
            for own in ([side_by_side(students)] if together else students)
        ]
    return {name: sum(getattr(one, name).double().cpu() for one in found) / len(found) for name in PARTS}


PARTS = ("loss", "images", "labels", "lr")


@pytest.fixture(scope="module")
def exact():
    return hypergradient("cpu", "fp32", "eager", torch.float64)


@pytest.mark.parametrize(("device", "precision", "form"), CASES)
def test_hypergradient(exact, device, precision, form):
    found = hypergradient(device, precision, form, torch.float32)
    for name in PARTS:
        difference = float((found[name] - exact[name]).norm() / exact[name].norm())
        assert difference <= TOLERANCE[precision], (name, difference)


@on_gpu
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_augmentation(operation, deterministic):
    draw = Augmentation((operation,)).draw(6, PIXELS, PIXELS, torch.Generator().manual_seed(1))
    images, w = drawn(6, 3, PIXELS, PIXELS), drawn(6, 3, PIXELS, PIXELS, seed=2)

    def both(device):
        x = images.to(device).requires_grad_()
        seen = augment.apply(x, draw)
        return seen.detach().cpu(), torch.autograd.grad((seen * w.to(device)).sum(), x)[0].cpu()

    expected = both("cpu")
    torch.use_deterministic_algorithms(deterministic)
    try:
        for found, wanted in zip(both("cuda"), expected, strict=True):
            assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-6)
    finally:
        torch.use_deterministic_algorithms(False)


TRAINED = [
    pytest.param("cpu", "fp32", 2, False),
    *(pytest.param("cuda", p, size, c, marks=on_gpu) for p in TOLERANCE for size in (1, 2) for c in (False, True)),
]


@pytest.mark.parametrize(("device", "precision", "size", "compiled"), TRAINED)
def test_experts(device, precision, size, compiled):
    """GSAM and the gradient penalty, the most that an expert's step has: the loss falls as that of float64 does."""
    settings = ExpertSettings(epochs=2, batch_size=BATCH, momentum=0.9, optimizer="gsam", loss="gradient-penalty")
    recipe = expert_recipe(settings, Augmentation.parse("_".join(OPERATIONS)))
    images, ids = drawn(SIZE, 3, PIXELS, PIXELS), torch.arange(SIZE) % CLASSES
    reference = build().double()
    expected = [float(one.loss) for one in fit(reference, images, ids, recipe, 0, "t", 0)]
    models = [in_precision(build(index), precision).to(device) for index in range(size)]
    with arithmetic(precision, torch.device(device)):
        stack = Stack(models, recipe.loss, TrainingForm(size, compiled, must=compiled))
        own = [images.float().to(device)] * size, [ids.to(device)] * size
        found = [float(all_[0].loss) for all_ in fit_stack(stack, *own, recipe, 0, [("t", i) for i in range(size)])]
    assert found == pytest.approx(expected, rel=TOLERANCE[precision])
    start, end, wanted = (flatten_parameters(m).double().cpu() for m in (build(), stack.unstacked()[0], reference))
    assert F.cosine_similarity(end - start, wanted - start, dim=0) > 1 - TOLERANCE[precision]


@on_gpu
@pytest.mark.parametrize("compile_", ["never", "always"])
@pytest.mark.parametrize("method", METHODS)
def test_compress(tmp_path, tiny, method, compile_):
    """Each method to the artifact, operation by operation and compiled."""
    steps = method not in ("random", "kmeans")
    settings = effective({**tiny, "distill.compile": compile_} if steps else tiny, "digits", 1, method, "smoke")
    ds = compress(
        "digits", ipc=1, method=method, preset="smoke", settings=settings, out=tmp_path / "set", device="cuda"
    )
    assert ds.images.isfinite().all()
    assert all(0 <= accuracy <= 1 for accuracy in ds.results["architectures"]["convnet"]["accuracies"])
