"""What an expert takes on the disk, by trajectory form, and how far storage moves it.

    python examples/trajectory_storage.py cifar10 --data-root DIR --set network.width=128 --set experts.epochs=50

Trains one raw expert (or takes it from the cache), converts it to every form and measures the files. ``segment`` is the
largest error of a one-epoch segment's vector, relative to its length: what a matching loss sees.
"""

import argparse
from pathlib import Path

import torch

from distillkit import SettingsLayer
from distillkit.lab import compose, hardware, make_run, parse_assignments, prepare, storage, train_experts, versions

FORMS = {
    "raw, every epoch": {},
    "4 waypoints, float32": {"trajectories.waypoints": 4},
    "4 waypoints, float16": {"trajectories.waypoints": 4, "trajectories.dtype": "float16"},
    "4 waypoints, bfloat16": {"trajectories.waypoints": 4, "trajectories.dtype": "bfloat16"},
    "2 endpoints, float32": {"trajectories.waypoints": 2},
    "2 endpoints, bfloat16": {"trajectories.waypoints": 2, "trajectories.dtype": "bfloat16"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--data-root")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--name", help="of the files written; default the data set")
    parser.add_argument("--out", type=Path, default=Path("examples/benchmarks/results"))
    args = parser.parse_args()
    rows = {name: measure(args, changes) for name, changes in FORMS.items()}
    stem = args.out / f"trajectory_storage-{args.name or args.dataset}"
    facts = {"changed": args.set, "hardware": hardware(torch.device("cpu")), "versions": versions()}
    storage.write_json(stem.with_suffix(".json"), {"rows": rows, **facts})
    storage.write_bytes(stem.with_suffix(".md"), table(args, rows).encode())
    print(table(args, rows))


def measure(args, changes):
    form = {"trajectories.form": "convex" if changes else "raw", **changes}
    layers = [SettingsLayer("example", {"experts.count": 1, "dataset.data_root": args.data_root, **form})]
    composed = compose(args.dataset, 1, "mtt", "quick", "cpu", [*layers, parse_assignments(args.set)])
    run = make_run(composed, torch.device("cpu"))
    store = train_experts(run, prepare(run))
    path = store.tensors_path(0)
    return {"bytes": path.stat().st_size, "storage_error": store.record(0).get("storage_error")}


def table(args, rows):
    raw = rows["raw, every epoch"]["bytes"]
    lines = [
        f"One expert of {args.dataset}; changed: {', '.join(args.set) or 'nothing'}.",
        "",
        "| form | bytes on disk | raw / this | segment error | position error |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        error = row["storage_error"]
        errors = f"{error['segment']:.1e} | {error['position']:.1e}" if error else "– | –"
        lines.append(f"| {name} | {row['bytes']:,} | {raw / row['bytes']:.1f} | {errors} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
