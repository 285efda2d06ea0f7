"""The protocol: train k fresh networks on a small set, read each one's accuracy once, at the last epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from distillkit.records import EvalReport
from distillkit.training.fit import accuracy, fit
from distillkit.training.recipe import Recipe

NetworkFactory = Callable[[int], nn.Module]


@dataclass(frozen=True)
class TrainingSet:
    """What fresh networks learn from: ``images`` float [n, C, H, W], ``targets`` ids [n] or probabilities [n, K]."""

    images: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Examination:
    """What they are asked: ``images`` float [n, C, H, W] and ``labels`` int64 [n]."""

    images: Tensor
    labels: Tensor


def train_and_score(
    build: NetworkFactory,
    training: TrainingSet,
    exam: Examination,
    recipe: Recipe,
    seed: int,
    index: int,
    after_epoch: Callable[[], None] = lambda: None,
) -> float:
    """Accuracy on ``exam`` of fresh network ``index`` after the last epoch on ``training``."""
    model = build(index).to(training.images.device)
    for _ in fit(model, training.images, training.targets, recipe, seed, "evaluate", index):
        after_epoch()
    return accuracy(model, exam.images, exam.labels)


def evaluate_networks(
    build: NetworkFactory,
    training: TrainingSet | Callable[[int], TrainingSet],
    exam: Examination,
    recipe: Recipe,
    seed: int,
    count: int,
    after_network: Callable[[float], None] = lambda accuracy: None,
    after_epoch: Callable[[], None] = lambda: None,
) -> EvalReport:
    """Accuracies of networks 0 .. ``count`` - 1; ``after_network`` hears each, both listeners may raise to stop.

    ``training`` is one set for all of them, or gives each network, by number, a set of its own.
    """
    accuracies = []
    for index in range(count):
        own = training if isinstance(training, TrainingSet) else training(index)
        accuracies.append(train_and_score(build, own, exam, recipe, seed, index, after_epoch))
        after_network(accuracies[-1])
    return EvalReport(tuple(accuracies), {"lr": recipe.lr, "epochs": recipe.epochs})
