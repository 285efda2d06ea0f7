import pytest
import torch

from distillkit.errors import ConfigError
from distillkit.networks.build import build_network, parse_architecture
from distillkit.networks.convnet import ConvNet, default_depth
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.networks.timm_models import prepare_model
from distillkit.settings import NetworkSettings


@pytest.mark.parametrize(
    ("channels", "size", "classes", "depth", "count"),
    [(3, 32, 10, 3, 320_010), (3, 32, 100, 3, 504_420), (3, 64, 200, 4, 857_160), (3, 128, 10, 5, 615_690)],
)
def test_convnet__published_parameter_counts(channels, size, classes, depth, count):
    assert default_depth(size) == depth
    model = ConvNet(channels, (size, size), classes, 128, depth, "instance")
    assert sum(p.numel() for p in model.parameters()) == count


def test_convnet__too_deep_for_the_image():
    with pytest.raises(ConfigError, match="16 pixels or more"):
        ConvNet(1, (8, 8), 10, 4, 4, "instance")


def test_build__same_use_same_network_and_global_state_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (build_network(NetworkSettings(width=4), (1, 8, 8), 3, 0, "a", i) for i in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(flatten_parameters(first), flatten_parameters(second))
    assert not torch.equal(flatten_parameters(first), flatten_parameters(other))


def test_flatten__is_a_copy_not_a_view_of_live_weights():
    model = ConvNet(1, (8, 8), 3, 4, 2, "instance")
    snapshot = flatten_parameters(model)
    kept = snapshot.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert torch.equal(snapshot, kept)


def test_flat_network__is_the_module_and_vmaps():
    model = ConvNet(1, (8, 8), 3, 4, 2, "instance")
    theta, x = flatten_parameters(model), torch.randn(5, 1, 8, 8)
    expected = model(x)
    flat = FlatNetwork(model)
    assert torch.equal(flat(theta, x), expected)
    assert torch.equal(flat.join(flat.split(theta)), theta)
    stacked = torch.stack([theta, theta + 0.1])
    together = torch.vmap(flat, in_dims=(0, None))(stacked, x)
    assert torch.allclose(together[1], flat(stacked[1], x), atol=1e-5)
    gradient = torch.func.grad(lambda t: flat(t, x).square().sum())(theta)
    assert gradient.shape == theta.shape


def test_flat_network__loads_into_another_module():
    source, other = (ConvNet(1, (8, 8), 3, 4, 2, "instance") for _ in range(2))
    theta, x = flatten_parameters(source), torch.randn(2, 1, 8, 8)
    expected = source(x)
    assert torch.equal(FlatNetwork(source).load(other, theta)(x), expected)


@pytest.mark.parametrize("name", ["resnet18", "timm/vit_tiny_patch16_224", "convnext_atto", "efficientnet_b0"])
def test_prepare_model__small_images_of_one_channel(name):
    model, notes = prepare_model(name, num_classes=7, image_size=32, channels=1)
    assert model(torch.zeros(2, 1, 32, 32)).shape == (2, 7)
    assert notes or name == "efficientnet_b0"


def test_prepare_model__resnet_keeps_a_4x4_map():
    model, notes = prepare_model("resnet18", num_classes=10, image_size=32)
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape[-2:] == (4, 4)
    assert "3x3" in notes[0]


@pytest.mark.parametrize(("size", "pooled"), [(32, 5), (28, 4), (8, 3)])
def test_prepare_model__vgg_as_the_field_has_it_on_small_images(size, pooled):
    model, notes = prepare_model("vgg11_bn", num_classes=7, image_size=size, channels=1)
    assert model(torch.zeros(2, 1, size, size)).shape == (2, 7)
    assert sum(p.numel() for p in model.parameters()) < 10e6  # the hidden layers alone have more than ten times that
    assert sum(isinstance(layer, torch.nn.MaxPool2d) for layer in model.features) == pooled
    left_out = f"; the last {5 - pooled} poolings left out" if pooled < 5 else ""
    assert notes == ["head: one linear layer, no hidden ones" + left_out]


def test_prepare_model__unknown_name_suggests():
    with pytest.raises(ConfigError, match="timm has no network"):
        prepare_model("resnet181", num_classes=10, image_size=32)


def test_parse_architecture():
    base = NetworkSettings(width=32, depth=2)
    assert parse_architecture("convnet", base) == base
    assert parse_architecture("convnet:width=8,norm=batch", base) == NetworkSettings(width=8, depth=2, norm="batch")
    assert parse_architecture("timm/resnet18", base).name == "timm/resnet18"
    for bad in ("resnet9", "convnet:widht=8", "convnet:width=x", "timm/resnet18:width=3"):
        with pytest.raises(ConfigError):
            parse_architecture(bad, base)


def test_plain_activations__are_the_same_and_have_a_second_derivative():
    from torch import nn

    from distillkit.networks.timm_models import plain_activations

    x = torch.linspace(-5, 5, 41, dtype=torch.float64, requires_grad=True)
    model = nn.Sequential(nn.Hardsigmoid())
    expected = model(x)
    found = plain_activations(model)(x)
    assert torch.allclose(found, expected, atol=1e-15)
    (gradient,) = torch.autograd.grad((found * x).sum(), x, create_graph=True)
    torch.autograd.grad(gradient.sum(), x)
    assert torch.allclose(gradient, torch.autograd.grad((expected * x).sum(), x)[0])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"num_classes": 0}, "`num_classes` must be a whole number of 1 or more, got 0"),
        ({"num_classes": 10.0}, "`num_classes` must be a whole number of 1 or more, got 10.0"),
        ({"channels": 0}, "`channels` must be a whole number"),
        ({"image_size": (8, 8)}, r"`image_size` must be a whole number of 1 or more, got \(8, 8\)"),
        ({"name": None}, "`name` is a NoneType"),
        (
            {"name": "resnet10t.nosuchtag"},
            r"timm's resnet10t has no tag 'nosuchtag'; its tags: c3_in1k; or leave it out",
        ),
        ({"name": "zzzzzz"}, r"timm has no network 'zzzzzz'; timm.list_models\(\) lists them"),
    ],
)
def test_prepare_model__what_does_not_fit_is_one_sentence(values, words):
    given = {"name": "resnet10t", "num_classes": 10, "image_size": 8, "channels": 1} | values
    with pytest.raises(ConfigError, match=words):
        prepare_model(given.pop("name"), **given)
