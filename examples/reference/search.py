"""Settings of a method on one problem, compared on validation images alone: how the quick presets were chosen.

    python examples/reference/search.py digits-ipc10 mtt --try "" --try "experts.momentum=0.9 distill.lr_init=0.01"

The problem is one of ``run.py``'s CPU tier, with what that tier changes of the quick preset. Each ``--try`` is a list
of settings over that; ``""`` is the preset as it is. A candidate is distilled with each seed; then ``--networks`` fresh
networks, others than those that selected its checkpoint, are scored on the validation split: test images are never
looked at. Adds a line a candidate to ``search-<problem>.jsonl`` in ``--out``, and makes ``search-<problem>.md`` of all
lines; a candidate that has its line is not tried again.
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from run import CORESETS, TIERS, mean_and_std, run_process, shared_arguments

PROBLEMS = {problem.name: problem for problem in TIERS["cpu"]}


def measure(args):
    """The body of one candidate's process, for one seed: a JSON object on stdout."""
    import torch

    from distillkit.lab import (
        RunFolder,
        check_distillation,
        compose,
        distilled,
        evaluate_networks,
        evaluation_form,
        evaluation_recipe,
        make_run,
        parse_assignments,
        prepare,
        run_identity,
        training_set,
    )

    problem = PROBLEMS[args.problem]
    composed = compose(problem.dataset, problem.ipc, args.method, "quick", "cpu", [parse_assignments(args.set)])
    run = make_run(composed, torch.device("cpu"))
    check_distillation(run.settings)
    prepared, folder = prepare(run), RunFolder(args.folder)
    with folder.claimed(run_identity(run, prepared), replace=True):
        synthetic, selection = distilled(run, prepared, folder)
    recipe = evaluation_recipe(run.settings.evaluate, synthetic.lr, prepared.augmentation)
    report = evaluate_networks(
        prepared.build(prepared.network, run.settings.seed, "search"),
        training_set(synthetic, run.device),
        prepared.validation,
        recipe,
        run.settings.seed + 1000,  # other orders and augmentations than any network of the run has
        args.networks,
        form=evaluation_form(run, recipe, len(synthetic.images), args.networks),
    )
    selected = {
        row["step"]: row["validation_accuracy"] for row in folder.read_metrics() if "validation_accuracy" in row
    }
    found = {"accuracies": report.accuracies, "step": selection.get("step"), "lr": synthetic.lr, "selection": selected}
    print(json.dumps(found))


def tried(args, candidate, seed, number):
    """What the process of one candidate and seed found; None if it failed."""
    problem, begin = PROBLEMS[args.problem], time.time()
    changes = {} if args.method in CORESETS else problem.changes
    settings = {"experts.seed": 0, "seed": seed, **changes}
    words = {key: json.dumps(value) for key, value in settings.items()}
    words |= dict(text.partition("=")[::2] for text in [*args.set, *candidate.split()])
    words |= {"dataset.data_root": args.data_root} if args.data_root else {}
    folder = args.work / f"{args.problem}-{args.method}" / f"{number}-seed{seed}"
    line = [sys.executable, __file__, args.problem, args.method, "--networks", args.networks, "--folder", folder]
    line += [part for key, value in words.items() for part in ("--set", f"{key}={value}")]
    done = run_process(line, args.jobs)
    if done.returncode:
        print(f"{candidate or 'preset'}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr, flush=True)
        return None
    return {**json.loads(done.stdout.splitlines()[-1]), "seconds": time.time() - begin}


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def table(problem, rows):
    """All candidates, by method, the best first."""
    networks = "/".join(sorted({str(len(one["accuracies"])) for row in rows for one in row["runs"]}))
    lines = [
        f"{problem}: validation accuracy (%), mean ± standard deviation over {networks} fresh networks of each seed; "
        "steps: of the kept set of each seed (0: the initial images). Changes are of the quick preset as it was when "
        "the candidate was tried.",
        "",
        "| method | validation | steps | changed | on top of |",
        "| --- " * 5 + "|",
    ]
    for row in sorted(rows, key=lambda row: (row["method"], -row["mean"])):
        steps = ", ".join(str(one["step"]) for one in row["runs"])
        found = f"{100 * row['mean']:.1f} ± {100 * row['std']:.1f}"
        words = [row["method"], found, steps, row["changes"] or "nothing", row["common"] or "nothing"]
        lines.append(f"| {' | '.join(words)} |")
    return "\n".join(lines) + "\n"


def parsed_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("method")
    parser.add_argument("--try", dest="candidates", action="append", default=[], metavar="'KEY=VALUE KEY=VALUE'")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="for every candidate")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[0, 1])
    shared_arguments(parser, "runs/search")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = parsed_arguments()
    if args.folder:
        measure(args)
        return
    path = args.out / f"search-{args.problem}.jsonl"
    common = " ".join(args.set)

    def known(candidate):
        return any((row["method"], row["common"], row["changes"]) == (args.method, common, candidate) for row in done)

    args.out.mkdir(parents=True, exist_ok=True)
    done = rows_of(path)
    wanted = [candidate for candidate in args.candidates if not known(candidate)]
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = {
            candidate: [pool.submit(tried, args, candidate, seed, f"{len(done) + at}") for seed in args.seeds]
            for at, candidate in enumerate(wanted)
        }
        for candidate, several in futures.items():
            runs = [future.result() for future in several]
            if None in runs:
                continue
            mean, std = mean_and_std([value for one in runs for value in one["accuracies"]])
            row = {
                "method": args.method,
                "changes": candidate,
                "common": common,
                "mean": mean,
                "std": std,
                "runs": runs,
            }
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
            steps, seconds = [one["step"] for one in runs], sum(one["seconds"] for one in runs)
            said = f"{100 * mean:.2f} ± {100 * std:.2f}  steps {steps}  {seconds:.0f} s  {candidate or 'preset'}"
            print(f"{args.problem} {args.method}: {said}", flush=True)
    if rows_of(path):
        path.with_suffix(".md").write_text(table(args.problem, rows_of(path)))


if __name__ == "__main__":
    main()
