"""Damage artifacts at random, by hand and for long: ``python -m tests.artifact.fuzz --cases 100000``.

``test_untrusted.py`` does some of it in every test run. Each case damages one or two files of a small artifact: bits,
ends, insertions, files of other artifacts or of other names, JSON values, safetensors headers. Whatever is there, the
loader raises its own error, or it loads, and then every tensor is bit for bit what was stored. Prints counts; ends
with status 1 at the first case of anything else, with the seed and number that make it again.
"""

import argparse
import collections
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from distillkit.artifact.card import render_card
from distillkit.artifact.layout import FILES, LOADED, recipe_file
from distillkit.artifact.read import read_artifact
from distillkit.artifact.write import write_config
from distillkit.distilled import DistilledDataset
from distillkit.errors import ArtifactError
from tests.artifact.small import recipe, write_small
from tests.damage import KINDS

TUNED = recipe_file("mlp")
FORMS = {"float32": {}, "float16": {"dtype": "float16"}, "uint8": {"dtype": "uint8"}, "zca": {"zca": True}}
FORMS |= {"soft": {"soft": True}, "more": {"ipc": 2}}


def make(folder, **options):
    """A small artifact with a recipe of a further network."""
    write_small(folder, **options)
    tuned = {**recipe(), "tuned_for": "mlp"}
    (folder / TUNED).parent.mkdir()
    (folder / TUNED).write_text(json.dumps(tuned))
    write_config(folder, {**json.loads((folder / FILES.config).read_text()), "recipes": ["mlp"]})
    for path in list(folder.rglob("*")):
        if path.is_file() and str(path.relative_to(folder)) not in (*LOADED, TUNED):
            path.unlink()
    return {name: (folder / name).read_bytes() for name in (*LOADED, TUNED)}


def tensors(artifact):
    ds, steps = DistilledDataset(artifact), artifact.preprocess.to_tensors()
    own = {"images": ds.images, "labels": ds.labels, "targets": ds.targets, "ids": ds.class_ids}
    return {**own, **steps, "lr": torch.tensor(ds.lr, dtype=torch.float64)}


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


FINE = ("refused", "loaded, every tensor as it was")


def outcome(folder, stored):
    """What becomes of a damaged artifact; a card must come of one that loads."""
    try:
        found = read_artifact(folder)
        render_card(found.config, found.recipe, found.results).encode()
        return FINE[1] if same(tensors(found), stored) else "loaded with CHANGED tensors"
    except ArtifactError:
        return FINE[0]
    except Exception as error:  # that there is none is what is asked
        return f"{type(error).__name__}: {str(error)[:200]}"


def one_case(draw, root, good, stored):
    """Damage, look, mend: returns the form, the kinds of damage, the files, and what became of it."""
    form = draw.choice(sorted(good))
    names = draw.sample(sorted(good[form]), draw.choice((1, 1, 2)))
    kinds = [draw.choice(sorted(KINDS)) for _ in names]
    others = [content for files in good.values() for content in files.values()]
    for name, kind in zip(names, kinds, strict=True):
        (root / form / name).write_bytes(KINDS[kind](good[form][name], draw, others))
    found = outcome(root / form, stored[form])
    for name in names:
        (root / form / name).write_bytes(good[form][name])
    return form, " + ".join(sorted(kinds)), names, found


def report(counts):
    for (kinds, found), count in sorted(counts.items()):
        print(f"{count:8,}  {kinds}: {found}")
    totals = collections.Counter()
    for (_, found), count in counts.items():
        totals[found] += count
    print(f"{sum(totals.values()):,} cases: " + "; ".join(f"{count:,} {name}" for name, count in totals.items()))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    counts, begin = collections.Counter(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="distillkit-fuzz-") as place:
        root = Path(place)
        good = {name: make(root / name, **options) for name, options in FORMS.items()}
        stored = {name: tensors(read_artifact(root / name)) for name in good}
        for number in range(asked.first, asked.first + asked.cases):
            draw = random.Random(f"{asked.seed} {number}")
            form, kinds, names, found = one_case(draw, root, good, stored)
            counts[kinds, found] += 1
            if found not in FINE:
                print(f"case {number} of seed {asked.seed}: {form}, {kinds} of {', '.join(names)}: {found}")
                return 1
            if number % 10_000 == 9_999:
                print(f"{number + 1:,} cases, {time.monotonic() - begin:.0f} s", flush=True)
    report(counts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
