"""SIGKILL at random times and at random file events: are all files those of a run that nobody killed?

    python examples/benchmarks/kills.py [--kills 200] [--seed 0] [--out examples/benchmarks/results/kills]

Every process is forked from one that has imported everything, and makes a tiny set. A trial kills it a few times, then
lets it end, and compares every file of its output folder and of the cache with those of an undisturbed run (wall times
left out; figures are not drawn: what is in them is compared). Trials: one run; a run with ``replace=True`` (``--yes``)
over a finished one, after which either may be the one that ends; a run that goes on from one of fewer outer steps,
finished or not; two processes on one output folder; two on one cache.
"""

import argparse
import collections
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from measuring import machine, table, write
from PIL import Image

import distillkit
from distillkit.lab import effective, plots, storage

COMMON = {
    "network.width": 4,
    "experts.count": 3,
    "experts.epochs": 4,
    "experts.together": 2,
    "experts.train_to": "end",
    "distill.outer_steps": 5,
    "distill.inner_steps": 2,
    "distill.select_every": 2,
    "distill.checkpoint_every": 1,
    "distill.picture_every": 2,
    "distill.select_networks": 1,
    "evaluate.networks": 1,
    "evaluate.full_networks": 1,
    "evaluate.epochs": 2,
    "evaluate.full_epochs": 1,
}
MATCHING = {"dataset.max_train": 200, "distill.expert_epochs": 1, "distill.max_start_epoch": 2}
RUNS = {
    "mtt": ("digits", "mtt", MATCHING),
    "mtt, fewer steps": ("digits", "mtt", {**MATCHING, "distill.outer_steps": 4}),
    "mtt, lower lr": ("digits", "mtt", {**MATCHING, "distill.lr_img": 7.0}),
    "mct": ("digits", "mct", {**MATCHING, "trajectories.waypoint_epochs": [0, 2, 4], "trajectories.keep_raw": True}),
    "dm": ("pictures", "dm", {"dataset.preprocessing": "zca", "network.depth": 1}),
}
TRIALS = {"one run": 4, "over a finished run": 3, "more steps": 3, "two on one folder": 2, "two on one cache": 2}
"""Kinds of trials, with how often each comes."""
CHANGES = ("os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate")
UNEQUAL_ALWAYS = ("run/seconds.json",)
"""Wall times alone."""


