"""PAD's and DATM's parts against numbers computed with the authors' released code."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distillkit.distill.inner_steps import InnerStep
from distillkit.distill.labels import SoftLabels
from distillkit.distill.matching import depth_masked, loss_masked, normalised_parameter_distance
from distillkit.distill.step_functions import EagerFunctions, InnerLoss
from distillkit.distill.unroll import MatchingTerm, Unroll
from distillkit.experts.difficulty import easy_to_hard, el2n
from distillkit.experts.gsam import Gsam
from distillkit.experts.schedule import Schedule
from distillkit.networks.convnet import ConvNet
from distillkit.networks.functional import FlatNetwork
from distillkit.training.recipe import Sgd
from tests.oracle.golden_numbers import load, rel


@pytest.mark.parametrize("variant", ["datm", "ftd_alpha1", "nonadaptive", "momentum_wd"])
def test_gsam__three_released_steps(variant):
    golden = load("gsam")
    numbers = golden[f"{variant}.hyper_lr_rho_alpha_adaptive_momentum_wd"].tolist()
    lr, radius, weight, adaptive, momentum, decay = numbers
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    params = golden[f"{variant}.params"]
    nn.utils.vector_to_parameters(params[0].clone(), model.parameters())
    optimizer = Gsam(Sgd(momentum, decay), radius, weight, bool(adaptive))(model.parameters(), lr)
    visited = []

    def closure():
        visited.append(nn.utils.parameters_to_vector(model.parameters()).detach().clone())
        optimizer.zero_grad()
        loss = F.cross_entropy(model(golden["inputs"]), golden["labels"])
        loss.backward()
        return loss.detach()

    for step in range(3):
        visited.clear()
        loss = optimizer.step(closure)
        assert rel(loss, golden[f"{variant}.loss"][step]) < 1e-9
        assert len(visited) == 2
        assert rel(visited[1] - visited[0], golden[f"{variant}.perturbation"][step]) < 1e-9
        combined = torch.cat([p.grad.flatten() for p in model.parameters()])
        assert rel(combined, golden[f"{variant}.combined_grad"][step]) < 1e-9
        moved = nn.utils.parameters_to_vector(model.parameters()).detach() - params[0]
        assert rel(moved, params[step + 1] - params[0]) < 1e-9


def problem():
    common = load("common")
    network = FlatNetwork(ConvNet(3, (32, 32), 10, 8, 3, "instance").double())
    return common, EagerFunctions(InnerLoss(network, SoftLabels()))


def hypergradient(loss, steps):
    common, functions = problem()
    start, target = common["theta_0"], common["theta_3"]
    unroll = Unroll(functions, [InnerStep(torch.arange(10), None)] * steps)
    terms = [MatchingTerm(steps, lambda student: loss(student, start, target))]
    labels = common["label_logits"]
    return unroll.hypergradient(start, common["images"], labels, common["lr"], terms, learn_labels=True)


@pytest.mark.parametrize("steps", [1, 5])
def test_soft_labels__released_datm_loop(steps):
    golden = load("soft_labels")
    found = hypergradient(normalised_parameter_distance, steps)
    assert rel(found.loss, golden[f"N{steps}.loss"]) < 1e-10
    assert rel(found.images.norm(), golden[f"N{steps}.grad_images_norm"]) < 1e-10
    assert rel(found.labels, golden[f"N{steps}.grad_label_logits"]) < 1e-10
    assert rel(found.lr, golden[f"N{steps}.grad_lr"]) < 1e-10
    if steps == 5:
        assert rel(found.images, golden["N5.grad_images"]) < 1e-10


def test_soft_labels__cross_entropy_applies_softmax_once():
    common, functions = problem()
    loss = functions.loss(common["theta_0"], common["images"], common["label_logits"])
    assert rel(loss, load("soft_labels")["ce_at_theta_0"]) < 1e-12


@pytest.mark.parametrize("name", ["depth25", "depth50", "loss25", "loss50"])
def test_masks__released_pad_loop_and_the_papers_formula(name):
    golden, ratio = load("pad_masks"), int(name[-2:]) / 100
    masked = depth_masked if name.startswith("depth") else loss_masked
    found = hypergradient(masked(ratio), 5)
    assert rel(found.loss, golden[f"{name}.loss"]) < 1e-10
    assert rel(found.images, golden[f"{name}.grad_images"]) < 1e-10
    assert rel(found.labels, golden[f"{name}.grad_label_logits"]) < 1e-10
    assert rel(found.lr, golden[f"{name}.grad_lr"]) < 1e-10


@pytest.mark.parametrize(("key", "size", "add_end"), [("size50", 50, 20), ("size5000_aee20", 5000, 20)])
def test_schedule__released_ranks_of_every_epoch(key, size, add_end):
    golden = load("pad_schedule")
    schedule = Schedule(0.75, add_end, (40, 60), (0.1, 0.2))
    found = [schedule.ranks(epoch, size) for epoch in range(100)]
    assert [first for first, _ in found] == golden[f"{key}.first"].tolist()
    assert [end for _, end in found] == golden[f"{key}.end"].tolist()


@pytest.mark.parametrize("add_end", [20, 40])
def test_schedule__of_small_classes_in_exact_arithmetic(add_end):
    golden = load("pad_schedule")
    schedule = Schedule(0.75, add_end, (40, 60), (0.1, 0.2))
    ends = [schedule.ranks(epoch, 500)[1] for epoch in range(100)]
    assert ends == golden[f"size500_aee{add_end}.end"].tolist()


def test_schedule__the_images_of_every_epoch():
    golden = load("pad_schedule")
    schedule = Schedule(0.75, 20, (40, 60), (0.1, 0.2))
    ranking = tuple(golden["size50.sorted_indices"])
    for epoch in range(100):
        mask = torch.zeros(500, dtype=torch.uint8)
        mask[schedule.used(epoch, ranking)] = 1
        assert torch.equal(mask, golden["size50.used_mask"][epoch].to(torch.uint8))


def test_el2n__formula_and_ranking_by_class():
    golden = load("el2n")
    scores = torch.stack([el2n(logits, golden["labels"]) for logits in golden["logits"]])
    assert rel(scores, golden["scores_per_model"]) < 1e-12
    ranking = easy_to_hard(scores.mean(0), golden["labels"], 10)
    assert torch.stack(ranking).tolist() == golden["sorted_easy_to_hard_by_class"].tolist()
