"""The reference sets: every method on every problem of a tier, measured, with a table and a card of each.

    python examples/reference/run.py --tier cpu --data-root DIR        # hours on two CPU cores, resumable
    python examples/reference/run.py --tier cpu-full --data-root DIR   # the papers' network and data: days, resumable
    python examples/reference/run.py --tier gpu --data-root DIR        # the papers' settings, as far as time goes

Each set is a run of ``distillkit compress`` in ``--work``, one for each distillation seed, five fresh networks each; a
run that is finished is not made again, an interrupted one goes on. Experts are shared over seeds, and over methods
where their recipes agree. The set of seed 0 goes to ``--cards`` (whole if its files are under 2 MB, else without its
tensors; the repository's own, ``cards``, hold the best of several tiers), the table to ``--out``: accuracies beside the
published ones, seconds of each stage, hardware and versions.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch.nn.functional as F

from distillkit import load_distilled
from distillkit.lab import FILES, PUBLISHED, effective, parse_assignments, usable_cores


def steps(count, selections):
    """So many outer steps, with so many selections on the way; DATM's bound grows over the first half."""
    return {
        "distill.outer_steps": count,
        "distill.select_every": count // selections,
        "distill.expansion_end_step": count // 2,
    }


STEPS = tuple(steps(2, 1))
CPU_CIFAR = {"network.width": 16, "distill.select_networks": 2, "distill.student": None}
WITH_EXPERTS = ("mtt", "datm", "ast", "mct", "pad", "best")
WITHOUT_EXPERTS = ("rat", "dsa", "dm")
METHODS = ("random", "kmeans", *WITH_EXPERTS, *WITHOUT_EXPERTS)
CORESETS = METHODS[:2]
CPU_TEN = {"distill.batch_size": 50, "evaluate.epochs": 101}
LARGEST_CARD = 2_000_000
RECOGNISED = 0.7
"""Correlation from which a learned image still is the photograph that it began as."""
# Accuracies (%) of the papers at their own settings; by the field's habit, the maximum over checkpoints on test data.
# AST's could not be found.
PUBLISHED_RESULTS = {
    ("cifar10", 1): {"mtt": 46.2, "datm": 46.9, "mct": 48.5, "pad": 47.2},
    ("cifar10", 10): {"mtt": 65.4, "datm": 66.8, "mct": 66.0, "pad": 67.4},
    ("cifar10", 50): {"mtt": 71.6, "datm": 76.1, "mct": 72.3, "pad": 77.0},
    ("cifar100", 10): {"mtt": 39.7, "datm": 47.2, "mct": 42.5, "pad": 47.8},
}


@dataclass(frozen=True, eq=False)
class Problem:
    """A data set at a number of images a class, with what this tier changes of the preset."""

    dataset: str
    ipc: int
    preset: str
    methods: tuple
    changes: dict
    before: tuple[dict, ...] = ()
    """Settings over these of runs that come first: each goes on from the set of the one before it, the main one from
    the last one's."""

    @property
    def name(self):
        """Of its sets, before the method."""
        return f"{self.dataset}-ipc{self.ipc}"


