"""Our parts against numbers computed with the authors' released code (tests/oracle/golden/README.md says which)."""

import pytest
import torch

from distillkit.data import augment
from distillkit.data.augment import Draw
from distillkit.data.preprocess import fit_whiten
from distillkit.distill.inner_optimizers import Sgd
from distillkit.distill.inner_steps import InnerStep, batch_indices
from distillkit.distill.labels import HardLabels
from distillkit.distill.matching import normalised_parameter_distance
from distillkit.distill.step_functions import EagerFunctions, InnerLoss
from distillkit.distill.unroll import MatchingTerm, Unroll
from distillkit.networks.convnet import ConvNet
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from tests.oracle.golden_numbers import load, rel


@pytest.fixture(scope="module")
def common():
    return load("common")


@pytest.fixture(scope="module")
def network():
    return FlatNetwork(ConvNet(3, (32, 32), 10, 8, 3, "instance").double())


@pytest.fixture(scope="module")
def loss(network):
    return EagerFunctions(InnerLoss(network, HardLabels()))


def test_convnet__logits_at_the_authors_flat_parameters(common, network):
    for theta in ("theta_0", "theta_3"):
        assert rel(network(common[theta], common["images"]), common[f"logits_at_{theta}"]) < 1e-12


def test_convnet__parameter_order_and_shapes(common):
    model = ConvNet(3, (32, 32), 10, 8, 3, "instance")
    assert [p.numel() for p in model.parameters()] == common["param_numel"].tolist()
    assert flatten_parameters(model).numel() == 2730


