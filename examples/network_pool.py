r"""A set for several networks: what students that take turns cost the one network, and gain the others.

RaT on digits, one image a class, learned with students of one architecture or of several in turn (``network.pool``);
fresh networks of each architecture, and of some that no set was learned with, are trained on each set by its recipe.
The outer steps are the same for all, so a member of a pool of two has half of them. With ``--work`` a study that was
stopped goes on: sets and what was measured of them are kept there.

python examples/network_pool.py --out examples/benchmarks/results/network_pool-digits-ipc1
python examples/network_pool.py --dataset cifar10 --data-root DIR --students convnet:width=32 mlp lenet \
    --together convnet:width=32 mlp --others convnet vgg11 alexnet --width 128 --steps 2000 --seeds 1 \
    --set dataset.max_train=null --work runs/network_pool \
    --out examples/benchmarks/results/network_pool-cifar10-ipc1    # two hours of a core
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import torch

from distillkit import compress, evaluate
from distillkit.lab import hardware, parse_assignments, versions


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--students", nargs="+", default=["convnet", "mlp"], help="each alone")
    parser.add_argument("--together", nargs="+", help="those that take turns; default all students")
    parser.add_argument("--others", nargs="*", default=["timm/test_resnet:norm=instance"], help="measured alone")
    parser.add_argument("--width", type=int, default=16, help="of convnet")
    parser.add_argument("--steps", type=int, default=100, help="outer steps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", type=int, default=3, help="fresh networks of each row")
    parser.add_argument("--preset", default="quick")
    parser.add_argument("--data-root")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for every set")
    parser.add_argument("--work", type=Path, help="where runs lie and go on; default a folder that is removed")
    parser.add_argument("--out", help="stem of the files to write")
    return parser.parse_args()


def learned(arguments, pool, seed, folder):
    """A set learned with students of ``pool`` in turn; the run's own network validates, whatever the students are."""
    settings = {
        "seed": seed,
        "network.width": arguments.width,
        "network.pool": list(pool),
        "distill.outer_steps": arguments.steps,
        "distill.select_every": max(1, arguments.steps // 4),
        "evaluate.networks": 1,
        "evaluate.baselines": [],
        "evaluate.uint8": False,
    }
    settings |= dict(parse_assignments(arguments.set).values)
    if arguments.data_root:
        settings["dataset.data_root"] = arguments.data_root
    return compress(
        arguments.dataset, ipc=arguments.ipc, method="rat", preset=arguments.preset, settings=settings, out=folder
    )


def kept_means(arguments, ds, architectures, seed, path):
    """Mean test accuracy of each architecture; what ``path`` has of them is not measured again."""
    kept = json.loads(path.read_text()) if path.exists() else {}
    for architecture in architectures:
        key = f"{architecture}, {arguments.networks} networks"
        if key not in kept:
            reports = evaluate(ds, architecture, networks=arguments.networks, seed=seed, data_root=arguments.data_root)
            (kept[key],) = (report.mean for report in reports.values())
            path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        yield architecture, kept[key]


def measured(arguments, pools, folder):
    """Mean accuracies by pool and architecture, one of each seed; and the seconds of distilling."""
    architectures = list(dict.fromkeys([*arguments.students, *arguments.others]))
    found, seconds = {}, {}
    for seed in range(arguments.seeds):
        for pool in pools:
            name = " and ".join(pool)
            place = folder / f"{'-'.join(pool)}-{seed}".replace("/", "_").replace(":", "_")
            ds = learned(arguments, pool, seed, place)
            for architecture, mean in kept_means(arguments, ds, architectures, seed, place / "run" / "means.json"):
                found.setdefault(name, {}).setdefault(architecture, []).append(mean)
                print(f"{name}, seed {seed}: {architecture} {100 * mean:.1f}", flush=True)
            seconds.setdefault(name, []).append(ds.config["wall_time_seconds"].get("distill", 0.0))
    return found, seconds


def words(accuracies):
    spread = f" ± {100 * statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{100 * statistics.mean(accuracies):.1f}{spread}"


def markdown(arguments, found, seconds):
    columns = list(next(iter(found.values())))
    several = f"mean and standard deviation over {arguments.seeds} sets, each "
    sets = several if arguments.seeds > 1 else "one set a row, "
    lines = [
        f"RaT on {arguments.dataset}, {arguments.ipc} a class, {arguments.steps} outer steps, ConvNet of width "
        f"{arguments.width}: test accuracy (%), {sets}the mean of {arguments.networks} networks; "
        f"{hardware(torch.device('cpu'))}.",
        "",
        "| students | " + " | ".join(columns) + " | seconds of distilling |",
        "| --- " * (len(columns) + 2) + "|",
    ]
    for name, row in found.items():
        cells = [words(row[column]) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {statistics.mean(seconds[name]):.0f} |")
    return "\n".join(lines) + "\n"


def main():
    arguments = parsed_arguments()
    pools = [*((student,) for student in arguments.students), tuple(arguments.together or arguments.students)]
    with tempfile.TemporaryDirectory() as temporary:
        found, seconds = measured(arguments, pools, arguments.work or Path(temporary))
    text = markdown(arguments, found, seconds)
    print(text)
    if arguments.out:
        asked = {key: value for key, value in vars(arguments).items() if key not in ("work", "out", "data_root")}
        facts = {"asked": asked, "versions": versions(), "accuracies": found, "seconds": seconds}
        Path(f"{arguments.out}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
        Path(f"{arguments.out}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
