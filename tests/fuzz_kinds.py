"""The kinds of files that ``fuzz.py`` damages: each makes a folder of them, and knows what its reader may give."""

from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distillkit import storage
from distillkit.data import decoding, load, locate, whitening
from distillkit.data.preprocess import UnitWhiten, Whiten
from distillkit.distill.state import Best, OuterState
from distillkit.errors import ConfigError, DistillkitError
from distillkit.identities import completed
from distillkit.progress import Silent
from distillkit.records import EvalReport, SyntheticSet
from distillkit.run_folder import RunFolder
from distillkit.settings import DatasetSettings, TrajectorySettings
from distillkit.stages import difficulty, evaluation
from distillkit.stages.distillation import _last_state
from distillkit.training.standing import Standing
from distillkit.trajectories.forms import FORMS, open_trajectories
from distillkit.trajectories.store import TrajectoryStore
from distillkit.trajectories.unfinished import Unfinished, read_stored, stored_standing

WHOLE, PART, NOTHING = "as it was stored", "in part, as it was stored", "taken for absent or damaged"


class Changed(Exception):  # noqa: N818
    """A reader gave what was never stored."""


@dataclass
class Kind:
    """``names`` of ``root`` are damaged, perhaps by ``others``; ``look`` reads them, says what was found, and raises
    ``Changed``; ``made``: names that it may write.
    """

    root: Path
    names: list[str]
    others: list[bytes]
    look: Callable[[], str]
    made: tuple[str, ...] = ()


def equal(left, right):
    """Whether two values are the same in type and content, tensors bit for bit."""
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        same = left.dtype == right.dtype and left.shape == right.shape
        return same and left.contiguous().numpy().tobytes() == right.contiguous().numpy().tobytes()
    if is_dataclass(left):
        return all(equal(getattr(left, one.name), getattr(right, one.name)) for one in fields(left))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right


def judged(found, stored, nothing=None):
    """What was found, if it is what was stored or nothing."""
    if equal(found, nothing):
        return NOTHING
    if not equal(found, stored):
        raise Changed(f"{str(found)[:300]} instead of {str(stored)[:300]}")
    return WHOLE


