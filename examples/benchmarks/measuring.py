"""What the benchmarks share: paired times, the machine, a JSON file and a Markdown table."""

import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from distillkit.lab import hardware

EPOCH_GFLOP = 3 * 0.101  # forward and backward of ConvNetD3 width 128 on one 32x32 image


def seconds(action, device):
    """Wall time of one call, the device's queue included."""
    if device != "cpu":
        torch.cuda.synchronize()
    begin = time.perf_counter()
    action()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def paired(variants, rounds, device):
    """Median seconds and all of them by variant; in each round every variant takes its turn."""
    times = {name: [] for name in variants}
    for _ in range(rounds):
        for name, action in variants.items():
            times[name].append(seconds(action, device))
    return {name: {"seconds": statistics.median(several), "seconds_all": several} for name, several in times.items()}


def machine(device, setting):
    return {
        "hardware": hardware(torch.device(device)),
        "platform": platform.platform(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "setting": setting,
    }


def plus_minus(accuracies):
    """Mean and standard deviation of the sample (n - 1, as everywhere; 0 of one), in percent."""
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
    return f"{100 * statistics.mean(accuracies):.1f} ± {100 * spread:.1f}"


def table(head, rows):
    return "\n".join(
        [f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def write(stem, found, text):
    """Print ``text``; with a stem, write ``<stem>.json`` and ``<stem>.md``."""
    print(text)
    if stem:
        path = Path(stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
