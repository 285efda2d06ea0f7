"""RaT-BPTT: distilling by the real loss (Feng, Vedantam and Kempe, ICLR 2024, arXiv:2311.01570). No experts.

A student is trained on the set from a fresh network; the set moves so that the student's loss on real images falls. Of
the student's T steps W are differentiated, a window at a random place (random truncated back-propagation through time).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distillkit.methods import presets
from distillkit.methods.base import Method, Problem, SettingsLayer


@dataclass(frozen=True)
class Row:
    """T, W, where windows lie, images an inner step (None: all), real images an outer step, the rate, labels."""

    horizon: int
    window_steps: int
    window: str
    batch: int | None
    real: int
    lr: float
    labels: str


# The authors' commands (Simple_Dataset_Distillation@7915c5a). Their batches hold one image of each class (Tiny: of 50
# classes), here as many images drawn from all. How many outer steps they made is not said: 21.6 hours of 13 s are 6000.
PAPER_ROWS: dict[tuple[str, int], tuple[Row, str]] = {
    ("cifar10", 1): (Row(200, 60, "random", None, 5000, 1e-3, "hard"), "the row of ipc 10"),
    ("cifar10", 10): (Row(200, 60, "random", None, 5000, 1e-3, "hard"), ""),
    ("cifar10", 50): (Row(200, 60, "random", None, 5000, 1e-3, "hard"), "the row of ipc 10"),
    ("cifar100", 1): (Row(130, 90, "last", None, 5000, 3e-4, "weights"), ""),
    ("cifar100", 10): (Row(300, 100, "random", 100, 5000, 1e-3, "weights"), "batches drawn from all classes"),
    ("tiny-imagenet", 10): (Row(300, 100, "random", 50, 1000, 3e-4, "weights"), "batches drawn from all classes"),
}
STEPS = (300, 600, 1000, 3000)
"""Steps of a training on the set that the authors report the best of; here validation data choose, once."""

# What every preset has: the recipe that trains on the set is the student's own optimiser.
RECIPE: dict[str, Any] = {
    "experts.count": 0,
    "dataset.preprocessing": "unit-zca",
    "dataset.augmentation": "flip_rotate",
    "distill.clip": 2.0,
    "distill.lr_init": 1e-3,
    "distill.lr_lr": 0.0,
    "evaluate.optimizer": "adam",
    "evaluate.lr_drop_epochs": (),
    "evaluate.full_lr": 1e-3,
}


QUICK_STEPS = (100, 300)
"""The same of a quick preset."""


def lengths(steps: tuple[int, ...], size: int, batch: int | None) -> tuple[int, ...]:
    """``steps`` in passes over a set of ``size`` images in batches of ``batch``."""
    whole, rest = divmod(size, min(batch or size, size))
    a_pass = whole + (rest > 1)  # a single image that is left over joins the batch before it
    return tuple(dict.fromkeys(max(1, count // a_pass) for count in steps))


def published(problem: Problem) -> SettingsLayer | None:
    """The settings of the authors' commands for a data set and ipc."""
    found = PAPER_ROWS.get((problem.dataset, problem.ipc))
    if found is None:
        return None
    row, changed = found
    passes = lengths(STEPS, problem.ipc * (problem.num_classes or 10), row.batch)
    values = {
        **RECIPE,
        "distill.horizon": row.horizon,
        "distill.inner_steps": row.window_steps,
        "distill.window": row.window,
        "distill.batch_size": row.batch,
        "distill.real_batch": row.real,
        "distill.lr_img": row.lr,
        "distill.lr_label": row.lr,
        "distill.labels": row.labels,
        "distill.outer_steps": 6000,
        "evaluate.epochs": passes[1],
        "evaluate.lengths": passes,
        "evaluate.batch_size": row.batch or 10_000,
    }
    return SettingsLayer(f"published (RaT-BPTT, the authors' commands{'; ' + changed if changed else ''})", values)