def contents(folder):
    return [path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def vector(seed, size=6):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def standing_of(seed, epoch):
    curve = {name: [0.5, 0.25][:epoch] for name in ("loss", "validation_accuracy", "parameter_change")}
    return Standing(epoch, vector(seed), {"momentum_buffer": vector(seed + 1)}, {"mean": vector(seed + 2)}, curve)


def _store(root, form, seed):
    """A store of two experts of two epochs, and what its readers give of each."""
    setup = {"dataset": "shades", "seed": seed, "recipe": {"order": "shuffle"}}
    settings = TrajectorySettings(form=form, waypoint_epochs=(0, 1, 2), smooth=False)
    store = TrajectoryStore.for_setup(setup | FORMS.named(form).setup(settings, 2), root / f"{form}-{seed}")
    stored = {}
    for expert in range(2):
        builder, standing = FORMS.named(form).builder(settings, (4, 2), 2, 2), standing_of(seed + expert, 2)
        for epoch in range(3):
            builder.keep(epoch, vector(100 * seed + 10 * expert + epoch))
        kept = builder.finish()
        facts = {"curve": standing.curve, "test_accuracy": 0.5, "source": "shades", "license": None}
        store.write(expert, kept.tensors, 2, {**facts, **kept.facts}, stored_standing(standing, {}))
        source = open_trajectories(store, expert + 1)
        stored[expert] = (store.record(expert), [source.point(expert, epoch).clone() for epoch in range(3)], standing)
    return store, stored


def _experts(root, form):
    store, stored = _store(root, form, 0)
    others = contents(_store(root, form, 1)[0].folder) + contents(_store(root, "raw", 2)[0].folder)

    def look():
        found = []
        try:
            if TrajectoryStore.open(store.folder).setup != store.setup:
                raise Changed("another set-up")
        except DistillkitError:
            found.append(NOTHING)
        for expert in store.experts():
            state = store.state(expert, 2)
            if state in ("absent", "damaged"):
                found.append(NOTHING)
                continue
            if (state, store.state(expert, 3)) != ("good", "short"):
                raise Changed(f"an expert of two epochs is {state}")
            record, points, standing = stored[expert]
            judged(store.record(expert), record)
            found.append(_read_on(store, expert, record, points, standing))
        store.describe()
        if TrajectoryStore.open(store.folder).setup != store.setup:
            raise Changed("the set-up was not mended")
        return WHOLE if found == [WHOLE, WHOLE] else PART

    return Kind(store.folder, [path.name for path in sorted(store.folder.iterdir())], others, look, ("setup.json",))


def _read_on(store, expert, record, points, standing):
    try:
        judged(read_stored(store.state_path(expert), record["state_sha256"]), (standing, {}))
        source = open_trajectories(store, 2)  # the other one may be damaged
        judged([source.point(expert, epoch) for epoch in range(3)], points)
        if store.form == "raw":
            judged([store.raw(expert)(epoch) for epoch in range(3)], points)
    except DistillkitError:
        return NOTHING
    return WHOLE


def experts_raw(root):
    return _experts(root, "raw")


def experts_convex(root):
    return _experts(root, "convex")


def standing(root):
    """Experts in training: where they stand after two epochs, and what is remembered of each."""
    stored, folders = {}, [root / "a" / "0123456789abcdef", root / "b" / "fedcba9876543210"]
    for folder in folders:
        for members in ((0, 1), (2, 3)):
            group, seed = Unfinished(folder, members), 100 * len(stored)
            group.keep(0, [[{"epoch-0000": vector(seed + member)}] for member in members])
            for epoch in (1, 2):
                standings = [standing_of(seed + 10 * epoch + member, epoch) for member in members]
                group.save(standings, [[{f"epoch-{epoch:04d}": one.parameters}] for one in standings])
            stored[group] = group.load(1)

    def look():
        found = []
        for group in Unfinished.all_in(folders[0]):
            try:
                found.append(judged(group.load(1), stored[group]))
            except DistillkitError:
                found.append(NOTHING)
        return WHOLE if found == [WHOLE, WHOLE] else PART

    names = [str(path.relative_to(folders[0])) for path in sorted(folders[0].rglob("*.safetensors"))]
    return Kind(folders[0], names, contents(root), look)


def _identity(lr=0.5, ipc=1):
    settings = {"method": "mtt", "ipc": ipc, "seed": 0, "distill": {"lr_img": lr, "outer_steps": 9}}
    identity = {"dataset": "shades", "method": "mtt", "ipc": ipc, "data": "0" * 16, "format": "1.0"}
    return completed({**identity, "settings": settings})


def _synthetic(seed):
    ids = torch.arange(3)
    return SyntheticSet(vector(seed, 48).view(3, 1, 4, 4), vector(seed + 1, 9).view(3, 3), ids, 0.02 + seed, "logits")


def _state(seed, step):
    synthetic = _synthetic(seed)
    return OuterState(
        synthetic.images,
        synthetic.labels,
        synthetic.class_ids,
        "logits",
        0.02,
        {"images.momentum": vector(seed + 2, 48).view(3, 1, 4, 4), "step": torch.tensor(step)},
        step=step,
        best=Best(step - 1, 0.5, _synthetic(seed)),
    )


def _run(out, identity, seed):
    """The folder of a run that has everything."""
    folder = RunFolder(out)
    with folder.claimed(identity, replace=False):
        folder.save_synthetic(_synthetic(seed), {"step": 2, "split": "validation"})
        for step in (2, 3):
            if folder.checkpoint.exists():
                storage.copy_file(folder.checkpoint, folder.older_checkpoint)
            _state(seed, step).save(folder.checkpoint, folder.identity())
        for name in ("set", "random"):
            folder.add_row(name, EvalReport((0.5, 0.25 + seed / 100), {"lr": 0.02, "epochs": 3}))
        folder.save_seconds({"experts": 1.5, "distill": 2.25 + seed})
        folder.save_experts_report({"experts": [], "mean": {}, "pulled_from": [f"org/experts@{seed:040d}"]})
        for step in range(1, 7):
            folder.append_metrics({"step": step, "loss": 0.5 + step + seed, "lr": 0.01, "seconds": 0.125})
        folder.append_metrics({"step": 6, "validation_accuracy": 0.5})
        for step in (1, 2):
            folder.add_test_checkpoint(step, 0.25 * step)
    return folder


def _of_a_run(root, name, read, nothing=None, made=()):
    """A kind of one file in a run's folder."""
    folder = _run(root / "a" / "out", _identity(), 0)
    others = contents(_run(root / "b" / "out", _identity(7.0), 3).path) + contents(folder.path)
    stored = read(folder)
    names = [name] if isinstance(name, str) else name
    return Kind(folder.path, names, others, lambda: judged(read(folder), stored, nothing), made)


def synthetic(root):
    return _of_a_run(root, "synthetic.safetensors", lambda folder: folder.load_synthetic())


def evaluated(root):
    return _of_a_run(root, "evaluation.json", lambda folder: folder.rows(), {})


def test_checkpoints(root):
    return _of_a_run(root, "test_checkpoints.json", lambda folder: folder.test_checkpoints(), {})


def experts_report(root):
    return _of_a_run(root, "experts.json", lambda folder: folder.expert_origins())


def seconds(root):
    def read(folder):
        before = folder.seconds()
        with folder.timed("distill"):
            pass
        after = folder.seconds()
        if {*after} != {*before, "distill"} or after["distill"] - before.get("distill", 0) > 1:
            raise Changed(f"{after} after {before}")
        folder.save_seconds(before)
        return before

    return _of_a_run(root, "seconds.json", read, {}, ("seconds.json",))


def metrics(root):
    """Their lines do not say whose they are: they are only drawn."""
    kind = _of_a_run(root, "metrics.jsonl", lambda folder: folder.read_metrics(), made=("metrics.jsonl",))
    folder = RunFolder(root / "a" / "out")
    kind.others = contents(folder.path)
    stored = folder.read_metrics()
    seen = {storage.canonical_json(row): place for place, row in enumerate(stored)}

    def checked(limit):
        found = folder.read_metrics()
        places = [seen.get(storage.canonical_json(row), -1) for row in found]
        if -1 in places or places != sorted({*places}) or any(row["step"] > limit for row in found):
            raise Changed(f"{found}"[:400])
        return found

    def look():
        found = checked(6)
        folder.truncate_metrics(4, keep_selection=True)
        if checked(4) != [row for row in found if row["step"] <= 4]:
            raise Changed("rows were lost as the others were dropped")
        return WHOLE if found == stored else PART if found else NOTHING

    kind.look = look
    return kind


def checkpoint(root):
    """The state that a run goes on from: the last one, else the one before; what is damaged is kept aside."""
    kind = _of_a_run(root, ["checkpoint.safetensors", "checkpoint-before.safetensors"], lambda folder: None)
    folder, notes = RunFolder(root / "a" / "out"), Notes()
    run = Namespace(device="cpu", progress=notes)
    stored = [OuterState.load(path, "cpu") for path in (folder.checkpoint, folder.older_checkpoint)]

    def look():
        notes.heard.clear()
        here = sum(path.exists() for path in (folder.checkpoint, folder.older_checkpoint))
        found = _last_state(run, folder)
        if found is not None:
            return judged(found, next((one for one in stored if one.step == found.step), None))
        if len(notes.heard) != here:
            raise Changed(f"{here} files, but it was said: {notes.heard}")
        return NOTHING

    kind.look = look
    return kind


class Notes(Silent):
    def __init__(self):
        self.heard = []

    def note(self, message):
        self.heard.append(message)


def config(root):
    """Which run a folder holds: it is continued by its own command alone, and nothing of it goes."""
    kind = _of_a_run(root, "config.json", lambda folder: None, made=("config.json",))
    folder = RunFolder(root / "a" / "out")
    stored = folder.stored_settings()

    def look():
        found = judged(folder.stored_settings(), stored)
        for other in (_identity(7.0), _identity(ipc=2)):
            try:
                with folder.claimed(other, replace=False):
                    raise Changed("another run took the folder")
            except ConfigError:
                pass
        with folder.claimed(_identity(), replace=False):
            judged(folder.identity(), _identity())
        return found

    kind.look = look
    return kind


def _pictures(root, seed):
    """A folder of twelve pictures, decoded into a cache of its own; a short header makes cases fast."""
    generator = np.random.default_rng(seed)
    for number in range(12):
        path = root / "pictures" / f"{'train' if number < 8 else 'test'}" / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path)
    settings = DatasetSettings(name=str(root / "pictures"))
    location = load.sources.locate(settings)
    return settings, location, load.sources.read(location, settings)


