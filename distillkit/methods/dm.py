"""DM: distribution matching (Zhao and Bilen, WACV 2023, arXiv:2110.04181). No experts, and no second-order gradient."""

from __future__ import annotations

from typing import Any

from distillkit.methods import mtt
from distillkit.methods.base import Method, Problem, SettingsLayer

DATASETS = ("mnist", "svhn", "cifar10", "cifar100", "tiny-imagenet")
IPCS = (1, 10, 50)

# What every preset has: rates are those of the released code (DatasetCondensation@306245d), the recipe's is given.
RECIPE: dict[str, Any] = {
    "experts.count": 0,
    "distill.lr_img": 1.0,
    "distill.image_momentum": 0.5,
    "distill.lr_init": 0.01,
    "distill.lr_lr": 0.0,
}


def published(problem: Problem) -> SettingsLayer | None:
    """The settings of the released code: the same for all its data sets."""
    if problem.dataset not in DATASETS or problem.ipc not in IPCS:
        return None
    values = {
        **RECIPE,
        **(mtt.standardisation(problem.dataset) if problem.dataset.startswith("cifar") else {}),
        "distill.outer_steps": 20_000,
        "distill.real_per_class": 256,
        "distill.select_every": 2000,
    }
    return SettingsLayer("published (DM, the released code)", values)


def quick(problem: Problem) -> SettingsLayer:
    """A useful set in minutes."""
    values = {
        **RECIPE,
        "distill.outer_steps": 5000 if problem.device == "cuda" else 1000,
        "distill.real_per_class": 64,
        "distill.select_every": 200,
        "distill.checkpoint_every": 20,
        "distill.picture_every": 100,
    }
    return SettingsLayer("quick preset (DM)", values)


DM = Method(
    name="dm",
    title="DM: distribution matching",
    summary="no experts; learned and real images of a class should have the same mean embedding in random networks",
    parts={
        "distill.objective": "embeddings",
        "distill.outer_optimizer": "sgd",
        "distill.init": "real",
        "distill.labels": "hard",
    },
    published=published,
    quick=quick,
    published_problems=(f"{', '.join(DATASETS)} at ipc {', '.join(map(str, IPCS))}",),
    when="small grey images, or so many classes or images that a second-order gradient costs too much",
    citation="""@inproceedings{zhao2023dm,
  title     = {Dataset Condensation with Distribution Matching},
  author    = {Zhao, Bo and Bilen, Hakan},
  booktitle = {WACV},
  year      = {2023},
  note      = {arXiv:2110.04181}
}""",
)
METHODS = (DM,)
