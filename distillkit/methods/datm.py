"""DATM: difficulty-aligned trajectory matching (Guo et al., ICLR 2024, arXiv:2310.05773), on FTD's flat experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distillkit.methods import mtt
from distillkit.methods.base import Method, Problem, SettingsLayer


@dataclass(frozen=True)
class Row:
    """A row of DATM's and PAD's tables: N, M, T-, T, T+, E, batch, lr_y, lr_img, lr_lr; no T: the bound is T+."""

    inner_steps: int
    expert_epochs: int
    low: int
    first: int | None
    high: int
    expansion_end: int | None
    batch: int
    lr_label: float
    lr_img: float
    lr_lr: float
    gate: float = 1.0


# DATM's configs (DATM@97ae510); lr_init 0.01, 10,000 steps, ZCA everywhere.
PAPER_ROWS: dict[tuple[str, int], Row] = {
    ("cifar10", 1): Row(80, 2, 0, None, 4, None, 10, 5, 100, 1e-7, 1.1),
    ("cifar10", 10): Row(80, 2, 0, 10, 20, 1000, 100, 2, 100, 1e-5),
    ("cifar10", 50): Row(80, 2, 0, 20, 40, 2000, 500, 2, 1000, 1e-5),
    ("cifar10", 500): Row(40, 2, 40, None, 60, None, 1000, 10, 50, 1e-5),
    ("cifar10", 1000): Row(100, 2, 40, None, 60, None, 1000, 10, 50, 1e-5),
    ("cifar100", 1): Row(40, 3, 0, 10, 20, 1000, 1000, 10, 1000, 1e-5),
    ("cifar100", 10): Row(80, 2, 0, 30, 50, 2000, 1000, 10, 1000, 1e-5),
    ("cifar100", 50): Row(80, 2, 20, None, 70, None, 1000, 10, 1000, 1e-5),
    ("cifar100", 100): Row(80, 2, 30, None, 70, None, 1000, 10, 50, 1e-5),
    ("tiny-imagenet", 1): Row(40, 2, 0, 15, 20, 2000, 1000, 10, 1e4, 1e-4),
    ("tiny-imagenet", 10): Row(40, 2, 10, None, 50, None, 500, 10, 100, 1e-4),
    ("tiny-imagenet", 50): Row(20, 2, 40, None, 70, None, 1000, 10, 100, 1e-4),
}
REAL_START = (("cifar100", 50),)
"""Rows whose config starts from random images instead of correctly classified ones."""
# ImageNet subsets: DATM published none; EDF's of Imagenette (EDF@c0557d5), of the same lineage, without its own parts;
# no ZCA, the gate only where its config is known to have one.
_IMAGENET: dict[int, Row] = {
    1: Row(40, 2, 0, 5, 10, 1000, 1000, 2, 1e4, 1e-5, 1.5),
    10: Row(40, 2, 0, 10, 20, 1000, 200, 2, 1000, 1e-5),
    50: Row(80, 2, 0, 20, 40, 2000, 128, 5, 1000, 1e-5),
}
PAPER_EXPERTS: dict[str, Any] = {
    "experts.count": 100,
    "experts.epochs": 100,
    "experts.batch_size": 256,
    "experts.lr": 0.01,
    "experts.sharpness_radius": 0.01,
    "experts.gap_weight": 0.3,
    "experts.adaptive": True,
}
"""FTD's GSAM, 100 epochs (DATM's readme command)."""


PROTOCOL: dict[str, Any] = {"distill.select_every": 500, "distill.select_networks": 1}
"""Tested every 500 of the 10,000 steps, by one network."""


def row_settings(row: Row) -> dict[str, Any]:
    """The settings of a row."""
    return {
        "dataset.preprocessing": "zca",
        "evaluate.batch_size": 128,
        "distill.outer_steps": 10_000,
        "distill.inner_steps": row.inner_steps,
        "distill.expert_epochs": row.expert_epochs,
        "distill.min_start_epoch": row.low,
        "distill.first_max_start_epoch": row.first,
        "distill.max_start_epoch": row.high,
        "distill.expansion_end_step": row.expansion_end or 1000,
        "distill.batch_size": row.batch,
        "distill.lr_label": row.lr_label,
        "distill.label_momentum": 0.9,
        "distill.lr_img": row.lr_img,
        "distill.lr_lr": row.lr_lr,
        "distill.lr_init": 0.01,
        "distill.gate": row.gate,
        **PAPER_EXPERTS,
    }


def published(problem: Problem) -> SettingsLayer | None:
    """The settings of the authors' configs; for ImageNet subsets EDF's."""
    key = (problem.dataset, problem.ipc)
    if key in PAPER_ROWS:
        values = row_settings(PAPER_ROWS[key])
        if key in REAL_START:
            values["distill.init"] = "real"
            origin = (
                "published (DATM, the authors' configs; theirs takes the labels of one expert, here all that are right)"
            )
            return SettingsLayer(origin, values)
        return SettingsLayer("published (DATM, the authors' configs)", values)
    row = _IMAGENET.get(problem.ipc) if problem.dataset.startswith("imagenet-") else None
    if row is None:
        return None
    values = row_settings(row) | mtt.standardisation(problem.dataset)
    return SettingsLayer("EDF's configs for Imagenette (DATM published none for ImageNet subsets)", values)


def quick(problem: Problem) -> SettingsLayer:
    """A useful set in minutes: MTT's quick settings, labels learned along; slowly, by validation images."""
    values = dict(mtt.quick(problem).values)
    values |= {"distill.lr_label": 0.2, "distill.gate": 1.5}
    values["distill.first_max_start_epoch"] = -(-values["distill.max_start_epoch"] // 2)
    values["distill.expansion_end_step"] = values["distill.outer_steps"] // 2
    return SettingsLayer("quick preset (DATM)", values)


CITATION = """@inproceedings{guo2024datm,
  title     = {Towards Lossless Dataset Distillation via Difficulty-Aligned Trajectory Matching},
  author    = {Guo, Ziyao and Wang, Kai and Cazenavette, George and Li, Hui and Zhang, Kaipeng and You, Yang},
  booktitle = {ICLR},
  year      = {2024},
  note      = {arXiv:2310.05773}
}"""
PARTS: dict[str, Any] = {
    "experts.optimizer": "gsam",
    "experts.loss": "cross-entropy",
    "experts.order": "shuffle",
    "trajectories.form": "raw",
    "distill.sampler": "curriculum",
    "distill.matching": "parameter-distance",
    "distill.mask": "none",
    "distill.init": "correct",
    "distill.labels": "soft",
}
DATM = Method(
    name="datm",
    title="DATM: difficulty-aligned trajectory matching",
    summary="flat experts (GSAM), learned soft labels, early segments for few images a class and late ones for many",
    parts=PARTS,
    published=published,
    quick=quick,
    published_problems=(
        *(f"{name} at ipc {ipc}" for name, ipc in PAPER_ROWS),
        "ImageNet subsets at ipc 1, 10, 50 (EDF's)",
    ),
    protocol=PROTOCOL,
    when="any number of images a class, small or large, where soft labels are welcome",
    citation=CITATION,
)
METHODS = (DATM,)
