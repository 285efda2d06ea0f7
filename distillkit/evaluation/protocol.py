"""The protocol: train k fresh networks on a small set, read each one's accuracy once, at the last epoch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillkit.data.inputs import Inputs
from distillkit.distributed import ALONE, World
from distillkit.records import EvalReport
from distillkit.training.fit import accuracy, fit
from distillkit.training.memory import needed_for
from distillkit.training.recipe import Recipe
from distillkit.training.stack import Stack, TrainingForm, fit_stack, stackable

NetworkFactory = Callable[[int], nn.Module]
ONE_BY_ONE = TrainingForm()


@dataclass(frozen=True)
class TrainingSet:
    """What fresh networks learn from: ``images`` float [n, C, H, W], ``targets`` ids [n] or probabilities [n, K]."""

    images: Inputs
    targets: Tensor


@dataclass(frozen=True)
class Examination:
    """What they are asked: ``images`` float [n, C, H, W] and ``labels`` int64 [n]."""

    images: Inputs
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


def scores_by_epoch(
    build: NetworkFactory,
    training: TrainingSet,
    exam: Examination,
    recipe: Recipe,
    seed: int,
    index: int,
    epochs: Collection[int],
    after_epoch: Callable[[], None] = lambda: None,
) -> dict[int, float]:
    """Accuracies on ``exam`` of fresh network ``index`` after each number of ``epochs``, on the way of one training.

    They are those of trainings of these lengths only if the recipe's lr is constant.
    """
    model = build(index).to(training.images.device)
    found = {}
    for summary in fit(model, training.images, training.targets, recipe, seed, "evaluate", index):
        after_epoch()
        if summary.epoch + 1 in epochs:
            found[summary.epoch + 1] = accuracy(model, exam.images, exam.labels)
    return found


def train_and_score_together(
    build: NetworkFactory,
    training: Callable[[int], TrainingSet],
    exam: Examination,
    recipe: Recipe,
    seed: int,
    indices: range,
    form: TrainingForm,
    after_epoch: Callable[[], None] = lambda: None,
) -> list[float]:
    """Accuracies of fresh networks ``indices``, trained side by side; their training sets must be of one size."""
    sets = [training(index) for index in indices]
    models = [build(index).to(own.images.device) for index, own in zip(indices, sets, strict=True)]
    stack = Stack(models, recipe.loss, form)
    images, targets = [own.images for own in sets], [own.targets for own in sets]
    for _ in fit_stack(stack, images, targets, recipe, seed, [("evaluate", index) for index in indices]):
        after_epoch()
    return [accuracy(model, exam.images, exam.labels) for model in stack.unstacked()]


def evaluate_networks(
    build: NetworkFactory,
    training: TrainingSet | Callable[[int], TrainingSet],
    exam: Examination,
    recipe: Recipe,
    seed: int,
    count: int,
    after_network: Callable[[float], None] = lambda accuracy: None,
    after_epoch: Callable[[], None] = lambda: None,
    form: TrainingForm = ONE_BY_ONE,
    world: World = ALONE,
    first: int = 0,
) -> EvalReport:
    """Accuracies of networks ``first`` .. ``count`` - 1; ``after_network`` hears each; listeners may raise to stop.

    Every process of ``world`` trains its share of them, and all of them return the same.

    ``training`` is one set for all of them, or gives each network, by number, a set of its own. ``form``: how many are
    trained at a time; networks with batch statistics or dropout are always trained one by one.
    """

    def own(index: int) -> TrainingSet:
        return training if isinstance(training, TrainingSet) else training(index)

    alone = form.plain or not stackable(build(0))
    size = 1 if alone else form.size
    waiting = [group for place, group in enumerate(_split(range(first, count), size)) if world.owns(place)]
    found: dict[int, float] = {}
    while waiting:
        group = waiting.pop(0)
        if len(group) > size:
            waiting[:0] = _split(group, size)
            continue
        try:
            if alone:
                scores = [train_and_score(build, own(group[0]), exam, recipe, seed, group[0], after_epoch)]
            else:
                scores = train_and_score_together(build, own, exam, recipe, seed, group, form, after_epoch)
        except torch.OutOfMemoryError as error:
            if size == 1:
                with needed_for("the training of a fresh network", "lower evaluate.batch_size or network.width"):
                    raise error
            size //= 2
            form.note(f"{len(group)} networks at once do not fit into memory; taking {size}")
            waiting.insert(0, group)
            continue
        for index, score in zip(group, scores, strict=True):
            found[index] = score
            after_network(score)
    everything = world.shared(found)
    for index in range(first, count):
        if index not in found:
            after_network(everything[index])
    accuracies = tuple(everything[index] for index in range(first, count))
    return EvalReport(accuracies, {"lr": recipe.lr, "epochs": recipe.epochs})


def _split(numbers: range, size: int) -> list[range]:
    """Stretches of ``size`` numbers, the last one shorter."""
    return [numbers[begin : begin + size] for begin in range(0, len(numbers), size)]
