"""From a data set's name to ``SourceData``: locate, decode once into the cache, split.

The cache holds a memory-mapped safetensors file of uint8 images per data set, image size and choice of columns, under a
fingerprint of all of them and of the source's version (Hub commit, or names, sizes and times of local files). The
splits are views of it: a data set is held once, and shared by all processes that read it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distillkit import storage
from distillkit.data import decode, sources, splits
from distillkit.data.decoding import content_hash, decode_into, decoded_images, facts_of
from distillkit.data.form import form_of_all
from distillkit.data.labels import check_same_classes, chosen_classes, named_classes
from distillkit.data.labels import some as listed
from distillkit.data.locate import Location
from distillkit.data.tables import release_unused
from distillkit.errors import DamagedError, DataError
from distillkit.locks import locked
from distillkit.progress import Progress
from distillkit.records import ImageSet, Pixels, SourceData, SourceInfo
from distillkit.settings import DatasetSettings

DECODER_VERSION = 3  # raise it when decoding changes: cached tensors of older ones are then left alone
LAYOUT = 2  # of the cache's files
BOTH = ("train", "test")


@dataclass(frozen=True)
class Decoded:
    """uint8 images and labels of the splits ``train`` and perhaps ``test``, and what is known of them."""

    images: dict[str, Pixels]
    labels: dict[str, Tensor]
    facts: dict[str, Any]


def load_data(
    settings: DatasetSettings,
    progress: Progress,
    *,
    parts: Collection[str] = BOTH,
    each: int = 0,
    classes: Sequence[str] | None = None,
) -> SourceData:
    """Read, decode (once) and split a data set.

    Args:
        settings: which one, and how.
        progress: listener.
        parts: the splits of the source that will be looked at, ``train`` and ``test``; checksums of the others are not
            compared.
        each: images that every class keeps, if it has them: ``max_train`` gives way to it.
        classes: names that its classes must have, in whatever order.

    Raises:
        ConfigError: the name, a column, a split, a size or the classes are not acceptable; images are not decoded then.
        DataError: an image is corrupt, labels are unusable, or there is just one class.
        NotFoundError: no such data set, or no images in it.
    """
    location = sources.locate(settings)
    if location.known is not None and settings.data_root is None and Path(settings.name).is_dir():
        progress.note(f"{settings.name!r} is the registered data set; for the folder here say ./{settings.name}")
    embedded = location.kind == "embedded"
    decoded = _digits(settings) if embedded else _decoded_from_cache(location, settings, progress, parts, classes)
    if classes is not None:
        check_same_classes(classes, decoded.facts["classes"])
    return _split(decoded, location, settings, each)


@dataclass(frozen=True)
class Survey:
    """A data set that is not decoded yet, as far as its tables tell: all labels, and ``SAMPLE`` images that stand for
    all, again and again; ``bytes`` that it will take in the cache.
    """

    data: SourceData
    bytes: int


def survey(settings: DatasetSettings, progress: Progress, *, each: int = 0) -> Survey | None:
    """What a data set will be, without decoding it; None if it is decoded already, or embedded. Arguments as above.

    Raises:
        DistillkitError: as ``load_data``, but for images that are not looked at.
    """
    location = sources.locate(settings)
    if location.kind == "embedded" or _path(location, settings).exists():
        return None
    raw = sources.read(location, settings)
    sample = raw.train.sample(SAMPLE)
    known_size = location.known.image_size if location.known else None
    form, notes = form_of_all(sample, settings.image_size or known_size, settings, progress)
    few = Pixels(decoded_images(sample, form, settings.skip_corrupt))
    parts = {part: one for part, one in zip(BOTH, (raw.train, raw.test), strict=True) if one is not None}
    images = {part: few.only(torch.arange(len(one.labels)) % len(few)) for part, one in parts.items()}
    labels = {part: torch.tensor(one.labels) for part, one in parts.items()}
    seen = [*notes, f"size and range as {len(few)} images have them"]
    facts = {**facts_of(raw, location, form, seen), "sha256": "survey"}
    data = _split(Decoded(images, labels, facts), location, settings, each)
    return Survey(data, sum(one.numel() for one in images.values()))


SEEN = 64
"""Images that are looked at for whether there is something to see."""
SAMPLE = 256
"""Images that stand for all of a data set that is planned with."""


def _path(location: Location, settings: DatasetSettings) -> Path:
    return storage.cache_root() / "data" / f"{_key(location, settings)}.safetensors"


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
        "sha256": content_hash(tensors),
    }
    return _decoded(tensors, facts)


def _decoded(tensors: dict[str, Tensor], facts: dict[str, Any]) -> Decoded:
    """The content of a cache file, whose labels are bytes there."""
    images = {part: Pixels(tensors[f"{part}.images"]) for part in BOTH if f"{part}.images" in tensors}
    labels = {part: tensors[f"{part}.labels"].clone().view(torch.int64) for part in images}
    return Decoded(images, labels, facts)


def _decoded_from_cache(
    location: Location,
    settings: DatasetSettings,
    progress: Progress,
    parts: Collection[str],
    classes: Sequence[str] | None,
) -> Decoded:
    """The decoded images, from the cache if they are there and whole; ``parts``: of the splits that will be looked at.

    Raises:
        ConfigError: their classes are not ``classes``.
        StorageError: they are not there, and the cache cannot be written.
    """
    path = _path(location, settings)
    folder = path.parent
    found = _cached(path, parts, progress)
    if found is not None:
        return found
    storage.make_folder(folder)
    waiting = "waiting for another process that decodes these images"
    with locked(folder / f".{path.stem}.lock", lambda: progress.note(waiting)) as alone:
        found = _cached(path, parts, progress, told=True)
        if found is not None:
            return found
        _decode(path, location, settings, progress, classes, resumable=alone)
    release_unused()
    return _opened(path, parts)


def _decode(
    path: Path,
    location: Location,
    settings: DatasetSettings,
    progress: Progress,
    classes: Sequence[str] | None,
    *,
    resumable: bool,
) -> None:
    raw = sources.read(location, settings)
    if classes is not None:
        check_same_classes(classes, raw.classes)
    decode_into(path, raw, location, settings, progress, resumable=resumable)


def _key(location: Location, settings: DatasetSettings) -> str:
    """The name of the file: what decoding depends on. A folder is known by its files, wherever it is moved."""
    fields = ("config_name", "image_column", "label_column", "class_names", "train_split", "test_split", "image_size")
    more = ("classes", "without_classes", "resize", "color", "skip_corrupt")
    choices = {name: getattr(settings, name) for name in (*fields, *more)}
    place = location.source if location.kind == "hub" else None
    name = location.known.name if location.known else None
    identity = {"decoder": DECODER_VERSION, "layout": LAYOUT, "location": [location.kind, place, location.version]}
    return storage.fingerprint({**identity, "known": name, "choices": choices})


def _cached(path: Path, parts: Collection[str], progress: Progress, *, told: bool = False) -> Decoded | None:
    """What the cache has; None if it is absent or damaged, which is said once."""
    if not path.exists():
        return None
    try:
        return _opened(path, parts)
    except DamagedError:
        if not told:
            progress.note(f"the decoded images in {path} are damaged; decoding again")
        return None


def _opened(path: Path, parts: Collection[str]) -> Decoded:
    """The images mapped from the file, the checksums of ``parts`` compared; the other split's stay unread."""
    names = [f"{part}.{what}" for part in parts for what in ("images", "labels")]
    facts = storage.read_metadata(path)
    if not isinstance(facts, dict) or not {"sha256", "test_split"} <= set(facts):
        raise DamagedError(f"{path} is damaged: it does not say what it holds")
    if facts.get("of", path.name) != path.name:  # older versions do not say it
        raise DamagedError(f"{path} is damaged: it holds another data set")
    tensors, _ = storage.read_tensors(path, names if facts["test_split"] else None, sealed=True)
    return _decoded(tensors, facts)


