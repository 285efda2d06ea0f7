"""Every method at equal wall clock, experts included: accuracy against minutes, as a table and a picture.

    python examples/reference/clock.py --minutes 3,10,30 --data-root DIR        # hours on two CPU cores, resumable

Each point is a run of ``distillkit compress --time-budget`` with a cache of experts of its own, so that nobody gets
experts for nothing; the budget goes to experts and distillation, validation on the way included. The problems are those
of ``run.py``'s CPU tier, the settings the quick presets with that tier's network. Coresets cost no time to learn: they
are measured once, as lines. A finished run is not made again. Writes ``clock.jsonl``, ``clock.md``, ``clock.png``.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from run import CORESETS, TIERS, mean_and_std, shared_arguments, threads_each

from distillkit import load_distilled
from distillkit.lab import effective, parse_assignments

METHODS = ("rat", "dsa", "dm", "mtt", "datm", "best")
PROBLEMS = {problem.name: problem for problem in TIERS["cpu"]}


def settings_of(problem, method):
    """Settings over the quick preset: the tier's network and evaluation, and more outer steps than any budget holds."""
    own = {key: value for key, value in problem.changes.items() if not key.startswith("distill.")}
    if method in CORESETS:
        return own | {"evaluate.baselines": [], "evaluate.uint8": False}
    if method == "rat" and problem.dataset != "digits":
        own["distill.student"] = "convnet:width=32"  # as in a quick run
    alone = {"evaluate.baselines": [], "evaluate.label_rows": False, "evaluate.uint8": False}
    return own | alone | {"distill.select_networks": 2, "distill.outer_steps": 1_000_000}


def command(args, problem, method, seed, minutes, folder):
    settings = {"evaluate.networks": args.networks, **settings_of(problem, method)}
    line = [sys.executable, "-m", "distillkit", "compress", problem.dataset, "--ipc", str(problem.ipc)]
    line += ["--method", method, "--preset", "quick", "--seed", str(seed), "--out", str(folder / "set"), "--quiet"]
    settings |= dict(parse_assignments(args.set).values)
    if method in CORESETS:
        settings = {key: value for key, value in settings.items() if not key.startswith("distill.")}
    settings = effective(settings, problem.dataset, problem.ipc, method, "quick")
    words = {key: json.dumps(value) for key, value in settings.items()}
    line += [part for key, value in words.items() for part in ("--set", f"{key}={value}")]
    line += ["--data-root", args.data_root] if args.data_root else []
    return line + (["--time-budget", f"{60 * minutes:.0f}s"] if method not in CORESETS else [])


def point(args, problem, method, seed, minutes):
    """One run; None if it failed, with the reason on stderr."""
    folder = args.work / f"{problem.name}-{method}" / f"{minutes:g}m-seed{seed}"
    begin = time.time()
    threads = str(threads_each(args.jobs))
    own = os.environ | {"OMP_NUM_THREADS": threads, "DISTILLKIT_CACHE": str(folder / "cache")}
    line = command(args, problem, method, seed, minutes, folder)
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=own)
    name = f"{problem.name} {method} {minutes:g} min seed {seed}"
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr, flush=True)
        return None
    ds = load_distilled(folder / "set")
    seconds, row = ds.config["wall_time_seconds"], ds.results["architectures"]["convnet"]
    print(f"{name}: {100 * row['mean']:.1f} ± {100 * row['std']:.1f} ({time.time() - begin:.0f} s)", flush=True)
    return {
        "problem": problem.name,
        "method": method,
        "seed": seed,
        "minutes": minutes,
        "learning_seconds": seconds.get("experts", 0.0) + seconds.get("distill", 0.0),
        "experts": ds.config["settings"]["experts"]["count"] if ds.config["experts"] else 0,
        "outer_steps": ds.results["selection"].get("outer_steps", 0),
        "step": ds.results["selection"].get("step"),
        "accuracies": row["accuracies"],
        "hardware": ds.config["hardware"],
        "threads": threads,
        "torch": ds.config["versions"]["torch"],
    }


def known(rows, problem, method, seed, minutes):
    wanted = (problem.name, method, seed, minutes)
    return any((row["problem"], row["method"], row["seed"], row["minutes"]) == wanted for row in rows)


def cells(rows):
    """Mean and standard deviation (%) of all networks of all seeds, and the seconds, by problem, method and minutes."""
    found = {}
    for row in rows:
        found.setdefault((row["problem"], row["method"], row["minutes"]), []).append(row)
    return {
        key: (
            *mean_and_std([100 * value for one in same for value in one["accuracies"]]),
            sum(one["learning_seconds"] for one in same) / len(same),
        )
        for key, same in found.items()
    }


