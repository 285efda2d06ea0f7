"""What can be wrong with a network on these images, found in the first seconds: before experts, before files go."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import nn

from distillkit.errors import ConfigError
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.settings import NetworkSettings
from distillkit.stages.context import Prepared, Run

MISSING = re.compile(r"derivative for (\S+) is not implemented|the derivative of '?(\w+)'? is not implemented")
PROBED = 2


def check_network(run: Run, prepared: Prepared, network: NetworkSettings) -> None:
    """Can ``network`` be built for these images, does it give logits of them, and, where distillation differentiates a
    training of it, has it a second derivative?

    Raises:
        ConfigError: no; the message names the operation.
    """
    module = _built(run, prepared, network)
    distils = run.settings.distill.outer_steps > 0 and run.settings.distill.objective != "embeddings"
    if not distils:
        return
    images, labels = prepared.train_images[:PROBED], prepared.train_labels[:PROBED]
    theta, flat = flatten_parameters(module).requires_grad_(), FlatNetwork(module)
    seen = images.clone().requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(F.cross_entropy(flat(theta, seen), labels), theta, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), (theta, seen), allow_unused=True)
    except RuntimeError as error:
        found = MISSING.search(str(error))
        if found is None:
            raise ConfigError(f"network {network.name!r} cannot be distilled with: {_line(error)}") from error
        name = next(group for group in found.groups() if group)
        raise ConfigError(
            f"network {network.name!r} cannot be distilled with: its {name.removeprefix('aten::')} has no second "
            "derivative; take convnet, a ResNet or another one, and train this one on the finished set"
        ) from error


def _built(run: Run, prepared: Prepared, network: NetworkSettings) -> nn.Module:
    try:
        module = prepared.build(network, 0, "probe")(0).to(run.device)
        with torch.no_grad():
            logits = module.eval()(prepared.train_images[:PROBED])
    except (RuntimeError, MemoryError) as error:
        what = "needs more memory than there is" if "alloc" in str(error).lower() else _line(error)
        raise ConfigError(f"network {network.name!r} cannot be used here: {what}") from error
    if logits.shape[1:] != (prepared.num_classes,):
        raise ConfigError(f"network {network.name!r} gives outputs of shape {tuple(logits.shape[1:])}")
    return module.train()


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
