"""Coresets through the same door: methods of no outer steps and no experts, whose initial images are the result."""

from __future__ import annotations

from distillkit.methods import mtt
from distillkit.methods.base import Method, Problem, SettingsLayer

_NOTHING_LEARNED = {"experts.count": 0, "distill.outer_steps": 0, "distill.lr_init": 0.01}


def _none_learned(problem: Problem) -> SettingsLayer:
    return SettingsLayer("coreset", _NOTHING_LEARNED)


def _quick(problem: Problem) -> SettingsLayer:
    """Trained on at the learning rate that learned sets of this problem begin with.

    On digits at many images a class thrice that, which validation chose for every baseline of the reference sets.
    """
    lr = mtt.quick(problem).values["distill.lr_init"]
    slow = problem.dataset == "digits" and mtt.many(problem)
    return SettingsLayer("coreset", {**_NOTHING_LEARNED, "distill.lr_init": 3 * lr if slow else lr})


RANDOM = Method(
    name="random",
    title="Random subset",
    summary="real training images drawn at random from each class",
    parts={"distill.init": "real", "distill.labels": "hard"},
    published=_none_learned,
    quick=_quick,
    published_problems=("every data set and ipc",),
    when="as the baseline that a learned set has to beat",
)
KMEANS = Method(
    name="kmeans",
    title="k-means coreset",
    summary="the real training images nearest to the centroids of k-means in each class",
    parts={"distill.init": "kmeans", "distill.labels": "hard"},
    published=_none_learned,
    quick=_quick,
    published_problems=("every data set and ipc",),
    when="real images are asked for, or as the stronger baseline",
)
METHODS = (RANDOM, KMEANS)
