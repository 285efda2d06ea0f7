"""PAD: prioritise alignment in dataset distillation (Li et al., 2024, arXiv:2408.03360), on DATM.

Two published tables disagree in many cells. ``pad`` has the paper's (Table 7) with the paper's mask, which drops the
first parameters; ``pad-released`` the released configs (PAD@2a4bc91) with the mask of the released code, which drops
the parameters of the smallest error.
"""

from __future__ import annotations

from typing import Any

from distillkit.methods import datm
from distillkit.methods.base import Method, Problem, SettingsLayer
from distillkit.methods.datm import Row


def _row(
    inner: int, epochs: int, low: int, first: int, high: int, interval: int | None, batch: int, lr_y: float, img: float
) -> Row:
    """Table 7 gives the interval at which the bound grows by an epoch, and no lr_lr, which ``published`` fills in."""
    end = interval * (high - first) if interval else None
    return Row(inner, epochs, low, first if end else None, high, end, batch, lr_y, img, 0.0)


# add_end_epoch, share of parameters dropped, row
PAPER: dict[tuple[str, int], tuple[int, float, Row]] = {
    ("cifar10", 1): (20, 0.0, _row(80, 2, 0, 4, 4, None, 10, 5, 100)),
    ("cifar10", 10): (20, 0.25, _row(80, 2, 0, 10, 20, 100, 100, 2, 100)),
    ("cifar10", 50): (20, 0.25, _row(80, 2, 0, 20, 40, 100, 500, 2, 1000)),
    ("cifar10", 500): (20, 0.5, _row(80, 2, 40, 60, 60, None, 1000, 10, 50)),
    ("cifar10", 1000): (20, 0.75, _row(80, 2, 40, 60, 60, None, 1000, 10, 50)),
    ("cifar100", 1): (40, 0.0, _row(40, 3, 0, 10, 20, 100, 100, 10, 1000)),
    ("cifar100", 10): (40, 0.25, _row(80, 2, 0, 20, 40, 100, 1000, 10, 1000)),
    ("cifar100", 50): (40, 0.5, _row(80, 2, 40, 60, 80, 100, 1000, 10, 1000)),
    ("cifar100", 100): (40, 0.5, _row(80, 2, 40, 80, 80, None, 1000, 10, 50)),
    ("tiny-imagenet", 1): (40, 0.0, _row(60, 2, 0, 15, 30, 400, 200, 10, 1e4)),
    ("tiny-imagenet", 10): (40, 0.25, _row(60, 2, 0, 20, 40, 100, 250, 10, 100)),
    ("tiny-imagenet", 50): (40, 0.5, _row(80, 2, 20, 40, 60, 100, 250, 10, 100)),
}
# share of parameters dropped, row; the initial images are random where DATM's are
RELEASED: dict[tuple[str, int], tuple[float, Row]] = {
    ("cifar10", 1): (0.0, Row(80, 2, 0, None, 4, None, 1000, 5, 100, 1e-7, 1.1)),
    ("cifar10", 10): (0.5, Row(80, 2, 0, 10, 20, 1000, 500, 2, 100, 1e-5)),
    ("cifar10", 50): (0.25, Row(80, 3, 0, 20, 40, 2000, 1000, 2, 1000, 1e-5)),
    ("cifar10", 500): (0.5, Row(40, 2, 40, 60, 70, 2000, 1000, 10, 50, 1e-5)),
    ("cifar10", 1000): (0.5, Row(100, 2, 40, None, 60, None, 1000, 10, 50, 1e-5)),
    ("cifar100", 1): (0.5, Row(40, 3, 0, 20, 30, 1000, 1000, 10, 1000, 1e-5)),
    ("cifar100", 10): (0.5, Row(80, 2, 0, 30, 50, 2000, 1000, 10, 1000, 1e-5)),
    ("cifar100", 50): (0.0, Row(80, 2, 20, None, 70, None, 1000, 10, 1000, 1e-5)),
    ("cifar100", 100): (0.5, Row(80, 2, 30, None, 70, None, 1000, 10, 50, 1e-5)),
    ("tiny-imagenet", 1): (0.5, Row(40, 2, 0, 15, 20, 2000, 1000, 10, 1e4, 1e-4)),
    ("tiny-imagenet", 10): (0.5, Row(40, 2, 10, None, 50, None, 500, 10, 100, 1e-4)),
    ("tiny-imagenet", 50): (0.5, Row(20, 2, 40, None, 70, None, 1000, 10, 100, 1e-4)),
}
SCHEDULE: dict[str, Any] = {
    "experts.easy_fraction": 0.75,
    "experts.remove_epochs": (40, 60),
    "experts.remove_fractions": (0.1, 0.2),
}
"""The readme's, for CIFAR-10; for the other data sets none was published, so theirs too."""


