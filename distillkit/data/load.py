"""From a data set's name to ``SourceData``: locate, decode once into the cache, split.

The cache holds a memory-mapped safetensors file of uint8 images per data set, image size and choice of columns, under a
fingerprint of all of them and of the source's version (Hub commit, or names, sizes and times of local files).
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor

from distillkit import storage
from distillkit.data import decode, sources, splits
from distillkit.data.labels import chosen_classes, named_classes
from distillkit.data.locate import Location
from distillkit.data.raw import RawDataset, RawSplit
from distillkit.errors import DataError, StorageError
from distillkit.progress import Progress
from distillkit.records import ImageSet, SourceData, SourceInfo
from distillkit.settings import DatasetSettings

DECODER_VERSION = 2  # raise it when decoding changes: cached tensors of older ones are then left alone
LARGEST_AUTO_SIZE = 128  # pixels; larger images are only used in full when --image-size says so


@dataclass(frozen=True)
class Decoded:
    """Content of a cache file: uint8 images and labels of one or two splits, and what is known of them."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


def load_data(settings: DatasetSettings, progress: Progress) -> SourceData:
    """Read, decode (once) and split a data set.

    Raises:
        ConfigError: the name, a column, a split or a size is not acceptable.
        DataError: an image is corrupt, labels are unusable, or there is just one class.
        NotFoundError: no such data set, or no images in it.
    """
    location = sources.locate(settings)
    if location.known is not None and settings.data_root is None and Path(settings.name).is_dir():
        progress.note(f"{settings.name!r} is the registered data set; for the folder here say ./{settings.name}")
    decoded = _digits(settings) if location.kind == "embedded" else _decoded_from_cache(location, settings, progress)
    return _split(decoded, location, settings)


