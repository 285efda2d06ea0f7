"""The field's ConvNet (DC, DSA, MTT): D x [conv 3x3 - norm - ReLU - average pooling] and a linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from distillkit.errors import ConfigError
from distillkit.networks.norms import norm_layer


def default_depth(image_size: int) -> int:
    """Blocks for square images: 3 at 28 and 32 pixels, 4 at 64, 5 at 128, never below 2 (8 pixels: a 2 x 2 map)."""
    return max(2, round_log2(image_size) - 2)


def round_log2(value: int) -> int:
    """The exponent of the power of two nearest to ``value`` on the logarithmic scale."""
    exponent = value.bit_length() - 1
    return exponent + int(value * value > 2 ** (2 * exponent + 1))


class ConvNet(nn.Module):
    """Maps images [B, C, H, W] to logits [B, K]; parameter names and order are those of the released ConvNet.

    ``features`` is the blocks in a row (index 4d: convolution, 4d+1: norm), ``classifier`` the linear layer, so
    ``named_parameters`` runs from shallow to deep, weight before bias.

    Raises:
        ConfigError: more blocks than the image has halvings.
    """

    def __init__(
        self, channels: int, image_size: tuple[int, int], num_classes: int, width: int, depth: int, norm: str
    ) -> None:
        super().__init__()
        height, columns = image_size
        if min(height, columns) >> depth < 1:
            raise ConfigError(
                f"a ConvNet of depth {depth} needs images of {2**depth} pixels or more, got {height}x{columns}"
            )
        layers: list[nn.Module] = []
        for block in range(depth):
            layers += [nn.Conv2d(channels if block == 0 else width, width, 3, padding=1), norm_layer(norm, width)]
            layers += [nn.ReLU(), nn.AvgPool2d(2, 2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * (height >> depth) * (columns >> depth), num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.classifier(self.embedding(images))
        return logits

    def embedding(self, images: Tensor) -> Tensor:
        """What the last layer sees, [B, F]."""
        found: Tensor = self.features(images)
        return found.flatten(1)
