"""Training experts and handing on their parameters at every epoch boundary (MTT Sec. 3.1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from distillkit.data.inputs import Inputs
from distillkit.errors import TrajectoryError
from distillkit.networks.build import build_network
from distillkit.networks.functional import flatten_parameters
from distillkit.settings import NetworkSettings
from distillkit.training.fit import EpochSummary, accuracy, fit
from distillkit.training.recipe import Recipe
from distillkit.training.stack import Stack, TrainingForm, fit_stack
from distillkit.training.standing import START, Begin, Memory, Standing, restore, standing_of


@dataclass(frozen=True)
class ExpertData:
    """Real data as network inputs: ``images`` float [n, C, H, W], ``labels`` int64 [n], the validation split, and the
    test split that a finished expert is reported on; nothing is chosen by it.
    """

    images: Inputs
    labels: Tensor
    validation_images: Inputs
    validation_labels: Tensor
    num_classes: int
    test: Callable[[], tuple[Inputs, Tensor]] | None = None


@dataclass(frozen=True)
class ExpertRun:
    """A finished expert: its curve by epoch, and its test accuracy (None if not asked for).

    ``curve`` has ``loss`` (mean over steps), ``validation_accuracy`` and ``parameter_change``, |θ(t+1) - θ(t)|, whose
    smallness is what AST calls a smooth trajectory.
    """

    curve: dict[str, list[float]]
    test_accuracy: float | None


ONE_BY_ONE = TrainingForm()
EXPLODED = 1000.0
"""Parameters that grow by such a factor in one epoch have diverged, finite or not."""
LOWER_LR = "lower experts.lr"
Keep = Callable[[int, Tensor], None]
"""Called with t and the parameters after t epochs, float32 [P] on the CPU, a copy; t = 0: the initialisation."""
Save = Callable[[list[Standing]], None]
"""Called after each epoch of all, before anybody may stop: where each expert stands."""


def fit_experts(
    indices: Sequence[int],
    data: ExpertData,
    network: NetworkSettings,
    recipe: Recipe,
    seed: int,
    keep: Sequence[Keep],
    after_epoch: Callable[[float, float | None], None],
    form: TrainingForm = ONE_BY_ONE,
    change: Callable[[nn.Module], nn.Module] = lambda module: module,
    standings: Sequence[Standing] = (),
    save: Save = lambda standings: None,
    advice: str = LOWER_LR,
) -> list[ExpertRun]:
    """Train experts ``indices``, drawing everything random of each under ("expert", index).

    Args:
        indices: numbers of the experts; more than one are trained side by side.
        data: real data.
        network: which network.
        recipe: how.
        seed: root seed.
        keep: of each expert, who takes its parameters.
        after_epoch: called with loss and validation accuracy (None without such images) after each epoch of each; may
            raise to stop.
        form: whether the training step is compiled.
        change: what is done to a fresh network, to its arithmetic, say.
        standings: where each of them stands, after the same number of epochs, if they were trained before; ``keep``
            hears of later epochs alone.
        save: who keeps where they stand, after every epoch.
        advice: what to do if one diverges.

    Raises:
        TrajectoryError: a loss stopped being finite, or parameters grew ``EXPLODED`` times as long.
    """
    shape = (int(data.images.shape[1]), int(data.images.shape[2]), int(data.images.shape[3]))
    models = [
        change(build_network(network, shape, data.num_classes, seed, "expert", index, "init")).to(data.images.device)
        for index in indices
    ]
    diaries = [_Diary(index, data, model, own, advice) for index, model, own in zip(indices, models, keep, strict=True)]
    for diary, standing in zip(diaries, standings, strict=False):
        diary.go_on(standing)
    begin = Begin(standings[0].epoch, [standing.memory for standing in standings]) if standings else START
    if not standings:
        for diary in diaries:
            diary.keep(0, diary.before)
    for summaries in _epochs(models, data, recipe, seed, indices, form, begin):
        scores = [diary.write(summary) for summary, diary in zip(summaries, diaries, strict=True)]
        save([diary.standing(one.epoch + 1, one.memory()) for one, diary in zip(summaries, diaries, strict=True)])
        for score in scores:
            after_epoch(*score)
    return [ExpertRun(diary.curve, accuracy(diary.model, *data.test()) if data.test else None) for diary in diaries]


def _epochs(
    models: list[nn.Module],
    data: ExpertData,
    recipe: Recipe,
    seed: int,
    indices: Sequence[int],
    form: TrainingForm,
    begin: Begin,
) -> Iterator[list[EpochSummary]]:
    if len(models) == 1 and not form.compiled:
        for summary in fit(models[0], data.images, data.labels, recipe, seed, "expert", indices[0], begin=begin):
            yield [summary]
        return
    stack, count = Stack(models, recipe.loss, form), len(models)
    names = [("expert", index) for index in indices]
    for summaries in fit_stack(stack, [data.images] * count, [data.labels] * count, recipe, seed, names, begin):
        stack.unstacked()
        yield summaries


class _Diary:
    """What is kept of one expert: its parameters by epoch, and its curve."""

    def __init__(self, index: int, data: ExpertData, model: nn.Module, keep: Keep, advice: str) -> None:
        self.index, self.data, self.model, self.keep, self.advice = index, data, model, keep, advice
        self.before = flatten_parameters(model).cpu()
        self.curve: dict[str, list[float]] = {"loss": [], "validation_accuracy": [], "parameter_change": []}

    def go_on(self, standing: Standing) -> None:
        """From where the expert stood."""
        restore(self.model, standing)
        self.before = standing.parameters
        self.curve = {name: list(values) for name, values in standing.curve.items()}

    def standing(self, epoch: int, memory: Memory) -> Standing:
        """Where the expert stands after ``epoch`` epochs."""
        return standing_of(epoch, self.model, memory, self.curve)

    def write(self, summary: EpochSummary) -> tuple[float, float | None]:
        """An epoch is over; its loss and validation accuracy, if images are held out."""
        loss, now = float(summary.loss), flatten_parameters(self.model).cpu()
        before, size = float(self.before.double().norm()), float(now.double().norm())
        if not (math.isfinite(loss) and size <= EXPLODED * max(before, 1.0)):
            raise TrajectoryError(
                f"expert {self.index} diverged in epoch {summary.epoch + 1} (loss {loss:.3g}, parameters of length "
                f"{size:.3g} after {before:.3g}); {self.advice}"
            )
        self.keep(summary.epoch + 1, now)
        held_out = len(self.data.validation_labels) > 0
        score = accuracy(self.model, self.data.validation_images, self.data.validation_labels) if held_out else None
        self.curve["loss"].append(loss)
        self.curve["validation_accuracy"] += [] if score is None else [score]
        self.curve["parameter_change"].append(float((now - self.before).norm()))
        self.before = now
        return loss, score
