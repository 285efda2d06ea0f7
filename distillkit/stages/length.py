"""How long networks train on a learned set: validation data choose among some numbers of epochs, once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distillkit.evaluation.protocol import scores_by_epoch
from distillkit.evaluation.recipe import evaluation_recipe
from distillkit.precision import arithmetic
from distillkit.records import SyntheticSet
from distillkit.stages.context import Prepared, Run, training_set


def chosen_length(run: Run, prepared: Prepared, synthetic: SyntheticSet) -> dict[str, Any]:
    """Validation accuracy by number of epochs, and the number that is chosen: it goes into the recipe."""
    settings = run.settings
    lengths = settings.evaluate.lengths
    longest = settings.evaluate.model_copy(update={"epochs": max(lengths)})
    recipe = evaluation_recipe(longest, synthetic.lr, prepared.augmentation)
    run.progress.note(f"choosing among {', '.join(map(str, lengths))} epochs on validation data")

    def read(index: int) -> list[float]:
        scores = scores_by_epoch(
            prepared.build(prepared.network, settings.seed, "select"),
            training_set(synthetic, run.device),
            prepared.validation,
            recipe,
            settings.seed,
            index,
            lengths,
            lambda: run.stop.check("while the number of epochs is chosen, with a checkpoint"),
        )
        return [scores[length] for length in lengths]

    with arithmetic(run.steady_precision, run.device):
        found = run.world.each(range(settings.distill.select_networks), read)
    means = {length: sum(one[place] for one in found) / len(found) for place, length in enumerate(lengths)}
    chosen = shortest_as_good(means, len(prepared.validation.labels))
    return {"chosen": chosen, "validation_accuracy": {str(k): v for k, v in means.items()}}


def shortest_as_good(accuracies: Mapping[int, float], images: int) -> int:
    """The smallest number of epochs whose accuracy is within one standard error of the best: what so many validation
    images cannot tell apart is not worth ten times the training.

    The one-standard-error rule of Breiman, Friedman, Olshen and Stone, Classification and Regression Trees (1984),
    section 3.4.3.

    Args:
        accuracies: validation accuracy, a fraction, by number of epochs.
        images: that they were measured on.
    """
    best = max(accuracies.values())
    error = math.sqrt(best * (1 - best) / images)
    return min(epochs for epochs, accuracy in accuracies.items() if accuracy >= best - error)


def with_chosen_length(run: Run, selection: dict[str, Any]) -> Run:
    """The run with the number of epochs that validation data chose, if they were asked."""
    if "epochs" not in selection:
        return run
    settings = run.settings
    evaluate = settings.evaluate.model_copy(update={"epochs": int(selection["epochs"]["chosen"])})
    origins = run.origins | {"evaluate.epochs": "validation data, of evaluate.lengths"}
    return replace(run, settings=settings.model_copy(update={"evaluate": evaluate}), origins=origins)
