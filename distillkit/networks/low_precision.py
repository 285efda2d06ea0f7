"""Convolutions in bfloat16, everything else in float32: half the memory traffic where the time goes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Bfloat16Conv2d(nn.Conv2d):
    """Parameters are float32; input, weight and bias are rounded for the convolution, its output is float32 again.

    The derivatives follow the same path, so gradients and adjoints leave it in float32.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of ``input`` [B, C, H, W]."""
        low = torch.bfloat16
        bias = None if self.bias is None else self.bias.to(low)
        output: Tensor = self._conv_forward(input.to(low), self.weight.to(low), bias)
        return output.to(input.dtype)


def convolutions_in_bfloat16(module: nn.Module) -> nn.Module:
    """The same module, names and parameters kept, its plain ``nn.Conv2d`` layers replaced in place."""
    for part in module.modules():
        if type(part) is nn.Conv2d:  # other kinds (weight-standardised, padded by name) have a forward of their own
            part.__class__ = Bfloat16Conv2d
    return module
