"""What a network of timm learns from a set with its own strides, and with those that prepare_model gives it.

    python examples/benchmarks/strides.py cards/cifar10-ipc1-rat --data-root DIR --out FILE

Each network is trained by one recipe (AdamW at 0.001, the set's augmentation, half a cosine) as timm makes it and as
``prepare_model`` does, with each normalisation; accuracy on validation images, and seconds of training.
"""

import argparse
import time
import warnings
from pathlib import Path

import timm
import torch
from measuring import machine, plus_minus, table, write

from distillkit import load_distilled, prepare_model
from distillkit.lab import replace_batch_norm

NETWORKS = ("resnet10t", "efficientnet_lite0", "regnetx_002", "mobilenetv3_small_050")
NORMS = ("keep", "instance", "group")


def build(name, norm, ours, ds):
    """A fresh network, with timm's strides or ours."""
    channels, size, _ = ds.image_shape
    if ours:
        return prepare_model(name, num_classes=ds.num_classes, image_size=size, channels=channels, norm=norm)[0]
    model = timm.create_model(name, num_classes=ds.num_classes, in_chans=channels)
    if norm != "keep":
        replace_batch_norm(model, norm, torch.zeros(2, channels, size, size))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("set")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--models", nargs="+", default=list(NETWORKS))
    parser.add_argument("--norms", nargs="+", default=list(NORMS), choices=NORMS)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000, help="validation images")
    parser.add_argument("--out")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # batch normalisation on few images is what is asked about
    ds = load_distilled(args.set)
    held = ds.load_source(data_root=args.data_root).validation
    held = held.subset(torch.linspace(0, len(held) - 1, min(args.images, len(held))).long())
    recipe = {
        **ds.recipe,
        "optimizer": {"name": "adamw", "momentum": 0.0, "weight_decay": 0.05},
        "lr": 1e-3,
        "schedule": {**ds.recipe["schedule"], "epochs": args.steps, "lr_drop_epochs": [], "cosine": True},
    }
    rows = []
    for name in args.models:
        for norm in args.norms:
            for ours in (False, True):
                accuracies, begin = [], time.time()
                for seed in range(args.networks):
                    torch.manual_seed(seed)
                    model = build(name, norm, ours, ds)
                    ds.train(model, recipe=recipe, seed=seed)
                    accuracies.append(ds.evaluate(model, held))
                each = (time.time() - begin) / args.networks
                rows.append({"name": name, "norm": norm, "ours": ours, "accuracies": accuracies, "seconds": each})
                print(rows[-1], flush=True)
    lines = []
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        shown = [plus_minus(one["accuracies"]) for one in (before, after)]
        ratio = after["seconds"] / before["seconds"]
        lines.append([before["name"], before["norm"], *shown, f"{ratio:.1f}"])
    head = ["network", "normalisation", "timm's strides", "ours", "times the seconds"]
    setting = {"set": Path(args.set).name, "steps": args.steps, "networks": args.networks, "images": len(held)}
    write(args.out, {**machine("cpu", setting), "rows": rows}, table(head, lines))


if __name__ == "__main__":
    main()