def decoded(root):
    paths, held = [], decoding.HEADER_BYTES
    decoding.HEADER_BYTES = 4096
    try:
        for seed in range(2):
            settings, location, raw = _pictures(root / str(seed), seed)
            path = storage.make_folder(root / str(seed) / "data") / f"{load._key(location, settings)}.safetensors"
            decoding.decode_into(path, raw, location, settings, Silent(), resumable=True)
            paths.append(path)
    finally:
        decoding.HEADER_BYTES = held
    stored = load._cached(paths[0], load.BOTH, Silent())
    whole = _plain(stored)

    def look():
        found = load._cached(paths[0], load.BOTH, Silent())
        return judged(None if found is None else _plain(found), whole)

    return Kind(paths[0].parent, [paths[0].name], [paths[1].read_bytes()], look)


def _plain(found):
    images = {part: own[torch.arange(len(own))] for part, own in found.images.items()}
    return {"images": images, "labels": found.labels, "facts": found.facts}


def journal(root):
    """Decoding that was stopped after two of three chunks: it goes on after those that are whole."""
    chunks = [[torch.full((3, 2, 2), 10 * chunk + row, dtype=torch.uint8) for row in range(2)] for chunk in range(3)]
    about = {"form": {"size": 2}, "notes": [], "header": 64}

    def begun(folder, images, note):
        path = storage.make_folder(folder) / f"{note}123.safetensors"
        partial = decoding.Partial(path, resumable=True)
        partial.begin({**about, "notes": [note]})
        for number, own in enumerate(images):
            partial.append("train", 2 * number, 2, [2 * number, 2 * number + 1], [], own)
        partial.close()
        return path

    path = begun(root / "a", chunks, "a")
    others = contents(begun(root / "b", chunks[::-1], "b").parent)
    names = [f".{path.stem}.decoding", f".{path.stem}.journal"]
    data, stored = (path.parent / names[0]).read_bytes(), {**about, "notes": ["a"]}

    def look():
        partial = decoding.Partial(path, resumable=True)
        found = partial.begun()
        try:
            if found is None:
                return NOTHING
            judged(found, stored)
            rows, kept = partial.rows_done("train"), (path.parent / names[0]).read_bytes()
            begin = len(data) - 3 * 24
            if kept[begin:] != data[begin : begin + 12 * rows]:
                raise Changed(f"{rows} rows of other bytes")
            return WHOLE if rows == 6 else PART
        finally:
            partial.close()

    return Kind(path.parent, names, others, look, tuple(names))