# The papers' network (ConvNet of width 128) and all training images. Narrow students learn most of a set at a tenth of
# the time; the network itself finishes it, and every validation and test is its own.
FULL = {
    "distill.student": None,
    "network.width": 128,
    "dataset.max_train": None,
    "evaluate.baselines": ["random", "kmeans"],
    "evaluate.epochs": 100,
    "evaluate.lengths": [100, 300],
    "distill.horizon": 40,
    "distill.inner_steps": 16,
    "distill.init": "kmeans",
    "distill.real_batch": 250,
    "distill.lr_img": 0.01,
    "distill.final_rate": 0.1,
    "distill.checkpoint_every": 5,
    "distill.picture_every": 250,
}
NARROW = {
    "distill.student": "convnet:width=32",
    "distill.real_batch": 500,
    "distill.lr_img": 0.03,
    "distill.final_rate": 1.0,
    "evaluate.networks": 1,
    "evaluate.baselines": [],
    "evaluate.lengths": [],
    "evaluate.uint8": False,
}
FALLING = NARROW | {"distill.lr_img": 0.02, "distill.final_rate": 0.05}
CPU_FULL = [
    Problem(
        "cifar10",
        1,
        "quick",
        ("rat",),
        FULL | {"distill.outer_steps": 100, "distill.select_every": 50},
        (
            NARROW | {"distill.outer_steps": 1500, "distill.select_every": 250},
            FALLING | {"distill.outer_steps": 2500, "distill.select_every": 250},
        ),
    ),
    Problem(
        "cifar10",
        10,
        "quick",
        ("rat",),
        FULL
        | {"distill.outer_steps": 10, "distill.select_every": 10, "evaluate.lengths": []}
        | {"evaluate.baselines": ["random"]},
        (
            NARROW | {"distill.outer_steps": 400, "distill.select_every": 100},
            FALLING | {"distill.outer_steps": 300, "distill.select_every": 100},
        ),
    ),
]
# The papers' own settings but for as many experts and outer steps as hours of two cores allow.
FEWER = {
    "experts.count": 5,
    "experts.opinions": 1,
    "distill.outer_steps": 1000,
    "distill.expansion_end_step": 500,
    "distill.select_every": 250,
    "distill.checkpoint_every": 5,
    "evaluate.baselines": ["random", "kmeans"],
    "evaluate.label_rows": False,
}
# MTT's row of ten images begins with a student's rate of 0.001, which fell to 0.0002 at once: larger for few steps.
SOONER = {"distill.lr_init": 0.01, "distill.lr_img": 1000, "distill.gate_norm": 4}
CPU_FULL += [
    Problem("cifar10", 1, "paper", ("mtt", "ast", "mct", "pad", "datm"), FEWER),
    Problem("cifar10", 10, "paper", ("mtt",), FEWER | SOONER),
    Problem("cifar10", 10, "paper", ("best",), FEWER),
]
TIERS = {
    "cpu-full": CPU_FULL,
    "cpu": [
        Problem("digits", 1, "quick", METHODS, steps(150, 3)),
        Problem("digits", 10, "quick", METHODS, steps(60, 2)),
        Problem("cifar10", 1, "quick", METHODS, CPU_CIFAR | steps(150, 3)),
        Problem("cifar10", 10, "quick", METHODS, CPU_CIFAR | steps(60, 2) | CPU_TEN),
    ],
    "gpu": [
        *(Problem("cifar10", ipc, "paper", WITH_EXPERTS, {"evaluate.paper_protocol": True}) for ipc in (10, 1, 50)),
        Problem("cifar100", 10, "paper", WITH_EXPERTS, {"evaluate.paper_protocol": True}),
    ],
}


def run_folder(args, problem, method, seed, phase=None):
    """Of the main run, or of one that comes before it."""
    before = "" if phase is None else "-narrow" + ("" if phase == 0 else str(phase + 1))
    return args.work / f"{problem.name}-{method}" / f"seed{seed}{before}"


def command(args, problem, method, seed, phase=None):
    """The command line of the main run, or of one that comes before it, and its folder."""
    folder = run_folder(args, problem, method, seed, phase)
    settings = {"experts.seed": 0, "evaluate.networks": args.networks, **problem.changes}
    if phase is not None:
        settings |= problem.before[phase]
    last = len(problem.before) - 1 if phase is None else phase - 1
    if last >= 0:
        source = run_folder(args, problem, method, seed, last)
        settings |= {"distill.init": "artifact", "distill.init_from": str(source)}
    if seed != args.seeds[0]:  # the set alone; what it is measured beside is measured once
        settings |= {"evaluate.baselines": [], "evaluate.uint8": False, "evaluate.label_rows": False}
    settings |= dict(parse_assignments(args.set).values)
    if method in CORESETS:
        settings = {key: value for key, value in settings.items() if not key.startswith("distill.")}
    if args.tier == "cpu" and method in WITHOUT_EXPERTS:  # their own numbers of steps: the tier's follow experts
        settings = {key: value for key, value in settings.items() if key not in (*STEPS, *CPU_TEN)}
    settings = effective(settings, problem.dataset, problem.ipc, method, args.preset or problem.preset)
    words = {key: json.dumps(value) for key, value in settings.items()}
    line = [sys.executable, "-m", "distillkit", "compress", problem.dataset, "--ipc", str(problem.ipc)]
    line += ["--method", method, "--preset", args.preset or problem.preset, "--seed", str(seed), "--out", str(folder)]
    line += ["--quiet", *(part for key, value in words.items() for part in ("--set", f"{key}={value}"))]
    return line + (["--data-root", args.data_root] if args.data_root else []), folder


