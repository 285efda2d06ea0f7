"""Epochs of experts that a run reads, beside those of the published recipe: what the expert stage costs, by method.

    python examples/benchmarks/expert_epochs.py --seconds --data-root DIR --out RESULTS/expert_epochs

Counts for the papers' settings and all of their experts. With ``--seconds``, hours too: those of one epoch, as
``distillkit compress --preset paper --plan`` measures it on this machine for each way to train experts, times epochs.
That the artifact has the same bytes is a test (``tests/experts/test_reach.py``).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from measuring import machine

from distillkit.lab import compose, expert_reach

METHODS = ("mtt", "ftd", "ast", "mct", "datm", "pad", "best")


def row(dataset, ipc, method):
    settings = compose(dataset, ipc, method, "paper", "cpu").settings
    reach = expert_reach(settings)
    whole = settings.experts.count * settings.experts.epochs
    return {
        "method": method,
        "ipc": ipc,
        "experts": settings.experts.count,
        "epochs": settings.experts.epochs,
        "read": min(reach.epochs),
        "to_the_end": sum(epochs == settings.experts.epochs for epochs in reach.epochs),
        "share": sum(reach.epochs) / whole,
    }


def way_of_training(settings):
    """What the time of an epoch depends on, as text."""
    experts = settings.experts.model_dump(exclude={"count", "epochs", "seed", "train_to"})
    return json.dumps([experts, settings.dataset.model_dump(mode="json"), settings.network.model_dump()], default=str)


def epoch_seconds(dataset, ipc, method, data_root):
    """Of one expert, as the plan measures it; every thread of this process's share of cores."""
    line = [sys.executable, "-m", "distillkit", "compress", dataset, "--ipc", str(ipc), "--method", method]
    line += ["--preset", "paper", "--plan", "--json", "--quiet", "--device", "cpu", "--set", "evaluate.baselines=[]"]
    line += ["--data-root", data_root] if data_root else []
    with tempfile.TemporaryDirectory() as nothing:  # a run that was begun in the usual place would be counted as made
        line += ["--out", str(Path(nothing) / "set")]
        done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, env=os.environ)
    stages = {stage["name"]: stage for stage in json.loads(done.stdout)["stages"]}
    return stages["expert epochs"]["seconds_each"]


def timed(rows, dataset, data_root):
    """The rows with seconds of an epoch, and hours of the stage as it was and as it is."""
    known = {}
    for one in rows:
        way = way_of_training(compose(dataset, one["ipc"], one["method"], "paper", "cpu").settings)
        if way not in known:
            known[way] = epoch_seconds(dataset, one["ipc"], one["method"], data_root)
        one["epoch_seconds"] = known[way]
        one["hours_before"] = one["experts"] * one["epochs"] * known[way] / 3600
        one["hours"] = one["share"] * one["hours_before"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--ipc", type=lambda text: [int(part) for part in text.split(",")], default=[1, 10, 50])
    parser.add_argument("--seconds", action="store_true", help="measure an epoch of each way to train experts")
    parser.add_argument("--data-root", help="local copies of registered data sets")
    parser.add_argument("--out", type=Path, help="without suffix; .json and .md are written")
    args = parser.parse_args()
    rows = [row(args.dataset, ipc, method) for ipc in args.ipc for method in METHODS]
    if args.seconds:
        timed(rows, args.dataset, args.data_root)
    head = ["method", "images a class", "experts", "epochs", "of most read", "to the end", "expert stage (%)"]
    head += ["an epoch (s)", "hours before", "hours now"] if args.seconds else []
    about = (
        f"Epochs of experts that are trained for {args.dataset} at the papers' settings, beside the published number."
    )
    if args.seconds:
        where = machine("cpu", "plan, paper preset")
        about += f" Seconds: {where['hardware']}, torch {torch.__version__}, by a few steps of each kind."
    lines = [about, "", f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for one in rows:
        cells = [str(one[key]) for key in ("method", "ipc", "experts", "epochs", "read", "to_the_end")]
        cells.append(f"{100 * one['share']:.0f}")
        if args.seconds:
            cells += [f"{one['epoch_seconds']:.1f}", f"{one['hours_before']:.1f}", f"{one['hours']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    print("\n".join(lines))
    if args.out is not None:
        args.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
        args.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
