"""The networks that the field's cross-architecture tables use, as DC's ``networks.py`` has them (DSA, DM, MTT alike).

ResNet-18 and VGG-11 for small images, with "instancenorm" (an affine GroupNorm of one channel a group) unless another
normalisation is asked for; AlexNet, LeNet and MLP, which have none. Parameters at 3 x 32 x 32 and ten classes:
ResNet-18 11,173,962; VGG-11 9,231,114; AlexNet 1,872,202; MLP 411,146; LeNet 62,006.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit.errors import ConfigError
from distillkit.networks.norms import mend_single_pixels, norm_layer

Shape = tuple[int, int, int]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut: [B, C, H, W] to [B, planes, H / stride, W / stride]."""

    def __init__(self, channels: int, planes: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
        self.bn1 = norm_layer(norm, planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm_layer(norm, planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, planes, 1, stride, bias=False), norm_layer(norm, planes))

    def forward(self, images: Tensor) -> Tensor:
        """The block."""
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(images)))))
        return F.relu(inner + self.shortcut(images))


class ResNet18(nn.Module):
    """ResNet-18 whose stem neither strides nor pools."""

    def __init__(self, image_shape: Shape, num_classes: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(image_shape[0], 64, 3, 1, 1, bias=False)
        self.bn1 = norm_layer(norm, 64)
        planes = (64, 128, 256, 512)
        for index, (before, after) in enumerate(zip((64, *planes), planes, strict=False), start=1):
            stride = 1 if index == 1 else 2
            self.add_module(
                f"layer{index}",
                nn.Sequential(BasicBlock(before, after, stride, norm), BasicBlock(after, after, 1, norm)),
            )
        self.classifier = nn.Linear(512, num_classes)

    def embedding(self, images: Tensor) -> Tensor:
        """What the last layer sees, [B, F]."""
        found = F.relu(self.bn1(self.conv1(images)))
        for index in range(1, 5):
            found = self.get_submodule(f"layer{index}")(found)
        return found.mean((2, 3))  # the released average pooling of a 4x4 map

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classifier(self.embedding(images))
        return logits


class Vgg11(nn.Module):
    """VGG-11: poolings as far as there are pixels, one linear layer."""

    PLAN = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")

    def __init__(self, image_shape: Shape, num_classes: int, norm: str) -> None:
        super().__init__()
        channels, height, width = image_shape
        layers: list[nn.Module] = []
        side = min(height, width) + (4 if channels == 1 else 0)
        for item in self.PLAN:
            if item == "M":
                if side >= 2:  # a map of one pixel cannot be halved
                    layers.append(nn.MaxPool2d(2, 2))
                    side //= 2
                continue
            padding = 3 if channels == 1 and not layers else 1  # grey images of 28 pixels, to 32
            layers.append(nn.Conv2d(channels, int(item), 3, padding=padding))
            layers += [norm_layer(norm, int(item)), nn.ReLU()]
            channels = int(item)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(_flat(self.features, image_shape), num_classes)

    def embedding(self, images: Tensor) -> Tensor:
        """What the last layer sees, [B, F]."""
        found: Tensor = self.features(images)
        return found.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classifier(self.embedding(images))
        return logits


class AlexNet(nn.Module):
    """AlexNet for small images; no normalisation."""

    def __init__(self, image_shape: Shape, num_classes: int, norm: str) -> None:
        super().__init__()
        channels = image_shape[0]
        pool, relu = nn.MaxPool2d(2, 2), nn.ReLU()
        first = nn.Conv2d(channels, 128, 5, 1, 4 if channels == 1 else 2)
        second = [nn.Conv2d(128, 192, 5, padding=2), relu, pool, nn.Conv2d(192, 256, 3, padding=1), relu]
        third = [nn.Conv2d(256, 192, 3, padding=1), relu, nn.Conv2d(192, 192, 3, padding=1), relu, pool]
        self.features = nn.Sequential(first, relu, pool, *second, *third)
        self.fc = nn.Linear(_flat(self.features, image_shape), num_classes)

    def embedding(self, images: Tensor) -> Tensor:
        """What the last layer sees, [B, F]."""
        found: Tensor = self.features(images)
        return found.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.fc(self.embedding(images))
        return logits


class LeNet(nn.Module):
    """LeNet-5 with ReLU and max pooling."""

    def __init__(self, image_shape: Shape, num_classes: int, norm: str) -> None:
        super().__init__()
        channels = image_shape[0]
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2 if channels == 1 else 0),
            nn.ReLU(),
            nn.MaxPool2d(2, 2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2, 2),
        )
        self.fc_1 = nn.Linear(_flat(self.features, image_shape), 120)
        self.fc_2 = nn.Linear(120, 84)
        self.fc_3 = nn.Linear(84, num_classes)

    def embedding(self, images: Tensor) -> Tensor:
        """What the last layer sees, [B, F]."""
        return F.relu(self.fc_2(F.relu(self.fc_1(self.features(images).flatten(1)))))

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.fc_3(self.embedding(images))
        return logits


class Mlp(nn.Module):
    """Two hidden layers of 128."""

    def __init__(self, image_shape: Shape, num_classes: int, norm: str) -> None:
        super().__init__()
        self.fc_1 = nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], 128)
        self.fc_2 = nn.Linear(128, 128)
        self.fc_3 = nn.Linear(128, num_classes)

    def embedding(self, images: Tensor) -> Tensor:
        """What the last layer sees, [B, F]."""
        return F.relu(self.fc_2(F.relu(self.fc_1(images.flatten(1)))))

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.fc_3(self.embedding(images))
        return logits


def _flat(features: nn.Module, image_shape: Shape) -> int:
    """Numbers that ``features`` makes of an image."""
    with torch.no_grad():
        return int(features(torch.zeros(2, *image_shape)).flatten(1).shape[1])


FIELD: dict[str, Callable[[Shape, int, str], nn.Module]] = {
    "resnet18": ResNet18,
    "vgg11": Vgg11,
    "alexnet": AlexNet,
    "lenet": LeNet,
    "mlp": Mlp,
}
NORMED = ("resnet18", "vgg11")
"""Those that have a normalisation."""


def build_field(name: str, image_shape: Shape, num_classes: int, norm: str) -> nn.Module:
    """The network called ``name`` for images [C, H, W].

    Raises:
        ConfigError: the images are too small for it.
    """
    try:
        network = FIELD[name](image_shape, num_classes, norm)
        mend_single_pixels(network, torch.zeros(2, *image_shape))
        return network
    except RuntimeError as error:
        raise ConfigError(f"{name} does not take images of {image_shape[1]}x{image_shape[2]} pixels") from error
