"""FTD: flat trajectories (Du et al., CVPR 2023, arXiv:2211.11004): MTT on experts of GSAM, an average of the images."""

from __future__ import annotations

from typing import Any

from distillkit.methods import mtt
from distillkit.methods.base import Method, Problem, SettingsLayer

# Table 7 of the paper (FTD-distillation@711532a, docs/parameters.png): MTT's columns, GSAM's α, the decay of the
# images' average. ZCA for CIFAR as in the example scripts; 5000 steps.
PAPER_ROWS: dict[tuple[str, int], tuple[mtt.Row, float, float]] = {
    ("cifar10", 1): ((50, 2, 2, None, True, 100, 1e-7, 0.01), 0.3, 0.9999),
    ("cifar10", 10): ((30, 2, 20, None, True, 100, 1e-5, 0.001), 0.3, 0.9995),
    ("cifar10", 50): ((30, 2, 40, None, True, 1000, 1e-5, 0.01), 1.0, 0.999),
    ("cifar100", 1): ((40, 3, 20, None, True, 1000, 1e-5, 0.01), 1.0, 0.9995),
    ("cifar100", 10): ((20, 2, 40, None, True, 1000, 1e-5, 0.01), 1.0, 0.9995),
    ("cifar100", 50): ((80, 2, 40, 1000, True, 1000, 1e-5, 0.01), 1.0, 0.999),
    ("tiny-imagenet", 1): ((30, 2, 10, None, False, 1e4, 1e-4, 0.01), 1.0, 0.999),
    ("tiny-imagenet", 10): ((20, 2, 40, 500, False, 1e4, 1e-4, 0.01), 1.0, 0.999),
}
# ImageNet subsets: the authors' issue #3.
_IMAGENET: tuple[mtt.Row, float, float] = ((20, 2, 10, 64, False, 1e4, 1e-4, 0.01), 1.0, 0.999)
PAPER_EXPERTS: dict[str, Any] = {
    "experts.count": 100,
    "experts.epochs": 50,
    "experts.batch_size": 256,
    "experts.lr": 0.01,
    "experts.sharpness_radius": 0.01,
    "experts.adaptive": True,
}


def published(problem: Problem) -> SettingsLayer | None:
    """The settings of the paper's table; for ImageNet subsets those of the authors' issue."""
    found = PAPER_ROWS.get((problem.dataset, problem.ipc))
    if found is None and problem.dataset.startswith("imagenet-") and problem.ipc in (1, 10):
        found = _IMAGENET
    if found is None:
        return None
    row, gap_weight, decay = found
    values = mtt.row_settings(row, problem.dataset) | PAPER_EXPERTS
    return SettingsLayer("published (FTD, Table 7)", values | {"experts.gap_weight": gap_weight, "distill.ema": decay})


def quick(problem: Problem) -> SettingsLayer:
    """MTT's quick settings; the average of the last twenty steps or so, since there are but hundreds."""
    return SettingsLayer("quick preset (FTD)", {**mtt.quick(problem).values, "distill.ema": 0.95})


FTD = Method(
    name="ftd",
    title="FTD: flat trajectory distillation",
    summary="MTT with experts that sharpness-aware training keeps flat, and an average of the images over the steps",
    parts={**mtt.MTT.parts, "experts.optimizer": "gsam"},
    published=published,
    quick=quick,
    published_problems=(
        *(f"{name} at ipc {ipc}" for name, ipc in PAPER_ROWS),
        "ImageNet subsets at ipc 1, 10",
    ),
    protocol=mtt.PROTOCOL,
    when="to compare hard labels on flat experts with the literature",
    citation="""@inproceedings{du2023ftd,
  title     = {Minimizing the Accumulated Trajectory Error to Improve Dataset Distillation},
  author    = {Du, Jiawei and Jiang, Yidi and Tan, Vincent Y. F. and Zhou, Joey Tianyi and Li, Haizhou},
  booktitle = {CVPR},
  year      = {2023},
  note      = {arXiv:2211.11004}
}""",
)
METHODS = (FTD,)
