"""One outer step: the naive full unroll (what the field's scripts do), TESLA's approximation, and distillkit's sweep.

    python examples/benchmarks/outer_step.py --ipc 10 --inner-steps 10,20,40,80

All variants match the same segment with the same student (ConvNetD3, width 128, 32x32 colour, hard labels, DSA drawn
once and replayed by all). Times are paired: in each round every variant takes its turn, so that whatever else the
machine is doing hits all of them; the median of the rounds is reported. Peak memory is that of a process which does
nothing but this variant, less what it had before the step. ``cosine_to_fp64`` compares the image gradient with that of
distillkit's own sweep in float64 on the CPU, which tests hold against an independent unroll (only with --check: it is
slow). A variant that does not fit into the memory of the machine has no time. On a GPU it is also told how long its
kernels run: the rest of the time they wait for the host. ``naive-bf16`` is the naive unroll under ``torch.autocast``.
The floor is the time that 12 forward passes a step and image would take on a device of --tflops.

On a GPU:  python examples/benchmarks/outer_step.py --ipc 10 --inner-steps 10,30,80 --check --json FILE
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from measuring import seconds
from torch import Tensor
from torch.func import functional_call
from torch.profiler import ProfilerActivity, profile

from distillkit.lab import (
    Augmentation,
    CompiledFunctions,
    ConvNet,
    EagerFunctions,
    FlatNetwork,
    HardLabels,
    InnerLoss,
    InnerStep,
    MatchingTerm,
    StepFunctions,
    Unroll,
    arithmetic,
    augment,
    flatten_parameters,
    hardware,
    in_precision,
    keep_freed_memory,
    normalised_parameter_distance,
    plan_inner_steps,
    to_device,
)

CLASSES, PIXELS, DEPTH = 10, 32, 3
FORWARD_GFLOP = {128: 0.101}  # per image, ConvNetD3 at 32x32; the sweep costs 12 of them a step and image
OUT_OF_MEMORY = 77  # exit status of a process that measures memory
Gradients = tuple[Tensor, Tensor]


class Problem:
    """A segment, a synthetic set and its inner steps; equal arguments give equal problems."""

    def __init__(
        self, ipc: int, inner_steps: int, batch: int, width: int, device: str, dtype: torch.dtype, smooth: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.module = ConvNet(3, (PIXELS, PIXELS), CLASSES, width, DEPTH, "instance").to(device, dtype)
        for place, layer in enumerate(self.module.features):
            if smooth and isinstance(layer, torch.nn.ReLU):
                self.module.features[place] = torch.nn.Softplus()
        self.device = torch.device(device)
        self.start = flatten_parameters(self.module)
        generator = torch.Generator().manual_seed(1)
        noise = torch.randn(self.start.numel(), generator=generator).to(device, dtype)
        self.target = self.start + 0.01 * noise
        size = CLASSES * ipc
        self.images = torch.randn(size, 3, PIXELS, PIXELS, generator=generator).to(device, dtype)
        self.labels = F.one_hot(torch.arange(size) % CLASSES, CLASSES).to(device, dtype)
        self.lr = torch.tensor(0.01, device=device, dtype=dtype)
        dsa = Augmentation.parse("color_crop_cutout_flip_scale_rotate")
        steps = plan_inner_steps(inner_steps, size, batch, (3, PIXELS, PIXELS), dsa, torch.Generator().manual_seed(2))
        self.steps: list[InnerStep] = to_device(steps, self.device)
        self.names = [name for name, _ in self.module.named_parameters()]
        self.shapes = [parameter.shape for parameter in self.module.parameters()]
        self.sizes = [shape.numel() for shape in self.shapes]

    def gradient(self, theta: Tensor, images: Tensor, step: InnerStep, *, graph: bool) -> Tensor:
        """The inner loss's gradient in theta [P], with a graph to differentiate it again or without."""
        if not theta.requires_grad:
            theta = theta.detach().requires_grad_()
        index = step.indices.to(images.device)
        seen = images[index]
        if step.draw is not None:
            seen = augment.apply(seen, step.draw)
        pieces = zip(self.names, theta.split(self.sizes), self.shapes, strict=True)
        logits = functional_call(self.module, {name: piece.view(shape) for name, piece, shape in pieces}, (seen,))
        loss = -(self.labels[index] * F.log_softmax(logits, 1)).sum(1).mean()
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=graph)
        return gradient