def whitened(root):
    """Matrices of both kinds, of two data sets."""
    made = {}
    for kind, cls in (("zca", Whiten), ("unit-zca", UnitWhiten)):
        for seed in range(2):
            path = storage.make_folder(root / f"{seed}") / f"{kind}-{seed}.safetensors"
            fitted = whitening.fit(kind, _many(seed), 0.1)
            assert isinstance(fitted, cls)
            whitening.keep(path, kind, fitted, ["hub", "shades"])
            made[path] = (kind, fitted)
    mine = [path for path in made if path.parent.name == "0"]

    def look():
        found = [judged(whitening._read(made[path][0], path, Silent()), made[path][1]) for path in mine]
        return WHOLE if found == [WHOLE, WHOLE] else PART

    others = contents(root)
    return Kind(root / "0", [path.name for path in mine], others, look)


def _many(seed):
    images = torch.randint(0, 256, (40, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return load.Pixels(images)


def baseline(root):
    """The row of training on all images, of two runs."""
    paths = [root / f"full-{number:016x}.json" for number in range(2)]
    rows = [EvalReport((0.5, 0.25 + number), {"lr": 0.01, "epochs": 3}).to_json() for number in range(2)]
    for path, row in zip(paths, rows, strict=True):
        evaluation.keep_row(path, row)

    def look():
        found = [judged(evaluation._cached_row(path), row) for path, row in zip(paths, rows, strict=True)]
        return WHOLE if found == [WHOLE, WHOLE] else PART

    return Kind(root, [path.name for path in paths], contents(root), look)


def scores(root):
    """Difficulties of images."""
    paths = [root / f"{number:016x}.safetensors" for number in range(2)]
    stored = [vector(number, 9) for number in range(2)]
    for path, one in zip(paths, stored, strict=True):
        difficulty.keep_scores(path, one, {"seed": 0})

    def look():
        found = [judged(difficulty.cached_scores(path), one) for path, one in zip(paths, stored, strict=True)]
        return WHOLE if found == [WHOLE, WHOLE] else PART

    return Kind(root, [path.name for path in paths], contents(root), look)


def revisions(root):
    """Commits of sources that were seen last."""
    path, stored = root / "revisions.json", {"org/a@": ["0" * 40, "mit"], "org/b@main": ["1" * 40, None]}
    locate.remember(path, stored)
    locate.remember(root / "other.json", {"org/c@": ["2" * 40, "mit"]})
    before = locate._remembered(path)
    return Kind(root, [path.name], contents(root), lambda: judged(locate._remembered(path), before, {}))


ALL = {
    one.__name__.replace("_", "-"): one
    for one in (
        experts_raw,
        experts_convex,
        standing,
        checkpoint,
        synthetic,
        config,
        experts_report,
        evaluated,
        seconds,
        test_checkpoints,
        metrics,
        decoded,
        journal,
        whitened,
        baseline,
        scores,
        revisions,
    )
}
