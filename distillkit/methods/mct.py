"""MCT: matching convexified trajectories (Zhong et al., CVPR 2025, arXiv:2406.19827).

The settings are those of the authors' repository (MCT@e959363: ``run_command.md``, docstrings, ``exps/``); rows and
cells that it lacks are MTT's. The released code takes TESLA's approximate gradient, and half of it (see
``distill.unroll``); here it is exact unless ``distill.hypergradient=truncated`` asks for the approximation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distillkit.methods import mtt
from distillkit.methods.base import Method, Problem, SettingsLayer

HALVED = 500.0
"""The authors' lr_img of 1000 multiplied half of the image gradient: the same step of the whole gradient."""
CIFAR10_WAYPOINTS = (0, 6, 25, 50)
"""Of the docstring that lists the best runs on CIFAR-10: denser where students are matched."""
_HALVED = "lr_img 1000 halved, as its gradient was"
# N, M, T+, batch, ZCA, lr_img, lr_lr, lr_init; and what of it is not the authors' own. CIFAR-10 at 1 and 10: the
# docstring's best runs (48.48 at one image a class), with ZCA as all of its commands that make experts; their lr_img is
# not told, so that of the command with ZCA in the iLearn README.
PAPER_ROWS: dict[tuple[str, int], tuple[mtt.Row, str]] = {
    ("cifar10", 1): ((50, 5, 3, None, True, HALVED, 1e-7, 0.01), f"lr_img that of another command, {_HALVED}"),
    ("cifar10", 10): ((30, 5, 4, None, True, HALVED, 1e-5, 0.01), f"both rates those of another command, {_HALVED}"),
    ("cifar10", 50): (
        (30, 5, 30, None, True, HALVED, 1e-5, 0.01),
        f"the command of the β ablation, with the waypoints of the other rows, {_HALVED}",
    ),
    ("cifar100", 1): ((20, 8, 40, None, True, 1000, 1e-5, 0.01), "N and learning rates MTT's"),
    ("cifar100", 10): ((20, 3, 30, None, True, 1000, 1e-5, 0.01), "N and learning rates MTT's"),
    ("cifar100", 50): ((80, 3, 50, 125, True, 1000, 1e-5, 0.01), "N, batch and learning rates MTT's"),
}
# run_command.md's, on standardised images; evenly spread waypoints.
WITHOUT_ZCA: dict[tuple[str, int], tuple[mtt.Row, str]] = {
    ("cifar10", 1): ((60, 6, 4, None, False, HALVED, 1e-7, 0.01), _HALVED),
    ("cifar10", 10): ((30, 15, 8, None, False, HALVED, 1e-5, 0.01), _HALVED),
    ("cifar10", 50): ((30, 2, 40, None, False, HALVED, 1e-5, 0.01), _HALVED),
}
PAPER_EXPERTS: dict[str, Any] = {"experts.count": 100, "experts.epochs": 50, "trajectories.waypoints": 4}


def published(problem: Problem) -> SettingsLayer | None:
    """The settings of the authors' commands for a data set and ipc, or MTT's row with ZCA (Tiny-ImageNet)."""
    key = (problem.dataset, problem.ipc)
    if key in PAPER_ROWS:
        row, from_mtt = PAPER_ROWS[key]
        origin = f"published (MCT, the authors' repository{'; ' + from_mtt if from_mtt else ''})"
        waypoints = {"trajectories.waypoint_epochs": CIFAR10_WAYPOINTS} if problem.dataset == "cifar10" else {}
        return SettingsLayer(origin, mtt.row_settings(row, problem.dataset) | PAPER_EXPERTS | waypoints)
    layer = mtt.published(problem) if problem.dataset == "tiny-imagenet" else None
    if layer is None:
        return None
    plain = {key: value for key, value in layer.values.items() if key not in ("dataset.mean", "dataset.std")}
    values = {**plain, **PAPER_EXPERTS, "dataset.preprocessing": "zca"}
    return SettingsLayer("MTT's row of this cell with ZCA (MCT published none)", values)


def published_without_zca(problem: Problem) -> SettingsLayer | None:
    """The settings of ``run_command.md``."""
    found = WITHOUT_ZCA.get((problem.dataset, problem.ipc))
    if found is None:
        return None
    row, changed = found
    origin = f"published (MCT, run_command.md; {changed})"
    return SettingsLayer(origin, mtt.row_settings(row, problem.dataset) | PAPER_EXPERTS)


def quick(problem: Problem) -> SettingsLayer:
    """A useful set in minutes: MTT's quick settings on convexified trajectories."""
    return SettingsLayer("quick preset (MCT)", dict(mtt.quick(problem).values))


MCT = Method(
    name="mct",
    title="MCT: matching convexified trajectories",
    summary="plain SGD experts, their paths straightened to a few waypoints; segments start at any time between epochs",
    parts={
        "experts.optimizer": "sgd",
        "experts.loss": "cross-entropy",
        "experts.order": "shuffle",
        "trajectories.form": "convex",
        "trajectories.beta": "path-length",
        "distill.sampler": "continuous",
        "distill.matching": "parameter-distance",
        "distill.init": "real",
        "distill.labels": "hard",
    },
    published=published,
    quick=quick,
    published_problems=(
        *(f"{name} at ipc {ipc}" for name, ipc in PAPER_ROWS),
        "tiny-imagenet at ipc 1, 10, 50 (MTT's row)",
    ),
    protocol={"distill.select_every": 100, "distill.select_networks": 3},
    when="experts that are kept or shared: their trajectories take a fraction of the space",
    citation="""@inproceedings{zhong2025mct,
  title     = {Towards Stable and Storage-efficient Dataset Distillation: Matching Convexified Trajectory},
  author    = {Zhong, Wenliang and Tang, Haoyu and Zheng, Qinghai and Xu, Mingzhu and Hu, Yupeng and Guan, Weili},
  booktitle = {CVPR},
  year      = {2025},
  note      = {arXiv:2406.19827}
}""",
)
MCT_NO_ZCA = replace(
    MCT,
    name="mct-no-zca",
    title="MCT by the commands of its run_command.md",
    summary=f"{MCT.summary}; on standardised images",
    published=published_without_zca,
    published_problems=tuple(f"{name} at ipc {ipc}" for name, ipc in WITHOUT_ZCA),
    when="to repeat those commands",
)
METHODS = (MCT, MCT_NO_ZCA)