class Killed:
    """A hook of Python that counts the file events of this process under ``root``, and ends it at one of them."""

    def __init__(self, root, at=None, torn=None):
        self.root, self.at, self.count = str(root), at, 0
        self.torn = torn

    def __call__(self, event, arguments):
        """Hear of an event before it happens."""
        if event != "open" and event not in CHANGES:
            return
        if event == "open" and not (isinstance(arguments[1], str) and {*arguments[1]} & {*"wax+"}):
            return
        if self.root not in str(arguments[0]):
            return
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def tear(self):
        """The so-manieth line that is appended is written in part."""
        append, counted = storage.append_text, iter(range(1, 1 << 30))

        def torn(path, text):
            if next(counted) == self.torn:
                append(path, text[: len(text) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            append(path, text)

        storage.append_text = torn


class Place:
    """Where a trial works, and the runs that it makes there."""

    def __init__(self, root, pictures):
        self.root, self.pictures, self.cache = root, pictures, root / "cache"
        root.mkdir(parents=True)

    def start(self, name, out, *, replace=False, at=None, torn=None):
        """A process that makes the run ``name``; its number."""
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            hook = Killed(self.root, at, torn)
            with (self.root / f"said-{out}.txt").open("a") as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            if torn is not None:
                hook.tear()
            sys.addaudithook(hook)
            self._make(name, out, replace)
            (self.root / f"events-{out}").write_text(json.dumps([hook.count, sorted(sys.modules)]))
            status = 0
        except distillkit.errors.DistillkitError as error:
            status = 3 if "another process is working" in str(error) else 1
            print(f"{type(error).__name__}: {error}", flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def _make(self, name, out, replace):
        os.environ["DISTILLKIT_CACHE"] = str(self.cache)
        plots.experts_png = plots.curves_png = lambda *drawn: repr(drawn).encode()
        dataset, method, own = RUNS[name]
        source = str(self.pictures) if dataset == "pictures" else dataset
        settings = effective(COMMON | own, source, 1, method, "smoke")
        distillkit.compress(
            source,
            ipc=1,
            method=method,
            preset="smoke",
            settings=settings,
            out=self.root / out,
            device="cpu",
            command="distillkit compress",
            replace=replace,
        )

    def end(self, name, out, replace=False):
        """Let a run end; what it said if it did not."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.start(name, out, replace=replace), 0)[1])
        return None if status == 0 else (self.root / f"said-{out}.txt").read_text()[-2000:]


def import_all(modules):
    """Import what a run has imported, so that the next one finds it here."""
    for module in modules:
        with contextlib.suppress(Exception):  # some are made, not imported
            importlib.import_module(module)


def make_pictures(folder):
    generator = np.random.default_rng(0)
    for number in range(60):
        path = folder / ("train" if number < 40 else "test") / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128, (20, 20, 3), dtype=np.uint8) + np.uint8(100 * (number % 2))
        Image.fromarray(pixels).save(path)


def digests(folder):
    """Of every file of a folder, by name; locks and wall times left out."""
    return {
        name: storage.fingerprint([without_times(name, path.read_bytes())])
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
        for name in [str(path.relative_to(folder))]
        if name not in UNEQUAL_ALWAYS
    }


def without_times(name, content):
    """The content of a file as text, but for the seconds that it took."""
    if name.endswith("metrics.jsonl"):
        rows = [json.loads(line) for line in content.splitlines()]
        return [[value for key, value in row.items() if key not in ("seconds", "crc32")] for row in rows]
    if name == "distill_config.json":
        return {key: value for key, value in json.loads(content).items() if key != "wall_time_seconds"}
    if name == "README.md":
        return re.sub(r"[^;]* in all( \([^)]*\))?", "", content.decode())
    if name in ("curves.png", "run/experts.png"):  # what would be drawn
        return re.sub(r"'(seconds|crc32)': [^,}]*", "", content.decode())
    return content.hex()


def stage_of(place, out):
    """Where a run was when it was killed."""
    run = place.root / out / "run"
    if (place.root / out / "distilled.safetensors").exists():
        return "packaging or replacing"
    if (run / "synthetic.safetensors").exists():
        return "evaluation"
    if (run / "checkpoint.safetensors").exists():
        return "distillation"
    return "experts or data" if place.cache.exists() else "start"


class Trials:
    """Makes references, then kills; ``root``: where all is."""

    def __init__(self, root, seed):
        self.root, self.dice = root, random.Random(seed)
        self.pictures = root / "pictures"
        make_pictures(self.pictures)
        self.references, self.seconds, self.events = {}, {}, {}
        for name in RUNS:
            place, begin = Place(root / "references" / name, self.pictures), time.monotonic()
            said = place.end(name, "set")
            if said is not None:
                raise SystemExit(said)
            self.seconds[name], self.references[name] = time.monotonic() - begin, place
            self.events[name], modules = json.loads((place.root / "events-set").read_text())
            import_all(modules)
        self.kills, self.by, self.faults = collections.Counter(), collections.Counter(), []

    def one(self, number):
        """A trial of a kind drawn at random."""
        kind = self.dice.choices([*TRIALS], [*TRIALS.values()])[0]
        place = Place(self.root / f"trial{number}", self.pictures)
        names = {
            "one run": self._one_run,
            "over a finished run": self._over,
            "more steps": self._more_steps,
            "two on one folder": self._one_folder,
            "two on one cache": self._one_cache,
        }[kind](place)
        if not self._compare(kind, place, names):
            shutil.rmtree(place.root)

    def _one_run(self, place):
        name = self.dice.choice([*RUNS])
        self._kill_some("one run", place, name, "set")
        return {"set": self._ended(place, name, "set")}

    def _over(self, place):
        """Over the finished set of another run, in its cache; the one that ends may be either."""
        before, name = self.dice.sample([*RUNS], 2)
        for part in ("set", "cache"):
            shutil.copytree(self.references[before].root / part, place.root / part)
        self._kill_some("over a finished run", place, name, "set", replace=True, early=True)
        last = self.dice.choice((name, name, before))
        return {"set": self._ended(place, last, "set", replace=True), None: before}

    def _more_steps(self, place):
        """A run goes on from the steps of one of fewer, which had ended or was killed."""
        before, name = "mtt, fewer steps", "mtt"
        if self.dice.random() < 0.5:
            for part in ("set", "cache"):
                shutil.copytree(self.references[before].root / part, place.root / part)
        else:
            self._kill_some("more steps", place, before, "set")
        self._kill_some("more steps", place, name, "set")
        return {"set": self._ended(place, name, "set")}

    def _one_folder(self, place):
        name, made = self.dice.choice([*RUNS]), 0
        for _ in range(self.dice.randrange(1, 4)):
            running = [self._start(place, name, "set")[0] for _ in range(2)]
            made += self._end_pair("two on one folder", place, ["set", "set"], running, name)
        return {"set": self._ended(place, name, "set")}

    def _one_cache(self, place):
        names = self.dice.choice((["mtt", "mtt, lower lr"], ["mtt", "mct"], ["mct", "mct"], ["dm", "dm"]))
        outs = ["set", "other"]
        for _ in range(self.dice.randrange(1, 4)):
            running = [self._start(place, name, out)[0] for name, out in zip(names, outs, strict=True)]
            self._end_pair("two on one cache", place, outs, running, names[0])
        return {out: self._ended(place, name, out) for name, out in zip(names, outs, strict=True)}

    def _start(self, place, name, out, replace=False, early=False):
        """A process, and the seconds after which it is killed from outside; None: it kills itself."""
        how = self.dice.random()
        share = self.dice.random() ** (3 if early else 1)
        if how < 0.4:
            return place.start(name, out, replace=replace), share * self.seconds[name]
        if how < 0.85:
            return place.start(name, out, replace=replace, at=1 + int(share * self.events[name])), None
        return place.start(name, out, replace=replace, torn=self.dice.randrange(1, 8)), None

    def _kill_some(self, kind, place, name, out, **options):
        for _ in range(self.dice.randrange(2, 9)):
            child, delay = self._start(place, name, out, **options)
            if delay is not None:
                time.sleep(delay)
                os.kill(child, signal.SIGKILL)
            self._count(kind, place, out, child, "time" if delay is not None else "file event or torn line")

    def _end_pair(self, kind, place, outs, running, name):
        """One of the two, or both, are killed from outside, unless they kill themselves."""
        victims = self.dice.choice(([0], [1], [0, 1]))
        for victim in victims:
            time.sleep(self.dice.random() * self.seconds[name])
            os.kill(running[victim], signal.SIGKILL)
        for index, child in enumerate(running):
            self._count(kind, place, outs[index], child, "pair")
        return len(victims)

    def _count(self, kind, place, out, child, how):
        """Whether a process was killed, or had ended before."""
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == -signal.SIGKILL:
            self.kills[kind] += 1
            self.by[stage_of(place, out)] += 1
            self.by[f"by {how}"] += 1
        elif status not in (0, 3):
            self.faults.append([kind, str(place.root), (place.root / f"said-{out}.txt").read_text()[-2000:]])

    def _ended(self, place, name, out, replace=False):
        """A run that nobody kills, some hours later: then it may delete what killed writers left in the cache."""
        for path in place.cache.rglob(".*.tmp"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 7200))
        said = place.end(name, out, replace)
        if said is not None:
            self.faults.append(["did not end", str(place.root), said])
        return name

    def _compare(self, kind, place, names):
        """Whether something differs; the folder is kept then."""
        wanted, before = {}, len(self.faults)
        for out, name in names.items():
            wanted |= digests(self.references[name].cache)
            if out is None or not (place.root / out).is_dir():
                continue
            differ = difference(digests(place.root / out), digests(self.references[name].root / "set"))
            if differ:
                self.faults.append([kind, str(place.root / out), name, differ])
        found = digests(place.cache)
        killed_first = {file for name in RUNS for file in digests(self.references[name].cache)}
        stores = {Path(file).parent for file in wanted}
        differ = difference(
            {
                file: one
                for file, one in found.items()
                if file in wanted or not (file in killed_first or in_training_elsewhere(file, stores))
            },
            wanted,
        )
        if differ:
            self.faults.append([kind, str(place.cache), [*names.values()], differ])
        return len(self.faults) > before


def in_training_elsewhere(file, stores):
    """Whether it is of experts in training that a killed run left which was not begun again: it would go on from it."""
    path = Path(file)
    return path.parent.name.startswith("training-") and path.parent.parent not in stores


def difference(found, wanted):
    """Names of files that are there, missing or other."""
    more = [f"{name} is left over" for name in sorted({*found} - {*wanted})]
    less = [f"{name} is missing" for name in sorted({*wanted} - {*found})]
    return more + less + [f"{name} differs" for name in sorted({*found} & {*wanted}) if found[name] != wanted[name]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no trial after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="write OUT.json and OUT.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    begin, root = time.monotonic(), Path(tempfile.mkdtemp(prefix="distillkit-kills-"))
    trials, number = Trials(root, args.seed), 0
    print(f"{trials.seconds} seconds, {trials.events} file events", file=sys.stderr, flush=True)
    while trials.kills.total() < args.kills and time.monotonic() - begin < args.seconds:
        before = len(trials.faults)
        trials.one(number)
        number += 1
        for fault in trials.faults[before:]:
            print(fault, file=sys.stderr, flush=True)
    rows = [[kind, str(trials.kills[kind])] for kind in TRIALS] + [
        [how, str(trials.by[how])] for how in sorted(trials.by)
    ]
    words = "no file differs" if not trials.faults else f"{len(trials.faults)} FAULTS, see the folders in {root}"
    text = f"{trials.kills.total()} kills in {number} trials, {time.monotonic() - begin:.0f} s: {words}.\n\n"
    facts = {"kills": trials.kills, "by": trials.by, "trials": number, "faults": trials.faults, "seed": args.seed}
    write(args.out, facts | {"machine": machine("cpu", "tiny runs")}, text + table(["kills", "number"], rows))
    if not trials.faults:
        shutil.rmtree(root)
    return bool(trials.faults)


if __name__ == "__main__":
    sys.exit(main())