def hypergradient(common, loss, steps, momentum=0.0, middle=(), start=None):
    start = common["theta_0"] if start is None else start
    count = len(steps)
    terms = [MatchingTerm(count, lambda s: normalised_parameter_distance(s, start, common["theta_3"]))]
    if middle:
        terms = [MatchingTerm(count, lambda s: normalised_parameter_distance(s, start, common["theta_3"]))]
        for k, weight in middle:
            after = k * (count // 3)
            if after:
                target = common[f"theta_{k}"]
                terms.append(
                    MatchingTerm(after, lambda s, w=weight, g=target: w * normalised_parameter_distance(s, start, g))
                )
    labels = torch.eye(10).double()[common["labels"]]
    unroll = Unroll(loss, steps, Sgd(momentum))
    result = unroll.hypergradient(start, common["images"], labels, common["lr"], terms)
    return result, unroll.run(start, common["images"], labels, common["lr"])


def full(count):
    return [InnerStep(torch.arange(10), None)] * count


@pytest.mark.parametrize("count", [1, 3, 8])
def test_unroll__released_mtt_loop(common, loss, count):
    golden = load("mtt_unroll")
    result, path = hypergradient(common, loss, full(count))
    assert rel(result.loss, golden[f"N{count}.loss"]) < 1e-10
    assert rel(result.images, golden[f"N{count}.grad_images"]) < 1e-10
    assert rel(result.lr, golden[f"N{count}.grad_lr"]) < 1e-10
    assert rel(path[-1] - path[0], golden[f"N{count}.theta_N"] - common["theta_0"]) < 1e-10


def test_unroll__released_mtt_loop_with_minibatches(common, loss):
    golden = load("mtt_unroll")
    chunks = [chunk for order in golden["minibatch.permutations"] for chunk in reversed(order.split(4))]
    assert chunks[0].tolist() == golden["minibatch.first_step_indices"].tolist()
    result, path = hypergradient(common, loss, [InnerStep(chunk, None) for chunk in chunks[:5]])
    assert rel(result.loss, golden["minibatch.loss"]) < 1e-10
    assert rel(result.images.flatten(1).norm(dim=1), golden["minibatch.grad_images_norm_per_image"]) < 1e-10
    assert rel(result.lr, golden["minibatch.grad_lr"]) < 1e-10
    assert rel(path[-1] - path[0], golden["minibatch.theta_N"] - common["theta_0"]) < 1e-10


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("kind", ["plain", "agg", "adaptive"])
def test_unroll__released_momentum_loop_with_intermediate_terms(common, loss, kind, count):
    golden = load("mtt_unroll_momentum")
    weights = {"plain": (), "agg": ((1, 1.0), (2, 1.0)), "adaptive": ((1, 1 / 3), (2, 2 / 3))}[kind]
    target = "theta_3"
    assert target in common
    result, _ = hypergradient(common, loss, full(count), 0.9, weights)
    assert rel(result.loss, golden[f"{kind}.N{count}.loss"]) < 1e-10
    assert rel(result.images.norm(), golden[f"{kind}.N{count}.grad_images_norm"]) < 1e-10
    assert rel(result.lr, golden[f"{kind}.N{count}.grad_lr"]) < 1e-10
    if f"{kind}.N{count}.grad_images" in golden:
        assert rel(result.images, golden[f"{kind}.N{count}.grad_images"]) < 1e-10


@pytest.mark.parametrize(
    ("operation", "keys"),
    [
        ("color", ("u_brightness", "u_saturation", "u_contrast")),
        ("crop", ("shift_rows", "shift_cols")),
        ("cutout", ("offset_rows", "offset_cols")),
        ("flip", ("u",)),
        ("scale", ("u_x", "u_y")),
        ("rotate", ("u",)),
    ],
)
def test_dsa__released_operations(operation, keys):
    golden = load("dsa")
    values = torch.stack([golden[f"{operation}.{key}"] for key in keys], 1)
    output = augment.apply(golden["input"], Draw(operation, values))
    assert rel(output, golden[f"{operation}.output"]) < 1e-12
    single = augment.apply(golden["input"].float(), Draw(operation, values))
    assert rel(single.double(), golden[f"{operation}.output"]) < 1e-5


def test_zca__kornia_as_the_authors_call_it():
    golden = load("zca")
    whiten = fit_whiten(golden["images_u8"], 0.1)
    assert rel(whiten.mean, golden["mean"]) < 1e-12
    assert rel(whiten.matrix, golden["transform"]) < 1e-10
    assert rel(whiten.inverse, golden["inverse_transform"]) < 1e-10
    assert rel(whiten(golden["images_u8"][:40].double() / 255), golden["transformed_first40"]) < 1e-10
    assert rel(whiten(golden["test_images_u8"].double() / 255), golden["test_transformed"]) < 1e-10
    back = whiten.invert(golden["transformed_first40"][:10])
    assert rel(back, golden["images_u8"][:10].double() / 255) < 1e-10


def test_batches__chunks_from_the_end_of_each_pass():
    generator = torch.Generator().manual_seed(3)
    expected = torch.randperm(10, generator=torch.Generator().manual_seed(3))
    batches = batch_indices(10, 4, generator)
    first = [next(batches) for _ in range(3)]
    assert first[0].tolist() == expected[8:].tolist()
    assert torch.cat(first).sort().values.tolist() == list(range(10))
    assert next(batch_indices(10, 10, generator)).tolist() == list(range(10))


@pytest.mark.parametrize("count", [3, 8])
def test_unroll__released_tesla_gradient_with_its_lost_factor(common, loss, count):
    golden = load("tesla_truncated")
    labels = torch.eye(10).double()[common["labels"]]
    start, target = common["theta_0"], common["theta_3"]
    terms = [MatchingTerm(count, lambda s: normalised_parameter_distance(s, start, target))]
    found = Unroll(loss, full(count), exact=False).hypergradient(start, common["images"], labels, common["lr"], terms)
    assert rel(found.loss, golden[f"N{count}.loss"]) < 1e-10
    assert rel(found.images, 2 * golden[f"N{count}.grad_images"]) < 1e-10
    assert rel(found.lr, golden[f"N{count}.grad_lr"]) < 1e-10
    exact = load("mtt_unroll")[f"N{count}.grad_images"]
    cosine = (found.images * exact).sum() / found.images.norm() / exact.norm()
    assert 0.98 < cosine < 1 - 1e-6


def test_unroll__truncated_is_exact_for_one_step(common, loss):
    labels = torch.eye(10).double()[common["labels"]]
    start, target = common["theta_0"], common["theta_3"]
    terms = [MatchingTerm(1, lambda s: normalised_parameter_distance(s, start, target))]
    both = [
        Unroll(loss, full(1), exact=exact).hypergradient(start, common["images"], labels, common["lr"], terms)
        for exact in (True, False)
    ]
    assert torch.equal(both[0].images, both[1].images)
    assert torch.equal(both[0].lr, both[1].lr)
