"""The field's networks, by hand counts; batch normalisation replaced; what a network is."""

import pytest
import torch
from torch import nn

from distillkit import prepare_model
from distillkit.errors import ConfigError
from distillkit.evaluation.choice import fitting_network
from distillkit.networks.build import architecture_name, build_network, parse_architecture
from distillkit.networks.field import FIELD, build_field
from distillkit.networks.kinds import (
    BatchStatistics,
    architecture_of,
    batch_statistics,
    family_of,
    has_attention,
    has_batch_norm,
)
from distillkit.networks.norms import is_deaf
from distillkit.networks.strides import resnet_side
from distillkit.settings import NetworkSettings

RGB, GREY = (3, 32, 32), (1, 8, 8)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "count"),
    [("resnet18", 11_173_962), ("vgg11", 9_231_114), ("alexnet", 1_872_202), ("mlp", 411_146), ("lenet", 62_006)],
)
def test_field__parameters_by_hand_and_outputs(name, count):
    model = build_field(name, RGB, 10, "instance")
    assert parameters(model) == count
    assert model(torch.randn(2, *RGB)).shape == (2, 10)
    assert not has_batch_norm(model)


def test_field__of_grey_images_of_28_pixels_has_the_released_padding():
    assert build_field("lenet", (1, 28, 28), 10, "instance").fc_1.in_features == 16 * 5 * 5
    assert build_field("alexnet", (1, 28, 28), 10, "instance").features[0].padding == (4, 4)
    assert build_field("vgg11", (1, 28, 28), 10, "instance").features[0].padding == (3, 3)


@pytest.mark.parametrize("name", [name for name in FIELD if name not in ("lenet", "alexnet")])
def test_field__small_images_leave_something_to_learn_from(name):
    """A normalisation of one channel a group makes the map of a single pixel constant, whatever the image is."""
    model = build_network(NetworkSettings(name=name), GREY, 10, 0, "test")
    logits = model(torch.randn(4, *GREY, generator=torch.Generator().manual_seed(0))).detach()
    assert float(logits.std(0).min()) > 1e-4


def test_field__images_that_are_too_small():
    with pytest.raises(ConfigError, match="lenet does not take images of 8x8 pixels"):
        build_field("lenet", (3, 8, 8), 10, "instance")


def test_resnet18__is_the_basic_block_written_by_hand():
    model = build_field("resnet18", RGB, 10, "instance")
    block, x = model.layer2[0], torch.randn(2, 64, 8, 8)
    inner = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    assert torch.equal(block(x), torch.relu(inner + block.shortcut[1](block.shortcut[0](x))))
    assert model.layer1[0].shortcut(x) is x
    assert [model.get_submodule(f"layer{i}")[0].conv1.stride for i in range(1, 5)] == [(1, 1), (2, 2), (2, 2), (2, 2)]
    assert all(norm.num_groups == norm.num_channels for norm in model.modules() if isinstance(norm, nn.GroupNorm))


BATCH_NORMED = ["resnet10t", "test_efficientnet", "mobilenetv3_small_050", "vgg11_bn", "efficientvit_m0", "levit_128s"]


@pytest.mark.parametrize("name", BATCH_NORMED)
@pytest.mark.parametrize("norm", ["instance", "group"])
def test_prepare_model__batch_normalisation_is_replaced_and_that_is_said(name, norm):
    """That of features too, which EfficientViT has before its classifier, and of tokens, as LeViT has it."""
    kept, _ = prepare_model(name, num_classes=7, image_size=32)
    model, notes = prepare_model(name, num_classes=7, image_size=32, norm=norm)
    before = [layer for layer in kept.modules() if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d)]
    assert not has_batch_norm(model)
    assert parameters(model) == parameters(kept)
    note = next(note for note in notes if note.startswith("norm: "))
    assert f"{len(before)} batch normalisations replaced by GroupNorm" in note
    logits = model(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))).detach()
    assert logits.shape == (4, 7)
    assert float(logits.std(0).min()) > 1e-5
    assert model.architecture == f"timm/{name}:norm={norm}"


@pytest.mark.parametrize("name", ["repvit_m0_9", "starnet_s1"])
def test_prepare_model__a_network_that_would_give_the_same_for_any_image_is_refused(name):
    """Its features are means of sums of maps whose means are nought."""
    with pytest.raises(ConfigError, match=f"timm/{name} with norm='instance' gives the same for any image.*'group'"):
        prepare_model(name, num_classes=7, image_size=32, norm="instance")
    other, note = fitting_network(NetworkSettings(name=f"timm/{name}"), (3, 32, 32), 7, 7)
    assert (other.replace_norm, f"{name}:norm=keep keeps it" in note) == ("group", True)


def test_is_deaf__by_hand_and_leaves_the_network_as_it_was():
    """A normalised map's mean is nought; an activation between, or groups of channels, leave something of it."""

    def network(*between):
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(8, 8), *between, nn.AdaptiveAvgPool2d(1), nn.Flatten())

    deaf, hears = network().train(), network(nn.ReLU())
    before = deaf(torch.ones(1, 3, 8, 8)).detach()
    assert (is_deaf(deaf, (3, 8, 8)), is_deaf(hears, (3, 8, 8))) == (True, False)
    assert (deaf[1].num_groups, deaf.training) == (8, True)
    assert torch.equal(deaf(torch.ones(1, 3, 8, 8)), before)
    assert not is_deaf(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2))