def threads_each(jobs):
    """Of so many runs at a time: their share of the cores that this process may use."""
    return max(1, usable_cores() // jobs)  # two threads on one core wait for each other, several times the time


def run_process(line, jobs):
    """Run a command line with its share of the cores, and keep what it writes."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads_each(jobs))}
    return subprocess.run([*map(str, line)], capture_output=True, text=True, check=False, env=environment)


def made(line, name, jobs):
    """Run the command; False if it failed."""
    done = run_process(line, jobs)
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr, flush=True)
    return done.returncode == 0


def run(args, problem, method, seed):
    """One set; None if it failed, with the reason on stderr: the others go on."""
    line, folder = command(args, problem, method, seed)
    name, begin = f"{problem.name}-{method} seed {seed}", time.time()
    if args.done and not (folder / "distill_config.json").is_file():
        return None
    for phase in range(0 if args.done else len(problem.before)):
        first, _ = command(args, problem, method, seed, phase)
        if not made(first, f"{name}, run {phase + 1} of {len(problem.before)} before it", args.jobs):
            return None
    if not args.done and not made(line, name, args.jobs):
        return None
    ds = load_distilled(folder)
    row = ds.results["architectures"]["convnet"]
    print(f"{name}: {100 * row['mean']:.1f} ± {100 * row['std']:.1f} ({time.time() - begin:.0f} s)", flush=True)
    return {
        "accuracies": row["accuracies"],
        "validation": ds.results["selection"].get("validation_accuracy"),
        "step": ds.results["selection"].get("step"),
        "paper_protocol": ds.results.get("paper_protocol"),
        "hard_labels": ds.results.get("hard_labels"),
        "baselines": ds.results["baselines"],
        "seconds": ds.config["wall_time_seconds"],
        "hardware": ds.config["hardware"],
        "versions": ds.config["versions"],
        "folder": str(folder.relative_to(args.work)),
    }


def make_card(args, problem, method):
    """The files of the first seed's set in ``--cards``: whole if it is small and its images are its own.

    A large one is shown without its tensors; somebody's photographs, however little changed, are not shown at all.
    """
    folder = args.work / f"{problem.name}-{method}" / f"seed{args.seeds[0]}"
    target = args.cards / f"{problem.name}-{method}"
    files = [name for name in PUBLISHED if (folder / name).is_file()]
    if FILES.results not in files:
        return  # it failed; the others go on
    small = sum((folder / name).stat().st_size for name in files) <= LARGEST_CARD
    photographs = problem.dataset != "digits" and likeness(folder, args.data_root) > RECOGNISED
    if target.is_dir():
        shutil.rmtree(target)
    for name in files:
        shown = Path(name).suffix in (".md", ".json", ".png") and not (photographs and name == FILES.preview)
        if shown or (small and not photographs):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, target / name)
    card = target / "README.md"
    if photographs:
        card.write_text(re.sub(r"!\[[^]]*\]\(preview.png\)\n\n", "", card.read_text()))
    if not (target / FILES.tensors).is_file():
        card.write_text(without_images(card.read_text()))


def without_images(card):
    """A card whose images are not beside it says so, and not how they are loaded."""
    words = (
        "Only the card and the figures are kept here, not the images: the command under *How it was made* makes them."
    )
    return re.sub(r"## Use it\n.*?(?=## Results\n)", f"**{words}**\n\n", card, flags=re.DOTALL)


def likeness(folder, data_root):
    """Median over a set's images of the correlation with the training image that is most like it: 1 for real ones."""
    ds = load_distilled(folder)
    train = ds.preprocess(ds.load_source(data_root=data_root).train.images)
    own, real = (F.normalize(images.flatten(1) - images.flatten(1).mean(1, True)) for images in (ds.images, train))
    return float((own @ real.T).max(1).values.median())


def mean_and_std(values):
    mean = sum(values) / len(values)
    return mean, (sum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)) ** 0.5


def accuracies(row):
    """Of all runs; of random images those drawn anew for each network, since a single draw may be lucky."""
    drawn_anew = [one["baselines"]["random"] for one in row["runs"] if "random" in one["baselines"]]
    runs = drawn_anew if row["method"] == "random" and drawn_anew else row["runs"]
    return [100 * value for one in runs for value in one["accuracies"]]


