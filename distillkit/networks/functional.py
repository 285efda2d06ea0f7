"""A network as a pure function of one flat parameter vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call, replace_all_batch_norm_modules_


def flatten_parameters(module: nn.Module) -> Tensor:
    """A copy of all parameters as one vector [P], in ``named_parameters`` order (never a view: later training of the
    module does not change it).
    """
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()])


class FlatNetwork:
    """``network(parameters, images)`` with parameters a flat vector [P] or the list of its pieces.

    The order is ``named_parameters`` of the module: shallow to deep for the ConvNet, as defined for timm's.
    Batch normalisation always uses the statistics of the batch at hand, since running ones would make it no function.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = replace_all_batch_norm_modules_(module).eval().requires_grad_(False)
        self.names = [name for name, _ in module.named_parameters()]
        self.shapes = [parameter.shape for parameter in module.parameters()]
        self.sizes = [shape.numel() for shape in self.shapes]
        self.size = sum(self.sizes)

    def split(self, parameters_P: Tensor) -> list[Tensor]:
        """The vector [P] as views of the shape of each parameter."""
        pieces = parameters_P.split(self.sizes)
        return [piece.view(shape) for piece, shape in zip(pieces, self.shapes, strict=True)]

    def join(self, pieces: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
        """The inverse of ``split``."""
        return torch.cat([piece.reshape(-1) for piece in pieces])

    def __call__(self, parameters: Tensor | list[Tensor], images: Tensor) -> Tensor:
        """Logits [B, K] of ``images`` [B, C, H, W]."""
        pieces = self.split(parameters) if isinstance(parameters, Tensor) else parameters
        logits: Tensor = functional_call(self.module, dict(zip(self.names, pieces, strict=True)), (images,))
        return logits

    def load(self, module: nn.Module, parameters_P: Tensor) -> nn.Module:
        """Copy the vector into an ordinary module of the same network, and return it."""
        with torch.no_grad():
            for parameter, piece in zip(module.parameters(), self.split(parameters_P), strict=True):
                parameter.copy_(piece)
        return module
