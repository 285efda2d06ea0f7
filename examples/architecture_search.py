"""Search architectures on a distilled set: does it rank them as the full data do, and how much time does it save?

Every candidate is trained on the distilled set and scored on validation data, as a searcher would: by the set's recipe,
by one that is searched for the candidate on the same validation data (as ``distillkit tune`` does), and by one searched
for as many random real images, other ones for every network. And on all training images, scored on test data. Prints
all, the Spearman rank correlations with the last one, and the times.

python examples/architecture_search.py cards/digits-ipc1-mtt cards/digits-ipc10-mtt --out examples/benchmarks/results
"""

import argparse
import itertools
import json
import platform
import time
from functools import partial
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
    search_recipe,
    select_coreset,
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


HEADS = {
    "distilled": "distilled, the set's recipe",
    "tuned": "distilled, its own",
    "random": "random images, its own",
    "full": "all images (test)",
}


def scores(names, score):
    """The score of each candidate, and the seconds of the whole search."""
    begin, found = time.perf_counter(), {}
    for name in names:
        found[name] = score(name)
        print(f"  {name:<42} {100 * found[name]:.1f}", flush=True)
    return found, time.perf_counter() - begin


def by_recipe(build_of, training, exam, recipe, networks):
    """Mean accuracy of networks that are trained by one recipe."""
    return lambda name: evaluate_networks(build_of(name), training, exam, recipe, 0, networks).mean


def by_own_recipe(build_of, training, exam, ds, seconds):
    """The accuracy of the best recipe that a search of at most so many ``seconds`` finds, a network of each."""
    strategy = ds.recipe["augmentation"].get("strategy", "none")
    calls = itertools.count()  # other images for every network, where they are drawn

    def score(name):
        def of(candidate):
            index = next(calls)
            drawn = training(index) if callable(training) else training
            return evaluate_networks(build_of(name), drawn, exam, candidate.recipe(len(ds)), index, 1).mean

        return search_recipe(of, strategy, seconds)[0].accuracy

    return score


def random_images(ds, train):
    """As many real images of each class as the set has, by the number of a network."""
    inputs = ds.preprocess(train.images)

    def choose(index):
        rows = select_coreset("random", inputs, train.labels, ds.num_classes, ds.config["ipc"], 0, index)
        return TrainingSet(inputs[rows], torch.nn.functional.one_hot(train.labels[rows], ds.num_classes).float())

    return choose


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="+", help="artifact folders or org/name, of the same data set")
    parser.add_argument("--arch", action="append", help="a candidate; repeatable; default twelve small networks")
    parser.add_argument("--networks", type=int, default=3, help="fresh networks of each candidate")
    parser.add_argument("--search-seconds", type=float, default=60, help="of a candidate's own recipe, at most")
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

    def build_of(name, fitting=None):
        settings = parse_architecture(name, base)
        if fitting is not None:  # with another normalisation where the set is too small for that of batches
            settings, _ = fitting.fitting(settings, keep="norm=" in name)
        return lambda index: build_network(settings, ds.image_shape, ds.num_classes, 0, "search", index)

    test = Examination(ds.preprocess(data.test.images), data.test.labels)
    full = TrainingSet(ds.preprocess(data.train.images), data.train.labels)
    epochs = arguments.full_epochs
    schedule = {**ds.recipe["schedule"], "epochs": epochs, "lr_drop_epochs": [epochs // 2 + 1]}
    longer = recipe_from_json({**ds.recipe, "lr": arguments.full_lr, "schedule": schedule})
    print(f"on {len(data.train)} training images (test accuracy)")
    slow = scores(names, by_recipe(build_of, full, test, longer, arguments.networks))
    for ds in sets:
        validation = Examination(ds.preprocess(data.validation.images), data.validation.labels)
        training, recipe = TrainingSet(ds.images, ds.targets), recipe_from_json(ds.recipe)
        own = partial(build_of, fitting=ds)
        searches = {
            "distilled": by_recipe(own, training, validation, recipe, arguments.networks),
            "tuned": by_own_recipe(own, training, validation, ds, arguments.search_seconds),
            "random": by_own_recipe(own, random_images(ds, data.train), validation, ds, arguments.search_seconds),
        }
        found = {}
        for kind, score in searches.items():
            print(f"{HEADS[kind]}, {len(ds)} images (validation accuracy)")
            found[kind] = scores(names, score)
        report = compared(ds, names, found | {"full": slow}, arguments)
        print(table(report))
        if arguments.out:
            stem = arguments.out / f"architecture_search-{report['data']}-ipc{report['ipc']}"
            stem.parent.mkdir(parents=True, exist_ok=True)
            stem.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
            stem.with_suffix(".md").write_text(table(report))


def compared(ds, names, found, arguments):
    """The figures of one distilled set beside those of the full data."""
    accuracies = {kind: [scored[name] for name in names] for kind, (scored, _) in found.items()}
    ranked = [kind for kind in found if kind != "full" and min(len(set(accuracies[k])) for k in (kind, "full")) > 1]
    correlations = {kind: spearmanr(accuracies[kind], accuracies["full"]) for kind in ranked}  # of equals, no ranking
    return {
        "data": ds.config["source"]["name"],
        "ipc": ds.config["ipc"],
        "method": ds.config["method"],
        "rows": [{"network": name} | {kind: scored[name] for kind, (scored, _) in found.items()} for name in names],
        "spearman": {kind: one.statistic for kind, one in correlations.items()},
        "p_value": {kind: one.pvalue for kind, one in correlations.items()},
        "seconds": {kind: seconds for kind, (_, seconds) in found.items()},
        "networks": arguments.networks,
        "search_seconds": arguments.search_seconds,
        "full_epochs": arguments.full_epochs,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }


def table(report):
    """The report as Markdown."""
    lines = [f"| network | {' | '.join(HEADS.values())} |", "| --- " * (len(HEADS) + 1) + "|"]
    for row in sorted(report["rows"], key=lambda row: -row["full"]):
        lines.append(f"| {row['network']} | {' | '.join(f'{100 * row[kind]:.1f}' for kind in HEADS)} |")
    none = dict.fromkeys(HEADS, "")
    told = {
        "Spearman": none | {kind: f"{value:.2f}" for kind, value in report["spearman"].items()},
        "p": none | {kind: f"{value:.2g}" for kind, value in report["p_value"].items()},
        "seconds": {kind: f"{value:.0f}" for kind, value in report["seconds"].items()},
    }
    lines += [f"| *{name}* | {' | '.join(cells[kind] for kind in HEADS)} |" for name, cells in told.items()]
    words = (
        f"Validation accuracy but for the last column; {report['networks']} networks each, one for each recipe of a "
        f"search; {report['full_epochs']} full epochs; {report['machine']}"
    )
    return "\n".join([*lines, "", words, ""])


if __name__ == "__main__":
    main()
