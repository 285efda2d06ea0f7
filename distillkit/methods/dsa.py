"""DSA: gradient matching with Siamese augmentation (Zhao and Bilen, ICML 2021, arXiv:2102.08259). No experts."""

from __future__ import annotations

from typing import Any

from distillkit.methods import mtt
from distillkit.methods.base import Method, Problem, SettingsLayer

# The released code (DatasetCondensation@306245d, ``get_loops``): outer steps that share a network, passes over the set
# between them, by images a class. 1,000 networks each.
LOOPS: dict[int, tuple[int, int]] = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
NETWORKS = 1000
DATASETS = ("mnist", "fashion-mnist", "svhn", "cifar10", "cifar100")

# What every preset has: rates are those of the released code, the recipe's is given.
RECIPE: dict[str, Any] = {
    "experts.count": 0,
    "distill.lr_img": 0.1,
    "distill.image_momentum": 0.5,
    "distill.network_lr": 0.01,
    "distill.lr_init": 0.01,
    "distill.lr_lr": 0.0,
}


def published(problem: Problem) -> SettingsLayer | None:
    """The settings of the released code, for its data sets."""
    if problem.dataset not in DATASETS or problem.ipc not in LOOPS:
        return None
    shared, passes = LOOPS[problem.ipc]
    values = {
        **RECIPE,
        **(mtt.standardisation(problem.dataset) if problem.dataset.startswith("cifar") else {}),
        "distill.outer_steps": NETWORKS * shared,
        "distill.restart_every": shared,
        "distill.network_epochs": passes,
        "distill.batch_size": 256,
        "distill.real_per_class": 256,
    }
    return SettingsLayer("published (DSA, the released code)", values)


def quick(problem: Problem) -> SettingsLayer:
    """A useful set in minutes."""
    many = problem.ipc >= (5 if problem.dataset == "digits" else 10)
    values = {
        **RECIPE,
        "distill.outer_steps": 2000 if problem.device == "cuda" else 500,
        "distill.restart_every": 10 if many else 1,
        "distill.network_epochs": 10 if many else 1,
        "distill.real_per_class": 64,
        "distill.select_every": 100,
        "distill.checkpoint_every": 10,
        "distill.picture_every": 50,
    }
    return SettingsLayer("quick preset (DSA)", values)


DSA = Method(
    name="dsa",
    title="DSA: gradient matching with Siamese augmentation",
    summary="no experts; gradients on learned and real images of a class should point the same way, in young networks",
    parts={
        "distill.objective": "gradients",
        "distill.outer_optimizer": "sgd",
        "distill.init": "real",
        "distill.labels": "hard",
    },
    published=published,
    quick=quick,
    published_problems=(f"{', '.join(DATASETS)} at ipc {', '.join(map(str, LOOPS))}",),
    when="a first set in minutes without experts, or to compare with the literature",
    citation="""@inproceedings{zhao2021dsa,
  title     = {Dataset Condensation with Differentiable Siamese Augmentation},
  author    = {Zhao, Bo and Bilen, Hakan},
  booktitle = {ICML},
  year      = {2021},
  note      = {arXiv:2102.08259}
}""",
)
METHODS = (DSA,)
