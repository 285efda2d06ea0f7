import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distillkit.data.augment import OPERATIONS, Augmentation, Draw, apply, parse_augmentation
from distillkit.errors import ConfigError


def images(batch=8, size=16):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_apply__replays_exactly_and_differs_between_images(operation):
    augmentation = Augmentation((operation,))
    x = images(1).expand(16, -1, -1, -1)
    draw = augmentation.draw(16, 16, 16, torch.Generator().manual_seed(1))
    first, second = apply(x, draw), apply(x, draw)
    assert torch.equal(first, second)
    assert len({tuple(image.flatten().tolist()) for image in first}) > 1
    assert torch.equal(apply(x[3:5], draw[3:5]), first[3:5])


@pytest.mark.parametrize("operation", OPERATIONS)
def test_apply__is_differentiable_in_the_images(operation):
    draw = Augmentation((operation,)).draw(2, 8, 8, torch.Generator().manual_seed(2))
    x = images(2, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: apply(value, draw), x)


def test_draw__every_operation_comes_and_ranges_hold():
    augmentation = Augmentation.parse("_".join(OPERATIONS))
    generator = torch.Generator().manual_seed(3)
    draws = [augmentation.draw(64, 32, 32, generator) for _ in range(120)]
    assert {draw.operation for draw in draws} == set(OPERATIONS)
    crops = torch.cat([draw.values for draw in draws if draw.operation == "crop"])
    assert (int(crops.min()), int(crops.max())) == (-4, 4)
    holes = torch.cat([draw.values for draw in draws if draw.operation == "cutout"])
    assert (int(holes.min()), int(holes.max())) == (0, 32)
    uniform = torch.cat([draw.values for draw in draws if draw.operation == "color"])
    assert 0 <= float(uniform.min()) < 0.02
    assert 0.98 < float(uniform.max()) <= 1


def test_flip__half_is_not_flipped():
    x = images(2)
    out = apply(x, Draw("flip", torch.tensor([[0.5], [0.4999]])))
    assert torch.equal(out[0], x[0])
    assert torch.equal(out[1], x[1].flip(2))


def test_parse__none_and_unknown():
    assert Augmentation.parse("none") is None
    with pytest.raises(ConfigError, match="'blur' is unknown"):
        Augmentation.parse("crop_blur")


class NoFloat64(TorchDispatchMode):
    """A device that has no float64, as Mac's GPU: nothing of it may arrive on, or be made on, the meta device."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor) and one.is_meta:
                assert one.dtype != torch.float64, function
        return made


@pytest.mark.parametrize("operation", OPERATIONS)
def test_operations__need_no_float64_where_the_images_are(operation):
    images = torch.zeros(4, 3, 8, 8, device="meta")
    with NoFloat64():
        for one in parse_augmentation(operation).draws(4, 8, 8, torch.Generator().manual_seed(0)):
            assert apply(images, one).dtype == torch.float32
        with pytest.raises(AssertionError):
            torch.zeros(2, dtype=torch.float64).to("meta")
