"""What AST's regularisers do to expert trajectories: accuracy and parameter change per epoch, by recipe.

    python examples/expert_smoothness.py cifar10 --data-root DIR --out examples/benchmarks/results

Trains (or takes from the cache) experts of each recipe and writes ``expert_smoothness-<dataset>.json``, ``.md`` and
``.png``. AST's published learning rates are 0.01 for plain SGD and 0.003 for momentum; ``--lr`` is that of plain SGD
here, momentum takes 0.3 of it.
"""

import argparse
from pathlib import Path

import torch

from distillkit import SettingsLayer
from distillkit.lab import compose, expert_report, hardware, make_run, plots, prepare, storage, train_experts, versions

RATIO = 0.3
SMOOTH = {"experts.momentum": 0.9, "experts.weight_decay": 1e-3}
RECIPES = {
    "plain SGD": {},
    "momentum": SMOOTH,
    "momentum, clipping": SMOOTH | {"experts.loss": "clipping"},
    "momentum, penalty": SMOOTH | {"experts.loss": "gradient-penalty"},
    "momentum, both (AST)": SMOOTH | {"experts.loss": "clipping-gradient-penalty"},
    "momentum, one-sided penalty": SMOOTH | {"experts.loss": "gradient-penalty", "experts.penalty": "one-sided-loss"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--data-root")
    parser.add_argument("--experts", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--max-train", type=int, default=10_000)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--only", help="recipes by number from 0, comma-separated")
    parser.add_argument("--out", type=Path, default=Path("examples/benchmarks/results"))
    args = parser.parse_args()
    chosen = [list(RECIPES)[int(number)] for number in args.only.split(",")] if args.only else list(RECIPES)
    reports = {name: measure(args, RECIPES[name]) for name in chosen}
    device = torch.device("cpu")
    facts = {"arguments": {key: str(value) for key, value in vars(args).items() if key not in ("out", "data_root")}}
    facts |= {"hardware": hardware(device), "versions": versions()}
    stem = args.out / f"expert_smoothness-{args.dataset}"
    storage.write_json(stem.with_suffix(".json"), {"recipes": reports, **facts})
    storage.write_bytes(stem.with_suffix(".png"), plots.experts_png({n: r["experts"] for n, r in reports.items()}))
    storage.write_bytes(stem.with_suffix(".md"), table(args, reports).encode())


def measure(args, recipe):
    lr = args.lr * (RATIO if "experts.momentum" in recipe else 1)
    settings = {
        "dataset.data_root": args.data_root,
        "dataset.max_train": args.max_train,
        "network.width": args.width,
        "experts.count": args.experts,
        "experts.epochs": args.epochs,
        "experts.lr": lr,
        **recipe,
    }
    composed = compose(args.dataset, 1, "mtt", "quick", "cpu", [SettingsLayer("example", settings)])
    run = make_run(composed, torch.device("cpu"))
    store = train_experts(run, prepare(run))
    print(f"{recipe}: {store.folder.name}", flush=True)
    return expert_report([store.record(index) for index in range(args.experts)])


def table(args, reports):
    lines = [
        f"{args.dataset}, {args.max_train} training images, ConvNet width {args.width}, {args.experts} experts of "
        f"{args.epochs} epochs, lr {args.lr:g} (momentum: {RATIO * args.lr:g}); mean ± standard deviation over "
        "experts. Parameter change is |θ(t+1) - θ(t)| of one epoch.",
        "",
        "| experts | test accuracy (%) | largest change | change in the last epoch | path length |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, report in reports.items():
        mean, last = report["mean"], [row["parameter_change"][-1] for row in report["experts"]]
        accuracy = f"{100 * mean['test_accuracy']:.1f} ± {100 * mean['test_accuracy_std']:.1f}"
        change = f"{mean['largest_change']:.2f} ± {mean['largest_change_std']:.2f}"
        path = f"{mean['path_length']:.1f} ± {mean['path_length_std']:.1f}"
        lines.append(f"| {name} | {accuracy} | {change} | {sum(last) / len(last):.2f} | {path} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
