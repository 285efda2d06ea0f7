"""``time_budget``: as many experts and outer steps as fit into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distillkit.distributed import ALONE
from distillkit.errors import ConfigError
from distillkit.stages.context import Prepared, Run, determining
from distillkit.stages.costs import Costs, dealt_costs, length_choice, look_seconds, measured_costs

SPARED = 0.1
"""Part of a time budget that is not planned for."""


def within(run: Run, costs: Costs, seconds: float) -> Run:
    """The run with as many experts (they get half at most) and outer steps as fit into ``seconds``, a tenth spared; no
    more than it asks for, but that the number of steps of a quick preset is itself a choice of time, which a budget
    replaces.

    The evaluation at the end comes on top: what it measures must not depend on a budget.

    Raises:
        ConfigError: not even one expert and the first validation fit.
    """
    settings = run.settings
    if settings.distill.outer_steps == 0:
        return run
    left = (1 - SPARED) * seconds - costs.measuring
    seconds_of = {index: costs.expert_epoch * epochs for index, epochs in costs.missing.items()}
    experts = _experts_within(settings.experts.count, seconds_of, left)
    trained = sum(index < experts for index in costs.missing)
    training = sum(each for index, each in seconds_of.items() if index < experts)
    validation = look_seconds(settings, costs, 1) - look_seconds(settings, costs, 0)  # of each regular look
    fixed = look_seconds(settings, costs, 2) + length_choice(settings) * costs.fresh_network
    step = costs.outer_step + validation / settings.distill.select_every
    steps = int((left - training - fixed) / step)
    if not run.origins.get("distill.outer_steps", "").startswith("quick preset"):
        steps = min(settings.distill.outer_steps, steps)
    if (experts == 0 and settings.experts.count > 0) or steps < 1:
        takes = f"an expert takes {next(iter(seconds_of.values())):.0f} s, " if seconds_of else ""
        raise ConfigError(
            f"`time_budget` of {seconds:.0f} s is too little: here {takes}an outer step takes "
            f"{costs.outer_step:.2f} s, a validation {validation:.0f} s and measuring this {costs.measuring:.0f} s; "
            "give more, or a smaller network, fewer experts.epochs or fewer evaluate.epochs"
        )
    made = f"{experts} experts ({trained} to train) and " if settings.experts.count else ""
    run.progress.note(f"in {seconds:.0f} s: {made}{steps} outer steps")
    return with_sizes(run, experts, steps)


def _experts_within(asked: int, seconds_of: Mapping[int, float], seconds: float) -> int:
    """The most experts, from number 0 on, whose missing epochs (seconds by expert) fit into half of ``seconds``; one if
    it fits at all.
    """
    if asked == 0:
        return 0
    taken = [sum(each for index, each in seconds_of.items() if index < count) for count in range(1, asked + 1)]
    fitting = [count for count, all_of_them in enumerate(taken, start=1) if all_of_them <= seconds / 2]
    return max(fitting, default=1 if taken[0] <= seconds else 0)


def with_sizes(run: Run, experts: int, outer_steps: int) -> Run:
    """The run with so many experts and outer steps, told to come from the time budget."""
    settings = run.settings
    sized = settings.model_copy(
        update={
            "budget_asked": (settings.experts.count, settings.distill.outer_steps),
            "experts": settings.experts.model_copy(update={"count": experts}),
            "distill": settings.distill.model_copy(update={"outer_steps": outer_steps}),
        }
    )
    origins = run.origins | dict.fromkeys(("experts.count", "distill.outer_steps"), "time budget")
    return replace(run, settings=sized, origins=origins)


def within_budget(run: Run, prepared: Prepared, stored: dict[str, Any] | None) -> Run:
    """The run as it fits into its time budget, if it has one; ``stored``: settings of a run begun before, or None.

    What was begun under the same settings goes on with the sizes it has: a second measurement would differ.
    """
    if run.settings.time_budget is None:
        return run
    begun = as_begun(run, stored)
    if begun is not None:
        return begun
    costs = dealt_costs(run.settings, measured_costs(replace(run, world=ALONE), prepared), run.world.size)
    return within(run, costs, run.settings.time_budget)


def as_begun(run: Run, stored: dict[str, Any] | None) -> Run | None:
    """The run with the sizes of the ``stored`` settings, if these are its own but for the sizes."""
    if stored is None:
        return None
    try:
        begun = with_sizes(run, int(stored["experts"]["count"]), int(stored["distill"]["outer_steps"]))
    except (KeyError, TypeError, ValueError):
        return None
    return begun if determining(begun.settings) == stored else None
