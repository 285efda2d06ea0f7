"""Search architectures on a distilled set: does it rank them as the full data do, and how much time does it save?

Every candidate is trained on the distilled set by its recipe and scored on validation data, as a searcher would, and
on all training images and scored on test data. Prints both, the Spearman rank correlation and the times.

python examples/architecture_search.py cards/digits-ipc1-mtt cards/digits-ipc10-mtt --out examples/benchmarks/results
"""

import argparse
import json
import platform
import time
from pathlib import Path

import torch
from scipy.stats import spearmanr

from distillkit import load_distilled
from distillkit.lab import (
    Examination,
    NetworkSettings,
    TrainingSet,
    build_network,
    evaluate_networks,
    parse_architecture,
    recipe_from_json,
)

CANDIDATES = (
    "convnet:width=4,depth=1,norm=none",
    "convnet:width=8,depth=1,norm=instance",
    "convnet:width=32,depth=1,norm=instance",
    "convnet:width=4,depth=2,norm=instance",
    "convnet:width=16,depth=2,norm=instance",
    "convnet:width=64,depth=2,norm=instance",
    "convnet:width=16,depth=2,norm=none",
    "convnet:width=32,depth=2,norm=batch",
    "convnet:width=4,depth=3,norm=instance",
    "convnet:width=32,depth=3,norm=instance",
    "timm/resnet10t",
    "timm/test_resnet",
)


def scores(names, build_of, training, exam, recipe, networks):
    """Mean accuracy of each candidate, and the seconds of the whole search."""
    begin, found = time.perf_counter(), {}
    for name in names:
        found[name] = evaluate_networks(build_of(name), training, exam, recipe, 0, networks).mean
        print(f"  {name:<42} {100 * found[name]:.1f}", flush=True)
    return found, time.perf_counter() - begin


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", help="artifact folders or org/name, of the same data set")
    parser.add_argument("--arch", action="append", help="a candidate; repeatable; default twelve small networks")
    parser.add_argument("--networks", type=int, default=3, help="fresh networks of each candidate")
    parser.add_argument("--full-epochs", type=int, default=200, help="passes over the full data")
    parser.add_argument("--full-lr", type=float, default=0.01)
    parser.add_argument("--data-root", help="where local copies of registered data sets lie")
    parser.add_argument("--out", type=Path, help="folder for a JSON and a Markdown table")
    return parser.parse_args()


def main():
    arguments = parsed_arguments()
    sets = [load_distilled(source) for source in arguments.source]
    ds = sets[0]
    data = ds.load_source(data_root=arguments.data_root)
    names = arguments.arch or CANDIDATES
    base = NetworkSettings.model_validate(ds.recipe["architecture"])

    def build_of(name):
        settings = parse_architecture(name, base)
        return lambda index: build_network(settings, ds.image_shape, ds.num_classes, 0, "search", index)

    test = Examination(ds.preprocess(data.test.images), data.test.labels)
    full = TrainingSet(ds.preprocess(data.train.images), data.train.labels)
    epochs = arguments.full_epochs
    schedule = {**ds.recipe["schedule"], "epochs": epochs, "lr_drop_epochs": [epochs // 2 + 1]}
    longer = recipe_from_json({**ds.recipe, "lr": arguments.full_lr, "schedule": schedule})
    print(f"on {len(data.train)} training images (test accuracy)")
    slow = scores(names, build_of, full, test, longer, arguments.networks)
    for ds in sets:
        print(f"on {len(ds)} distilled images (validation accuracy)")
        validation = Examination(ds.preprocess(data.validation.images), data.validation.labels)
        training, recipe = TrainingSet(ds.images, ds.targets), recipe_from_json(ds.recipe)
        quick = scores(names, build_of, training, validation, recipe, arguments.networks)
        report = compared(ds, names, quick, slow, arguments)
        print(table(report))
        if arguments.out:
            stem = arguments.out / f"architecture_search-{report['data']}-ipc{report['ipc']}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            stem.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
            stem.with_suffix(".md").write_text(table(report))


def compared(ds, names, quick, slow, arguments):
    """The figures of one distilled set beside those of the full data."""
    (distilled, distilled_seconds), (full, full_seconds) = quick, slow
    correlation = spearmanr([distilled[name] for name in names], [full[name] for name in names])
    return {
        "data": ds.config["source"]["name"],
        "ipc": ds.config["ipc"],
        "method": ds.config["method"],
        "rows": [{"network": name, "distilled": distilled[name], "full": full[name]} for name in names],
        "spearman": correlation.statistic,
        "p_value": correlation.pvalue,
        "seconds": {"distilled": distilled_seconds, "full": full_seconds, "ratio": full_seconds / distilled_seconds},
        "networks": arguments.networks,
        "full_epochs": arguments.full_epochs,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def table(report):
    """The report as Markdown."""
    lines = ["| network | distilled (validation) | full (test) |", "| --- | --- | --- |"]
    rows = sorted(report["rows"], key=lambda row: -row["full"])
    lines += [f"| {row['network']} | {100 * row['distilled']:.1f} | {100 * row['full']:.1f} |" for row in rows]
    seconds = report["seconds"]
    words = (
        f"Spearman {report['spearman']:.2f} (p = {report['p_value']:.2g}); search {seconds['distilled']:.0f} s on the "
    )
    words += f"distilled set, {seconds['full']:.0f} s on the full data: {seconds['ratio']:.1f} times; "
    words += f"{report['networks']} networks each, {report['full_epochs']} full epochs; {report['machine']}"
    return "\n".join([*lines, "", words, ""])


if __name__ == "__main__":
    main()