def table(args, found):
    """Rows by method, columns by problem."""
    problems = list(dict.fromkeys(row["problem"] for row in found))
    methods = list(dict.fromkeys(row["method"] for row in found))
    cells = {}
    for row in found:
        mean, std = mean_and_std(accuracies(row))
        known = PUBLISHED_RESULTS.get((row["dataset"], row["ipc"]), {}).get(row["method"])
        beside = f" (published {known}, {mean - known:+.1f})" if known and args.tier == "gpu" else ""
        untouched = row["method"] not in CORESETS and all(one["step"] == 0 for one in row["runs"])
        kept = " (initial images)" if untouched else ""
        cells[row["method"], row["problem"]] = f"{mean:.1f} ± {std:.1f}{kept}{beside}"
    some = found[0]["runs"][0]
    fewer = {row["problem"]: len(row["runs"]) for row in found if len(row["runs"]) < len(args.seeds)}
    less = f" (fewer: {', '.join(f'{name} {count}' for name, count in fewer.items())})" if fewer else ""
    lines = [
        f"Test accuracy (%), mean ± standard deviation over {args.networks} networks of each of {len(args.seeds)} "
        f"distillation seeds{less}; initial images: on validation data no learned ones were clearly better; "
        "random: drawn anew for each network. "
        f"{some['hardware']}, torch {some['versions']['torch']}.",
        "",
        f"| | {' | '.join(problems)} |",
        "| --- " * (len(problems) + 1) + "|",
    ]
    for method in methods:
        lines.append(f"| {method} | {' | '.join(cells.get((method, problem), '–') for problem in problems)} |")
    return "\n".join(lines) + "\n"


def shared_arguments(parser, work):
    """What all scripts of this folder take; ``work``: where runs lie by default."""
    parser.add_argument("--networks", type=int, default=5, help="fresh ones of each row")
    parser.add_argument("--data-root")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each gets its share of the cores")
    parser.add_argument("--work", type=Path, default=Path(work))
    parser.add_argument("--out", type=Path, default=Path("examples/reference"))


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=TIERS, default="cpu")
    parser.add_argument("--only", type=lambda text: text.split(","), help="problems, digits-ipc1,cifar10-ipc1")
    parser.add_argument("--methods", type=lambda text: text.split(","))
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1])
    parser.add_argument("--preset", help="another one than the tier's")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for every run")
    parser.add_argument("--done", action="store_true", help="begin nothing: cards and a table of what is finished")
    parser.add_argument("--cards", type=Path, default=Path("runs/reference/cards"))
    shared_arguments(parser, "runs/reference")
    return parser.parse_args()


def main():
    args = parsed_arguments()
    problems = [problem for problem in TIERS[args.tier] if not args.only or problem.name in args.only]
    wanted = [(p, method) for p in problems for method in p.methods if not args.methods or method in args.methods]
    if not wanted:
        sys.exit("nothing to make: --only and --methods leave no set")
    begin, found = time.time(), []
    pool = ThreadPoolExecutor(args.jobs)
    try:
        # a seed after the other: two runs of one method would wait for each other's experts
        futures = {(seed, *job): pool.submit(run, args, *job, seed) for seed in args.seeds for job in wanted}
        for problem, method in wanted:
            results = (futures[seed, problem, method].result() for seed in args.seeds)
            runs = [one for one in results if one is not None]
            if not runs:
                continue
            about = {"problem": problem.name, "dataset": problem.dataset, "ipc": problem.ipc, "method": method}
            found.append({**about, "changes": problem.changes, "runs": runs})
            make_card(args, problem, method)
    except KeyboardInterrupt:  # the runs in progress heard it too, and leave a checkpoint
        pool.shutdown(cancel_futures=True)
        print("interrupted; the same command goes on", file=sys.stderr)
        sys.exit(130)
    pool.shutdown()
    if not found:
        sys.exit("no set could be made")
    args.out.mkdir(parents=True, exist_ok=True)
    part = args.only or args.methods or args.preset or args.set
    stem = args.out / (f"results-{args.tier}" + ("-part" if part else ""))
    about = {"tier": args.tier, "changed": args.set, "seconds": time.time() - begin, "rows": found}
    stem.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(args, found))
    print(table(args, found))


if __name__ == "__main__":
    main()
