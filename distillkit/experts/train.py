"""Training one expert and handing on its parameters at every epoch boundary (MTT Sec. 3.1)."""

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
    """Real data as network inputs: ``images`` float [n, C, H, W], ``labels`` int64 [n], the validation split, and the
    test split that a finished expert is reported on; nothing is chosen by it.
    """

    images: Tensor
    labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    num_classes: int
    test: Callable[[], tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class ExpertRun:
    """A finished expert: its curve by epoch, and its test accuracy (None if not asked for).

    ``curve`` has ``loss`` (mean over steps), ``validation_accuracy`` and ``parameter_change``, |θ(t+1) - θ(t)|, whose
    smallness is what AST calls a smooth trajectory.
    """

    curve: dict[str, list[float]]
    test_accuracy: float | None


def train_expert(
    index: int,
    data: ExpertData,
    network: NetworkSettings,
    recipe: Recipe,
    seed: int,
    keep: Callable[[int, Tensor], None],
    after_epoch: Callable[[float, float], None],
) -> ExpertRun:
    """Train expert ``index``, drawing everything random under ("expert", index).

    Args:
        index: number of the expert.
        data: real data.
        network: which network.
        recipe: how.
        seed: root seed.
        keep: called with t and the parameters after t epochs, float32 [P] on the CPU, a copy; 0: the initialisation.
        after_epoch: called with loss and validation accuracy after each epoch; may raise to stop.

    Raises:
        TrajectoryError: the loss stopped being finite.
    """
    shape = (int(data.images.shape[1]), int(data.images.shape[2]), int(data.images.shape[3]))
    model = build_network(network, shape, data.num_classes, seed, "expert", index, "init").to(data.images.device)
    before = flatten_parameters(model).cpu()
    keep(0, before)
    curve: dict[str, list[float]] = {"loss": [], "validation_accuracy": [], "parameter_change": []}
    for summary in fit(model, data.images, data.labels, recipe, seed, "expert", index):
        loss, now = float(summary.loss), flatten_parameters(model).cpu()
        if not torch.isfinite(now).all():
            raise TrajectoryError(
                f"expert {index} diverged in epoch {summary.epoch + 1} (parameters are not finite); lower experts.lr"
            )
        keep(summary.epoch + 1, now)
        score = accuracy(model, data.validation_images, data.validation_labels)
        curve["loss"].append(loss)
        curve["validation_accuracy"].append(score)
        curve["parameter_change"].append(float((now - before).norm()))
        before = now
        after_epoch(loss, score)
    return ExpertRun(curve, accuracy(model, *data.test()) if data.test is not None else None)
