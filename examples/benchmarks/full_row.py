"""The row of all training images: accuracy and seconds by the size of its batches, at the same number of steps.

    python examples/benchmarks/full_row.py FOLDER --method rat --out examples/benchmarks/results/full_row-FOLDER-rat

Networks learn from all training images by the recipe that the quick preset has for that row, but for the batches, and
are asked the validation images. Smaller batches make the same steps out of fewer passes.
"""

import argparse
import math
import time
from pathlib import Path

import measuring

from distillkit.lab import (
    TrainingSet,
    compose,
    evaluate_networks,
    evaluation_form,
    evaluation_recipe,
    make_run,
    parse_assignments,
    prepare,
    resolve_device,
)


def row(run, prepared, training, batch, args):
    """Networks trained with batches of this size, and the seconds of all of them."""
    settings, images = run.settings.evaluate, len(prepared.train_labels)
    passes = math.ceil(args.steps / math.ceil(images / batch))
    changes = {"epochs": passes, "batch_size": batch, "lr": settings.full_lr, "lr_drop_epochs": None}
    recipe = evaluation_recipe(settings.model_copy(update=changes), settings.full_lr, prepared.augmentation)
    form = evaluation_form(run, recipe, images, args.networks)
    build = prepared.build(prepared.network, run.settings.seed, "evaluate")
    begin = time.perf_counter()
    report = evaluate_networks(build, training, prepared.validation, recipe, 0, args.networks, form=form)
    found = {"batch": batch, "passes": passes, "seconds": time.perf_counter() - begin, **report.to_json()}
    print(found, flush=True)
    return found


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--method", default="rat")
    parser.add_argument("--ipc", type=int, default=1, help="the preset may depend on it")
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--networks", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--data-root")
    parser.add_argument("--out", help="stem of the files to write")
    return parser.parse_args()


def main():
    args = parsed_arguments()
    given = [*args.set, *([f"dataset.data_root={args.data_root}"] if args.data_root else [])]
    device = resolve_device("auto")
    kind = device.type
    run = make_run(compose(args.dataset, args.ipc, args.method, "quick", kind, [parse_assignments(given)]), device)
    prepared = prepare(run)
    training = TrainingSet(prepared.train_images, prepared.train_labels)
    rows = [row(run, prepared, training, batch, args) for batch in args.batches]
    rows.sort(key=lambda one: one["batch"])
    images, asked = len(prepared.train_labels), len(prepared.validation.labels)
    name = Path(args.dataset).name
    about = measuring.machine(kind, f"{name}, {args.method}: {images} training images, {asked} validation images")
    lines = [
        [str(one["batch"]), str(one["passes"]), f"{one['seconds']:.0f}", f"{100 * one['mean']:.1f}", str(one["n"])]
        for one in rows
    ]
    head = ["images a batch", "passes", "seconds", "validation accuracy (%)", "networks"]
    text = f"{about['hardware']}, torch {about['torch']}, {about['setting']}\n\n{measuring.table(head, lines)}"
    measuring.write(args.out, {"rows": rows, "machine": about}, text)


if __name__ == "__main__":
    main()
