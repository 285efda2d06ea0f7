"""AST's parts against numbers computed with the authors' released code."""

import pytest
import torch
from torch import nn

from distillkit.data.coresets import select_coreset
from distillkit.distill.inner_optimizers import Sgd
from distillkit.distill.inner_steps import InnerStep
from distillkit.distill.labels import HardLabels
from distillkit.distill.matching import StudentFacts, matching_part
from distillkit.distill.start import balance_factor, perturb_convolutions
from distillkit.distill.step_functions import EagerFunctions, InnerLoss, scaled
from distillkit.distill.unroll import Unroll
from distillkit.experts.recipe import expert_recipe
from distillkit.experts.smooth import (
    PENALTIES,
    Clipping,
    SmoothLoss,
    one_sided_loss_penalty,
    two_sided_logit_penalty,
)
from distillkit.methods.ast import PAPER_EXPERTS
from distillkit.networks.convnet import ConvNet
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.records import Segment
from distillkit.settings import DistillSettings, ExpertSettings
from distillkit.training.fit import fit
from distillkit.training.recipe import Batch
from tests.oracle.golden_numbers import load, rel


@pytest.fixture(scope="module")
def golden():
    return load("ast_expert")


@pytest.fixture(scope="module")
def network():
    return FlatNetwork(ConvNet(3, (32, 32), 10, 8, 3, "instance").double())


def noise_of(network, flat):
    sizes = [shape.numel() for shape in network.shapes if len(shape) == 4]
    shapes = [shape for shape in network.shapes if len(shape) == 4]
    return [part.view(shape) for part, shape in zip(flat.split(sizes), shapes, strict=True)]


def test_clipping__coefficient_and_lr_of_every_epoch(golden):
    assert [Clipping(ExpertSettings().clipping)(epoch) for epoch in range(50)] == pytest.approx(
        golden["clip.coefficient"].tolist()
    )
    values = {key.split(".")[1]: value for key, value in PAPER_EXPERTS.items() if key.startswith("experts.")}
    recipe = expert_recipe(ExpertSettings(**values, loss="clipping"), None)
    model, rates = nn.Linear(1, 2), []
    for summary in fit(model, torch.ones(2, 1), torch.tensor([0, 1]), recipe, 0, "test"):
        rates.append(summary.lr)
    assert rates == pytest.approx(golden["clip.lr"].tolist())
    assert [recipe.optimizer.momentum, recipe.optimizer.weight_decay] == pytest.approx(
        golden["clip.momentum_wd"].tolist()
    )


@pytest.mark.parametrize(("name", "epoch"), [("clip_0.5", 0), ("clip_1", 20)])
def test_smooth_loss__penalty_and_clipped_cross_entropy_with_their_gradient(golden, network, name, epoch):
    model = network.load(ConvNet(3, (32, 32), 10, 8, 3, "instance").double(), golden["gp.theta"])
    images, labels = golden["gp.images"], golden["gp.labels"]
    loss = SmoothLoss(two_sided_logit_penalty, 2.0)(
        model, Batch(images, images, labels), Clipping(ExpertSettings().clipping)(epoch)
    )
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert rel(loss.detach(), golden[f"gp.{name}.loss"]) < 1e-10
    assert rel(gradient, golden[f"gp.{name}.param_grad"]) < 1e-10


def test_penalty__alone(golden, network):
    model = network.load(ConvNet(3, (32, 32), 10, 8, 3, "instance").double(), golden["gp.theta"])
    images = golden["gp.images"]
    loss = 2.0 * two_sided_logit_penalty(model, Batch(torch.zeros_like(images), images, golden["gp.labels"]))
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
    assert rel(loss.detach(), golden["gp.penalty_only.loss"]) < 1e-10
    assert rel(torch.cat([g.flatten() for g in gradients]), golden["gp.penalty_only.param_grad"]) < 1e-10


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_perturbation__of_convolutions_alone(golden, network, alpha):
    noise = noise_of(network, golden["perturb.noise"])
    found = perturb_convolutions(network, golden["gp.theta"], noise, alpha)
    expected = golden[f"perturb.alpha{alpha}.theta"]
    assert rel(found - golden["gp.theta"], expected - golden["gp.theta"]) < 1e-9


def test_balance__factor_of_every_start_epoch():
    golden = load("mtt_unroll_momentum")
    assert [balance_factor(t, 40, 5.0, 8.0) for t in range(40)] == pytest.approx(
        golden["balance.factor"].tolist(), rel=1e-12
    )
    assert [balance_factor(t, 25, 5.0, 8.0) for t in range(25)] == pytest.approx(
        golden["balance.factor_Tplus25"].tolist(), rel=1e-12
    )


