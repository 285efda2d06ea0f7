"""A table of variants: every row is a method with some settings changed, distilled and measured over several seeds.

    python examples/ablation.py ast digits --ipc 1 --jobs 2
    python examples/ablation.py ast cifar10 --ipc 1 --jobs 2 --data-root DIR --set network.width=32 --set ...

Rows share their experts over the seeds (``experts.seed=0``); each seed distils anew and trains ``--networks`` fresh
networks, read once on test data. Runs lie in ``--work`` and continue where they stopped. Writes
``ablation-<study>-<dataset>-ipc<N>.json`` and ``.md`` into ``--out``.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distillkit import load_distilled
from distillkit.lab import effective, parse_assignments, usable_cores

MASKED = {"distill.mask": "depth", "distill.mask_ratio": 0.25}
# PAD's schedule (easiest three quarters first, all of them after a fifth, the easiest tenth and fifth left out later),
# its 100 epochs spread over the outer steps.
SCHEDULED = {
    "distill.real_order": "easy-to-hard",
    "experts.epochs": 100,
    "experts.add_end_epoch": 20,
    "experts.remove_epochs": [40, 60],
    "experts.remove_fractions": [0.1, 0.2],
    "experts.difficulty_networks": 3,
    "experts.difficulty_epochs": 3,
}
# What the runs of the papers' size changed: the study ``misses`` asks, with narrow networks and the preset ``paper``,
# why they miss the papers.
SHORT_MCT = {"experts.count": 6, "distill.outer_steps": 500, "distill.select_every": 125, "distill.lr_img": 500}
AS_READ = {"evaluate.paper_protocol": True, "distill.select_every": 25, "distill.select_networks": 3}
SHORT_PAD = {
    "experts.count": 6,
    "experts.opinions": 1,
    "experts.epochs": 40,
    "experts.remove_epochs": [40, 40],
    "experts.difficulty_networks": 2,
    "experts.difficulty_epochs": 3,
}
STUDIES = {
    "ast": {
        "random images": ("random", {"distill.outer_steps": 0}),
        "k-means images": ("kmeans", {"distill.outer_steps": 0}),
        "MTT": ("mtt", {}),
        "AST": ("ast", {}),
        "AST, experts not smoothed": ("ast", {"experts.loss": "cross-entropy"}),
        "AST, clipping and the published penalty": (
            "ast",
            {"experts.loss": "clipping-gradient-penalty", "experts.penalty_weight": 2.0},
        ),
        "AST, random start": ("ast", {"distill.init": "real"}),
        "AST, inner loss not balanced": ("ast", {"distill.inner_scale": "none"}),
        "AST, no intermediate matching": ("ast", {"distill.matching": "parameter-distance"}),
        "AST, no perturbation": ("ast", {"distill.perturbation": "none"}),
    },
    "pad": {
        "random images": ("random", {"distill.outer_steps": 0}),
        "random images, experts' soft labels": ("datm", {"distill.outer_steps": 0, "distill.init": "real"}),
        "MTT": ("mtt", {}),
        "DATM": ("datm", {}),
        "PAD": ("pad", {}),
        "PAD, released mask": ("pad-released", {}),
        "PAD, no data scheduler": ("pad", {"experts.order": "shuffle"}),
        "PAD, no mask": ("pad", {"distill.mask": "none"}),
        "PAD, plain SGD experts": ("pad", {"experts.optimizer": "sgd"}),
        "PAD, hard labels": ("pad", {"distill.labels": "hard", "distill.gate": None}),
        "PAD, random start images": ("pad", {"distill.init": "real"}),
        "PAD, no curriculum": ("pad", {"distill.first_max_start_epoch": None}),
        "PAD, no gate": ("pad", {"distill.gate": None, "distill.gate_norm": None}),
    },
    "filters": {
        "random images": ("random", {"distill.outer_steps": 0}),
        "DSA": ("dsa", {}),
        "DSA, PAD's mask (a quarter)": ("dsa", MASKED),
        "DSA, PAD's mask (half)": ("dsa", {**MASKED, "distill.mask_ratio": 0.5}),
        "DSA, PAD's data scheduler": ("dsa", SCHEDULED),
        "DSA, both": ("dsa", {**MASKED, **SCHEDULED}),
        "DM": ("dm", {}),
        "DM, PAD's data scheduler": ("dm", SCHEDULED),
        "RaT": ("rat", {}),
        "RaT, PAD's data scheduler": ("rat", SCHEDULED),
    },
    "best": {
        "AST": ("ast", {}),
        "best": ("best", {}),
        "best, start not perturbed": ("best", {"distill.perturbation": "none"}),
        "best, inner loss not balanced": ("best", {"distill.inner_scale": "none"}),
        "best, no intermediate matching": ("best", {"distill.matching": "parameter-distance"}),
        "best, student without momentum": ("best", {"distill.inner_momentum": 0.0, "distill.lr_init": 0.02}),
        "best, two segments a step": ("best", {"distill.segments": 2}),
        "best, labels learned": ("best", {"distill.labels": "soft", "distill.lr_label": 0.2}),
    },
    "shortened": {
        "MTT, 24 experts, 1,000 steps": ("mtt", {"experts.count": 24, "distill.outer_steps": 1000}),
        "with 8 experts": ("mtt", {"experts.count": 8, "distill.outer_steps": 1000}),
        "for 350 steps": ("mtt", {"experts.count": 24, "distill.outer_steps": 350}),
        "for 3,000 steps": ("mtt", {"experts.count": 24, "distill.outer_steps": 3000}),
        "trained on the validation images too": (
            "mtt",
            {"experts.count": 24, "distill.outer_steps": 1000, "dataset.validation_fraction": 0},
        ),
    },
    "gsam": {
        "DATM, plain SGD": ("datm", {"experts.optimizer": "sgd"}),
        "GSAM in float32": ("datm", {}),
        "GSAM in bfloat16": ("datm", {"precision": "bf16"}),
    },
    "misses": {
        "MCT, images' lr 500 (the preset's)": ("mct", SHORT_MCT),
        "images' lr 100": ("mct", {**SHORT_MCT, "distill.lr_img": 100}),
        "images' lr 50": ("mct", {**SHORT_MCT, "distill.lr_img": 50}),
        "PAD, 100 steps": ("pad", {**SHORT_PAD, "distill.outer_steps": 100, "distill.select_every": 50}),
        "1,000 steps": ("pad", {**SHORT_PAD, "distill.outer_steps": 1000, "distill.select_every": 250}),
        "MCT, images' lr 500, truncated as the authors'": ("mct", {**SHORT_MCT, "distill.hypergradient": "truncated"}),
        "MCT, images' lr 500, 3 experts": ("mct", {**SHORT_MCT, "experts.count": 3}),
        "MCT, images' lr 500, read as papers read": ("mct", {**SHORT_MCT, **AS_READ}),
        "MCT, student's lr 0.02": ("mct", {**SHORT_MCT, "distill.lr_init": 0.02, "distill.select_every": 50}),
    },
    "more-experts": {
        "MCT, 6 experts": ("mct", SHORT_MCT),
        "MCT, 100 experts": ("mct", {**SHORT_MCT, "experts.count": 100}),
        "MTT, 6 experts": ("mtt", {"experts.count": 6, "distill.outer_steps": 500, "distill.select_every": 125}),
        "MTT, 100 experts": ("mtt", {"experts.count": 100, "distill.outer_steps": 500, "distill.select_every": 125}),
    },
    "rat-labels": {
        "RaT, hard labels": ("rat", {}),
        "labels learned as weights, rate 0.003": ("rat", {"distill.labels": "weights", "distill.lr_label": 0.003}),
        "labels learned as weights, rate 0.01": ("rat", {"distill.labels": "weights", "distill.lr_label": 0.01}),
    },
    "engine": {
        "MTT, eager": ("mtt", {"distill.compile": "never"}),
        "MTT, compiled": ("mtt", {"distill.compile": "always"}),
        "AST, eager": ("ast", {"distill.compile": "never"}),
        "AST, compiled": ("ast", {"distill.compile": "always"}),
    },
    "mct": {
        "MTT": ("mtt", {}),
        "MCT (4 waypoints)": ("mct", {}),
        "MCT, 2 endpoints": ("mct", {"trajectories.waypoints": 2}),
        "MCT, whole epochs only": ("mct", {"distill.sampler": "uniform"}),
        "MCT, 4 waypoints in bfloat16": ("mct", {"trajectories.dtype": "bfloat16"}),
        "MTT, truncated hypergradient": ("mtt", {"distill.hypergradient": "truncated"}),
        "MCT, truncated hypergradient": ("mct", {"distill.hypergradient": "truncated"}),
    },
}
ALONE = ("PAD, no", "PAD, plain", "PAD, hard", "PAD, random")
"""Rows whose set is measured by itself; the others also show what their labels are worth."""
SHARED = {"experts.seed": 0, "evaluate.uint8": False, "evaluate.baselines": []}


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=STUDIES)
    parser.add_argument("dataset")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for every row")
    parser.add_argument("--data-root")
    parser.add_argument("--rows", help="numbers from 0, comma-separated; default all")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each gets its share of the cores")
    parser.add_argument("--work", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("examples/benchmarks/results"))
    return parser.parse_args()


def command(args, name, seed):
    """The command line of one run, and its folder."""
    method, changes = STUDIES[args.study][name]
    number = list(STUDIES[args.study]).index(name)
    folder = args.work / f"ablation-{args.study}-{args.dataset}-ipc{args.ipc}" / f"{number:02d}-seed{seed}"
    given = dict(parse_assignments(args.set).values)
    fixed = {**SHARED, "evaluate.networks": args.networks, "evaluate.label_rows": not name.startswith(ALONE)}
    asked = fixed | given | changes  # a row's own change wins
    settings = effective(asked, args.dataset, args.ipc, method, args.preset)
    line = [sys.executable, "-m", "distillkit", "compress", args.dataset, "--ipc", str(args.ipc), "--method", method]
    line += ["--preset", args.preset, "--seed", str(seed), "--out", str(folder), "--quiet"]
    line += [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    return line + (["--data-root", args.data_root] if args.data_root else []), folder


def run(args, name, seed):
    line, folder = command(args, name, seed)
    threads = str(max(1, usable_cores() // args.jobs))
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": threads}
    )
    if done.returncode:
        raise RuntimeError(f"{name}, seed {seed}: {done.stderr.strip()}")
    ds = load_distilled(folder)
    row = ds.results["architectures"]["convnet"]
    seconds = ds.config["wall_time_seconds"]
    print(f"{name:<34} seed {seed}  {100 * row['mean']:.2f} ± {100 * row['std']:.2f}", flush=True)
    beside = {"hard labels": ds.results.get("hard_labels"), **ds.results["baselines"]}
    return {
        "accuracies": row["accuracies"],
        "beside": {name: found["accuracies"] for name, found in beside.items() if found},
        "lr": ds.lr,
        "selection": ds.results["selection"],
        "paper_protocol": ds.results.get("paper_protocol"),
        "seconds": seconds,
        "settings": ds.config["settings"],
        "hardware": ds.config["hardware"],
        "versions": ds.config["versions"],
    }


def mean_and_std(values):
    mean = sum(values) / len(values)
    return mean, (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5


def table(args, rows):
    some = next(iter(rows.values()))[0]
    seeds = args.seeds.split(",")
    lines = [
        f"{args.dataset}, ipc {args.ipc}; test accuracy (%), mean ± standard deviation over {args.networks} networks "
        f"of each of {len(seeds)} distillation seeds. {some['hardware']}, torch {some['versions']['torch']}. "
        f"Preset {args.preset}, changed: {', '.join(args.set) or 'nothing'}.",
        "",
        "| variant | all networks | " + " | ".join(f"seed {seed}" for seed in seeds) + " | validation |",
        "| --- " * (len(seeds) + 3) + "|",
    ]
    for name, runs in rows.items():
        mean, std = mean_and_std([value for one in runs for value in one["accuracies"]])
        means = [f"{100 * mean_and_std(one['accuracies'])[0]:.1f}" for one in runs]
        found = [one["selection"].get("validation_accuracy") for one in runs]
        validation = "–" if None in found else f"{100 * sum(found) / len(found):.1f}"
        lines.append(f"| {name} | {100 * mean:.1f} ± {100 * std:.1f} | {' | '.join(means)} | {validation} |")
    return "\n".join([*lines, *labels_table(rows)]) + "\n"


def labels_table(rows):
    """Sets of soft labels: their images with hard ones, and random images with the experts' labels."""
    kinds = list(dict.fromkeys(kind for runs in rows.values() for one in runs for kind in one["beside"]))
    if not kinds:
        return []
    lines = ["", f"| variant | as learned | {' | '.join(kinds)} |", "| --- " * (len(kinds) + 2) + "|"]
    for name, runs in rows.items():
        if not any(one["beside"] for one in runs):
            continue
        columns = [
            [one["accuracies"] for one in runs],
            *([one["beside"].get(kind, []) for one in runs] for kind in kinds),
        ]
        lines.append(f"| {name} | {' | '.join(cell(column) for column in columns)} |")
    return lines


def cell(several):
    values = [value for one in several for value in one]
    return "{:.1f} ± {:.1f}".format(*(100 * number for number in mean_and_std(values))) if values else "–"


def main():
    args = parsed_arguments()
    names = list(STUDIES[args.study])
    chosen = [names[int(number)] for number in args.rows.split(",")] if args.rows else names
    seeds = [int(seed) for seed in args.seeds.split(",")]
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {name: [pool.submit(run, args, name, seed) for seed in seeds] for name in chosen}
        rows = {name: [future.result() for future in several] for name, several in futures.items()}
    args.out.mkdir(parents=True, exist_ok=True)
    part = "" if len(chosen) == len(names) else "-part"  # never in the place of the whole table
    stem = args.out / f"ablation-{args.study}-{args.dataset}-ipc{args.ipc}{part}"
    stem.with_suffix(".json").write_text(json.dumps({"changed": args.set, "rows": rows}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(args, rows))
    print(table(args, rows))


if __name__ == "__main__":
    main()
