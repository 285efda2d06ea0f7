import pytest
import timm
import torch
from torch import nn

from distillkit import prepare_model
from distillkit.networks.strides import shrink_less

IMAGES = torch.zeros(2, 3, 32, 32)


def last_side(model):
    with torch.no_grad():
        return model.eval().forward_features(IMAGES).shape[-1]


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "efficientnet_lite0", "densenet121"])
def test_convolutional_network__ends_in_a_map_and_keeps_its_parameters(name):
    made, notes = prepare_model(name, num_classes=10, image_size=32)
    plain = timm.create_model(name, num_classes=10)
    assert (last_side(made), last_side(plain)) == (4, 1)
    assert [line for line in notes if line.startswith("strides")]
    assert [(n, p.shape) for n, p in made.named_parameters()] == [(n, p.shape) for n, p in plain.named_parameters()]


def test_mobilenet__is_the_one_whose_first_two_strides_are_one():
    made, notes = prepare_model("mobilenetv3_small_050", num_classes=10, image_size=32)
    assert notes == ["strides: 2 of the first layers keep the size of their maps; the last is 4x4, not 1x1"]
    by_hand = timm.create_model("mobilenetv3_small_050", num_classes=10)
    by_hand.load_state_dict(made.state_dict())
    by_hand.conv_stem.stride = by_hand.blocks[0][0].conv_dw.stride = (1, 1)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.eval()(images), by_hand.eval()(images))


def test_normalisation__of_one_channel_has_pixels_to_see():
    _, notes = prepare_model("resnet10t", num_classes=10, image_size=32, norm="instance")
    assert "one pixel" not in notes[-1]
    _, notes = prepare_model("resnet10t", num_classes=10, image_size=8, norm="instance")
    assert "on maps of one pixel" in notes[-1]  # three halvings are left of eight pixels


@pytest.mark.parametrize(("name", "size"), [("resnet10t", 8), ("resnet18", 32), ("vgg11_bn", 32), ("levit_128s", 32)])
def test_others__keep_their_strides(name, size):
    _, notes = prepare_model(name, num_classes=10, image_size=size)
    assert not [line for line in notes if line.startswith("strides")]


class Branches(nn.Module):
    """Two branches that meet after each of three halvings; the second halving is one of patches that do not overlap,
    or one that nothing but its own size of maps fits."""

    def __init__(self, second):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, 2, 1)
        self.beside = nn.AvgPool2d(2)
        self.second = second
        self.third = nn.MaxPool2d(2)
        self.head = nn.Linear(4, 2)

    def forward_features(self, images):
        maps = self.first(images) + self.beside(images).mean(1, keepdim=True)
        return self.third(self.second(maps))

    def forward(self, images):
        return self.head(self.forward_features(images).mean((2, 3)))


class Fixed(nn.Module):
    """Adds a position to each of 8 x 8 pixels, as attention does."""

    def __init__(self):
        super().__init__()
        self.halve, self.places = nn.Conv2d(4, 4, 3, 2, 1), nn.Parameter(torch.zeros(8, 8))

    def forward(self, maps):
        return self.halve(maps) + self.places


def test_branches__are_changed_together():
    model = Branches(nn.Conv2d(4, 4, 3, 2, 1))
    assert shrink_less(model, IMAGES, 8) == (
        "strides: 2 of the first layers keep the size of their maps; the last is 8x8, not 4x4"
    )
    assert (model.first.stride, type(model.beside), model.second.stride) == ((1, 1), nn.Identity, (2, 2))
    assert model.training


@pytest.mark.parametrize("second", [nn.Conv2d(4, 4, 2, 2), Fixed()])
def test_what_cannot_be_changed__is_as_it_was(second):
    model = Branches(second).eval()
    before = model(IMAGES)
    whole = shrink_less(model, IMAGES, 16)
    if isinstance(second, Fixed):
        assert whole is None
        assert torch.equal(model(IMAGES), before)
        assert (model.first.stride, type(model.beside)) == ((2, 2), nn.AvgPool2d)
    else:
        assert whole == "strides: 2 of the first layers keep the size of their maps; the last is 8x8, not 4x4"
        assert second.stride == (2, 2)
    assert not model.training


def test_network_without_a_last_map__is_left_alone():
    assert shrink_less(nn.Linear(3, 2), IMAGES, 4) is None
    vit = timm.create_model("test_vit", img_size=32, patch_size=4)
    assert shrink_less(vit, IMAGES, 16) is None
