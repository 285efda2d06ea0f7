"""Which images are hard: the easiest and hardest of some classes as a picture, and whether two scorings agree.

    python examples/difficulty.py cifar10 --data-root DIR --classes 3,8 --out examples/benchmarks/results

Scores the training images twice, by networks of two seeds (PAD's EL2N; ``--set experts.difficulty=grand`` for the other
score), prints Spearman's rank correlation within each class, and writes ``difficulty-<dataset>.png`` and ``.json``.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from distillkit import SettingsLayer
from distillkit.lab import (
    compose,
    data_setup,
    difficulty_scores,
    easy_to_hard,
    hardware,
    make_run,
    parse_assignments,
    prepare,
    storage,
    versions,
)

SHOWN = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--classes", default="0,1")
    parser.add_argument("--data-root")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("examples/benchmarks/results"))
    args = parser.parse_args()
    layers = [SettingsLayer("example", {"dataset.data_root": args.data_root}), parse_assignments(args.set)]
    run = make_run(compose(args.dataset, 1, "pad", "quick", "cpu", layers), torch.device("cpu"))
    prepared = prepare(run)
    setup, labels = data_setup(run, prepared), prepared.train_labels
    first, second = (difficulty_scores(run, prepared, setup, seed) for seed in (0, 1))
    agreement = {}
    for index, name in enumerate(prepared.data.classes):
        members = labels == index
        agreement[name] = float(spearmanr(first[members], second[members]).statistic)
        print(f"{name:<12} {agreement[name]:.2f}")
    mean = sum(agreement.values()) / len(agreement)
    print(f"mean         {mean:.2f}")
    ranking = easy_to_hard(first, labels, prepared.num_classes)
    chosen = [int(index) for index in args.classes.split(",")]
    stem = args.out / f"difficulty-{args.dataset}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    draw(prepared.data, ranking, chosen).savefig(stem.with_suffix(".png"), dpi=110, metadata={"Software": "distillkit"})
    experts = run.settings.experts
    facts = {"score": experts.difficulty, "networks": experts.difficulty_networks, "epochs": experts.difficulty_epochs}
    facts |= {"changed": args.set, "hardware": hardware(torch.device("cpu")), "versions": versions()}
    storage.write_json(stem.with_suffix(".json"), {"spearman": agreement, "mean": mean, **facts})


def draw(data, ranking, chosen):
    """For each class a row of its easiest and a row of its hardest images."""
    figure = Figure(figsize=(SHOWN * 0.8, 1.7 * len(chosen)), layout="constrained")
    axes = figure.subplots(2 * len(chosen), SHOWN, squeeze=False)
    for row, index in enumerate(chosen):
        order = ranking[index]
        for offset, (words, images) in enumerate((("easiest", order[:SHOWN]), ("hardest", order[-SHOWN:]))):
            for column, image in enumerate(images):
                axis = axes[2 * row + offset][column]
                pixels = data.train.images[image].permute(1, 2, 0).numpy()
                axis.imshow(pixels.squeeze(), cmap="gray" if pixels.shape[-1] == 1 else None)
                axis.set(xticks=[], yticks=[])
            axes[2 * row + offset][0].set_ylabel(f"{data.classes[index]}\n{words}", fontsize=7)
    return figure


if __name__ == "__main__":
    main()
