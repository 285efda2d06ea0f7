"""Damage the files that are read back, by hand and for long: ``python -m tests.fuzz --kind checkpoint --cases 100000``.

``tests.artifact.fuzz`` does it to artifacts; here are the cache's and the run folder's (``fuzz_kinds.py``). Each case
damages or removes one or two files and calls the product's own reader. It raises an error of ``distillkit.errors``, or
takes the file for absent or damaged, or gives bit for bit what was stored; and no file that it was not asked to make is
deleted or written over: a damaged one stays, perhaps under another name. Prints counts; ends with status 1 at the first
case of anything else, with the seed and number that make it again.
"""

import argparse
import collections
import contextlib
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch

from distillkit.errors import DistillkitError
from tests.damage import KINDS
from tests.fuzz_kinds import ALL, NOTHING, PART, WHOLE, Changed

REFUSED, LOST = "refused", "a file was lost"
FINE = (REFUSED, NOTHING, PART, WHOLE)
DAMAGES = {**KINDS, "removed": lambda content, draw, others: None}


class Victim:
    """The files of one kind: damaged, looked at, and mended again."""

    def __init__(self, kind):
        self.kind = kind
        paths = (path for path in kind.root.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
        self.good = {str(path.relative_to(kind.root)): path.read_bytes() for path in paths}
        self.others = [*kind.others, *(self.good[name] for name in kind.names)]
        if kind.look() != WHOLE:
            raise AssertionError("what nobody damaged was not read")
        self.mend(self.there(), {})

    def there(self):
        found = {}
        for folder, _, names in os.walk(self.kind.root):
            for name in names:
                path = Path(folder, name)
                found[str(path.relative_to(self.kind.root))] = path.read_bytes()
        return found

    def mend(self, there, damaged):
        for name in {*there} - {*self.good}:
            (self.kind.root / name).unlink()
        for name, content in self.good.items():
            if name in damaged or there.get(name) != content:
                path = self.kind.root / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)  # a copy under another name may be the same file
                path.write_bytes(content)

    def case(self, draw):
        """The damages, the files, and what became of it."""
        names = draw.sample(self.kind.names, min(draw.choice((1, 1, 2)), len(self.kind.names)))
        damages = [draw.choice(sorted(DAMAGES)) for _ in names]
        damaged = {}
        for name, damage in zip(names, damages, strict=True):
            damaged[name] = DAMAGES[damage](self.good[name], draw, self.others)
            path = self.kind.root / name
            path.unlink()
            if damaged[name] is not None:
                path.write_bytes(damaged[name])
        found = self._outcome()
        there = self.there()
        if found in FINE:
            found = self._lost(damaged, there) or found
        self.mend(there, damaged)
        return " + ".join(sorted(damages)), names, found

    def _outcome(self):
        try:
            return self.kind.look()
        except DistillkitError:
            return REFUSED
        except Changed as error:
            return f"CHANGED: {error}"
        except Exception:  # that there is none is what is asked
            return traceback.format_exc()

    def _lost(self, damaged, there):
        for name, content in (self.good | damaged).items():
            if content is None or name in self.kind.made or there.get(name) == content:
                continue
            aside = [own for other, own in there.items() if other.startswith(f"{name}.damaged-")]
            if name not in damaged or content not in aside:
                return f"{LOST}: {name}"
        return None


@contextlib.contextmanager
def folder():
    """Of a file system in memory, where there is one: files are flushed to the disk at each write."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="distillkit-fuzz-", dir=memory) as place:
        yield Path(place)


def cases(name, root, seed, numbers):
    """Counts of what became of so many cases, and what the first bad one was."""
    victim, counts = Victim(ALL[name](root)), collections.Counter()
    for number in numbers:
        damages, names, found = victim.case(random.Random(f"{seed} {number}"))
        if found not in FINE:
            return counts, f"case {number} of seed {seed}: {name}, {damages} of {', '.join(names)}: {found}"
        counts[found] += 1
    return counts, None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=[*ALL, "all"], default="all")
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    status = 0
    for name in ALL if asked.kind == "all" else [asked.kind]:
        begin = time.monotonic()
        with folder() as root:
            counts, bad = cases(name, root, asked.seed, range(asked.first, asked.first + asked.cases))
        told = ", ".join(f"{count:,} {found}" for found, count in counts.most_common())
        print(f"{name}: {counts.total():,} cases, {time.monotonic() - begin:.0f} s: {told}", flush=True)
        if bad:
            print(bad, flush=True)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