def _digits(settings: DatasetSettings) -> Decoded:
    """scikit-learn's digits and its own split (a stratified quarter, random_state 0): anyone can make the same one."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * 255 / 16).round().astype(np.uint8))[:, None]
    if settings.image_size not in (None, images.shape[-1]):
        pictures = [Image.fromarray(image[0].numpy()) for image in images]
        resized = [np.array(decode.resize_and_crop(picture, settings.image_size)) for picture in pictures]
        images = torch.from_numpy(np.stack(resized))[:, None]
    if settings.color == "rgb":
        images = images.expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    parts = train_test_split(np.arange(len(labels)), test_size=0.25, stratify=bunch.target, random_state=0)
    train, test = (torch.from_numpy(np.sort(part)) for part in parts)
    names = named_classes([str(digit) for digit in range(10)], settings)
    chosen = chosen_classes(names, settings)
    train, test = (part[torch.isin(labels[part], torch.tensor(chosen))] for part in (train, test))
    labels = torch.tensor([chosen.index(digit) if digit in chosen else -1 for digit in range(10)])[labels]
    tensors = {
        "train.images": images[train],
        "train.labels": labels[train],
        "test.images": images[test],
        "test.labels": labels[test],
    }
    facts = {
        "classes": [names[position] for position in chosen],
        "license": "cc-by-4.0",
        "train_split": "train_test_split(test_size=0.25, stratify, random_state=0)",
        "test_split": "the other quarter of it",
        "notes": [],
        "sha256": _content_hash(tensors),
    }
    return Decoded(tensors, facts)


def _decoded_from_cache(location: Location, settings: DatasetSettings, progress: Progress) -> Decoded:
    fields = (
        "config_name",
        "image_column",
        "label_column",
        "class_names",
        "classes",
        "without_classes",
        "train_split",
        "test_split",
        "image_size",
        "resize",
    )
    choices = {name: getattr(settings, name) for name in (*fields, "color", "skip_corrupt")}
    identity = {"decoder": DECODER_VERSION, "location": [location.kind, location.source, location.version]}
    name = location.known.name if location.known else None
    key = storage.fingerprint({**identity, "known": name, "choices": choices})
    folder = storage.make_folder(storage.cache_root() / "data")
    path = folder / f"{key}.safetensors"
    with FileLock(folder / f".{key}.lock"):
        storage.remove_leftovers(folder, f"{key}.safetensors")
        if path.exists():
            try:
                return Decoded(*storage.read_tensors(path))
            except StorageError:
                progress.note(f"the decoded images in {path} are damaged; decoding again")
        decoded = _decode(sources.read(location, settings), location, settings, progress)
        storage.write_tensors(path, decoded.tensors, decoded.facts)
    return Decoded(*storage.read_tensors(path))


def _decode(raw: RawDataset, location: Location, settings: DatasetSettings, progress: Progress) -> Decoded:
    parts = [part for part in (raw.train, raw.test) if part is not None]
    total = sum(len(part.labels) for part in parts)
    if not raw.train.labels:
        raise DataError(f"split {raw.train.name!r} of {location.source} has no rows")
    progress.stage("decoding images", total)
    known_size = location.known.image_size if location.known else None
    form, notes = _form(parts, settings.image_size or known_size, settings)
    notes = [*raw.notes, *notes]
    tensors: dict[str, Tensor] = {}
    for key, part in zip(("train", "test"), parts, strict=False):
        images, labels, skipped = _decode_split(part, form, settings.skip_corrupt, progress)
        tensors |= {f"{key}.images": images, f"{key}.labels": labels}
        if skipped:
            notes.append(f"{len(skipped)} corrupt images of split {part.name!r} left out: {', '.join(skipped[:5])}")
    facts = {
        "classes": list(raw.classes),
        "license": raw.license,
        "train_split": raw.train.name,
        "test_split": raw.test.name if raw.test else None,
        "notes": notes,
        "sha256": _content_hash(tensors),
    }
    return Decoded(tensors, facts)


@dataclass
class _Seen:
    """What the headers of all images say; of greys of more than 8 bits their values too."""

    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: set[str] = field(default_factory=set)
    smallest: dict[int, str] = field(default_factory=dict)
    low: float = math.inf
    high: float = -math.inf
    whole: bool = True

    def add(self, image: Image.Image, name: str) -> None:
        self.sizes[image.size] += 1
        self.modes.add(image.mode)
        self.smallest.setdefault(min(image.size), name)
        extremes = decode.deep_extremes(image)
        if extremes is not None:
            self.low, self.high = min(self.low, extremes[0]), max(self.high, extremes[1])
            self.whole = self.whole and image.mode != "F"

    def short_side(self, share: float) -> int:
        """The short side that a ``share`` of the images fall below."""
        sides = Counter[int]()
        for size, count in self.sizes.items():
            sides[min(size)] += count
        passed, total = 0, sides.total()
        for side in sorted(sides):
            passed += sides[side]
            if passed > share * total:
                return side
        return 0


FEW = 0.05
"""Share of images that do not decide the size of all."""


def _form(parts: list[RawSplit], wanted: int | None, settings: DatasetSettings) -> tuple[decode.Form, list[str]]:
    """What all images become, from their headers, and notes on what was decided; the training split decides."""
    seen = _Seen()
    for row, cell in enumerate(cell for part in parts[:1] for cell in part.cells()):
        try:
            with decode.open_image(cell) as image:
                seen.add(image, decode.cell_name(cell, row))
        except decode.BROKEN:
            continue  # decoding names it
    gray = settings.color == "gray" or (
        settings.color == "auto" and bool(seen.modes) and seen.modes <= decode.GREY_MODES
    )
    notes, values = [], None
    if seen.low <= seen.high:
        values = decode.nominal_range(seen.low, seen.high, seen.whole)
        notes.append(f"greys from {values[0]:g} to {values[1]:g} become 8 bits (seen: {seen.low:g} to {seen.high:g})")
    if wanted is not None:
        return decode.Form(wanted, gray, settings.resize, values), notes
    size, note = _size(seen)
    return decode.Form(size, gray, settings.resize, values), [*notes, *note]


def _size(seen: _Seen) -> tuple[int, list[str]]:
    """Pixels a side, which a few odd images do not decide."""
    side = seen.short_side(FEW)
    if side < 4:
        name = seen.smallest.get(side, "none can be decoded")
        raise DataError(f"images of fewer than 4 pixels ({name}); pass --image-size to enlarge them")
    smaller = sorted(found for found in seen.smallest if found < side)
    count = sum(number for size, number in seen.sizes.items() if min(size) < side)
    odd = [f"{count} smaller images are enlarged, {seen.smallest[smaller[0]]} the smallest"] if smaller else []
    if len(seen.sizes) == 1 and len(set(next(iter(seen.sizes)))) == 1 and side <= LARGEST_AUTO_SIZE:
        return side, odd
    size = min(LARGEST_AUTO_SIZE, 2 ** (side.bit_length() - 1))
    return size, [f"images resized and centre-cropped to {size}x{size} (--image-size changes it)", *odd]


def _decode_split(
    part: RawSplit, form: decode.Form, skip_corrupt: bool, progress: Progress
) -> tuple[Tensor, Tensor, list[str]]:
    images = torch.empty(len(part.labels), 1 if form.gray else 3, form.size, form.size, dtype=torch.uint8)
    kept: list[int] = []
    skipped: list[str] = []

    def work(item: tuple[int, dict[str, Any]]) -> Tensor | DataError:
        try:
            return decode.decode(item[1], form, item[0])
        except DataError as error:
            return error

    rows = enumerate(part.cells())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := list(islice(rows, 512)):
            for (row, cell), result in zip(batch, pool.map(work, batch), strict=True):
                if isinstance(result, Tensor):
                    images[len(kept)] = result
                    kept.append(row)
                elif skip_corrupt:
                    skipped.append(decode.cell_name(cell, row))
                else:
                    raise result
            progress.advance(len(batch))
    if not kept:
        raise DataError(f"no image of split {part.name!r} could be decoded")
    return images[: len(kept)].clone(), torch.tensor(part.labels)[kept], skipped


def _content_hash(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        storage.sha256_tensor(digest, tensors[name])
    return digest.hexdigest()


def _split(decoded: Decoded, location: Location, settings: DatasetSettings) -> SourceData:
    facts, seed = decoded.facts, settings.split_seed
    classes = tuple(facts["classes"])
    train = ImageSet(decoded.tensors["train.images"], decoded.tensors["train.labels"], classes)
    _check_classes(train)
    test_split = facts["test_split"]
    if "test.images" in decoded.tensors:
        test = ImageSet(decoded.tensors["test.images"], decoded.tensors["test.labels"], classes)
    else:
        rest, taken = splits.stratified_take(train.labels, settings.test_fraction, seed, "split", "test")
        train, test = train.subset(rest), train.subset(taken)
        test_split = f"none given: {settings.test_fraction:.0%} of {facts['train_split']}, stratified, seed {seed}"
    given = rest if "test.images" not in decoded.tensors else torch.arange(len(train))
    if settings.max_train is not None:
        few = splits.even_subset(train.labels, settings.max_train, seed, "split", "max_train")
        train, given = train.subset(few), given[few]
    rest, held = torch.arange(len(train)), torch.zeros(0, dtype=torch.int64)
    if settings.validation_fraction > 0:
        rest, held = splits.stratified_take(train.labels, settings.validation_fraction, seed, "split", "validation")
        if len(held) == 0:
            raise DataError(
                "no class has two training images, so no validation split can be held out; "
                "--set dataset.validation_fraction=0 does without"
            )
    choices = settings.model_dump(include={"test_fraction", "max_train", "validation_fraction", "split_seed"})
    info = SourceInfo(
        name=location.known.name if location.known else Path(location.source).name,
        source=_public_source(location),
        revision=location.version if location.kind == "hub" else None,
        license=settings.license or _known_license(location) or facts["license"],
        train_split=facts["train_split"],
        test_split=test_split,
        validation_split=f"{settings.validation_fraction:.0%} of the training images, stratified, seed {seed}"
        if len(held)
        else "none: all training images are trained on",
        fingerprint=storage.fingerprint({"content": facts["sha256"], **choices}),
        notes=tuple(facts["notes"]),
    )
    return SourceData(train.subset(rest), train.subset(held), test, info, given[rest])


def _known_license(location: Location) -> str | None:
    """What the registry says, else the card of the source; ``unknown`` says nothing."""
    stated = (location.known.license if location.known else None) or location.license
    return None if stated is None or stated.strip().lower() == "unknown" else stated


def _public_source(location: Location) -> str:
    """What an artifact says of its source: a Hub id where there is one, never a path of this machine."""
    if location.known is not None and location.known.hub_id is not None:
        return location.known.hub_id
    return location.source if location.kind in ("hub", "embedded") else Path(location.source).name


def _check_classes(train: ImageSet) -> None:
    counts: Iterable[int] = train.class_counts()
    present = [name for name, count in zip(train.classes, counts, strict=True) if count]
    if len(present) < 2:
        only = f" (all images are {present[0]!r})" if present else ""
        raise DataError(f"a data set needs images of at least two classes, this one has {len(present)}{only}")
