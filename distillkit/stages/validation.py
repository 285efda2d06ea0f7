"""What fresh networks that are trained on a set score on images that were held out, or on others."""

from __future__ import annotations

from collections.abc import Callable

from distillkit.evaluation.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.evaluation.recipe import evaluation_recipe
from distillkit.records import EvalReport, SyntheticSet
from distillkit.settings import NetworkSettings
from distillkit.stages.architectures import selecting_networks
from distillkit.stages.context import Prepared, Run, training_set
from distillkit.stages.training_form import evaluation_form


def validated(
    run: Run, prepared: Prepared, synthetic: SyntheticSet, after_epoch: Callable[[], None]
) -> dict[str, EvalReport]:
    """Validation accuracies of the networks that select, by name: the same ones, by their seeds, whatever set they
    learn. Of a set that students of several architectures share, ``distill.select_networks`` of each.
    """
    exam, selecting = prepared.validation, selecting_networks(run, prepared)
    return {
        name: trained_on(run, prepared, synthetic, network, exam, after_epoch) for name, network in selecting.items()
    }


def mean_over(reports: dict[str, EvalReport]) -> float:
    """The mean accuracy over networks, which are as many of each architecture."""
    return sum(report.mean for report in reports.values()) / len(reports)


def trained_on(
    run: Run,
    prepared: Prepared,
    synthetic: SyntheticSet,
    network: NetworkSettings,
    exam: Examination,
    after_epoch: Callable[[], None],
) -> EvalReport:
    """Accuracies on ``exam`` of ``distill.select_networks`` fresh networks of one architecture."""
    count, images = run.settings.distill.select_networks, len(synthetic.images)
    training = training_set(synthetic, run.device)
    return that_select(run, prepared, training, images, synthetic.lr, count, exam, network, after_epoch)


def that_select(
    run: Run,
    prepared: Prepared,
    training: TrainingSet | Callable[[int], TrainingSet],
    images: int,
    lr: float,
    count: int,
    exam: Examination,
    network: NetworkSettings,
    after_epoch: Callable[[], None],
) -> EvalReport:
    """Accuracies on ``exam`` of ``count`` of the networks that select, trained on a set of so many ``images``, or each
    on one of its own, by the set's recipe at the rate ``lr``.
    """
    settings = run.settings
    recipe = evaluation_recipe(settings.evaluate, lr, prepared.augmentation)
    return evaluate_networks(
        prepared.build(network, settings.seed, "select"),
        training,
        exam,
        recipe,
        settings.seed,
        count,
        after_epoch=after_epoch,
        form=evaluation_form(run, recipe, images, count),
        world=run.world,
    )
