"""What a GPU would run, as far as a CPU shows it: shapes, alignment, samplers, sizes."""

import pytest
import torch
import torch.nn.functional as F

from distillkit.data import augment
from distillkit.distill.labels import HardLabels
from distillkit.distill.step_functions import CompiledFunctions, EagerFunctions, InnerLoss, TogetherLoss
from distillkit.distill.unroll import ALIGNMENT, _aligned_rows
from distillkit.networks.build import build_network
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.settings import NetworkSettings
from distillkit.stages.training_form import fitting_size
from distillkit.training.fit import fit, predict
from distillkit.training.recipe import Recipe, Sgd, cross_entropy
from distillkit.training.stack import Stack, TrainingForm, fit_stack

SMALL = NetworkSettings(width=4, depth=1)


def network(index):
    return build_network(SMALL, (1, 8, 8), 3, 0, "test", index)


def test_experts__a_remainder_of_another_length_in_every_epoch_is_no_reason_to_compile(monkeypatch):
    """PAD's data scheduler shows another number of images every epoch; the compiler gave up in the thirteenth."""
    compiled, calls = [], []

    def compile_(function, **options):
        def call(*arguments):
            compiled.append(arguments[1].shape[1])
            return function(*arguments)

        calls.append(options)
        return call

    monkeypatch.setattr(torch, "compile", compile_)
    images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 3

    def growing(count, epoch, generator):
        return torch.arange(16 + epoch)

    recipe = Recipe(20, 8, 0.01, Sgd(), cross_entropy, growing)
    stack = Stack([network(0)], recipe.loss, TrainingForm(1, compiled=True))
    list(fit_stack(stack, [images], [labels], recipe, 0, [("t", 0)]))
    assert len(calls) == 1
    assert set(compiled) == {8}
    alone = network(0)
    list(fit(alone, images, labels, recipe, 0, "t", 0))
    for found, expected in zip(stack.unstacked()[0].parameters(), alone.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def test_students__side_by_side_can_be_compiled():
    flat = FlatNetwork(network(0).double())
    loss = TogetherLoss(InnerLoss(flat, HardLabels()), 2)
    theta = torch.cat([flatten_parameters(network(index).double()) for index in range(2)])
    x, y = torch.randn(6, 1, 8, 8).double(), F.one_hot(torch.arange(6) % 3, 3).double()
    together = CompiledFunctions(loss, backend="aot_eager").gradient(theta, x, y)
    one = EagerFunctions(InnerLoss(flat, HardLabels()))
    parts = [one.gradient(theta.view(2, -1)[i], x.view(2, 3, 1, 8, 8)[i], y.view(2, 3, 3)[i]) for i in range(2)]
    assert torch.allclose(together, torch.cat(parts), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1, 127, 128, 1026, 320_010])
def test_path__rows_lie_at_one_alignment(size):
    rows = _aligned_rows(torch.zeros(size), 5)
    assert rows.shape == (5, size)
    assert rows.stride(0) % ALIGNMENT == 0
    assert all(row.is_contiguous() and row.storage_offset() % ALIGNMENT == 0 for row in rows)


@pytest.mark.parametrize("operation", ["scale", "rotate"])
def test_sampler__by_gathers_is_the_librarys_with_its_derivatives(operation):
    images = torch.randn(5, 2, 7, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draw = augment.Augmentation((operation,)).draw(5, 7, 9, torch.Generator().manual_seed(1))
    grids = []

    def by_gathers(x, grid, **options):
        assert options == {"mode": "bilinear", "padding_mode": "zeros", "align_corners": True}
        grids.append(grid)
        return augment.sample_by_gathers(x, grid)

    def both(sample):
        x = images.clone().requires_grad_()
        original, F.grid_sample = F.grid_sample, sample
        try:
            found = augment.apply(x, draw)
        finally:
            F.grid_sample = original
        (gradient,) = torch.autograd.grad((found * torch.arange(found.numel()).view_as(found)).sum(), x)
        return found.detach(), gradient

    for mine, theirs in zip(both(by_gathers), both(F.grid_sample), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-9)
    x = images[:1, :1, :3, :3].clone().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda t: augment.sample_by_gathers(t, grids[0][:1, :3, :3]).square(), (x,))


@pytest.mark.parametrize(
    ("peaks", "free", "size"),
    [([], 10.0, 1), ([8], 10.0, 1), ([4, 6], 10.0, 4), ([4, 6], 5.0, 1), ([4, 6], 3.0, 1), ([5, 5], 9.0, 5)],
)
def test_fitting__from_one_network_and_what_a_second_adds(peaks, free, size):
    assert fitting_size(peaks, free) == size


def test_predict__takes_smaller_batches_where_memory_asks_for_it():
    seen = []

    class Hungry(torch.nn.Module):
        def forward(self, images):
            seen.append(len(images))
            if len(images) > 3:
                raise torch.OutOfMemoryError
            return images.flatten(1)[:, :2]

    images = torch.randn(10, 1, 2, 2)
    assert torch.equal(predict(Hungry(), images, 8), images.flatten(1)[:, :2])
    assert seen == [8, 4, 2, 2, 2, 2, 2]