def test_prepare_model__timms_activation_and_dropout_stay():
    from timm.layers import BatchNormAct2d

    kept, _ = prepare_model("test_efficientnet", num_classes=7, image_size=32)
    model, _ = prepare_model("test_efficientnet", num_classes=7, image_size=32, norm="instance")
    for name, layer in kept.named_modules():
        if isinstance(layer, BatchNormAct2d):
            assert type(model.get_submodule(name).act) is type(layer.act)


def test_prepare_model__maps_of_one_pixel_are_one_group():
    model, notes = prepare_model("resnet18", num_classes=10, image_size=8, channels=1, norm="instance")
    norms = [layer for layer in model.modules() if isinstance(layer, nn.GroupNorm)]
    single = [norm for norm in norms if norm.num_groups == 1]
    assert 0 < len(single) < len(norms)
    assert f"all channels together in the {len(single)} on maps of one pixel" in notes[-1]


def test_prepare_model__nothing_to_replace_and_unknown_words():
    _, notes = prepare_model("test_vit", num_classes=10, image_size=32, norm="instance")
    assert "norm: no batch normalisation to replace" in notes
    with pytest.raises(ConfigError, match="norm='layer' is unknown; use keep, instance, group"):
        prepare_model("resnet18", num_classes=10, image_size=32, norm="layer")


OWN = NetworkSettings(width=16, depth=2)


@pytest.mark.parametrize(
    "text", ["resnet18", "vgg11:norm=batch", "alexnet", "timm/resnet18", "timm/resnet18:norm=group", "convnet"]
)
def test_architecture__names_are_read_and_written(text):
    assert architecture_name(parse_architecture(text, OWN), OWN) == text


def test_architecture__of_other_convnets():
    other = parse_architecture("convnet:width=32", OWN)
    assert architecture_name(other, OWN) == "convnet:width=32,depth=2,norm=instance"
    assert parse_architecture(architecture_name(other, OWN), NetworkSettings()) == other


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet9", "is unknown; use convnet"),
        ("alexnet:norm=batch", "alexnet takes none"),
        ("timm/resnet18:width=3", "timm/resnet18 takes norm="),
        ("timm/resnet18:norm=layer", "has a value that does not fit"),
        ("convnet:width=", "is unknown; convnet takes width= or depth= or norm="),
    ],
)
def test_architecture__what_there_is_not(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_architecture(text, OWN)


@pytest.mark.parametrize(
    ("name", "size", "pixels"),
    [("resnet10t", 32, 16), ("resnet10t", 28, 16), ("resnet10t", 8, 1), ("vgg11_bn", 32, 4), ("test_vit", 32, None)],
)
def test_batch_statistics__are_of_the_smallest_map(name, size, pixels):
    model, _ = prepare_model(name, num_classes=3, image_size=size)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert batch_statistics(model, (3, size, size), 7) == (None if pixels is None else BatchStatistics(7, pixels))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize(
    ("images", "pixels", "few"), [(10, 16, True), (31, 16, True), (32, 16, False), (511, 1, True), (512, 1, False)]
)
def test_batch_statistics__few_are_images_times_pixels(images, pixels, few):
    assert BatchStatistics(images, pixels).are_few == few


@pytest.mark.parametrize("size", [8, 28, 32, 48, 64, 65, 96, 224])
def test_resnet_side__is_that_of_the_network(size):
    model, _ = prepare_model("resnet18", num_classes=3, image_size=size)
    assert batch_statistics(model, (3, size, size), 1) == BatchStatistics(1, resnet_side(size) ** 2)


class OfTokens(nn.Module):
    """Batch normalisation of tokens that lie in one row, given by name."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(1), nn.Linear(64, 3)

    def forward(self, x):
        return self.head(self.norm(input=x.reshape(-1, 1)).reshape(len(x), -1))


def test_batch_statistics__of_tokens_in_a_row_and_of_a_compiled_model():
    assert batch_statistics(OfTokens(), (1, 8, 8), 5) == BatchStatistics(5, 64)
    model, _ = prepare_model("resnet10t", num_classes=3, image_size=8, channels=1)
    assert batch_statistics(torch.compile(model, backend="eager"), (1, 8, 8), 7) == BatchStatistics(7, 1)


def test_batch_statistics__of_a_layer_behind_the_maps():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 36, 4), nn.BatchNorm1d(4))
    assert batch_statistics(model, (1, 8, 8), 5) == BatchStatistics(5, 1)


def test_kinds():
    import timm

    made = timm.create_model("resnet10t", num_classes=3)
    assert (architecture_of(made), has_batch_norm(made), has_attention(made)) == ("timm/resnet10t", True, False)
    assert architecture_of(nn.Linear(2, 2)) is None
    vit, _ = prepare_model("test_vit", num_classes=3, image_size=32)
    assert (has_batch_norm(vit), has_attention(vit)) == (False, True)
    assert architecture_of(build_network(OWN, GREY, 3, 0, "x")) == "convnet:width=16,depth=2,norm=instance"
    assert family_of("timm/resnet18:norm=instance") == family_of("timm/resnet34:norm=instance")
    assert family_of("timm/resnet18") != family_of("timm/resnet18:norm=instance") != family_of("resnet18:norm=instance")


@pytest.mark.parametrize("name", FIELD)
def test_field__the_last_layer_of_the_embedding_gives_the_logits(name):
    from distillkit.networks.embedding import Embedding

    model = build_field(name, RGB, 10, "instance")
    images = torch.randn(2, *RGB, generator=torch.Generator().manual_seed(0))
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]
    assert torch.equal(last(Embedding(model)(images)), model(images))