# Found on validation images of CIFAR-10 on a CPU (examples/ABLATIONS.md): horizons of 30 to 40 steps, not 20, and the
# paper's augmentation, not DSA's. Rates belong to the start: unit noise is a thirtieth as long as real images.
_FEW: dict[str, Any] = {
    "distill.horizon": 30,
    "distill.inner_steps": 15,
    "distill.real_batch": 500,
    "distill.lr_img": 0.01,
}
_MANY: dict[str, Any] = {
    "distill.init": "kmeans",
    "distill.horizon": 40,
    "distill.inner_steps": 12,
    "distill.real_batch": 300,
    "distill.lr_img": 0.03,
}
# Digits and their small network learn in larger steps, through a longer window, and lose by being whitened (grey
# photographs gain): one image a class had 82.5 % of the validation images before, 94.8 with these
# (examples/ABLATIONS.md).
_DIGITS: dict[str, Any] = {
    "dataset.preprocessing": "standardise",
    "distill.init": "kmeans",
    "distill.horizon": 60,
    "distill.inner_steps": 30,
    "distill.real_batch": 500,
    "distill.lr_img": 0.03,
    "distill.lr_init": 3e-3,
}
# What made the CIFAR-10 sets on an H100 (docs/results.md): the horizon of the paper, two thirds of its window. Ten
# images a class began at noise; one at k-means images, by narrow students on a CPU first.
_GPU: dict[str, Any] = {"distill.horizon": 200, "distill.inner_steps": 40, "distill.real_batch": 2000}
_GPU_FEW: dict[str, Any] = {**_GPU, "distill.init": "kmeans", "distill.lr_img": 0.03}
_GPU_MANY: dict[str, Any] = {**_GPU, "distill.init": "noise", "distill.lr_img": 0.003}


def quick(problem: Problem) -> SettingsLayer:
    """A useful set in minutes; on a CPU by narrow students, whose sets train wide networks as well."""
    digits, gpu = problem.dataset == "digits", problem.device == "cuda"
    few_or_many = (_GPU_FEW, _GPU_MANY) if gpu else (_FEW, _MANY)
    batch: int | None = presets.batches(problem).get("distill.batch_size")
    passes = lengths(QUICK_STEPS, problem.ipc * (problem.num_classes or 1), batch)
    values: dict[str, Any] = {
        **RECIPE,
        # By frequency, in few bytes, for images of any size: sets of CIFAR-10 that were learned by a matrix lose one to
        # three points before the first step.
        "dataset.preprocessing": "unit-dct",
        **(_DIGITS if digits else few_or_many[problem.ipc >= 10]),
        "distill.student": None if digits or gpu else "convnet:width=32",
        "distill.outer_steps": 1000 if gpu else 300,
        "distill.final_rate": 0.1,  # the steps of a constant rate end in noise: falling ones gained a point and more
        "distill.select_every": 100,
        "distill.checkpoint_every": 10,
        "distill.picture_every": 50,
        "evaluate.epochs": passes[0],
        "evaluate.lengths": passes,
        "evaluate.batch_size": batch or 10_000,  # as the students see the set
    }
    return SettingsLayer("quick preset (RaT-BPTT)", values)


CITATION = """@inproceedings{feng2024ratbptt,
  title     = {Embarrassingly Simple Dataset Distillation},
  author    = {Feng, Yunzhen and Vedantam, Shanmukha Ramakrishna and Kempe, Julia},
  booktitle = {ICLR},
  year      = {2024},
  note      = {arXiv:2311.01570}
}"""
RAT = Method(
    name="rat",
    title="RaT-BPTT: the real loss through a random window of the student's training",
    summary="no experts; a student trained on the set is asked about real images, a window of its steps differentiated",
    parts={
        "distill.objective": "unroll",
        "distill.start": "fresh",
        "distill.window": "random",
        "distill.matching": "real-loss",
        "distill.inner_optimizer": "adam",
        "distill.outer_optimizer": "adam",
        "distill.init": "noise",
        "distill.labels": "hard",
    },
    published=published,
    quick=quick,
    smoke={"distill.horizon": 5, "distill.student": None},
    published_problems=tuple(f"{name} at ipc {ipc}" for name, ipc in PAPER_ROWS),
    protocol={"distill.select_every": 250, "distill.select_networks": 8},  # every 25 epochs of ten steps
    when="photographs at few images a class, or with half an hour or a GPU: no experts, all time goes into the set",
    citation=CITATION,
)
METHODS = (RAT,)
