"""Experts per hour: distillkit's training step in each of its forms against a plain loop over a DataLoader.

    python examples/benchmarks/experts.py --out examples/benchmarks/results/experts-cpu
    python examples/benchmarks/experts.py --together 8 --precision bf16 --epochs 50 --images 50000   # on a GPU

Random images of CIFAR's shape, ConvNetD3, SGD, DSA. ``loader`` is what research code does: a DataLoader that shuffles,
one network, eager autograd, the C library's own memory policy (each variant runs in a process of its own). Times are
paired: in each round every variant trains for the same number of steps, in turn; an expert's time is extrapolated from
its steps.
"""

import argparse
import json
import statistics
import subprocess
import sys

import measuring
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from distillkit.lab import (
    Augmentation,
    ConvNet,
    ExpertSettings,
    Stack,
    TrainingForm,
    arithmetic,
    expert_recipe,
    fit,
    fit_stack,
    in_precision,
    keep_freed_memory,
    rng,
)

DSA = Augmentation.parse("color_crop_cutout_flip_scale_rotate")
FORMS = ("loader", "eager", "compiled", "together", "together-compiled")


def network(args, index):
    torch.manual_seed(index)
    return ConvNet(3, (32, 32), 10, args.width, 3, "instance")


def data(args):
    generator = torch.Generator().manual_seed(0)
    count = args.batch * args.steps
    images = torch.randn(count, 3, 32, 32, generator=generator)
    return images, torch.randint(10, (count,), generator=generator)


def plain_loop(args):
    """An epoch of a research script's loop: one network, one batch after the other from a DataLoader."""
    model = network(args, 0).to(args.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(*data(args)), batch_size=args.batch, shuffle=True)
    generator = rng.generator(0, "benchmark")

    def epoch():
        for images, labels in loader:
            seen = DSA(images.to(args.device), generator)
            optimizer.zero_grad()
            F.cross_entropy(model(seen), labels.to(args.device)).backward()
            optimizer.step()

    return epoch, 1


def own_loop(args, form):
    """An epoch of distillkit's, in one of its forms."""
    keep_freed_memory(torch.device(args.device))
    size = args.together if form.startswith("together") else 1
    recipe = expert_recipe(ExpertSettings(epochs=10**6, batch_size=args.batch), DSA)
    models = [in_precision(network(args, index), args.precision).to(args.device) for index in range(size)]
    images, labels = (part.to(args.device) for part in data(args))
    if form == "eager":
        epochs = fit(models[0], images, labels, recipe, 0, "benchmark")
    else:
        stack = Stack(models, recipe.loss, TrainingForm(size, form.endswith("compiled"), print))
        names = [("benchmark", index) for index in range(size)]
        epochs = fit_stack(stack, [images] * size, [labels] * size, recipe, 0, names)
    return lambda: next(epochs), size


def serve(args):
    """The body of a variant's process: an epoch to warm up, then one for each line on stdin, its seconds on stdout."""
    with arithmetic(args.precision, torch.device(args.device)):  # the loader too: on a GPU it computes in tf32 at least
        epoch, size = plain_loop(args) if args.form == "loader" else own_loop(args, args.form)
        epoch()
        print(json.dumps({"size": size}), flush=True)
        for _ in sys.stdin:
            print(json.dumps({"seconds": measuring.seconds(epoch, args.device)}), flush=True)


def measured(args):
    """Seconds of a training step of one expert by form; the processes take turns."""
    names = ("device", "width", "batch", "steps", "together", "precision")
    options = [word for name in names for word in (f"--{name}", str(getattr(args, name)))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = {
        form: subprocess.Popen([sys.executable, __file__, "--form", form, *options], **pipes) for form in args.forms
    }
    sizes = {}
    for form, process in running.items():
        lines = iter(process.stdout.readline, "")
        sizes[form] = next(json.loads(line)["size"] for line in lines if line.startswith("{"))
    times = {form: [] for form in running}
    for _ in range(args.rounds):
        for form, process in running.items():
            process.stdin.write("go\n")
            process.stdin.flush()
            times[form].append(json.loads(process.stdout.readline())["seconds"] / args.steps / sizes[form])
    for process in running.values():
        process.stdin.close()
        process.wait()
    return {form: {"size": sizes[form], "step_seconds": statistics.median(several)} for form, several in times.items()}


def report(args, found):
    steps = args.epochs * args.images / args.batch
    floor = measuring.EPOCH_GFLOP * args.images * args.epochs / 1e3 if args.width == 128 else None
    rows = []
    for form, row in found.items():
        row["experts_per_hour"] = 3600 / (row["step_seconds"] * steps)
        row["speedup"] = found["loader"]["step_seconds"] / row["step_seconds"]
        cells = [f"{row['step_seconds']:.4f}", f"{row['experts_per_hour']:.2f}", f"{row['speedup']:.2f}"]
        rows.append([form, str(row["size"]), *cells])
    setting = (
        f"ConvNetD3 width {args.width}, batch {args.batch}, {args.precision}, experts of {args.epochs} epochs on "
        f"{args.images} images, floor {'unknown' if floor is None else f'{floor:.0f} TFLOP an expert'}"
    )
    about = measuring.machine(args.device, setting)
    head = ["form", "at a time", "seconds a step and expert", "experts an hour", "speed-up"]
    text = f"{about['hardware']}, torch {about['torch']}, {setting}\n\n{measuring.table(head, rows)}"
    measuring.write(args.out, {"rows": found, "machine": about, "floor_tflop": floor}, text)


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=3, help="of an epoch that is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, default=2)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--forms", type=lambda text: text.split(","), default=list(FORMS))
    parser.add_argument("--epochs", type=int, default=50, help="of an expert, to extrapolate to")
    parser.add_argument("--images", type=int, default=50_000, help="of an epoch, to extrapolate to")
    parser.add_argument("--out", help="stem of the files to write")
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parsed_arguments()
    if args.form:
        serve(args)
        return
    report(args, measured(args))


if __name__ == "__main__":
    main()