def table(rows):
    some = rows[0]
    found, seeds = cells(rows), len({row["seed"] for row in rows})
    lines = [
        f"Test accuracy (%), mean ± standard deviation over {len(some['accuracies'])} networks of "
        f"{'one seed' if seeds == 1 else f'up to {seeds} seeds'}; minutes of learning, experts included (real images: "
        f"none). {some['hardware']}, torch {some['torch']}.",
        "",
    ]
    for problem in dict.fromkeys(row["problem"] for row in rows):
        minutes = sorted({key[2] for key in found if key[0] == problem and key[1] not in CORESETS})
        lines += [f"| {problem} | {' | '.join(f'{m:g} min' for m in minutes)} |", "| --- " * (len(minutes) + 1) + "|"]
        for method in dict.fromkeys(row["method"] for row in rows if row["problem"] == problem):
            own = [found.get((problem, method, 0 if method in CORESETS else m)) for m in minutes]
            lines.append(f"| {method} | {' | '.join(f'{c[0]:.1f} ± {c[1]:.1f}' if c else '–' for c in own)} |")
        lines.append("")
    return "\n".join(lines)


def bars(axis, problem, found, minutes):
    """The methods at their one budget, best first, and real images in grey."""
    own = sorted((value[0], value[1], key[1]) for key, value in found.items() if key[0] == problem)
    means, deviations, names = zip(*own, strict=True)
    colours = ["#b5b5b5" if name in CORESETS else "#1f6f8b" for name in names]
    axis.barh(names, means, xerr=deviations, color=colours)
    for place, mean in enumerate(means):
        axis.text(0.5, place, f"{mean:.1f}", va="center", color="white", fontsize=8)
    after = f", {min(minutes):g} minutes" if minutes else ""
    axis.set(title=f"{problem}{after}", xlabel="test accuracy (%)")
    axis.spines[["top", "right"]].set_visible(False)


def picture(rows, path):
    """A panel a problem: a line a method, dashed ones for real images; bars where there is one budget."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    found, problems = cells(rows), list(dict.fromkeys(row["problem"] for row in rows))
    figure, axes = pyplot.subplots(1, len(problems), figsize=(4 * len(problems), 4.0), squeeze=False)
    for axis, problem in zip(axes[0], problems, strict=True):
        minutes = {key[2] for key in found if key[0] == problem and key[1] not in CORESETS}
        if len(minutes) <= 1:
            bars(axis, problem, found, minutes)
            continue
        for position, method in enumerate((*METHODS, *CORESETS)):
            own = sorted((value[2] / 60, value[0]) for key, value in found.items() if key[:2] == (problem, method))
            if own and method in CORESETS:
                axis.axhline(own[0][1], linestyle="--", linewidth=1, color=f"C{position}", label=method)
            elif own:
                axis.plot(*zip(*own, strict=True), marker="o", color=f"C{position}", label=method)
        axis.set(title=problem, xlabel="minutes of learning, experts included")
        axis.set_ylabel("test accuracy (%)")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(-0.1, 1.1), frameon=False)  # hides no line
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for every run")
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PROBLEMS))
    parser.add_argument("--methods", type=lambda text: text.split(","), default=[*CORESETS, *METHODS])
    parser.add_argument("--minutes", type=lambda text: [float(part) for part in text.split(",")], default=[3, 10, 30])
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1])
    shared_arguments(parser, "runs/clock")
    return parser.parse_args()


def main():
    args = parsed_arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "clock.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    wanted = [
        (PROBLEMS[name], method, seed, minutes)
        for minutes in args.minutes
        for seed in args.seeds
        for name in args.only
        for method in args.methods
    ]
    wanted = list(dict.fromkeys((p, m, s, 0 if m in CORESETS else minutes) for p, m, s, minutes in wanted))
    before, now = {row["threads"] for row in rows}, str(threads_each(args.jobs))
    if before - {now} and not all(known(rows, *job) for job in wanted):
        sys.exit(
            f"{path} holds runs of {', '.join(sorted(before))} threads, these would have {now}: other --jobs or --out"
        )
    with ThreadPoolExecutor(args.jobs) as pool:
        jobs = [pool.submit(point, args, *job) for job in wanted if not known(rows, *job)]
        for job in jobs:
            row = job.result()
            if row is not None:
                rows.append(row)
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    if not rows:
        sys.exit("no set could be made")
    path.with_suffix(".md").write_text(table(rows))
    picture(rows, path.with_suffix(".png"))
    print(table(rows))


if __name__ == "__main__":
    main()
