"""Matching loss and validation accuracy of several runs, against outer steps and against wall time, as one plot.

    python examples/convergence.py --out mct.png "MTT=runs/a,runs/b" "MCT=runs/c,runs/d"

Each argument names a group and its run folders (one a seed); all runs of a group share a colour.
"""

import argparse
import json
from itertools import accumulate
from pathlib import Path

from matplotlib.figure import Figure


def read(folder):
    """Steps, smoothed losses and seconds so far; and steps, accuracies and seconds of the validations."""
    rows = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row.get("loss") is not None]
    clock = dict(
        zip([0, *(row["step"] for row in steps)], accumulate([0, *(r["seconds"] for r in steps)]), strict=True)
    )
    smooth, average = [], steps[0]["loss"]
    for row in steps:
        average = 0.95 * average + 0.05 * row["loss"]
        smooth.append(average)
    checks = [row for row in rows if row.get("validation_accuracy") is not None]
    return {
        "steps": [row["step"] for row in steps],
        "loss": smooth,
        "seconds": [clock[row["step"]] for row in steps],
        "checked": [row["step"] for row in checks],
        "checked_seconds": [clock.get(row["step"], 0.0) for row in checks],
        "accuracy": [100 * row["validation_accuracy"] for row in checks],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("group", nargs="+", help="NAME=FOLDER,FOLDER")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    figure = Figure(figsize=(11, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for index, text in enumerate(args.group):
        name, _, folders = text.partition("=")
        for position, folder in enumerate(folders.split(",")):
            run = read(folder)
            style = {"color": f"C{index}", "linewidth": 1.2, "label": None if position else name}
            axes[0][0].plot(run["steps"], run["loss"], **style)
            axes[0][1].plot(run["seconds"], run["loss"], **style)
            axes[1][0].plot(run["checked"], run["accuracy"], marker="o", markersize=3, **style)
            axes[1][1].plot(run["checked_seconds"], run["accuracy"], marker="o", markersize=3, **style)
    for row, words in enumerate(("matching loss (average over 20 steps)", "validation accuracy (%)")):
        for column, unit in enumerate(("outer step", "seconds of distillation")):
            axes[row][column].set(xlabel=unit, ylabel=words)
    axes[0][0].legend(frameon=False)
    figure.savefig(args.out, dpi=110, metadata={"Software": "distillkit"})


if __name__ == "__main__":
    main()
