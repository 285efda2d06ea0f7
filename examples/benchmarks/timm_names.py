"""Which of timm's networks take small images: every name is built, asked, and differentiated twice on two images.

python examples/benchmarks/timm_names.py --each-family 1 --out examples/benchmarks/results/timm_names

Each name is tried in a process of its own with bounds of time and memory, first those that sound small, one of every
family (a module of timm) before a second one of any. Rows are appended to <out>.jsonl, and a name that is there is not
tried again, so that the script can be stopped and called again with more time; <out>.json and <out>.md sort them.

works      as timm makes it
changed    built with another patch, stem or head, which the row says
trains     takes the images and can be trained on a set, but has no second derivative: no set can be distilled with it
refused    takes no such images in any form tried, or something else is missing, which the row says
too large  more parameters than --most-parameters, counted without memory; not tried
too slow   ran past --seconds or --gib
"""

import argparse
import json
import multiprocessing
import re
import resource
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from measuring import table, write

from distillkit import ConfigError, prepare_model
from distillkit.lab import check_second_derivative, plain_activations, plain_attention, versions

KINDS = ("works", "changed", "trains", "refused", "too large", "too slow")
CHANNELS, CLASSES, IMAGES = 3, 10, 2
NO_ANSWER = (None, "too slow", "")
SMALL_WORDS = "test zepto atto femto pico nano xxs xs s tiny t t0 xxtiny xtiny mini small micro 0 lite"
SMALL = tuple(SMALL_WORDS.split(" "))


def family(name):
    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2]


def outcome(name, size, most):
    """Parameters, kind and words of one name."""
    count = plain_count(name)
    if (count or 0) > most:
        return count, "too large", f"{count / 1e6:.0f} million parameters"
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(IMAGES, CHANNELS, size, size, generator=generator)
    labels = torch.arange(IMAGES)
    try:
        with plain_attention():
            model, notes = prepare_model(name, num_classes=CLASSES, image_size=size, channels=CHANNELS)
        logits = plain_activations(model).train()(images)
        if logits.shape != (IMAGES, CLASSES):
            return count, "refused", f"gives outputs of shape {tuple(logits.shape)}, not logits of classes"
        F.cross_entropy(logits, labels).backward()
    except ConfigError as error:
        return count, "refused", str(error)
    except Exception as error:  # what no form of it tells before it is trained
        return count, "refused", f"{type(error).__name__}: {[*str(error).splitlines(), ''][0][:160]}"
    model.zero_grad(set_to_none=True)
    try:
        check_second_derivative(f"timm/{name}", model, images, labels)
    except ConfigError as error:
        return count, "trains", str(error)
    return count, *(("changed", "; ".join(notes)) if notes else ("works", "as timm makes it"))


def bounded(name, arguments, answers):
    """``outcome`` in a process that may take so much more memory than it begins with."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + int(arguments.gib * 2**30),) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (int(arguments.seconds) + 1,) * 2)
    answers.send(outcome(name, arguments.size, arguments.most_parameters))


def tried(name, arguments):
    """The row of a name."""
    begin, row = time.perf_counter(), {"name": name, "family": family(name)}
    context = multiprocessing.get_context("fork")  # importing torch and timm anew takes longer than a network
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=bounded, args=(name, arguments, there))
    process.start()
    there.close()
    try:
        count, kind, words = here.recv() if here.poll(arguments.wait * arguments.seconds) else NO_ANSWER
    except EOFError:
        count, kind, words = NO_ANSWER
    process.kill()
    process.join()
    if kind == "too slow" or "alloc" in words:
        kind, words = "too slow", f"more than {arguments.seconds:g} s of a core or {arguments.gib:g} GiB"
    return {**row, "parameters": count, "kind": kind, "words": words, "seconds": round(time.perf_counter() - begin, 2)}


def plain_count(name):
    """Parameters as timm has them, without memory; None where it does not build so."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in timm.create_model(name, pretrained=False, num_classes=CLASSES).parameters())
    except Exception:  # an initialisation that looks at its numbers: it is tried, and bounded
        return None


