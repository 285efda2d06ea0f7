"""TESLA's truncated hypergradient beside the exact one: cosine and norm ratio over the number of inner steps.

    python examples/benchmarks/truncated.py cifar10 --ipc 1 --data-root DIR --inner-steps 1,10,30,50,80

Both are taken at the start of a distillation (real images, cached or new experts), over several segments; the table
shows means over them.
"""

import argparse
from pathlib import Path

import torch

from distillkit import SettingsLayer
from distillkit.lab import (
    EagerFunctions,
    FlatNetwork,
    InnerLoss,
    RealData,
    StudentFacts,
    Unroll,
    compose,
    hardware,
    initial_images,
    inner_optimizer,
    label_part,
    make_run,
    matching_part,
    open_trajectories,
    parse_assignments,
    plan_inner_steps,
    prepare,
    rng,
    segment_sampler,
    storage,
    train_experts,
    versions,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--method", default="mtt")
    parser.add_argument("--inner-steps", default="1,10,30,50,80")
    parser.add_argument("--lr", default="0.01,0.03", help="of the student")
    parser.add_argument("--segments", type=int, default=4)
    parser.add_argument("--data-root")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("examples/benchmarks/results"))
    args = parser.parse_args()
    layers = [SettingsLayer("example", {"dataset.data_root": args.data_root}), parse_assignments(args.set)]
    composed = compose(args.dataset, args.ipc, args.method, "quick", "cpu", layers)
    run = make_run(composed, torch.device("cpu"))
    prepared = prepare(run)
    store = train_experts(run, prepared)
    rows = []
    for lr in map(float, args.lr.split(",")):
        for count in map(int, args.inner_steps.split(",")):
            rows.append({"inner_steps": count, "lr": lr, **compare(run, prepared, store, count, lr, args.segments)})
            print(rows[-1], flush=True)
    stem = args.out / f"truncated-{args.dataset}-ipc{args.ipc}"
    facts = {"changed": args.set, "hardware": hardware(torch.device("cpu")), "versions": versions()}
    storage.write_json(stem.with_suffix(".json"), {"rows": rows, **facts})
    storage.write_bytes(stem.with_suffix(".md"), table(args, rows).encode())


def compare(run, prepared, store, count, lr, segments):
    """Means over segments: cosine and norm ratio of the image gradients, the two learning rate gradients."""
    settings = run.settings.distill
    trajectories = open_trajectories(store, run.settings.experts.count)
    sample = segment_sampler(settings, trajectories, run.settings.seed)
    network = FlatNetwork(prepared.build(prepared.network, 0, "student")(0))
    part = label_part(settings)
    real = RealData(prepared.train_images, prepared.train_labels, prepared.num_classes)
    first = initial_images("real", real, run.settings.ipc, run.settings.seed)
    images, labels = first.images, part.initial(first.class_ids, prepared.num_classes)
    found = {"cosine": [], "norm_ratio": [], "lr_exact": [], "lr_truncated": []}
    for step in range(segments):
        segment = sample(step)

        def point(epoch, expert=segment.expert):
            return trajectories.point(expert, epoch)

        generator = rng.generator(0, "distill", "inner", step)
        augmentation = prepared.augmentation if settings.augment else None
        steps = plan_inner_steps(count, len(images), None, prepared.image_shape, augmentation, generator)
        terms = matching_part(settings)(StudentFacts(point(segment.start), count, segment, point))
        exact, short = (
            Unroll(EagerFunctions(InnerLoss(network, part)), steps, inner_optimizer(settings), kind).hypergradient(
                point(segment.start), images, labels, torch.tensor(lr), terms
            )
            for kind in (True, False)
        )
        found["cosine"].append(float((exact.images * short.images).sum() / exact.images.norm() / short.images.norm()))
        found["norm_ratio"].append(float(short.images.norm() / exact.images.norm()))
        found["lr_exact"].append(float(exact.lr))
        found["lr_truncated"].append(float(short.lr))
    return {name: sum(values) / len(values) for name, values in found.items()} | {"by_segment": found}


def table(args, rows):
    lines = [
        f"{args.dataset}, ipc {args.ipc}, {args.method}; means over {args.segments} segments. "
        f"Changed: {', '.join(args.set) or 'nothing'}.",
        "",
        "| student lr | N | cosine | norm ratio | dL/dlr exact | dL/dlr truncated |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['lr']:g} | {row['inner_steps']} | {row['cosine']:.4f} | {row['norm_ratio']:.2f} | "
            f"{row['lr_exact']:.1f} | {row['lr_truncated']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
