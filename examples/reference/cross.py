"""What the reference sets are worth elsewhere: other networks, hard labels, 8-bit images, no augmentation.

    python examples/reference/cross.py --only digits-ipc1,cifar10-ipc1 --data-root DIR --jobs 2

Takes the sets of seed 0 that ``run.py`` left in ``--work``; each is trained on by its own recipe. Writes
``cross-<problem>.json`` and ``.md`` into ``--out``: test accuracies of each network, of the set's own network under
each change, and DD-Ranking's label- and augmentation-robust scores. A set that was measured is not measured again.
"""

import argparse
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from run import METHODS, TIERS, mean_and_std, run_process, shared_arguments

from distillkit.lab import augmentation_robust_score, label_robust_score, storage

NETWORKS = {
    "VGG-11": "timm/vgg11_bn",
    "ResNet-18": "timm/resnet18",
    "ConvNeXt (0.2 M parameters)": "timm/test_convnext",
    "ViT (0.3 M parameters)": "timm/test_vit",
}
RANDOM_DRAWS = 5


def measure(args):
    """The body of one set's process: rows by name, as JSON on stdout."""
    import torch

    from distillkit import load_distilled
    from distillkit.lab import (
        Examination,
        NetworkSettings,
        TrainingSet,
        build_network,
        default_drop,
        evaluate_networks,
        keep_freed_memory,
        parse_architecture,
        recipe_from_json,
        select_coreset,
    )

    keep_freed_memory(torch.device("cpu"))
    ds = load_distilled(args.set)
    data = ds.load_source(data_root=args.data_root)
    own = NetworkSettings.model_validate(ds.recipe["architecture"])
    plain = {**ds.recipe, "augmentation": {"name": "none"}}
    test = Examination(ds.preprocess(data.test.images), data.test.labels)
    few = Examination(test.images[: args.test_images], test.labels[: args.test_images])
    whole = TrainingSet(ds.images, ds.targets)

    def row(name, training, exam, recipe, count):
        settings = parse_architecture(name, own)

        def build(index):
            return build_network(settings, ds.image_shape, ds.num_classes, 0, "evaluate", index, "init")

        return evaluate_networks(build, training, exam, recipe_from_json(recipe), 0, count).to_json()

    def random(index):
        chosen = select_coreset("random", *real, ds.num_classes, ds.config["ipc"], 0, index)
        return TrainingSet(real[0][chosen], real[1][chosen])

    real = ds.preprocess(data.train.images), data.train.labels
    shorter = ds.recipe
    if args.epochs:
        schedule = {"epochs": args.epochs, "lr_drop_epochs": list(default_drop(args.epochs))}
        shorter = {**ds.recipe, "schedule": {**ds.recipe["schedule"], **schedule}}
    rows = {name: row(name, whole, few, shorter, args.networks) for name in NETWORKS.values()}
    rows["no augmentation"] = row("convnet", whole, test, plain, RANDOM_DRAWS)
    plain_random = {**plain, "lr": ds.results["baselines"]["random"]["lr"]}
    rows["random, no augmentation"] = row("convnet", random, test, plain_random, RANDOM_DRAWS)
    print(json.dumps(rows))