def published(problem: Problem) -> SettingsLayer | None:
    """The paper's Table 7; lr_lr and the gate, which it lacks, are those of the released config of the same cell."""
    key = (problem.dataset, problem.ipc)
    if key not in PAPER:
        return None
    add_end, ratio, row = PAPER[key]
    config = RELEASED[key][1]
    values = datm.row_settings(row) | SCHEDULE
    values |= {"experts.add_end_epoch": add_end, "distill.mask_ratio": ratio}
    values |= {"distill.lr_lr": config.lr_lr, "distill.gate": config.gate}
    borrowed = "lr_lr and gate of the released configs, the scheduler's removal of the readme for CIFAR-10"
    return SettingsLayer(f"published (PAD, Table 7; {borrowed})", values)


def published_released(problem: Problem) -> SettingsLayer | None:
    """The released configs; the experts' schedule, which they do not hold, is that of the paper's table."""
    key = (problem.dataset, problem.ipc)
    if key not in RELEASED:
        return None
    ratio, row = RELEASED[key]
    values = datm.row_settings(row) | SCHEDULE
    values |= {"experts.add_end_epoch": PAPER[key][0], "distill.mask_ratio": ratio}
    if key in datm.REAL_START:
        values["distill.init"] = "real"
    return SettingsLayer("published (PAD, the released configs)", values)


def quick(problem: Problem) -> SettingsLayer:
    """DATM's quick settings; the schedule's epochs are about those of CIFAR-10 in proportion to the quick experts'."""
    values = dict(datm.quick(problem).values)
    values |= {"distill.mask_ratio": 0.0 if problem.ipc < 5 else 0.25}
    values |= {"experts.easy_fraction": 0.75, "experts.remove_fractions": (0.1, 0.2)}
    epochs = {"digits": (4, 8, 12)}.get(problem.dataset, (6, 12, 18) if problem.device == "cuda" else (3, 6, 9))
    values |= {"experts.add_end_epoch": epochs[0], "experts.remove_epochs": epochs[1:]}
    if problem.dataset == "digits":
        values |= {"experts.difficulty_networks": 3, "experts.difficulty_epochs": 3}
    elif problem.device == "cpu":
        values |= {"experts.difficulty_networks": 2, "experts.difficulty_epochs": 3}
    return SettingsLayer("quick preset (PAD)", values)


_CITATION = """@article{li2024pad,
  title   = {Prioritize Alignment in Dataset Distillation},
  author  = {Li, Zekai and Guo, Ziyao and Zhao, Wangbo and Zhang, Tianle and Cheng, Zhi-Qi and Khaki, Samir and
             Zhang, Kaipeng and Sajedi, Ahmad and Plataniotis, Konstantinos N. and Wang, Kai and You, Yang},
  journal = {arXiv preprint arXiv:2408.03360},
  year    = {2024}
}"""
_SUMMARY = "experts that see easy images first and hard ones later, matched on"
PAD = Method(
    name="pad",
    title="PAD: prioritise alignment in dataset distillation",
    summary=f"{_SUMMARY} deep parameters only; DATM's soft labels and curriculum",
    parts=datm.PARTS | {"experts.order": "easy-to-hard", "distill.mask": "depth"},
    published=published,
    quick=quick,
    published_problems=tuple(f"{name} at ipc {ipc}" for name, ipc in PAPER),
    protocol=datm.PROTOCOL,
    when="many images a class: the best published figures of trajectory matching there",
    citation=_CITATION,
)
PAD_RELEASED = Method(
    name="pad-released",
    title="PAD as its released code has it (loss mask)",
    summary=f"{_SUMMARY} the parameters of the largest error, as the released code does",
    parts=datm.PARTS | {"experts.order": "easy-to-hard", "distill.mask": "loss"},
    published=published_released,
    quick=quick,
    published_problems=tuple(f"{name} at ipc {ipc}" for name, ipc in RELEASED),
    protocol=datm.PROTOCOL,
    when="to repeat PAD's released code",
    citation=_CITATION,
)
METHODS = (PAD, PAD_RELEASED)
