"""How long networks train on a learned set: validation data choose among some numbers of epochs, once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distillkit.evaluation.protocol import scores_by_epoch
from distillkit.evaluation.recipe import evaluation_recipe
from distillkit.precision import arithmetic
from distillkit.records import SyntheticSet
from distillkit.stages.context import Prepared, Run, training_set


def chosen_length(run: Run, prepared: Prepared, synthetic: SyntheticSet) -> dict[str, Any]:
    """Validation accuracy by number of epochs, and the number with the highest: it goes into the recipe."""
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
    return {"chosen": max(means, key=means.__getitem__), "validation_accuracy": {str(k): v for k, v in means.items()}}


def with_chosen_length(run: Run, selection: dict[str, Any]) -> Run:
    """The run with the number of epochs that validation data chose, if they were asked."""
    if "epochs" not in selection:
        return run
    settings = run.settings
    evaluate = settings.evaluate.model_copy(update={"epochs": int(selection["epochs"]["chosen"])})
    origins = run.origins | {"evaluate.epochs": "validation data, of evaluate.lengths"}
    return replace(run, settings=settings.model_copy(update={"evaluate": evaluate}), origins=origins)