def _split(decoded: Decoded, location: Location, settings: DatasetSettings, each: int) -> SourceData:
    facts, seed = decoded.facts, settings.split_seed
    classes = tuple(facts["classes"])
    whole = ImageSet(decoded.images["train"], decoded.labels["train"], classes)
    _check_classes(whole)
    _check_contents(whole)
    test_split, kept = facts["test_split"], torch.arange(len(whole))
    if "test" in decoded.images:
        test = ImageSet(decoded.images["test"], decoded.labels["test"], classes)
    else:
        kept, taken = splits.stratified_take(whole.labels, settings.test_fraction, seed, "split", "test")
        if len(taken) == 0:
            raise DataError(
                "no class has two images, so none can be held out to test with; give a test split, or more images"
            )
        test = whole.subset(taken)
        test_split = f"none given: {settings.test_fraction:.0%} of {facts['train_split']}, stratified, seed {seed}"
    limit, notes = _limit(settings, len(classes), each), list(facts["notes"])
    if absent := [name for name, count in zip(classes, test.class_counts(), strict=True) if not count]:
        notes.append(f"no test image is of class {listed(absent)}: test accuracies are of the others")
    if limit is not None and limit < len(kept):
        notes.append(f"{limit:,} of the {len(kept):,} training images are used (`dataset.max_train`)")
    if limit is not None:
        kept = kept[splits.even_subset(whole.labels[kept], limit, seed, "split", "max_train")]
    rest, held = kept, torch.zeros(0, dtype=torch.int64)
    if settings.validation_fraction > 0:
        fraction = settings.validation_fraction
        rest, held = (
            kept[part] for part in splits.stratified_take(whole.labels[kept], fraction, seed, "split", "validation")
        )
        if len(held) == 0:
            raise DataError(
                "no class has two training images, so no validation split can be held out; "
                "`dataset.validation_fraction=0` does without"
            )
    settings = settings.model_copy(update={"max_train": limit})
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
        notes=tuple(notes),
        grey_range=tuple(values) if (values := facts.get("grey_range")) else None,
    )
    return SourceData(whole.subset(rest), whole.subset(held), test, info, rest)


