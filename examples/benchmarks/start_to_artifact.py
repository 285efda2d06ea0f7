"""From nothing to an artifact: wall time of each stage of ``distillkit compress``, with an empty cache.

    cd examples/benchmarks
    python start_to_artifact.py digits --ipc 1 --method ast --out results/start-digits-ipc1-ast
    python start_to_artifact.py cifar10 --ipc 10 --data-root DIR

Options that it does not know are handed to ``compress``.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import measuring
import torch

from distillkit import load_distilled


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--method", default="mtt")
    parser.add_argument("--data-root")
    parser.add_argument("--out", help="stem of the files to write")
    args, more = parser.parse_known_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        artifact = Path(folder) / "set"
        line = [sys.executable, "-m", "distillkit", "compress", args.dataset, "--ipc", str(args.ipc)]
        line += ["--method", args.method, "--out", str(artifact), "--quiet", *more]
        line += ["--data-root", args.data_root] if args.data_root else []
        begin = time.perf_counter()
        environment = os.environ | {"DISTILLKIT_CACHE": str(Path(folder) / "cache")}
        subprocess.run(line, check=True, env=environment, stdout=subprocess.DEVNULL)
        total = time.perf_counter() - begin
        ds = load_distilled(artifact)
    stages = ds.config["wall_time_seconds"]
    row = ds.results["architectures"]["convnet"]
    setting = " ".join(["compress", args.dataset, "--ipc", str(args.ipc), "--method", args.method, *more])
    found = {"seconds": total, "stages": stages, "accuracy": row, "machine": measuring.machine(device, setting)}
    rest = total - sum(stages.values())
    cells = [[name, f"{value:.0f}"] for name, value in {**stages, "data, card, start": rest, "all": total}.items()]
    about = found["machine"]
    accuracy = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f} %"
    text = f"{about['hardware']}, torch {about['torch']}, `{setting}`: {accuracy}\n\n"
    measuring.write(args.out, found, text + measuring.table(["stage", "seconds"], cells))


if __name__ == "__main__":
    main()
