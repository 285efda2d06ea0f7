"""Does everything that is meant for a GPU work on this one, and how fast? Most wanted first, in slices, resumable.

    python examples/gpu/acceptance.py --out OUT --data-root DIR            # all slices, each under nine minutes
    python examples/gpu/acceptance.py --out OUT --only methods,outer-step --methods rat,mtt
    python examples/gpu/acceptance.py --out OUT --device cpu --miniature   # the same in small, as CI runs it

A slice that is done is not done again. ``OUT/acceptance.json`` and ``.md`` hold what each found, with hardware and
versions; the sets that it made, with their cards, lie in ``OUT/sets``. It needs the checkout, torch and what
``pip install distillkit`` brings; the last slices want CIFAR-10 (in Hub layout, below DIR) and ``datasets``.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from distillkit import compress
from distillkit.lab import effective, hardware, storage, versions

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
METHODS = ("rat", "mtt", "ast", "mct", "pad", "datm", "dsa", "dm", "ftd", "best")
SMALL = {
    "dataset.max_train": 200,
    "network.width": 8,
    "experts.count": 2,
    "experts.epochs": 4,
    "distill.outer_steps": 4,
    "distill.inner_steps": 4,
    "distill.expert_epochs": 1,
    "distill.max_start_epoch": 2,
    "distill.segments": 2,
    "evaluate.networks": 2,
    "evaluate.epochs": 3,
    "evaluate.baselines": ["random"],
}
OF_MINUTES = {
    "rat": {
        "distill.inner_steps": 40,
        "distill.real_batch": 2000,
        "distill.lr_img": 0.003,
        "distill.final_rate": 0.1,
        "distill.select_networks": 2,
        "distill.select_every": 200,
    }
}
"""What differs from the published settings, which are for thousands of outer steps."""
OWN = {"rat": {"distill.horizon": 6}, "mct": {"trajectories.waypoint_epochs": [0, 2, 4]}}
FORMS = {
    "fp32": {"precision": "fp32"},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "compiled": {"precision": "fp32", "distill.compile": "always", "distill.cuda_graphs": False},
    "compiled, CUDA graphs": {"precision": "fp32", "distill.compile": "always"},
    "side by side": {"precision": "fp32", "distill.together": "always"},
}
TOLERANCE = {"fp32": 1e-3, "tf32": 3e-2, "bf16": 1e-1, "compiled": 1e-3, "compiled, CUDA graphs": 1e-3}
TOLERANCE["side by side"] = 1e-3
"""Relative, of loss and gradient norm of the first outer step against the CPU's in float32."""


def first_step(method, out, device, **changes):
    """Loss and norm of the gradient of the first outer step of a small run on digits."""
    settings = effective(SMALL | OWN.get(method, {}) | changes, "digits", 1, method, "smoke")
    compress("digits", ipc=1, method=method, preset="smoke", settings=settings, out=out, device=device)
    row = json.loads((out / "run" / "metrics.jsonl").read_text().splitlines()[1])
    return row["loss"], row["gradient_norm"]


def methods(args, folder):
    """Every method to an artifact in every form; the first step against the CPU's."""
    rows, wanted = [], METHODS[:2] if args.miniature else args.methods
    forms = {"fp32": FORMS["fp32"]} if args.miniature else FORMS
    for method in wanted:
        reference = first_step(method, folder / f"{method}-cpu", "cpu", precision="fp32")
        for form, changes in forms.items():
            try:
                found = first_step(method, folder / f"{method}-{form.replace(', ', '-')}", args.device, **changes)
                off = max(abs(a - b) / abs(b) for a, b in zip(found, reference, strict=True))
                rows.append([method, form, off <= TOLERANCE[form], f"{off:.1e}"])
            except Exception as error:
                rows.append([method, form, False, f"{type(error).__name__}: {error}"[:200]])
            print(*rows[-1], flush=True)
    return {"rows": rows, "good": all(row[2] for row in rows)}


def deterministic(args, folder):
    """The same run twice with ``deterministic``, each with a cache of its own: equal bytes?"""
    found = []
    for turn in ("first", "second"):
        with OwnCache(folder / f"cache-{turn}"):
            first_step("ast", folder / turn, args.device, deterministic=True)
        found.append(storage.sha256_file(folder / turn / "distilled.safetensors"))
    return {"sha256": found, "good": found[0] == found[1]}


