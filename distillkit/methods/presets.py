"""Settings of the presets that no method owns: how much data, which network, how many experts, which evaluation."""

from __future__ import annotations

from typing import Any

from distillkit.methods.base import Problem, SettingsLayer

PRESETS = ("smoke", "quick", "paper")


def smoke(problem: Problem) -> SettingsLayer:
    """Proves that everything runs, in seconds; its numbers mean nothing."""
    return SettingsLayer(
        "smoke preset",
        {
            "dataset.max_train": problem.at_least(400),
            **batches(problem),
            "network.width": 8,
            "experts.count": 2,
            "experts.epochs": 4,
            "distill.outer_steps": 4,
            "distill.inner_steps": 3,
            "distill.expert_epochs": 1,
            "distill.first_max_start_epoch": None,
            "distill.max_start_epoch": 2,
            "distill.real_batch": 40,
            "distill.real_per_class": 8,
            "distill.select_every": 2,
            "distill.checkpoint_every": 1,
            "distill.picture_every": 2,
            "evaluate.networks": 2,
            "evaluate.epochs": 4,
            "evaluate.lengths": (),
            "evaluate.full_epochs": 2,
        },
    )


def quick(problem: Problem) -> SettingsLayer:
    """A useful set in minutes on the device at hand."""
    if problem.dataset == "digits":
        return SettingsLayer("quick preset (digits)", _QUICK_DIGITS | batches(problem))
    if problem.device == "cuda":
        return SettingsLayer("quick preset (GPU)", _QUICK_GPU | batches(problem))
    values = {"dataset.max_train": problem.at_least(10_000), **_QUICK_CPU, **batches(problem)}
    return SettingsLayer("quick preset (CPU)", values)


MOST_AT_ONCE = 256
"""Learned images up to which every student's step sees all of them."""
AT_ONCE = {"cpu": 100, "cuda": 256}
"""Learned images of a student's step where there are more, by device: memory and time are those of a batch."""


def batches(problem: Problem) -> dict[str, Any]:
    """A student's batch where a step on the whole set would be too large; of how many classes nobody knows yet, a batch
    that smaller sets are no part of.
    """
    if problem.num_classes is None:
        return {"distill.batch_size": MOST_AT_ONCE}
    if problem.ipc * problem.num_classes <= MOST_AT_ONCE:
        return {}
    return {"distill.batch_size": AT_ONCE[problem.device]}


# A folder of 2,010 photographs: 96 steps (twelve passes) reach 52.7 % of its test images, a thousand 60.2 %.
_FULL_STEPS = {"evaluate.full_steps": 1000}

_QUICK_DIGITS = {
    "dataset.validation_fraction": 0.2,
    "network.width": 32,
    "experts.count": 8,
    "experts.epochs": 20,
    "experts.batch_size": 64,
    "experts.lr": 0.02,
    "evaluate.networks": 3,
    "evaluate.epochs": 301,
    "evaluate.together": 5,  # images of 64 pixels: 2.7 times as fast as one by one at ipc 1, 1.25 times at ipc 10
    "evaluate.full_epochs": 200,
    **_FULL_STEPS,
    "evaluate.full_networks": 3,
}

_QUICK_CPU = {
    "network.width": 64,
    "experts.count": 3,
    "experts.epochs": 12,
    "experts.lr": 0.02,
    "evaluate.networks": 3,
    "evaluate.epochs": 301,
    "evaluate.full_epochs": 12,
    **_FULL_STEPS,
    "evaluate.full_networks": 1,
}

_QUICK_GPU = {
    "experts.count": 10,
    "experts.epochs": 30,
    "evaluate.networks": 3,
    "evaluate.epochs": 501,
    "evaluate.full_epochs": 30,
    **_FULL_STEPS,
}