def _limit(settings: DatasetSettings, classes: int, each: int) -> int | None:
    """``max_train``, or as many more as leave every class ``each`` images beside a validation split."""
    if settings.max_train is None or each == 0:
        return settings.max_train
    taken, fraction = each, settings.validation_fraction
    while fraction > 0 and taken - min(max(1, round(fraction * taken)), taken - 1) < each:
        taken += 1
    return max(settings.max_train, taken * classes)


def _known_license(location: Location) -> str | None:
    """What the registry says, else the card of the source; ``unknown`` says nothing."""
    stated = (location.known.license if location.known else None) or location.license
    return None if stated is None or stated.strip().lower() == "unknown" else stated


def _public_source(location: Location) -> str:
    """What an artifact says of its source: a Hub id where there is one, never a path of this machine."""
    if location.known is not None and location.known.hub_id is not None:
        return location.known.hub_id
    return location.source if location.kind in ("hub", "embedded") else Path(location.source).name


def _check_contents(train: ImageSet) -> None:
    """Is there something to see? A few images, from all over the set, tell.

    Raises:
        DataError: all of their pixels have the same value.
    """
    some = train.subset(torch.linspace(0, len(train) - 1, min(len(train), SEEN)).long()).images
    if bool((some == some.flatten()[0]).all()):
        value = int(some.flatten()[0])
        raise DataError(
            f"all pixels of the {len(some)} images that were looked at have the value {value}, so there is nothing to "
            "learn; what is transparent becomes white: are the images white on transparent?"
        )


def _check_classes(train: ImageSet) -> None:
    counts: Iterable[int] = train.class_counts()
    present = [name for name, count in zip(train.classes, counts, strict=True) if count]
    if len(present) < 2:
        only = f" (all images are {present[0]!r})" if present else ""
        raise DataError(f"a data set needs images of at least two classes, this one has {len(present)}{only}")
