"""What a network computes before its last layer."""

from __future__ import annotations

from torch import Tensor, nn

from distillkit.errors import ConfigError


class Embedding(nn.Module):
    """Maps images [B, C, H, W] to what the last layer of ``network`` sees, [B, F]; the parameters are the network's.

    Raises:
        ConfigError: the network is none of distillkit's or timm's, which say what their last layer is.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not hasattr(network, "embedding") and not hasattr(network, "forward_head"):
            raise ConfigError(
                f"a {type(network).__name__} does not say what its last layer is; use convnet, resnet18 or timm/<name>"
            )
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The embedding."""
        if hasattr(self.network, "embedding"):
            found: Tensor = self.network.embedding(images)  # type: ignore[operator]
        else:
            found = self.network.forward_head(self.network.forward_features(images), pre_logits=True)  # type: ignore[operator]
        return found.flatten(1)
