"""What a network computes before its last layer."""

from __future__ import annotations

from torch import Tensor, nn

from distillkit.errors import ConfigError
from distillkit.networks.convnet import ConvNet


class Embedding(nn.Module):
    """Maps images [B, C, H, W] to what the last layer of ``network`` sees, [B, F]; the parameters are the network's.

    Raises:
        ConfigError: the network is neither a ConvNet nor one of timm's, which say what their last layer is.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, ConvNet) and not hasattr(network, "forward_head"):
            raise ConfigError(
                f"a {type(network).__name__} does not say what its last layer is; use convnet or timm/<name>"
            )
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """The embedding."""
        if isinstance(self.network, ConvNet):
            found: Tensor = self.network.features(images)
        else:
            found = self.network.forward_head(self.network.forward_features(images), pre_logits=True)  # type: ignore[operator]
        return found.flatten(1)
