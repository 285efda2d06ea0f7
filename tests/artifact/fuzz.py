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

TUNED = recipe_file("mlp")
FORMS = {"float32": {}, "float16": {"dtype": "float16"}, "uint8": {"dtype": "uint8"}, "zca": {"zca": True}}
FORMS |= {"soft": {"soft": True}, "more": {"ipc": 2}}
WORDS = ["", "\0", "../../etc/passwd", "uint8", "float16", "logits", "weights", "9.0", "1.0", "a" * 3000, "\ud800", "|"]


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


def flipped(content, draw, _):
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(content, draw, _):
    return content[: draw.randrange(len(content))]


def moved(content, draw, _):
    """Bytes put in, taken out, or in another place."""
    at, size = draw.randrange(len(content)), draw.choice((1, 4, 8, 64))
    part = draw.choice((draw.randbytes(size), content[:size], b""))
    return content[:at] + part + content[at + draw.choice((0, size)) :]


def swapped(_, draw, others):
    """A file of another artifact, or of another name."""
    return draw.choice(others)


def value(draw, depth=0):
    kinds = [
        lambda: draw.choice((None, True, False, 0, 1, 2, -1, 1e30, 1e-30, 0.5, 10**30)),
        lambda: draw.choice(WORDS),
        lambda: draw.uniform(-2, 2),
        lambda: draw.randrange(-5, 300),
        lambda: [value(draw, depth + 1) for _ in range(draw.randrange(3))],
        lambda: {draw.choice(("a", "lr", "name", "mean")): value(draw, depth + 1) for _ in range(draw.randrange(3))},
    ]
    return draw.choice(kinds[: 4 if depth > 2 else 6])()


def edited(whole, draw):
    """A JSON value with one inner value replaced, dropped, added, or written twice."""
    if isinstance(whole, dict) and whole and draw.random() < 0.85:
        key = draw.choice(sorted(whole))
        what = draw.random()
        if what < 0.15:
            return {name: one for name, one in whole.items() if name != key}
        if what < 0.25:
            return {**whole, draw.choice(("x", "dtype", "format_version")): value(draw)}
        return {**whole, key: edited(whole[key], draw)}
    if isinstance(whole, list) and whole and draw.random() < 0.7:
        at = draw.randrange(len(whole))
        return [*whole[:at], *([] if draw.random() < 0.2 else [edited(whole[at], draw)]), *whole[at + 1 :]]
    if isinstance(whole, (int, float)) and not isinstance(whole, bool) and draw.random() < 0.5:
        return whole * draw.choice((-1, 0, 0.5, 2, 1 + 1e-9)) + draw.choice((0, 1))
    return value(draw)


def changed_json(content, draw, others):
    if content[:1] == b"{":
        return json.dumps(edited(json.loads(content), draw)).encode()
    size = int.from_bytes(content[:8], "little")  # the header of a safetensors file
    head = json.dumps(edited(json.loads(content[8 : 8 + size]), draw)).encode()
    claimed = len(head) if draw.random() < 0.9 else draw.choice((0, 2**20, 2**40, 2**63 + 1))
    return claimed.to_bytes(8, "little") + head + content[8 + size :]


KINDS = {"bits": flipped, "cut": cut, "moved": moved, "swapped": swapped, "values": changed_json}


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
