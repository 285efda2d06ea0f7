"""What is left of GSAM's knowledge of flatness, g1 - g0, in each precision, against float64.

    python examples/benchmarks/gsam_precision.py cifar10 --data-root DIR --out examples/benchmarks/results

GSAM moves each weight by ρ θ²g/|θg|, a hundred-thousandth of itself or so, and steps by the gradients before and after.
Experts of each ``--widths`` at their start and after ``--steps`` of plain SGD, with the published settings of DATM on
one batch of 256 images; seconds of a step's two gradients, the median of ``--rounds`` in which precisions take turns.
Writes ``gsam_precision-<dataset>.json`` and ``.md`` (``-cuda`` of a GPU).
"""

import argparse
import copy
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from distillkit import SettingsLayer
from distillkit.lab import arithmetic, compose, expert_recipe, hardware, in_precision, make_run, prepare, versions

PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "tf32", "bf16")}


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--data-root")
    parser.add_argument("--device", default="cpu", choices=PRECISIONS)
    parser.add_argument("--widths", default="32,128")
    parser.add_argument("--steps", default="0,60")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("examples/benchmarks/results"))
    return parser.parse_args()


def batch(prepared, index, size=256):
    first = index * size % (len(prepared.train_labels) - size)
    return prepared.train_images[first : first + size], prepared.train_labels[first : first + size]


def trained(model, prepared, begin, end, lr):
    """``model`` after the steps from ``begin`` to ``end``, in place."""
    optimizer = torch.optim.SGD(model.parameters(), lr)
    for index in range(begin, end):
        images, labels = batch(prepared, index)
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()


def flatness(model, optimizer, images, labels):
    """(g0, g1 - g0) as vectors in float64; ``model`` is left as it is."""

    def gradient():
        return torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))

    return vector(gradient()), vector(optimizer(model.parameters(), 1.0).flatness(gradient))


def vector(pieces):
    return torch.cat([piece.reshape(-1) for piece in pieces]).double()


def in_each(model, optimizer, images, labels, device, rounds):
    """What ``flatness`` finds, and the median of its seconds, by precision."""
    found, seconds = {}, {precision: [] for precision in PRECISIONS[device]}
    for _ in range(rounds):
        for precision, own in seconds.items():
            copied = in_precision(copy.deepcopy(model), precision)
            with arithmetic(precision, torch.device(device)):
                begin = time.perf_counter()
                found[precision] = flatness(copied, optimizer, images, labels)
                found[precision][1].sum().item()  # a GPU has ended
                own.append(time.perf_counter() - begin)
    return {precision: (*found[precision], statistics.median(own)) for precision, own in seconds.items()}


def rows_of(model, optimizer, images, labels, device, rounds):
    """A row for each precision: lengths and cosines, against float64 on the same weights."""
    exact, exact_flat = flatness(copy.deepcopy(model).double(), optimizer, images.double(), labels)
    weights = vector([parameter.detach() for parameter in model.parameters()])
    moved = exact * weights.square() * optimizer.radius / (exact * weights).norm()
    each = in_each(model, optimizer, images, labels, device, rounds)
    for precision, (plain, flat, seconds) in each.items():
        yield {
            "precision": precision,
            "moved": float((moved / weights).abs()[weights != 0].median()),
            "gradient_cosine": float(F.cosine_similarity(plain, exact, dim=0)),
            "share": float(exact_flat.norm() / exact.norm()),
            "share_found": float(flat.norm() / plain.norm()),
            "cosine": float(F.cosine_similarity(flat, exact_flat, dim=0)),
            "seconds": seconds,
        }


def table(rows, facts):
    lines = [
        f"GSAM's g1 - g0 against float64; {facts['dataset']}, ConvNetD3, one batch of 256 images, DATM's published "
        f"settings. {facts['hardware']}, torch {facts['versions']['torch']}.",
        "",
        "| width | steps | a weight moves by (median) | precision | cosine of g0 | \\|g1 - g0\\| / \\|g0\\|, exact "
        "| here | cosine of g1 - g0 | seconds |",
        "| --- " * 9 + "|",
    ]
    for row in rows:
        lines.append(
            f"| {row['width']} | {row['steps']} | {row['moved']:.1e} | {row['precision']} | "
            f"{row['gradient_cosine']:.5f} | {100 * row['share']:.1f} % | {100 * row['share_found']:.1f} % | "
            f"{row['cosine']:.4f} | {row['seconds']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main():
    args, rows = parsed_arguments(), []
    for width in map(int, args.widths.split(",")):
        layer = SettingsLayer("benchmark", {"network.width": width, "dataset.data_root": args.data_root})
        run = make_run(compose(args.dataset, 1, "datm", "paper", args.device, [layer]), torch.device(args.device))
        prepared = prepare(run)
        recipe = expert_recipe(run.settings.experts, None)
        model, done = prepared.build(prepared.network, 0, "gsam")(0).to(args.device), 0
        for steps in map(int, args.steps.split(",")):
            trained(model, prepared, done, steps, recipe.lr)
            done = steps
            images, labels = batch(prepared, steps)
            for row in rows_of(model, recipe.optimizer, images, labels, args.device, args.rounds):
                rows.append({"width": width, "steps": steps, **row})
                print(rows[-1], flush=True)
    facts = {"dataset": args.dataset, "hardware": hardware(torch.device(args.device)), "versions": versions()}
    stem = args.out / f"gsam_precision-{args.dataset}{'-cuda' if args.device == 'cuda' else ''}"
    stem.with_suffix(".json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    stem.with_suffix(".md").write_text(table(rows, facts))
    print(table(rows, facts))


if __name__ == "__main__":
    main()
