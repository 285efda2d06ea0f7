"""A training step on a CPU with freed memory kept, as distillkit's runs do, and returned to the system, the default.

    python examples/benchmarks/kept_memory.py --json examples/benchmarks/results/kept_memory-cpu.json

Each variant runs in processes of its own (the setting is the C library's), in turns; the median step is reported.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from distillkit.lab import ConvNet, hardware, keep_freed_memory


def measure(width, batch, steps, kept):
    """Seconds of each of ``steps`` training steps after one that warms up."""
    if kept:
        keep_freed_memory(torch.device("cpu"))
    model = ConvNet(3, (32, 32), 10, width, 3, "instance")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels, times = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10, []
    for _ in range(steps + 1):
        begin = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
    return times[1:]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=["kept", "returned"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.width, args.batch, args.steps, args.only == "kept")))
        return
    times = {"returned": [], "kept": []}
    for _ in range(args.rounds):
        for name, found in times.items():
            command = [sys.executable, __file__, "--only", name, "--width", str(args.width)]
            command += ["--batch", str(args.batch), "--steps", str(args.steps)]
            found += json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    medians = {name: statistics.median(found) for name, found in times.items()}
    ratio = medians["kept"] / medians["returned"]
    machine = {"hardware": hardware(torch.device("cpu")), "torch": torch.__version__}
    setting = f"ConvNetD3 width {args.width}, batch {args.batch}"
    print(f"{machine['hardware']}, torch {machine['torch']}, {setting}")
    print(f"returned {medians['returned']:.3f} s, kept {medians['kept']:.3f} s a step, ratio {ratio:.2f}")
    if args.json:
        value = {"seconds": medians, "ratio": ratio, "all": times, "setting": setting, "machine": machine}
        args.json.write_text(json.dumps(value, indent=1) + "\n")


if __name__ == "__main__":
    main()
