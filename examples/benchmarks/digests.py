"""Digests of a tiny run of each method, to show that a change alters no byte: run it on both states and compare.

    python examples/benchmarks/digests.py > after.txt
    PYTHONPATH=OTHER-CHECKOUT python examples/benchmarks/digests.py > before.txt; diff before.txt after.txt

Digits, one image a class, two experts, four outer steps; one thread. A line per method and file. A method is given
settings that it reads alone, so that older states, which took any, make the same run.
"""

import hashlib
import os
import tempfile
import warnings
from pathlib import Path

import torch

import distillkit
from distillkit import compress

TINY = {
    "dataset.max_train": 200,
    "network.width": 4,
    "experts.count": 2,
    "experts.epochs": 4,
    "distill.outer_steps": 4,
    "distill.inner_steps": 2,
    "distill.expert_epochs": 1,
    "distill.max_start_epoch": 2,
    "distill.select_every": 2,
    "distill.real_batch": 60,
    "distill.horizon": 5,
    "evaluate.networks": 1,
    "evaluate.epochs": 3,
    "evaluate.baselines": [],
}
UNREAD = {
    "rat": ("experts.", "distill.expert_epochs", "distill.max_start_epoch"),
    "dsa": ("experts.", "distill.expert", "distill.max_start", "distill.inner_steps", "distill.real_batch"),
    "dm": ("experts.", "distill.expert", "distill.max_start", "distill.inner_steps", "distill.real_batch"),
    "random": ("experts.", "distill."),
    "kmeans": ("experts.", "distill."),
}
MATCHING_ONLY = ("distill.real_batch", "distill.horizon")
METHODS = ("rat", "dsa", "dm", "mtt", "ftd", "ast", "mct", "datm", "pad", "pad-released", "best", "random", "kmeans")


def settings_of(method):
    """Those of ``TINY`` that the method reads, written down here so that any state of the project takes them."""
    unread = UNREAD.get(method, MATCHING_ONLY) + (("distill.horizon",) if method != "rat" else ())
    return {key: value for key, value in TINY.items() if not key.startswith(unread)}


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"# distillkit {distillkit.__version__}, torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DISTILLKIT_CACHE"] = f"{folder}/cache"
        for method in METHODS:
            out = Path(folder) / method
            compress(
                "digits", ipc=1, method=method, preset="smoke", settings=settings_of(method), out=out, device="cpu"
            )
            for name in ("distilled.safetensors", "results.json"):
                print(f"{method:<14} {name:<24} {hashlib.sha256((out / name).read_bytes()).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