def naive(problem: Problem) -> Gradients:
    """The full unroll: one graph through all steps, then one backward pass (MTT's script, written anew)."""
    images, lr = problem.images.clone().requires_grad_(), problem.lr.clone().requires_grad_()
    theta = problem.start.clone().requires_grad_()
    for step in problem.steps:
        theta = theta - lr * problem.gradient(theta, images, step, graph=True)
    distance = (theta - problem.target).square().sum() / (problem.start - problem.target).square().sum()
    return torch.autograd.grad(distance, [images, lr])


def naive_tf32(problem: Problem) -> Gradients:
    """The same with tf32 convolutions and matrix products."""
    with arithmetic("tf32", problem.device):
        return naive(problem)


def naive_bf16(problem: Problem) -> Gradients:
    """The same with convolutions in bfloat16, as PyTorch's autocast does it."""
    with torch.autocast(problem.device.type, dtype=torch.bfloat16):
        return naive(problem)


def truncated(problem: Problem) -> Gradients:
    """TESLA's two passes, written anew: each inner gradient is differentiated with the student held fixed."""
    theta, path = problem.start, []
    for step in problem.steps:
        path.append(theta)
        theta = theta - problem.lr * problem.gradient(theta, problem.images, step, graph=False)
    residual = theta - problem.target
    progress = (problem.start - problem.target).square().sum()
    total, total_lr = torch.zeros_like(problem.images), torch.zeros_like(problem.lr)
    for step, theta in zip(problem.steps, path, strict=True):
        images = problem.images.clone().requires_grad_()
        along = (residual * problem.gradient(theta, images, step, graph=True)).sum()
        total += -2 * problem.lr / progress * torch.autograd.grad(along, images)[0]
        total_lr += -2 * along.detach() / progress
    return total, total_lr


def _exact(problem: Problem, functions: StepFunctions, kept: bool = False) -> Gradients:
    at_once = problem.device.type == "cuda"  # as runs have it
    unroll = Unroll(functions, problem.steps, kept=len(problem.steps) if kept else 0, at_once=at_once)
    start, target = problem.start, problem.target
    term = MatchingTerm(len(problem.steps), lambda student: normalised_parameter_distance(student, start, target))
    result = unroll.hypergradient(start, problem.images, problem.labels, problem.lr, [term])
    return result.images, result.lr


def exact_eager(problem: Problem, kept: bool = False) -> Gradients:
    """Distillkit's reverse sweep, operation by operation; ``kept``: with the graphs of all steps, as memory allows."""
    return _exact(problem, EagerFunctions(InnerLoss(FlatNetwork(problem.module), HardLabels())), kept)


COMPILED: dict[str, CompiledFunctions] = {}  # of a process; all its problems differ in N alone


def exact_compiled(problem: Problem, precision: str, kept: bool = False) -> Gradients:
    """Distillkit's reverse sweep, its two functions compiled: what long runs use."""
    name = f"{precision} {kept}"
    if name not in COMPILED:
        network = FlatNetwork(in_precision(copy.deepcopy(problem.module), precision))
        loss = InnerLoss(network, HardLabels())
        COMPILED[name] = CompiledFunctions(loss, cuda_graphs=problem.device.type == "cuda" and not kept)
    with arithmetic(precision, problem.device):
        return _exact(problem, COMPILED[name], kept)


VARIANTS: dict[str, Callable[[Problem], Gradients]] = {
    "naive": naive,
    "naive-tf32": naive_tf32,
    "naive-bf16": naive_bf16,
    "truncated": truncated,
    "exact-eager": exact_eager,
    "exact-eager-kept": lambda problem: exact_eager(problem, kept=True),
    "exact-fp32": lambda problem: exact_compiled(problem, "fp32"),
    "exact-fp32-kept": lambda problem: exact_compiled(problem, "fp32", kept=True),
    "exact-tf32": lambda problem: exact_compiled(problem, "tf32"),
    "exact-bf16": lambda problem: exact_compiled(problem, "bf16"),
    "exact-bf16-kept": lambda problem: exact_compiled(problem, "bf16", kept=True),
}
NOT_BY_DEFAULT = ("exact-eager-kept",)
NOT_ON_A_CPU = ("exact-tf32", "naive-tf32", "naive-bf16")


