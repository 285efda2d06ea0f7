"""How many threads a training step wants: networks and batches of several sizes, on a quiet and on a busy machine.

    GOMP_SPINCOUNT=1000 python examples/benchmarks/threads.py [--busy] [--out examples/benchmarks/results/threads]

GOMP_SPINCOUNT is what the command line sets; without it threads wait in circles for milliseconds, as torch has it.

A step is forward, backward and the update of a ConvNet; the student's step of distillation has the same operations
twice. ``--busy``: a process that computes on every core meanwhile, as on a shared machine.
"""

import argparse
import multiprocessing

import torch
from measuring import machine, paired, table, write

from distillkit.lab import NetworkSettings, build_network, sample_flop, usable_cores

PROBLEMS = [  # pixels, channels, width, batch
    (8, 1, 32, 10),
    (8, 1, 32, 100),
    (8, 1, 32, 256),
    (32, 3, 16, 10),
    (32, 3, 16, 100),
    (32, 3, 32, 10),
    (32, 3, 32, 100),
    (32, 3, 64, 100),
    (32, 3, 128, 10),
    (32, 3, 128, 100),
]


def stepper(pixels, channels, width, batch):
    """A training step, and its FLOP."""
    settings = NetworkSettings(width=width, depth={8: 2, 32: 3}[pixels])
    model = build_network(settings, (channels, pixels, pixels), 10, 0, "threads")
    images, labels = torch.randn(batch, channels, pixels, pixels), torch.arange(batch) % 10
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, fused=True)

    def step():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step, 3 * batch * sample_flop(model, (channels, pixels, pixels))


def with_threads(step, threads, repeats):
    def action():
        torch.set_num_threads(threads)
        for _ in range(repeats):
            step()

    return action


def burn():
    torch.set_num_threads(1)
    one = torch.randn(300, 300)
    while True:
        one @ one


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out")
    args = parser.parse_args()
    cores = usable_cores()
    others = [multiprocessing.Process(target=burn, daemon=True) for _ in range(cores if args.busy else 0)]
    for other in others:
        other.start()
    rows, facts = [], []
    for pixels, channels, width, batch in PROBLEMS:
        step, flop = stepper(pixels, channels, width, batch)
        repeats = max(1, min(50, int(1e9 / flop)))
        actions = {threads: with_threads(step, threads, repeats) for threads in (1, cores)}
        for action in actions.values():
            action()
        found = paired(actions, args.rounds, "cpu")
        one, all_of_them = (1000 * found[threads]["seconds"] / repeats for threads in (1, cores))
        rows.append(
            [f"{pixels} x {pixels}", str(width), str(batch), f"{flop / 1e6:.0f}"]
            + [f"{value:.2f}" for value in (one, all_of_them, one / all_of_them)]
        )
        facts.append({"pixels": pixels, "width": width, "batch": batch, "flop": flop, "ms": [one, all_of_them]})
    for other in others:
        other.terminate()
    head = ["image", "width", "batch", "MFLOP a step", "ms, 1 thread", f"ms, {cores} threads", "ratio"]
    write(args.out, {"steps": facts, "machine": machine("cpu", {"busy": args.busy})}, table(head, rows))


if __name__ == "__main__":
    main()
