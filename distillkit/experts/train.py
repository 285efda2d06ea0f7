"""Training one expert and keeping its parameters at every epoch boundary (MTT Sec. 3.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit.errors import TrajectoryError
from distillkit.networks.build import build_network
from distillkit.networks.functional import flatten_parameters
from distillkit.settings import NetworkSettings
from distillkit.training.fit import accuracy, fit
from distillkit.training.recipe import Recipe


@dataclass(frozen=True)
class ExpertData:
    """Real data as network inputs: ``images`` float [n, C, H, W], ``labels`` int64 [n], and the validation split."""

    images: Tensor
    labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    num_classes: int


@dataclass(frozen=True)
class ExpertRun:
    """A finished expert: ``snapshots`` float32 [T, P] (row t: after t epochs, 0: the initialisation) and its curve."""

    snapshots: Tensor
    curve: dict[str, list[float]]


def train_expert(
    index: int,
    data: ExpertData,
    network: NetworkSettings,
    recipe: Recipe,
    seed: int,
    after_epoch: Callable[[float, float], None],
) -> ExpertRun:
    """Train expert ``index``, drawing everything random under ("expert", index).

    Args:
        index: number of the expert.
        data: real data.
        network: which network.
        recipe: how.
        seed: root seed.
        after_epoch: called with loss and validation accuracy after each epoch; may raise to stop.

    Raises:
        TrajectoryError: the loss stopped being finite.
    """
    shape = (int(data.images.shape[1]), int(data.images.shape[2]), int(data.images.shape[3]))
    model = build_network(network, shape, data.num_classes, seed, "expert", index, "init").to(data.images.device)
    snapshots = [flatten_parameters(model).cpu()]
    curve: dict[str, list[float]] = {"loss": [], "validation_accuracy": [], "parameter_change": []}
    for summary in fit(model, data.images, data.labels, recipe, seed, "expert", index):
        loss = float(summary.loss)
        snapshots.append(flatten_parameters(model).cpu())
        if not torch.isfinite(snapshots[-1]).all():
            raise TrajectoryError(
                f"expert {index} diverged in epoch {summary.epoch + 1} (parameters are not finite); lower experts.lr"
            )
        score = accuracy(model, data.validation_images, data.validation_labels)
        curve["loss"].append(loss)
        curve["validation_accuracy"].append(score)
        curve["parameter_change"].append(float((snapshots[-1] - snapshots[-2]).norm()))
        after_epoch(loss, score)
    return ExpertRun(torch.stack(snapshots), curve)
