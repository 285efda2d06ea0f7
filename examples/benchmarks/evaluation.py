"""Evaluation: k fresh networks of a synthetic set side by side against one by one.

    python examples/benchmarks/evaluation.py --out examples/benchmarks/results/evaluation-cpu

Random images, the default evaluation recipe (SGD with momentum, DSA, batches of at most 256); an epoch is timed and
extrapolated to ``--epochs``. Times are paired: in each round every variant takes its turn.
"""

import argparse

import measuring
import torch
import torch.nn.functional as F

from distillkit.lab import (
    Augmentation,
    ConvNet,
    EvaluateSettings,
    Stack,
    TrainingForm,
    default_depth,
    evaluation_recipe,
    fit,
    fit_stack,
    keep_freed_memory,
)

DSA = Augmentation.parse("color_crop_cutout_flip_scale_rotate")


def networks(args):
    depth = default_depth(args.pixels)
    made = []
    for index in range(args.networks):
        torch.manual_seed(index)
        size = (args.pixels, args.pixels)
        made.append(ConvNet(args.channels, size, 10, args.width, depth, "instance").to(args.device))
    return made


def one_by_one(args, images, targets, recipe):
    runs = [fit(model, images, targets, recipe, 0, "benchmark", i) for i, model in enumerate(networks(args))]
    return lambda: [next(epochs) for epochs in runs]


def side_by_side(args, images, targets, recipe, compiled):
    count = args.networks
    stack = Stack(networks(args), recipe.loss, TrainingForm(count, compiled, print))
    names = [("benchmark", index) for index in range(count)]
    epochs = fit_stack(stack, [images] * count, [targets] * count, recipe, 0, names)
    return lambda: next(epochs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--pixels", type=int, default=32)
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1001, help="to extrapolate to")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", help="stem of the files to write")
    args = parser.parse_args()
    keep_freed_memory(torch.device(args.device))
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(10 * args.ipc, args.channels, args.pixels, args.pixels, generator=generator).to(args.device)
    targets = F.one_hot(torch.arange(10 * args.ipc) % 10, 10).float().to(args.device)
    recipe = evaluation_recipe(EvaluateSettings(epochs=10**6), 0.01, DSA)
    variants = {
        "one by one": one_by_one(args, images, targets, recipe),
        "side by side": side_by_side(args, images, targets, recipe, False),
        "side by side, compiled": side_by_side(args, images, targets, recipe, True),
    }
    for action in variants.values():  # warm up, compile
        action()
        action()
    found = measuring.paired(variants, args.rounds, args.device)
    shape = f"{args.channels} x {args.pixels} x {args.pixels}"
    setting = f"{args.networks} ConvNets of width {args.width} on {10 * args.ipc} images of {shape}"
    about = measuring.machine(args.device, setting)
    base = found["one by one"]["seconds"]
    rows = [
        [name, f"{1000 * row['seconds']:.1f}", f"{row['seconds'] * args.epochs:.1f}", f"{base / row['seconds']:.2f}"]
        for name, row in found.items()
    ]
    head = ["form", "ms an epoch of all", f"s of {args.epochs} epochs", "speed-up"]
    text = f"{about['hardware']}, torch {about['torch']}, {setting}\n\n{measuring.table(head, rows)}"
    measuring.write(args.out, {"rows": found, "machine": about}, text)


if __name__ == "__main__":
    main()
