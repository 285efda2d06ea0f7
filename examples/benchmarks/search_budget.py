"""What a search of recipes finds in little time, by the steps that it begins with and how many candidates get more.

    python examples/benchmarks/search_budget.py --data-root DIR --out examples/benchmarks/results/search_budget

Every candidate is trained once, its validation accuracy and seconds are kept, and the search of ``distillkit tune`` is
played on them with a clock of its own, for budgets from two candidates of 300 steps to more than it can use. What it
chose is then trained anew (three other networks) and asked the validation images.
"""

import argparse
import json
import time
from pathlib import Path
from unittest import mock

import measuring
import torch

from distillkit import load_distilled
from distillkit.lab import (
    Examination,
    NetworkSettings,
    TrainingSet,
    build_network,
    evaluate_networks,
    parse_architecture,
    tuning,
)

CASES = (
    ("digits-ipc1-mtt", "mlp"),
    ("digits-ipc1-mtt", "timm/resnet10t:norm=instance"),
    ("digits-ipc1-mtt", "timm/test_convnext"),
    ("digits-ipc10-mtt", "timm/resnet10t:norm=keep"),
    ("cifar10-ipc1-rat", "lenet"),
    ("cifar10-ipc1-rat", "vgg11"),
)
BUDGETS = (2, 4, 8, 16, 32)
"""Seconds of a search, as so many candidates of 300 steps."""


class Bench:
    """Trains networks by recipes on one set, and keeps what it measured in a file."""

    def __init__(self, ds, network, data, path):
        self.ds, self.path = ds, path
        self.network = parse_architecture(network, NetworkSettings.model_validate(ds.recipe["architecture"]))
        self.exam = Examination(ds.inputs(data.validation), data.validation.labels)
        self.known = json.loads(path.read_text()) if path.is_file() else {}

    def score(self, candidate, use="tune", count=1):
        """Validation accuracy of ``count`` fresh networks, and the seconds of all of them."""
        key = f"{candidate.words}, {use} {count}"
        if key not in self.known:
            begin = time.perf_counter()
            report = evaluate_networks(
                lambda index: build_network(self.network, self.ds.image_shape, self.ds.num_classes, 0, use, index),
                TrainingSet(self.ds.images, self.ds.targets),
                self.exam,
                candidate.recipe(len(self.ds)),
                0,
                count,
            )
            self.known[key] = (report.mean, time.perf_counter() - begin)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(self.known, indent=1) + "\n")
            print(self.path.stem, key, *self.known[key], flush=True)
        return self.known[key]

    def searched(self, first_steps, promising, seconds):
        """What the search chooses when it begins with so many steps, and tries so many of those in more."""
        now = 0.0

        def score(candidate):
            nonlocal now
            accuracy, took = self.score(candidate)
            now += took
            return accuracy

        def clock():
            return now

        strategy = str(self.ds.recipe["augmentation"].get("strategy", "none"))
        values = {"FIRST_STEPS": first_steps, "PROMISING": promising}
        with mock.patch.multiple(tuning, **values), mock.patch.object(tuning.time, "monotonic", clock):
            tried = tuning.search(score, strategy, seconds)
        return tried[0].candidate, len(tried), now


def case(name, network, args):
    """A row for each budget and number of first steps."""
    ds = load_distilled(args.cards / name)
    data = ds.load_source(None, args.data_root)
    bench = Bench(ds, network, data, args.work / f"{name}-{network.replace('/', '-').replace(':', '-')}.json")
    one = bench.score(tuning.Candidate("sgd", 0.03, 300, str(ds.recipe["augmentation"].get("strategy", "none"))))[1]
    for budget in args.budgets:
        for policy in args.policies:
            chosen, tried, seconds = bench.searched(*map(int, policy.split(":")), budget * one)
            mean = bench.score(chosen, "search budget", 3)[0]
            yield {
                "set": name,
                "network": network,
                "budget": budget,
                "policy": policy,
                "accuracy": mean,
                "tried": tried,
                "used": seconds / one,
                "recipe": chosen.words,
            }


def table(rows, policies):
    """A line for each set, network and budget."""
    lines = []
    for key in dict.fromkeys((row["set"], row["network"], row["budget"]) for row in rows):
        own = {row["policy"]: row for row in rows if (row["set"], row["network"], row["budget"]) == key}
        cells = [f"{100 * own[p]['accuracy']:.1f} ({own[p]['tried']}, {own[p]['used']:.1f})" for p in policies]
        lines.append([key[0], key[1], str(key[2]), *cells])
    return measuring.table(["set", "network", "budget", *(f"{p} (tried, used)" for p in policies)], lines)


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", help="SET=NETWORK")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    words = "steps of the first candidates, and how many of them are tried in 300"
    parser.add_argument("--policies", nargs="+", default=("300:0", "100:2", "30:0", "30:1", "30:2", "30:3"), help=words)
    parser.add_argument("--cards", type=Path, default=Path("cards"))
    parser.add_argument("--work", type=Path, default=Path("runs/search_budget"), help="where measurements are kept")
    parser.add_argument("--data-root")
    parser.add_argument("--out", help="stem of the files to write")
    return parser.parse_args()


def main():
    args = parsed_arguments()
    torch.set_num_threads(1)
    cases = [one.split("=", 1) for one in args.cases] if args.cases else CASES
    rows = [row for name, network in cases for row in case(name, network, args)]
    about = measuring.machine("cpu", "validation accuracy (%), three networks")
    text = f"{about['hardware']}, torch {about['torch']}, {about['setting']}\n\n{table(rows, args.policies)}"
    measuring.write(args.out, {"rows": rows, "machine": about}, text)


if __name__ == "__main__":
    main()
