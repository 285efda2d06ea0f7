"""Sets of folders that nobody tuned on, by the default command: is the set better than random and k-means images?

    python examples/reference/own_data.py --data-root DIR --work FOLDER

Three folders are cut from CIFAR-100, which no preset was searched on, as a user would bring them: ``unequal``, colour
photographs of eight kinds of animals, 60 to 450 of each; ``grey``, eight kinds of things in grey at 28 pixels;
``large``, five kinds of plants enlarged to 64 pixels (no more detail, but the network and the work of that size). Then
``distillkit compress FOLDER --ipc N`` and nothing else, or ``--method`` beside it. A finished run is kept.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from distillkit import load_distilled
from distillkit.lab import hardware, storage, versions

IPC = (1, 10)
FOLDERS = {
    "unequal": (
        "RGB",
        32,
        {"bear": 60, "beaver": 110, "fox": 170, "lion": 220, "otter": 280, "seal": 330, "tiger": 390, "whale": 450},
    ),
    "grey": ("L", 28, dict.fromkeys(("bicycle", "bottle", "chair", "clock", "cup", "lamp", "rocket", "tank"), 300)),
    "large": ("RGB", 64, dict.fromkeys(("maple_tree", "mushroom", "orchid", "sunflower", "tulip"), 300)),
}


def make_folder(name, data_root, out):
    """Class folders of PNG, split into train and test; made once."""
    from datasets import load_dataset

    mode, size, counts = FOLDERS[name]
    for split, share in (("train", 1.0), ("test", 0.2)):
        data = load_dataset(str(data_root / "cifar100"), split=split)
        names = data.features["fine_label"].names
        for kind, count in counts.items():
            folder = out / split / kind
            if folder.is_dir():
                continue
            storage.make_folder(folder)
            rows = [row for row, label in enumerate(data["fine_label"]) if label == names.index(kind)]
            for number, row in enumerate(rows[: int(count * share)]):
                image = data[row]["img"].convert(mode)
                image.resize((size, size)).save(folder / f"{number:04d}.png")


def words(row):
    """Mean and standard deviation in percent."""
    return f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ipc", type=int, nargs="+", default=IPC)
    parser.add_argument("--method", help="instead of the default one")
    parser.add_argument("--only", nargs="+", default=list(FOLDERS), choices=list(FOLDERS))
    parser.add_argument("--out", type=Path, default=Path("examples/reference/own-data"))
    args = parser.parse_args()
    rows, facts = [], {}
    for name in args.only:
        make_folder(name, args.data_root, args.work / name)
        for ipc in args.ipc:
            run = f"{name}-ipc{ipc}" + (f"-{args.method}" if args.method else "")
            out, begin = args.work / run, time.time()
            line = [sys.executable, "-m", "distillkit", "compress", str(args.work / name), "--ipc", str(ipc)]
            line += ["--method", args.method] if args.method else []
            subprocess.run([*line, "--out", str(out), "--quiet"], check=True, env=os.environ)
            ds = load_distilled(out)
            found = (
                ds.results["architectures"]["convnet"],
                *(ds.results["baselines"][one] for one in ("random", "kmeans", "full")),
            )
            seconds = sum(ds.config["wall_time_seconds"].values())
            facts[run] = {**ds.results, "seconds": seconds, "command": ds.config["command"]}
            shape = "x".join(map(str, ds.image_shape))
            rows.append(
                f"| {name} ({ds.num_classes} classes, {shape}) | {ipc} | {ds.config['method']} | "
                + " | ".join(map(words, found))
                + f" | {seconds / 60:.0f} |"
            )
            print(rows[-1], f"({time.time() - begin:.0f} s)", flush=True)
    head = ["| folder | images a class | method | the set | random | k-means | all | minutes |", "| --- " * 8 + "|"]
    machine = f"{hardware(torch.device('cpu'))}; {versions()}"
    if args.method or set(args.only) < set(FOLDERS) or len(args.ipc) < len(IPC):  # not all of the table
        args.out = args.out.with_name(f"{args.out.name}-part")
    args.out.with_suffix(".md").write_text("\n".join([*head, *rows, "", machine, ""]))
    args.out.with_suffix(".json").write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
