"""From how many values a channel on is batch normalisation trained as well as the instance normalisation in its place?

    python examples/benchmarks/batch_norm.py cards/cifar10-ipc10-rat cards/digits-ipc10-mtt --data-root DIR --out FILE

Parts of each set (fewer classes, fewer images of each; as long as real images) train networks of timm with both
normalisations by one recipe: AdamW at 0.001, the set's augmentation, half a cosine. Images times pixels of the last map
are what a mean and a variance of the last layers are made of; ``--enlarge 4`` repeats every pixel four times a side, to
tell maps from data. Accuracy on validation images of the classes.
"""

import argparse
from pathlib import Path

import torch
from measuring import machine, plus_minus, table, write
from torch.nn.functional import cross_entropy

from distillkit import load_distilled, prepare_model
from distillkit.lab import batch_statistics

NETWORKS = ("resnet10t", "regnetx_002")
NORMS = ("keep", "instance")


def enlarged(images, times):
    """Every pixel of images [n, C, H, W] so many times a side."""
    return images.repeat_interleave(times, 2).repeat_interleave(times, 3)


def part_of(ds, own, classes, ipc):
    """Images [S, C, H, W] and class ids [S] of the first classes, the first ``ipc`` of each."""
    rows = [row for label in range(classes) for row in torch.nonzero(ds.class_ids == label)[:ipc, 0].tolist()]
    return own[rows], ds.class_ids[rows]


def trained(ds, name, norm, images, labels, steps, seed):
    """A network after ``steps`` steps on all images at once."""
    torch.manual_seed(seed)
    channels, size = images.shape[1:3]
    model, _ = prepare_model(name, num_classes=ds.num_classes, image_size=size, channels=channels, norm=norm)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model.train()(ds.augment(images, generator)), labels).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model, inputs, labels, classes):
    """Of the first classes, among themselves."""
    logits = torch.cat([model(batch)[:, :classes] for batch in inputs.split(500)])
    return (logits.argmax(1) == labels).float().mean().item()


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--models", nargs="+", default=list(NETWORKS))
    parser.add_argument("--classes", nargs="+", type=int, default=[2, 5, 10])
    parser.add_argument("--ipc", nargs="+", type=int, default=[1, 3, 10])
    parser.add_argument("--enlarge", type=int, default=1, help="pixels a side that each pixel becomes")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--networks", type=int, default=3)
    parser.add_argument("--images", type=int, default=1000, help="validation images")
    parser.add_argument("--out")
    return parser.parse_args()


def main():
    args = parsed_arguments()
    rows = []
    for folder in args.sets:
        ds = load_distilled(folder)
        held = ds.load_source(data_root=args.data_root).validation
        held = held.subset(torch.linspace(0, len(held) - 1, min(args.images, len(held))).long())
        real = enlarged(ds.inputs(held)[:], args.enlarge)
        own = enlarged(ds.images, args.enlarge)
        scale = real.flatten(1).norm(dim=1).mean() / own.flatten(1).norm(dim=1).mean()
        parts = [(k, n) for k in args.classes for n in args.ipc if k <= ds.num_classes and n <= ds.config["ipc"]]
        for classes, ipc in parts:
            images, labels = part_of(ds, own, classes, ipc)
            asked = held.labels < classes
            for name in args.models:
                shape = {"num_classes": ds.num_classes, "image_size": own.shape[2], "channels": own.shape[1]}
                values = batch_statistics(prepare_model(name, **shape)[0], tuple(own.shape[1:]), len(images)).values
                row = {"set": Path(folder).name, "classes": classes, "ipc": ipc, "model": name, "values": values}
                for norm in NORMS:
                    models = [
                        trained(ds, name, norm, images * scale, labels, args.steps, seed)
                        for seed in range(args.networks)
                    ]
                    row[norm] = [accuracy(one, real[asked], held.labels[asked], classes) for one in models]
                rows.append(row)
                print(row, flush=True)
    lines = [
        [row["set"], row["model"], str(row["classes"]), str(row["ipc"]), str(row["values"])]
        + [plus_minus(row[norm]) for norm in NORMS]
        for row in sorted(rows, key=lambda row: row["values"])
    ]
    head = ["set", "network", "classes", "images of each", "values a channel", "batch norm", "instance norm"]
    setting = {"enlarge": args.enlarge, "steps": args.steps, "networks": args.networks, "images": args.images}
    write(args.out, {**machine("cpu", setting), "rows": rows}, table(head, lines))


if __name__ == "__main__":
    main()