def rank(name):
    """A guess of how large a network is by its name: words for small ones, then numbers."""
    words = name.split("_")
    small = next((place for place, word in enumerate(SMALL) if word in words), len(SMALL))
    return small, [int(number) for number in re.findall(r"\d+", name)], name


def in_order(names):
    """Names from small to large, one of every family in turn."""
    families = defaultdict(list)
    for name in sorted(names, key=rank):
        families[family(name)].append(name)
    return [name for place in range(len(names)) for members in families.values() for name in members[place : place + 1]]


def summary(rows, names, size):
    """Counts by kind, and the families by what their names do, for people."""
    counts, families = Counter(row["kind"] for row in rows), defaultdict(lambda: defaultdict(list))
    for row in rows:
        families[row["family"]][row["kind"]].append(row["name"])
    head = ["", *KINDS, "not tried"]
    left = len(names) - len(rows)
    total = ["names", *(str(counts[kind]) for kind in KINDS), str(left)]
    cells = [
        [name, *(str(len(kinds[kind])) if kinds[kind] else "" for kind in KINDS)]
        for name, kinds in sorted(families.items())
    ]
    reasons = [
        [row["name"], row["kind"], row["words"].replace("|", "\\|")]
        for row in sorted(rows, key=lambda row: row["name"])
        if row["kind"] in ("trains", "refused", "too slow")
    ]
    tried_rows = [row for row in rows if row["kind"] != "too large"]
    reached, known = {row["family"] for row in tried_rows}, {family(name) for name in names}
    lines = [
        f"{len(tried_rows)} of {len(names)} names of timm {timm.__version__} tried at {size} pixels (torch "
        f"{torch.__version__}), in {len(reached)} of {len(known)} families.",
        table(head, [total]),
        "By family:\n\n" + table(["family", *KINDS], cells),
        "What does not work, and why:\n\n" + table(["name", "", "reason"], reasons),
    ]
    return "\n\n".join(lines)


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="wildcards; default all of timm")
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--each-family", type=int, help="try so many of each family")
    parser.add_argument("--most-parameters", type=float, default=30e6)
    parser.add_argument("--seconds", type=float, default=60, help="of a core, for a name")
    parser.add_argument("--wait", type=float, default=6, help="times that, by the clock: other work may take the core")
    parser.add_argument("--gib", type=float, default=3.0, help="memory for a name")
    parser.add_argument("--budget", type=float, help="stop after so many seconds")
    parser.add_argument("--out", help="stem of the files to write")
    return parser.parse_args()


def main():
    arguments, begin = parsed_arguments(), time.monotonic()
    torch.set_num_threads(1)
    every = timm.list_models()
    names = sorted({name for pattern in arguments.names for name in timm.list_models(pattern)}) or every
    kept = Path(f"{arguments.out}.jsonl") if arguments.out else None
    rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    done, of_family = (
        {row["name"] for row in rows},
        Counter(row["family"] for row in rows if row["kind"] != "too large"),
    )

    def add(row):
        rows.append(row)
        print(f"{row['name']}: {row['kind']} ({row['words']})", flush=True)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with kept.open("a") as file:
                file.write(json.dumps(row) + "\n")

    for name in in_order([name for name in names if name not in done]):
        if arguments.budget is not None and time.monotonic() - begin > arguments.budget:
            break
        if arguments.each_family is None or of_family[family(name)] < arguments.each_family:
            add(tried(name, arguments))
            of_family[family(name)] += rows[-1]["kind"] != "too large"
    found = {
        "versions": versions(),
        "size": arguments.size,
        "names": len(every),
        "rows": sorted(rows, key=lambda r: r["name"]),
    }
    write(arguments.out, found, summary(rows, names, arguments.size))


if __name__ == "__main__":
    main()