def measured(args, problem, method):
    """Rows of one set: those of its run, and those of a process of its own; None if there is no such set."""
    folder = args.work / f"{problem.name}-{method}" / "seed0"
    if not (folder / "results.json").is_file():
        return None
    cached = folder / "run" / f"cross-{args.networks}-{args.test_images}-{args.epochs}.json"
    if not cached.is_file():
        line = [sys.executable, __file__, "--set", folder, "--networks", args.networks]
        line += ["--test-images", args.test_images, "--epochs", args.epochs]
        line += ["--data-root", args.data_root] if args.data_root else []
        done = run_process(line, args.jobs)
        if done.returncode:
            print(f"{problem.name}-{method}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr, flush=True)
            return None
        storage.write_bytes(cached, done.stdout.strip().splitlines()[-1].encode())
        print(f"{problem.name}-{method} measured", flush=True)
    rows, results = json.loads(cached.read_text()), json.loads((folder / "results.json").read_text())
    rows["ConvNet"] = results["architectures"]["convnet"]
    rows["8-bit"] = results["uint8"]
    rows["hard labels"] = results.get("hard_labels", rows["ConvNet"])
    rows["random"] = results["baselines"].get("random-soft") or results["baselines"].get("random")
    rows["random, hard labels"] = results["baselines"].get("random")
    return rows


def scores(rows, full):
    """DD-Ranking's label- and augmentation-robust scores of a set.

    The first beside random images with the labels that the method would give them, the second with hard ones.
    """
    mean = {name: row["mean"] for name, row in rows.items() if row}
    label = label_robust_score(mean["ConvNet"], mean["hard labels"], mean["random"], full)
    augmented = mean["ConvNet"], mean["random, hard labels"], mean["no augmentation"], mean["random, no augmentation"]
    return {"label": label, "augmentation": augmentation_robust_score(*augmented)}


def cell(row):
    return "–" if not row else "{:.1f} ± {:.1f}".format(*(100 * x for x in mean_and_std(row["accuracies"])))


def table(args, problem, found):
    columns = {"ConvNet": "ConvNet", **NETWORKS}
    of_own = ("hard labels", "8-bit", "no augmentation", "random, no augmentation")
    own = next(iter(found.values()))["rows"]["ConvNet"]["n"]
    shorter = f", {args.epochs} epochs" if args.epochs else ""
    lines = [
        f"{problem.name}: test accuracy (%). ConvNet: {own} networks, all test images; other networks: "
        f"{args.networks}, the first {args.test_images} test images{shorter}.",
        "",
        f"| set | {' | '.join(columns)} | {', ConvNet | '.join(of_own)}, ConvNet | LRS | ARS |",
        "| --- " * (len(columns) + len(of_own) + 3) + "|",
    ]
    for method, one in found.items():
        rows = [one["rows"][name] for name in (*columns.values(), *of_own)]
        robust = [f"{100 * one['scores'][name]:.1f}" for name in ("label", "augmentation")] if one["scores"] else "––"
        lines.append(f"| {method} | {' | '.join([*map(cell, rows), *robust])} |")
    return "\n".join(lines) + "\n"


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tier", choices=TIERS, default="cpu")
    parser.add_argument("--only", type=lambda text: text.split(","), help="problems, digits-ipc1,cifar10-ipc1")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=METHODS)
    parser.add_argument("--epochs", type=int, default=0, help="of the other networks; default the set's own")
    parser.add_argument("--test-images", type=int, default=2000, help="that other networks are scored on")
    shared_arguments(parser, "runs/reference")
    parser.set_defaults(networks=3)
    parser.add_argument("--set", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parsed_arguments()
    if args.set:
        measure(args)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for problem in TIERS[args.tier]:
        if args.only and problem.name not in args.only:
            continue
        with ThreadPoolExecutor(args.jobs) as pool:
            rows = list(pool.map(lambda method, at=problem: measured(args, at, method), args.methods))
        full = args.work / f"{problem.name}-random" / "seed0" / "results.json"
        reference = json.loads(full.read_text())["baselines"]["full"]["mean"] if full.is_file() else None
        found = {
            method: {"rows": one, "scores": scores(one, reference) if reference is not None else None}
            for method, one in zip(args.methods, rows, strict=True)
            if one is not None
        }
        if not found:
            continue
        part = "" if list(args.methods) == list(METHODS) else "-part"  # never in the place of the whole table
        stem = args.out / f"cross-{problem.name}{part}"
        about = {
            "networks": args.networks,
            "test_images": args.test_images,
            "epochs": args.epochs,
            "full": reference,
            "sets": found,
        }
        stem.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")
        stem.with_suffix(".md").write_text(table(args, problem, found))
        print(table(args, problem, found))


if __name__ == "__main__":
    main()
