"""What the reference sets teach other networks, each by a recipe of its own, beside real images tuned alike.

    python examples/reference/tuned.py --data-root DIR --cards cards

For every set with tensors and every network: ``distillkit tune``, unless the set has a recipe for it with both
baselines, so a search that was stopped goes on with the next. Recipes are kept in the sets, the table and the picture
(``tuned.md``, ``tuned.png``) are made of what the sets hold.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

SETS = ("cifar10-ipc1-rat", "digits-ipc1-mtt", "digits-ipc10-mtt", "digits-ipc10-rat", "cifar10-ipc10-rat")
NETWORKS = {
    "alexnet": "AlexNet",
    "lenet": "LeNet",
    "mlp": "MLP",
    "vgg11": "VGG-11",
    "resnet18": "ResNet-18",
    "timm/mobilenetv3_small_050": "timm MobileNetV3",
    "timm/resnet10t:norm=keep": "timm ResNet-10, its batch norm",
    "timm/resnet10t:norm=instance": "timm ResNet-10, instance norm",
    "timm/resnet18:norm=keep": "timm ResNet-18, its batch norm",
    "timm/resnet18:norm=instance": "timm ResNet-18, instance norm",
    "timm/test_convnext": "timm ConvNeXt (0.2 M)",
    "timm/test_vit": "timm ViT (0.3 M)",
}
BASELINES = ("random", "kmeans")


def results_of(folder):
    """What a set's results.json says."""
    return json.loads((folder / "results.json").read_text())


def row_of(folder, network):
    """The tuned row of a network, whatever its normalisation was replaced by; None without one."""
    rows = results_of(folder).get("tuned", {})
    own = network.removesuffix(":norm=keep")  # as its own batch normalisation goes without saying
    fitting = (own,) if ":" in network else (network, f"{network}:norm=instance")
    return next((rows[name] for name in fitting if name in rows), None)


def is_whole(row):
    """Are both baselines beside it?"""
    return row is not None and set(BASELINES) <= set(row["baselines"])


def tune(folder, network, args):
    """Search a recipe and keep it in the set."""
    line = [sys.executable, "-m", "distillkit", "tune", str(folder), "--arch", network, "--quiet"]
    options = {
        "--time-budget": args.time_budget,
        "--networks": str(args.networks),
        "--baselines": ",".join(BASELINES),
        "--data-root": str(args.data_root),
    }
    print(f"{folder.name}: {network}", flush=True)
    done = subprocess.run([*line, *(word for pair in options.items() for word in pair)], env=os.environ)
    if done.returncode == 130:
        sys.exit(130)


def words(report):
    """Mean and standard deviation in percent."""
    if report is None:
        return "–"
    mean = f"{100 * report['mean']:.1f}"
    return mean if report["n"] == 1 else f"{mean} ± {100 * report['std']:.1f}"


def table(folders):
    """A line per set and network: the recipe, its accuracy, and that of real images."""
    lines = [
        "| set | network | the set | random images | k-means images | its recipe |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for folder in folders:
        for network, name in NETWORKS.items():
            row = row_of(folder, network)
            if row is not None:
                figures = [words(row), *(words(row["baselines"].get(one)) for one in BASELINES)]
                lines.append(f"| {folder.name} | {name} | {' | '.join(figures)} | {row['recipe']} |")
    return "\n".join(lines) + "\n"


def picture(folders, path):
    """A panel per set, a group of bars per network."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = {folder: [(name, row_of(folder, one)) for one, name in NETWORKS.items()] for folder in folders}
    panels = {folder: [(name, row) for name, row in rows if row] for folder, rows in panels.items()}
    panels = {folder: rows for folder, rows in panels.items() if rows}
    heights = [len(rows) + 1 for rows in panels.values()]
    figure, axes = pyplot.subplots(
        len(panels), 1, figsize=(7, 0.42 * sum(heights) + 1), height_ratios=heights, squeeze=False
    )
    colours = {"the set": "#1f6f8b", "k-means images": "#d9a441", "random images": "#b5b5b5"}
    for axis, (folder, rows) in zip(axes[:, 0], panels.items(), strict=True):
        for position, (_, row) in enumerate(rows):
            bars = (row, row["baselines"].get("kmeans"), row["baselines"].get("random"))
            for offset, (label, report) in enumerate(zip(colours, bars, strict=True)):
                if report is not None:
                    height = position + 0.27 * (offset - 1)
                    axis.barh(height, 100 * report["mean"], 0.25, color=colours[label], xerr=100 * report["std"])
        axis.set_yticks(range(len(rows)), [name for name, _ in rows])
        axis.invert_yaxis()
        axis.set_title(folder.name, loc="left", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1, 0].set_xlabel("test accuracy (%)")
    patches = [pyplot.Rectangle((0, 0), 1, 1, color=colour) for colour in colours.values()]
    figure.legend(patches, list(colours), loc="upper right", fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="where local copies of data sets lie; without it nothing is run")
    parser.add_argument("--cards", type=Path, default=Path("cards"), help="the folder of the sets")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--archs", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--time-budget", default="10m", help="of one search")
    parser.add_argument("--networks", type=int, default=5, help="fresh networks that measure a recipe")
    parser.add_argument("--out", type=Path, default=Path("examples/reference"))
    args = parser.parse_args()
    folders = [args.cards / name for name in args.sets]
    for folder in folders if args.data_root else ():
        for network in args.archs:
            if not is_whole(row_of(folder, network)):
                tune(folder, network, args)
    (args.out / "tuned.md").write_text(table(folders))
    picture(folders, args.out / "tuned.png")
    print(table(folders))


if __name__ == "__main__":
    main()