@pytest.mark.parametrize(
    ("kind", "start_epoch"),
    [*((kind, epoch) for kind in ("plain", "agg") for epoch in (5, 19, 20, 33)), ("agg perturbed", 5)],
)
def test_outer_step__balance_intermediate_terms_and_perturbed_start_together(network, kind, start_epoch):
    golden, common = load("mtt_unroll_momentum"), load("common")
    prefix = f"{'agg_balance_perturb' if 'perturbed' in kind else kind + '_balance'}.t{start_epoch}"
    start = common["theta_0"]
    if "perturbed" in kind:
        start = perturb_convolutions(network, start, noise_of(network, golden[f"{prefix}.noise"]), 1.0)
        assert rel(start - common["theta_0"], golden[f"{prefix}.start"] - common["theta_0"]) < 1e-9
    length = 1 if kind == "plain" else 3
    settings = DistillSettings(matching="intermediate", expert_epochs=length)
    points = {k: common[f"theta_{k}"] for k in range(1, 4)}
    segment = Segment(0, start_epoch, start_epoch + length)
    offset = 3 - length  # the release's target is theta_3, whatever M is
    terms = matching_part(settings)(
        StudentFacts(start, 8, segment, lambda epoch: points[int(epoch) - start_epoch + offset])
    )
    loss = scaled(EagerFunctions(InnerLoss(network, HardLabels())), balance_factor(start_epoch, 40, 5.0, 8.0))
    labels = torch.eye(10).double()[common["labels"]]
    steps = [InnerStep(torch.arange(10), None)] * 8
    result = Unroll(loss, steps, Sgd(0.9)).hypergradient(start, common["images"], labels, common["lr"], terms)
    assert rel(result.loss, golden[f"{prefix}.loss"]) < 1e-10
    assert rel(result.images.norm(), golden[f"{prefix}.grad_images_norm"]) < 1e-10
    assert rel(result.lr, golden[f"{prefix}.grad_lr"]) < 1e-10
    assert len(terms) == length


@pytest.mark.parametrize("ipc", [1, 5, 10])
def test_representatives__of_the_release_by_logits(golden, ipc):
    logits = golden["repr.logits"].float()
    labels = torch.arange(3).repeat_interleave(60)
    found = select_coreset("kmeans", logits.flatten(0, 1), labels, 3, ipc, 0).view(3, ipc)
    inside = (found - torch.arange(3)[:, None] * 60).sort(1).values
    assert inside.tolist() == golden[f"repr.k{ipc}.indices_sorted"].tolist()


def test_intermediate__growing_weights_are_k_over_m_and_short_unrolls_have_no_term():
    common = load("common")
    facts = StudentFacts(common["theta_0"], 8, Segment(0, 0, 3), lambda epoch: common[f"theta_{int(epoch)}"])
    flat = matching_part(DistillSettings(matching="intermediate", expert_epochs=3))(facts)
    growing = matching_part(DistillSettings(matching="intermediate-growing", expert_epochs=3))(facts)
    student = common["theta_0"] + 0.1
    ratios = [float(g.loss(student) / f.loss(student)) for f, g in zip(flat, growing, strict=True)]
    assert ratios == pytest.approx([1, 1 / 3, 2 / 3])
    assert [term.after for term in flat] == [8, 2, 4]
    short = StudentFacts(common["theta_0"], 2, facts.segment, facts.point)
    assert len(matching_part(DistillSettings(matching="intermediate", expert_epochs=3))(short)) == 1


def test_penalties__gradient_in_the_parameters_by_finite_differences():
    torch.manual_seed(0)
    model = ConvNet(1, (8, 8), 3, 4, 2, "instance").double()
    images, labels = 3 * torch.randn(4, 1, 8, 8).double(), torch.tensor([0, 1, 2, 0])
    flat = FlatNetwork(ConvNet(1, (8, 8), 3, 4, 2, "instance").double())
    with torch.no_grad():
        model.classifier.weight.mul_(30)  # gradients above one, where the one-sided form sees them
    start = flatten_parameters(model)
    direction = torch.randn_like(start)
    for penalty in (part.build for part in PENALTIES.values()):

        def value(shift, penalty=penalty):
            moved = flat.load(ConvNet(1, (8, 8), 3, 4, 2, "instance").double(), start + shift * direction)
            return penalty(moved, Batch(images, images, labels))

        gradients = torch.autograd.grad(
            penalty(model, Batch(images, images, labels)),
            list(model.parameters()),
            allow_unused=True,
            materialize_grads=True,
        )
        exact = float(torch.cat([g.flatten() for g in gradients]) @ direction)
        numeric = float((value(1e-6) - value(-1e-6)).detach()) / 2e-6
        assert exact == pytest.approx(numeric, rel=1e-5)
        assert exact != 0


def test_one_sided__is_zero_below_one_and_grows_above():
    images, labels = torch.randn(4, 6), torch.tensor([0, 1, 0, 1])
    model = nn.Linear(6, 2)
    with torch.no_grad():
        model.weight.mul_(0.01)
    assert one_sided_loss_penalty(model, Batch(images, images, labels)).item() == 0
    with torch.no_grad():
        model.weight.mul_(3000)
    assert one_sided_loss_penalty(model, Batch(images, images, labels)).item() > 0