def peak_bytes(device: str) -> int:
    """Peak memory of this process so far (on a GPU: of its tensors).

    Linux's ru_maxrss starts at the peak of the parent, VmHWM does not.
    """
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text()).group(1)) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_memory(variant: str, options: argparse.Namespace, inner_steps: int) -> int | None:
    """Peak of a fresh process that runs ``variant`` once, less what it held before; None: it does not fit."""
    command = [sys.executable, __file__, "--memory-of", variant, "--inner-steps", str(inner_steps)]
    for name in ("ipc", "batch", "width", "device"):
        command += [f"--{name}", str(getattr(options, name))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == OUT_OF_MEMORY:
        return None
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout.strip().splitlines()[-1])


def free_memory() -> int:
    """Bytes that can be had without swapping, those of the file cache included."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        return int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo.read_text()).group(1)) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def report_memory(options: argparse.Namespace) -> None:
    """The body of that process; on the CPU it may use nine tenths of what is free, so that it fails alone."""
    if options.device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(0.9 * free_memory()), resource.RLIM_INFINITY))
    before = peak_bytes(options.device)
    try:
        problem = Problem(
            options.ipc, options.inner_steps[0], options.batch, options.width, options.device, torch.float32
        )
        VARIANTS[options.memory_of](problem)
    except (RuntimeError, MemoryError) as error:
        if "memory" not in str(error).lower():
            raise
        sys.exit(OUT_OF_MEMORY)
    print(peak_bytes(options.device) - before)


def kernel_seconds(problem: Problem, variant: Callable[[Problem], Gradients]) -> float | None:
    """What a GPU computes in one step, without the time that it waits for the host; None on a CPU."""
    if problem.device.type != "cuda":
        return None
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        variant(problem)
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in recorded.key_averages()) / 1e6


def rows_of(options: argparse.Namespace, inner_steps: int) -> list[dict[str, Any]]:
    """Paired times, memory and agreement of all variants that fit, at one N."""
    shape = (options.ipc, inner_steps, options.batch, options.width)
    peaks = {name: measure_memory(name, options, inner_steps) for name in options.variants}
    fitting = {name: VARIANTS[name] for name in options.variants if peaks[name] is not None}
    problem = Problem(*shape, options.device, torch.float32, options.smooth)
    times: dict[str, list[float]] = {name: [] for name in options.variants}
    results: dict[str, Gradients] = {}
    for variant in fitting.values():  # warm up
        variant(Problem(options.ipc, 1, options.batch, options.width, options.device, torch.float32, options.smooth))
    for _ in range(options.rounds):
        for name, variant in fitting.items():
            elapsed = seconds(lambda v=variant, n=name: results.__setitem__(n, v(problem)), options.device)
            times[name].append(elapsed)
    kernels = {name: kernel_seconds(problem, variant) for name, variant in fitting.items()}
    reference = (
        exact_eager(Problem(*shape, "cpu", torch.float64, options.smooth))[0].flatten() if options.check else None
    )
    images = min(options.batch, CLASSES * options.ipc)
    floor = 12 * FORWARD_GFLOP.get(options.width, float("nan")) * inner_steps * images
    rows = []
    for name in options.variants:
        median = statistics.median(times[name]) if name in fitting else None
        row: dict[str, Any] = {
            "variant": name,
            "inner_steps": inner_steps,
            "seconds": median,
            "peak_bytes": peaks[name],
        }
        row |= {"seconds_all": times[name], "kernel_seconds": kernels.get(name), "floor_gflop": floor}
        row["floor_seconds"] = floor / 1000 / options.tflops if options.tflops else None
        if reference is not None and name in fitting:
            found = results[name][0].double().cpu().flatten()
            row["cosine_to_fp64"] = float(F.cosine_similarity(found, reference, dim=0))
            row["relative_to_fp64"] = float((found - reference).norm() / reference.norm())
        rows.append(row)
    return rows


def shown(value: float | None, digits: int = 2) -> str:
    """A number, or that it did not fit."""
    return "out of memory" if value is None else f"{value:.{digits}f}"


def markdown(rows: list[dict[str, Any]], machine: dict[str, Any]) -> str:
    """The table that the README shows."""
    lines = [f"{machine['hardware']}, torch {machine['torch']}, {machine['setting']}", ""]
    names = list(dict.fromkeys(row["variant"] for row in rows))
    lines += [
        f"| N | {' | '.join(f'{name}, s' for name in names)} | {' | '.join(f'{name} / naive' for name in names[1:])} | "
        f"{' | '.join(f'{name}, GB' for name in names)} |",
        "| --- " * (3 * len(names)) + "|",
    ]
    for steps in dict.fromkeys(row["inner_steps"] for row in rows):
        own = {row["variant"]: row for row in rows if row["inner_steps"] == steps}
        times = [own[name]["seconds"] for name in names]
        ratios = [None if time is None or times[0] is None else time / times[0] for time in times[1:]]
        gigabytes = [None if own[name]["peak_bytes"] is None else own[name]["peak_bytes"] / 1e9 for name in names]
        cells = [*map(shown, times), *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)]
        lines.append("| " + " | ".join([str(steps), *cells, *map(shown, gigabytes)]) + " |")
    if any(row["kernel_seconds"] is not None for row in rows):
        lines += ["", "| N | variant | seconds | of these the GPU computes |", "| --- | --- | --- | --- |"]
        for row in rows:
            cells = row["inner_steps"], row["variant"], shown(row["seconds"], 3), shown(row["kernel_seconds"], 3)
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    checked = [row for row in rows if "cosine_to_fp64" in row]
    if checked:
        lines += ["", "| N | variant | cosine with float64 | relative difference |", "| --- | --- | --- | --- |"]
    for row in checked:
        cosine, relative = row["cosine_to_fp64"], row["relative_to_fp64"]
        lines.append(f"| {row['inner_steps']} | {row['variant']} | {cosine:.6f} | {relative:.1e} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--inner-steps", type=lambda text: [int(n) for n in text.split(",")], default=[10, 20, 40, 80])
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--check", action="store_true", help="compare with float64")
    parser.add_argument(
        "--smooth",
        action="store_true",
        help="softplus for ReLU: what differs from float64 is rounding then, not activations that it moved past 0",
    )
    parser.add_argument(
        "--variants", type=lambda text: text.split(","), help="default: all that the device has, without kept graphs"
    )
    parser.add_argument("--tflops", type=float, help="what the device does in a second, for the floor")
    parser.add_argument("--json", metavar="FILE", help="write the rows there")
    parser.add_argument("--memory-of", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variants is None:
        left_out = NOT_BY_DEFAULT + (NOT_ON_A_CPU if options.device == "cpu" else ())
        options.variants = [name for name in VARIANTS if name not in left_out]
    unknown = [name for name in options.variants if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown variant {unknown[0]!r}; known: {', '.join(VARIANTS)}")
    return options


def main() -> None:
    """Measure and print."""
    options = parse()
    with arithmetic("fp32", torch.device(options.device)):  # a variant of another precision says so itself
        measure(options)


def measure(options: argparse.Namespace) -> None:
    """Print and write the rows, or the memory of one variant."""
    keep_freed_memory(torch.device(options.device))  # as runs do; all variants profit
    if options.memory_of:
        report_memory(options)
        return
    rows = [row for steps in options.inner_steps for row in rows_of(options, steps)]
    machine = {
        "hardware": hardware(torch.device(options.device)),
        "platform": platform.platform(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "setting": f"ConvNetD3 width {options.width}, ipc {options.ipc}, batch {options.batch}",
        "rounds": options.rounds,
    }
    print(markdown(rows, machine))
    if options.json:
        path = Path(options.json)
        path.write_text(json.dumps({"rows": rows, "machine": machine}, indent=2) + "\n", encoding="utf-8")
        path.with_suffix(".md").write_text(markdown(rows, machine) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
