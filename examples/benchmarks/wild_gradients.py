"""Wild gradients: outer steps whose gradient was many times the usual, and what validation images said around them.

    python examples/benchmarks/wild_gradients.py RUN... --out examples/benchmarks/results/wild_gradients-cifar10-ipc10

A RUN is a folder that ``distillkit compress`` made. The usual norm is that of ``distill.gate_norm``: the running mean
of norms, each counted at most ``--most`` times as long as the mean before it; default that of the run, else 4. A run
without that setting moved by all of its gradients. Writes ``.json`` and ``.md``.
"""

import argparse
import json
from pathlib import Path

from distillkit import load_distilled

DECAY = 0.9
BOUND = 4.0


def norms(rows, gate):
    """Of the image gradients that a run could move by, by step: finite ones whose loss did not exceed its gate."""
    told = [row for row in rows if row.get("gradient_norm") is not None and row["loss"] is not None]
    return {row["step"]: row["gradient_norm"] for row in told if gate is None or row["loss"] <= gate}


def wild_steps(norms, most):
    """(step, times the usual) of each gradient beyond ``most``; ``norms`` by step."""
    usual, found = None, []
    for step, norm in sorted(norms.items()):
        before = usual or norm
        usual = DECAY * before + (1 - DECAY) * min(norm, most * before)
        if norm > most * before:
            found.append((step, norm / before))
    return found


def read(folder, most):
    ds = load_distilled(folder)
    rows = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    settings = ds.config["settings"]
    bound = most or settings["distill"].get("gate_norm") or BOUND
    return {
        "method": settings["method"],
        "seed": settings["seed"],
        "gate_norm": settings["distill"].get("gate_norm"),
        "outer_steps": settings["distill"]["outer_steps"],
        "bound": bound,
        "wild": wild_steps(norms(rows, settings["distill"]["gate"]), bound),
        "validation": {row["step"]: row["validation_accuracy"] for row in rows if "validation_accuracy" in row},
        "kept": ds.results["selection"]["step"],
        "test": next(iter(ds.results["architectures"].values()))["accuracies"],
        "hardware": ds.config["hardware"],
        "torch": ds.config["versions"]["torch"],
    }


def table(rows, args):
    steps = sorted(set.intersection(*(set(row["validation"]) for row in rows)))[: args.columns]
    bounds = " or ".join(f"{bound:g}" for bound in sorted({row["bound"] for row in rows}))
    lines = [
        f"Validation accuracy (%) by outer step, and steps whose gradient was more than {bounds} times the usual. "
        f"{rows[0]['hardware']}, torch {rows[0]['torch']}.",
        "",
        f"| method, seed, outer steps | {' | '.join(str(step) for step in steps)} | most | test | wild: step (times) |",
        "| --- " * (len(steps) + 4) + "|",
    ]
    for row in rows:
        name = f"{row['method']}, {row['seed']}, {row['outer_steps']}" + (", skipped" if row["gate_norm"] else "")
        accuracies = [f"{100 * row['validation'][step]:.1f}" if step in row["validation"] else "" for step in steps]
        best, test = max(row["validation"].values()), sum(row["test"]) / len(row["test"])
        wild = ", ".join(f"{step} ({times:.0f})" for step, times in row["wild"]) or "none"
        lines.append(f"| {name} | {' | '.join(accuracies)} | {100 * best:.1f} | {100 * test:.1f} | {wild} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--most", type=float, help="times the usual; default that of each run, else 4")
    parser.add_argument(
        "--columns", type=int, default=8, help="selections that the table shows, of those that all runs made"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = [read(folder, args.most) for folder in args.runs]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(rows, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(table(rows, args))
    print(table(rows, args))


if __name__ == "__main__":
    main()
