"""Epochs of experts that a run reads, beside those of the published recipe: what the expert stage costs, by method.

    python examples/benchmarks/expert_epochs.py --out examples/benchmarks/results/expert_epochs

Counts alone, for the papers' settings and all of their experts; seconds are epochs times those of one epoch, which
``distillkit compress --preset paper --plan`` measures on a machine. That the artifact has the same bytes is a test
(``tests/experts/test_reach.py``).
"""

import argparse
import json
from pathlib import Path

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--ipc", type=lambda text: [int(part) for part in text.split(",")], default=[1, 10, 50])
    parser.add_argument("--out", type=Path, help="without suffix; .json and .md are written")
    args = parser.parse_args()
    rows = [row(args.dataset, ipc, method) for ipc in args.ipc for method in METHODS]
    lines = [
        f"Epochs of experts that are trained for {args.dataset} at the papers' settings, beside the published number.",
        "",
        "| method | images a class | experts | epochs | of most read | to the end | expert stage (%) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in rows:
        counts = [one[key] for key in ("method", "ipc", "experts", "epochs", "read", "to_the_end")]
        lines.append(f"| {' | '.join(map(str, counts))} | {100 * one['share']:.0f} |")
    print("\n".join(lines))
    if args.out is not None:
        args.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
        args.out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
