"""All batches augmented at once are the batches augmented in turn, there and back."""

import pytest
import torch

from distillkit import rng
from distillkit.data.augment import OPERATIONS, Augmentation
from distillkit.distill import seen
from distillkit.distill.inner_optimizers import Adam, Sgd
from distillkit.distill.inner_steps import InnerStep, plan_inner_steps, to_device
from distillkit.distill.joined_students import JoinedStep
from distillkit.distill.labels import SoftLabels
from distillkit.distill.seen import SeenAtOnce, SeenInTurn, seen_images
from distillkit.distill.step_functions import EagerFunctions, InnerLoss
from distillkit.distill.unroll import MatchingTerm, Unroll
from distillkit.networks.build import build_network
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.settings import NetworkSettings
from tests.gpu.pretended import CUDA, PretendedGpu

SIZE, PIXELS, COUNT, BATCH = 7, 8, 9, 3
ALL = Augmentation.parse("_".join(OPERATIONS))


def plan(seed=0, augmentation=ALL, batch=BATCH):
    return plan_inner_steps(COUNT, SIZE, batch, (3, PIXELS, PIXELS), augmentation, rng.generator(seed, "t"))


def joined():
    return [JoinedStep(parts) for parts in zip(plan(0), plan(1), strict=True)]


IMAGES = torch.randn(SIZE, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PLANS = {
    "every operation, short remainders": plan,
    "side by side": joined,
    "as they are": lambda: plan(augmentation=None),
    "the whole set": lambda: plan(batch=None),
    "some as they are": lambda: [*plan(), InnerStep(torch.tensor([2, 2]), None)],
}


@pytest.mark.parametrize("name", PLANS)
def test_batches_and_their_way_back(name):
    steps = PLANS[name]()
    turn, once = SeenInTurn(steps, IMAGES), SeenAtOnce(steps, IMAGES)
    generator = torch.Generator().manual_seed(1)
    for number in reversed(range(len(steps))):
        assert torch.equal(once.batch(number), turn.batch(number))
        adjoint = torch.randn(turn.batch(number).shape, generator=generator, dtype=torch.float64)
        for one in (turn, once):
            one.carry_back(number, adjoint, 0.3)
    assert (once.gradient() - turn.gradient()).abs().max() < 1e-12
    assert turn.gradient().abs().max() > 0.1


def test_way_back__of_no_steps_is_zero():
    for kind in (SeenInTurn, SeenAtOnce):
        assert torch.equal(kind(plan(), IMAGES).gradient(), torch.zeros_like(IMAGES))


@pytest.mark.parametrize("optimizer", [Sgd(0.5), Adam()])
@pytest.mark.parametrize("kept", [0, 2])
def test_hypergradient__is_the_same(optimizer, kept):
    module = build_network(NetworkSettings(width=4, depth=1), (3, PIXELS, PIXELS), 4, 0, "t", 0).double()
    network = FlatNetwork(module)
    labels = torch.randn(SIZE, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    start = flatten_parameters(module).detach()
    term = MatchingTerm(COUNT, lambda theta: (theta - start - 1).square().sum())
    found = [
        Unroll(EagerFunctions(InnerLoss(network, SoftLabels())), plan(), optimizer, True, kept, at_once).hypergradient(
            start, IMAGES, labels, torch.tensor(0.02, dtype=torch.float64), [term], learn_labels=True
        )
        for at_once in (False, True)
    ]
    for name in ("loss", "images", "labels", "lr"):
        one, other = (getattr(result, name) for result in found)
        assert (one - other).abs().max() <= 1e-12 * one.abs().max(), name


def test_seen_images__too_many_are_made_in_turn(monkeypatch):
    steps = plan()
    needed = sum(len(step.indices) for step in steps) * IMAGES[0].numel() * 8
    monkeypatch.setattr(seen, "MOST_BYTES", needed)
    assert isinstance(seen_images(steps, IMAGES, at_once=True), SeenAtOnce)
    assert isinstance(seen_images(steps, IMAGES, at_once=False), SeenInTurn)
    monkeypatch.setattr(seen, "MOST_BYTES", needed - 1)
    assert isinstance(seen_images(steps, IMAGES, at_once=True), SeenInTurn)


@pytest.mark.parametrize(("at_once", "most"), [(True, 10), (False, 45)])
def test_on_a_gpu__what_a_step_launches(at_once, most):
    """Slices, a product, a sum; not tens of small kernels there and as many on the way back."""

    def launches(count):
        with PretendedGpu() as gpu:
            images, steps = IMAGES.float().to(CUDA), to_device((plan() * 3)[:count], CUDA)
            with gpu.counting() as (waits, _, kernels):
                own = seen_images(steps, images, at_once)
                for number in range(count):
                    own.batch(number)
                for number in reversed(range(count)):
                    own.carry_back(number, own.batch(number), 1.0)
                own.gradient()
            assert not waits
        return sum(kernels.values())

    each = (launches(3 * COUNT) - launches(COUNT)) / (2 * COUNT)
    assert most / 2 < each <= most