class OwnCache:
    """Another cache folder inside the block."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        self.before = os.environ.get("DISTILLKIT_CACHE")
        os.environ["DISTILLKIT_CACHE"] = str(self.folder)

    def __exit__(self, *_):
        os.environ.pop("DISTILLKIT_CACHE")
        if self.before is not None:
            os.environ["DISTILLKIT_CACHE"] = self.before


def script(name, *words):
    """A benchmark of the repository; what it printed."""
    done = subprocess.run([sys.executable, BENCHMARKS / name, *words], capture_output=True, text=True, timeout=530)
    return {"good": done.returncode == 0, "printed": done.stdout[-6000:], "errors": done.stderr[-2000:]}


def agreement(args, folder):
    """The hypergradient against float64 on the CPU, smooth activations; N = 4."""
    words = ["--smooth", "--check", "--ipc", "1", "--inner-steps", "4", "--rounds", "1", "--device", args.device]
    small = ["--width", "8", "--variants", "exact-eager"] if args.miniature else ["--variants", "exact-fp32,exact-bf16"]
    return script("outer_step.py", *words, *small)


def outer_step(args, folder):
    """Seconds and memory of an outer step beside the naive unroll."""
    words = ["--ipc", "10", "--inner-steps", "10,30", "--rounds", "3", "--device", args.device]
    if args.miniature:
        words = ["--ipc", "1", "--inner-steps", "2", "--rounds", "1", "--width", "8", "--device", args.device]
        words += ["--variants", "naive,exact-eager"]
    return script("outer_step.py", *words)


def experts(args, folder):
    """Experts an hour against a plain loop."""
    if args.miniature:
        return script(
            "experts.py", "--forms", "loader,eager", "--width", "8", "--steps", "2", "--batch", "16", "--rounds", "1"
        )
    return script("experts.py", "--together", "8", "--precision", "bf16", "--steps", "50")


def cifar(method, ipc, seconds):
    """A slice: CIFAR-10 at the paper's settings, as far as the time goes."""

    def make(args, folder):
        if args.data_root is None:
            return {"good": None, "why": "no --data-root"}
        changes = {
            "dataset.data_root": args.data_root,
            "time_budget": seconds,
            "experts.seed": 0,
            "experts.opinions": 2,
        }
        changes |= {"evaluate.baselines": ["random"], "evaluate.networks": 3} | OF_MINUTES.get(method, {})
        out = args.out / "sets" / f"cifar10-ipc{ipc}-{method}"
        settings = changes | (SMALL | {"dataset.max_train": 600} if args.miniature else {})
        settings = effective(settings, "cifar10", ipc, method, "paper")
        ds = compress("cifar10", ipc=ipc, method=method, preset="paper", settings=settings, out=out, device=args.device)
        row = ds.results["architectures"]["convnet"]
        return {"good": True, "accuracy": row["mean"], "std": row["std"], "seconds": ds.config["wall_time_seconds"]}

    make.__doc__ = f"CIFAR-10, {ipc} images a class, {method}: {seconds} s of experts and distillation."
    return make


SLICES = {
    "agreement": agreement,
    "methods": methods,
    "outer-step": outer_step,
    "experts": experts,
    "deterministic": deterministic,
    **{
        f"cifar10-ipc{ipc}-{method}": cifar(method, ipc, seconds)
        for ipc, method, seconds in [
            (10, "rat", 240),
            (1, "rat", 150),
            *((ipc, method, 200) for method in ("mtt", "ast", "mct", "pad") for ipc in (1, 10)),
        ]
    },
}


def table(found):
    lines = ["| slice | | seconds | |", "| --- | --- | --- | --- |"]
    for name, result in found["slices"].items():
        state = {True: "passed", False: "FAILED", None: "not run"}[result["good"]]
        lines.append(f"| {name} | {state} | {result['took']:.0f} | {summary(result)} |")
    details = [f"## {name}\n\n{result['printed']}" for name, result in found["slices"].items() if result.get("printed")]
    details += [
        f"## {name}\n\n{by_form(result['rows'])}" for name, result in found["slices"].items() if result.get("rows")
    ]
    wrong = [
        f"- {name}: {' '.join(map(str, row))}"
        for name, result in found["slices"].items()
        for row in result.get("rows", [])
        if not row[2]
    ]
    head = f"# Acceptance\n\n{found['hardware']}; {', '.join(f'{k} {v}' for k, v in found['versions'].items())}\n"
    return "\n".join([head, *lines, "", *wrong, "", *details, ""])


def by_form(rows):
    """Relative difference to the CPU, a row for each method, a column for each form."""
    forms, lines = list(dict.fromkeys(row[1] for row in rows)), []
    for method in dict.fromkeys(row[0] for row in rows):
        own = {row[1]: row[3] for row in rows if row[0] == method}
        lines.append("| " + " | ".join([method, *(own.get(form, "") for form in forms)]) + " |")
    return "\n".join([f"| | {' | '.join(forms)} |", "| --- " * (len(forms) + 1) + "|", *lines])


def summary(result):
    if "accuracy" in result:
        return f"{100 * result['accuracy']:.1f} ± {100 * result['std']:.1f} %"
    if "rows" in result:
        return f"{sum(bool(row[2]) for row in result['rows'])} of {len(result['rows'])} within tolerance"
    return result.get("why") or result.get("error") or ""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data-root", help="folder of local copies of registered data sets")
    parser.add_argument("--only", type=lambda text: text.split(","), help="these slices")
    parser.add_argument(
        "--methods", type=lambda text: text.split(","), default=METHODS, help="of the slice of that name"
    )
    parser.add_argument("--again", action="store_true", help="also slices that are done")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no slice after so many")
    parser.add_argument("--miniature", action="store_true")
    args = parser.parse_args()
    path, begin = args.out / "acceptance.json", time.monotonic()
    found = json.loads(path.read_text()) if path.is_file() else {"slices": {}}
    found |= {"hardware": hardware(torch.device(args.device)), "versions": versions()}
    for name, make in SLICES.items():
        done = found["slices"].get(name, {}).get("good") is True
        if (args.only and name not in args.only) or (done and not args.again):
            continue
        if time.monotonic() - begin > args.seconds:
            break
        started = time.monotonic()
        try:
            result = make(args, storage.make_folder(args.out / "work" / name))
        except Exception as error:
            result = {"good": False, "error": f"{type(error).__name__}: {error}"[:500]}
        found["slices"][name] = result | {"took": time.monotonic() - started}
        print(f"{name}: {result['good']} {summary(result)}", flush=True)
        storage.write_json(path, found)
        storage.write_bytes(path.with_suffix(".md"), table(found).encode())
    sys.exit(any(result["good"] is False for result in found["slices"].values()))


if __name__ == "__main__":
    main()
