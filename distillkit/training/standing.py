"""Where a training stands between two epochs: all that it goes on from, whoever stopped it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Memory = dict[str, Tensor]
"""What an optimiser remembers of its steps (momentum): vectors [P] by name, in the order of the parameters."""


@dataclass(frozen=True)
class Begin:
    """Go on after ``epoch`` epochs, with the optimiser's ``memories``, one for each network that is trained."""

    epoch: int = 0
    memories: Sequence[Memory] = ()


START = Begin()


@dataclass(frozen=True)
class Standing:
    """A network after ``epoch`` epochs: ``parameters`` [P], the optimiser's memory, the network's other state (running
    statistics) by name, and its curves by epoch.
    """

    epoch: int
    parameters: Tensor
    memory: Memory
    buffers: Mapping[str, Tensor]
    curve: dict[str, list[float]] = field(default_factory=dict)


def memory_of(optimizer: torch.optim.Optimizer, index: int | None = None) -> Memory:
    """What ``optimizer`` remembers, copied to the CPU; of a stack's network ``index`` (None: it has one network).

    Names that it has no tensor for yet (before the first step) are left out.
    """
    found: dict[str, list[Tensor]] = {}
    parameters = _parameters(optimizer)
    for parameter in parameters:
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                own = value if index is None else value[index]
                found.setdefault(name, []).append(own.detach().reshape(-1).cpu())
    return {name: torch.cat(pieces) for name, pieces in found.items() if len(pieces) == len(parameters)}


def recall(optimizer: torch.optim.Optimizer, memories: Sequence[Memory], stacked: bool = False) -> None:
    """Give ``optimizer`` what it remembered: of one network, or of each along the first axis of ``stacked`` ones."""
    if not memories:
        return
    parameters = _parameters(optimizer)
    for name in memories[0]:
        together = torch.stack([memory[name] for memory in memories]) if stacked else memories[0][name]
        sizes = [parameter.numel() // (len(memories) if stacked else 1) for parameter in parameters]
        for parameter, piece in zip(parameters, together.split(sizes, dim=-1), strict=True):
            optimizer.state[parameter][name] = piece.reshape(parameter.shape).to(parameter).clone()


def standing_of(epoch: int, model: nn.Module, memory: Memory, curve: dict[str, list[float]]) -> Standing:
    """How ``model`` stands after ``epoch`` epochs; everything copied to the CPU."""
    parameters = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]).cpu()
    buffers = {name: buffer.detach().cpu().clone() for name, buffer in model.named_buffers()}
    return Standing(epoch, parameters, memory, buffers, {name: list(values) for name, values in curve.items()})


@torch.no_grad()
def restore(model: nn.Module, standing: Standing) -> None:
    """Put ``model`` where ``standing`` says."""
    parameters = list(model.parameters())
    pieces = standing.parameters.split([parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.copy_(piece.view_as(parameter))
    for name, buffer in model.named_buffers():
        buffer.copy_(standing.buffers[name])


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
