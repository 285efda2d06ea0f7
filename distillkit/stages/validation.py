"""What fresh networks that are trained on a set score on images that were held out, or on others."""

from __future__ import annotations

from collections.abc import Callable

from distillkit.evaluation.protocol import Examination, evaluate_networks
from distillkit.evaluation.recipe import evaluation_recipe
from distillkit.records import EvalReport, SyntheticSet
from distillkit.stages.context import Prepared, Run, training_set
from distillkit.stages.training_form import evaluation_form


def selecting_networks(
    run: Run, prepared: Prepared, synthetic: SyntheticSet, exam: Examination, after_epoch: Callable[[], None]
) -> EvalReport:
    """Accuracies on ``exam`` of the networks that select: the same ones, by their seeds, whatever set they learn."""
    settings, count = run.settings, run.settings.distill.select_networks
    recipe = evaluation_recipe(settings.evaluate, synthetic.lr, prepared.augmentation)
    return evaluate_networks(
        prepared.build(prepared.network, settings.seed, "select"),
        training_set(synthetic, run.device),
        exam,
        recipe,
        settings.seed,
        count,
        after_epoch=after_epoch,
        form=evaluation_form(run, recipe, len(synthetic.images), count),
        world=run.world,
    )
