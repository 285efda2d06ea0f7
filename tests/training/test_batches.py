"""No batch of one image that another batch could have taken in, wherever images are cut into batches."""

import pytest
import torch
from torch import nn

from distillkit import compress, evaluate, load_distilled, prepare_model
from distillkit.distill.inner_steps import batch_indices
from distillkit.errors import ConfigError
from distillkit.evaluation.tuning import Candidate
from distillkit.lab import effective
from distillkit.networks.kinds import needs_several
from distillkit.training.batches import batch_sizes, in_batches
from distillkit.training.fit import fit
from distillkit.training.loader import TensorLoader
from distillkit.training.recipe import Recipe, Sgd, cross_entropy, shuffle
from distillkit.training.stack import Stack, TrainingForm, fit_stack


@pytest.mark.parametrize("size", range(1, 8))
def test_batch_sizes__are_those_of_torch_but_for_a_single_image_left_over(size):
    for count in range(1, 40):
        plain = [len(piece) for piece in torch.arange(count).split(size)]
        found = batch_sizes(count, size)
        assert sum(found) == count
        if count % size == 1 and count > size > 1:
            assert found == [*plain[:-2], size + 1]
        else:
            assert found == plain
        assert size == 1 or count == 1 or min(found) > 1
        assert torch.equal(torch.cat(in_batches(torch.arange(count), size)), torch.arange(count))


class Seen(nn.Module):
    """One pixel of every image, normalised over the batch; remembers the sizes of its batches."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear, self.sizes = nn.BatchNorm2d(1), nn.Linear(1, 3), []

    def forward(self, images):
        self.sizes.append(len(images))
        return self.linear(self.norm(images.mean((2, 3), keepdim=True)).flatten(1))


def recipe(batch_size):
    return Recipe(epochs=1, batch_size=batch_size, lr=0.1, optimizer=Sgd(), loss=cross_entropy, order=shuffle)


def test_fit_and_loader__of_seven_images_by_three():
    images, labels, model = torch.randn(7, 1, 2, 2), torch.arange(7) % 3, Seen()
    list(fit(model, images, labels, recipe(3), 0, "t"))
    assert model.sizes == [3, 4]
    loader = TensorLoader(images, labels, 3, True, 0)
    assert [len(part) for part, _ in loader] == [3, 4]
    assert len(loader) == 2


def test_stack__cuts_like_one_network_alone():
    def linear():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

    images, labels, alone = torch.randn(7, 1, 2, 2), torch.arange(7) % 3, linear()
    list(fit(alone, images, labels, recipe(3), 0, "t"))
    stack = Stack([linear(), linear()], cross_entropy, TrainingForm(2))
    list(fit_stack(stack, [images] * 2, [labels] * 2, recipe(3), 0, [("t",), ("u",)]))
    assert torch.allclose(stack.unstacked()[0][1].weight, alone[1].weight, atol=1e-6)


def test_inner_steps__the_longer_batch_comes_first_as_a_remainder_does():
    batches = batch_indices(7, 3, torch.Generator().manual_seed(0))
    first, second, third = (next(batches) for _ in range(3))
    assert (len(first), len(second), len(third)) == (4, 3, 4)
    assert sorted(torch.cat([first, second]).tolist()) == list(range(7))


def test_candidates__take_as_many_steps_as_there_are_batches():
    assert Candidate("sgd", 0.1, 100, "none").epochs(257) == 100  # one batch of 257
    assert Candidate("sgd", 0.1, 100, "none").epochs(258) == 50


def test_needs_several__only_where_a_map_has_one_pixel():
    small, _ = prepare_model("resnet10t", num_classes=3, image_size=8, channels=1)
    assert needs_several(small, (1, 8, 8))
    assert not needs_several(small, (1, 64, 64))
    assert int(small.bn1.num_batches_tracked) == 0
    other, _ = prepare_model("resnet10t", num_classes=3, image_size=8, channels=1, norm="instance")
    assert not needs_several(other, (1, 8, 8))


def test_train__a_batch_norm_network_on_maps_of_one_pixel(made):
    ds = load_distilled(made)  # 20 images: 19 + 1
    model, _ = prepare_model("resnet10t", num_classes=10, image_size=8, channels=1)
    with pytest.warns(UserWarning, match="batch normalisation"):
        ds.train(model, epochs=1, batch_size=19)
    with pytest.raises(ConfigError, match="batch_size=2 or more"):
        ds.train(model, epochs=1, batch_size=1)


RESNET = {"network.name": "timm/resnet10t"}


@pytest.mark.parametrize(
    ("method", "changed", "message"),
    [
        ("mtt", {"evaluate.batch_size": 1}, "evaluate.batch_size=1"),
        ("mtt", {"experts.batch_size": 1}, "experts.batch_size=1"),
        ("mtt", {"distill.batch_size": 1}, "distill.batch_size=1"),
        ("rat", {"distill.real_piece": 1}, "distill.real_piece=1"),
        ("dsa", {}, "one image with `ipc=1`"),
    ],
)
def test_compress__batches_of_one_are_refused_before_anything_is_trained(tmp_path, tiny, method, changed, message):
    settings = effective({**tiny, **RESNET, **changed}, "digits", 1, method, "smoke")
    with pytest.raises(ConfigError, match=message):
        compress("digits", ipc=1, method=method, preset="smoke", settings=settings, out=tmp_path / "a", device="cpu")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "cache" / "experts").exists()


def test_evaluate__says_before_the_first_network_that_one_cannot_be_trained(made, monkeypatch):
    ds = load_distilled(made)
    monkeypatch.setitem(ds.recipe, "batch_size", 1)
    monkeypatch.setattr("distillkit.stages.contest.evaluate_networks", None)
    with pytest.raises(ConfigError, match=r"timm/resnet10t:norm=keep has batch normalisation on a map of one pixel"):
        evaluate(ds, ["convnet", "timm/resnet10t:norm=keep"], networks=1, device="cpu", common_recipe=True)
    with pytest.raises(ConfigError, match="depth 9 needs images"):
        evaluate(ds, ["convnet", "convnet:depth=9"], networks=1, device="cpu")
