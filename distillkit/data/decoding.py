"""Decoding a data set into a file of the cache, a chunk at a time: a stopped one goes on after its last chunk.

The file is a safetensors file from the start, with room for its header before the images; the header is written last.
A journal beside it says which rows are done, with the checksum of each chunk.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from distillkit import storage
from distillkit.data import decode
from distillkit.data.form import beyond, form_of_all
from distillkit.data.listing import escaped
from distillkit.data.locate import Location
from distillkit.data.raw import RawDataset, RawSplit
from distillkit.environment import usable_cores
from distillkit.errors import DamagedError, DataError, StorageError
from distillkit.progress import Progress
from distillkit.settings import DatasetSettings

MOST_AT_ONCE, CHUNK_BYTES = 512, 1 << 25
"""Images of a chunk, at most, and bytes of its decoded images."""
NAMED = 5
"""Corrupt images that a message names."""
HEADER_BYTES = 1 << 20
"""Room for the header, besides what the names of classes take; what is not used is a hole in the file."""

Broken = list[tuple[str, str]]
"""Images that cannot be decoded: what each is called, and the sentence on it (an error would hold on to the image)."""


def decode_into(
    path: Path, raw: RawDataset, location: Location, settings: DatasetSettings, progress: Progress, *, resumable: bool
) -> None:
    """Decode ``raw`` into the sealed file ``path`` of uint8 images and labels; ``resumable``: nobody else does.

    Raises:
        DataError: images are corrupt, of which the first few are named, or a split is empty.
        StorageError: no room.
    """
    if not raw.train.labels:
        raise DataError(f"split {raw.train.name!r} of {location.source} has no rows")
    partial = Partial(path, resumable)
    begun = partial.begun()
    if begun is None:
        known_size = location.known.image_size if location.known else None
        form, notes = form_of_all(raw.train, settings.image_size or known_size, settings, progress)
        notes += [] if raw.test is None else beyond(raw.test, form)
        names = storage.canonical_json([raw.classes, raw.notes, notes])
        partial.begin({"form": asdict(form), "notes": notes, "header": HEADER_BYTES + 8 * len(names)})
    else:
        form, notes = decode.ImageForm(**begun["form"]), begun["notes"]
    parts = {name: part for name, part in (("train", raw.train), ("test", raw.test)) if part is not None}
    channels = 1 if form.gray else 3
    each, total = channels * form.size**2, sum(len(part.labels) for part in parts.values())
    done, broken = sum(partial.rows_done(name) for name in parts), Broken()
    try:
        _check_room(path, (total - done) * each, total, form.size)
        progress.stage("decoding images", total, done)
        for name, part in parts.items():
            _decode_split(name, part, form, None if settings.skip_corrupt else broken, partial, progress)
        if broken:
            raise _corrupt(broken)
        left = [words for name, part in parts.items() if (words := partial.left(name, part))]
        facts = {**facts_of(raw, location, form, [*notes, *left]), "of": path.name}
        partial.finish({name: part.labels for name, part in parts.items()}, (channels, form.size, form.size), facts)
    finally:
        partial.close()


def facts_of(raw: RawDataset, location: Location, form: decode.ImageForm, notes: list[str]) -> dict[str, Any]:
    """What is known of a data set besides its images, as JSON; ``place`` is where it was found, for people."""
    deep = {} if form.values is None else {"grey_range": list(form.values)}
    return {
        "classes": list(raw.classes),
        "license": raw.license,
        "train_split": raw.train.name,
        "test_split": raw.test.name if raw.test else None,
        "notes": [escaped(note) for note in (*raw.notes, *notes)],
        "place": [location.kind, location.source],
        **deep,
    }


def decoded_images(part: RawSplit, form: decode.ImageForm, skip_corrupt: bool) -> Tensor:
    """A few images, uint8 [n, C, size, size].

    Raises:
        DataError: one is corrupt and ``skip_corrupt`` is not set, or all are.
    """
    found = []
    for row, cell in enumerate(part.cells()):
        try:
            found.append(decode.decode(cell, form, row))
        except DataError:
            if not skip_corrupt:
                raise
    if not found:
        raise DataError(f"no image of split {part.name!r} could be decoded")
    return torch.stack(found)


def _check_room(path: Path, wanted: int, total: int, size: int) -> None:
    free = storage.free_bytes(path)
    if wanted > free:
        raise StorageError(
            f"decoding {total:,} images of {size}x{size} pixels takes {wanted / 1e9:.2f} GB more in {path.parent}, "
            f"which has {free / 1e9:.2f} GB left; make room, take a smaller `dataset.image_size`, or put the cache "
            "elsewhere with DISTILLKIT_CACHE=FOLDER"
        )


def _decode_split(
    name: str, part: RawSplit, form: decode.ImageForm, broken: Broken | None, partial: Partial, progress: Progress
) -> None:
    """Decode a split into ``partial``; corrupt images are left out, or collected in ``broken`` if it is given.

    After the first one nothing is kept any more: what is decoded then only tells how many are corrupt.
    """

    def work(item: tuple[int, dict[str, Any]]) -> Tensor | DataError:
        try:
            return decode.decode(item[1], form, item[0])
        except DataError as error:
            return error

    begin = partial.rows_done(name)
    rows = enumerate(part.cells(begin), begin)
    at_once = max(16, min(MOST_AT_ONCE, CHUNK_BYTES // form.size**2 // 3))
    with _workers() as pool:
        while batch := list(islice(rows, at_once)):
            images, kept, failed = [], [], Broken()
            for (row, cell), result in zip(batch, pool.map(work, batch), strict=True):
                if isinstance(result, Tensor):
                    images.append(result)
                    kept.append(row)
                else:
                    failed.append((decode.cell_name(cell, row), str(result)))
            if broken is not None and failed:
                if not broken and len(batch) == at_once:
                    progress.note(f"image {failed[0][0]} cannot be decoded; looking for others like it")
                broken += failed
            if not broken:
                partial.append(name, batch[0][0], len(batch), kept, [words for words, _ in failed], images)
            progress.advance(len(batch))
    if not broken and not partial.kept(name):
        raise DataError(f"no image of split {part.name!r} could be decoded")


def _corrupt(broken: Broken) -> DataError:
    """The error of one image, or of several, the first few by name."""
    if len(broken) == 1:
        return DataError(broken[0][1])
    named = ", ".join(name for name, _ in broken[:NAMED]) + (", ..." if len(broken) > NAMED else "")
    return DataError(
        f"{len(broken)} images cannot be decoded: {named}; repair or remove them, or pass `dataset.skip_corrupt=True`"
    )


@contextmanager
def _workers() -> Iterator[ThreadPoolExecutor]:
    """Threads that drop what they have not begun when the block is left by an error or a signal."""
    pool = ThreadPoolExecutor(usable_cores())
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


class Partial:
    """The file ``path`` while it is made, and its journal; found again only if it is ``resumable``."""

    def __init__(self, path: Path, resumable: bool) -> None:
        own = "" if resumable else f".{os.getpid()}"
        self._target = path
        self._path = path.with_name(f".{path.stem}{own}.decoding")
        self._journal = path.with_name(f".{path.stem}{own}.journal")
        self._data: BinaryIO | None = None
        self._header = self._end = 0
        self._chunks: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}

    def begun(self) -> dict[str, Any] | None:
        """What ``begin`` was told by the process that was stopped, whose whole chunks are taken over; None: nothing."""
        if not (self._journal.exists() and self._path.exists()):
            return None
        about: dict[str, Any] | None = None
        lines = []
        self._data = self._open("r+b")
        with storage.storage_errors(self._journal, "read"):
            text = self._journal.read_text(encoding="utf-8", errors="replace")
        for line in text.splitlines():
            try:
                entry = storage.unsealed(json.loads(line), self._journal)
                if about is None:
                    if entry.pop("of") != self._target.name:
                        break
                    about, self._header = entry, 8 + int(entry["header"])
                    self._end = self._header
                elif not self._take(entry):
                    break
            except (ValueError, KeyError, TypeError, AttributeError, DamagedError):  # torn, or damaged
                break
            lines.append(line)
        if about is None:
            self.close()
            return None
        with storage.storage_errors(self._path, "write"):
            self._data.truncate(self._end)
        storage.write_bytes(self._journal, "".join(line + "\n" for line in lines).encode())
        return about

    def _take(self, entry: dict[str, Any]) -> bool:
        """Take over a chunk, if its bytes are those that were written."""
        assert self._data is not None
        self._data.seek(self._end)
        content = self._data.read(int(entry["bytes"]))
        if len(content) != entry["bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
            return False
        self._chunks[entry["split"]].append(entry)
        self._end += len(content)
        return True

    def begin(self, about: dict[str, Any]) -> None:
        """An empty file with room for a header of ``about["header"]`` bytes."""
        about["header"] += -about["header"] % 8
        self.close()
        self._data = self._open("w+b")
        self._header = self._end = 8 + about["header"]
        storage.write_bytes(self._journal, _line({**about, "of": self._target.name}).encode())

    def _open(self, mode: str) -> BinaryIO:
        with storage.storage_errors(self._path, "write"):
            file: Any = self._path.open(mode)
        return file  # type: ignore[no-any-return]

    def rows_done(self, split: str) -> int:
        """Rows of a split that need not be decoded again."""
        return sum(entry["rows"] for entry in self._chunks[split])

    def kept(self, split: str) -> int:
        """Images of a split."""
        return sum(entry["kept"] for entry in self._chunks[split])

    def left(self, split: str, part: RawSplit) -> str | None:
        """A note on the images that were left out."""
        skipped = [name for entry in self._chunks[split] for name in entry["skipped"]]
        named = ", ".join(skipped[:NAMED])
        return f"{len(skipped)} corrupt images of split {part.name!r} left out: {named}" if skipped else None

    def append(
        self, split: str, begin: int, rows: int, kept: list[int], skipped: list[str], images: list[Tensor]
    ) -> None:
        """A chunk of ``rows`` rows from ``begin``: the images of the rows ``kept``, the names of the others."""
        assert self._data is not None
        content = torch.stack(images).numpy().tobytes() if images else b""
        with storage.storage_errors(self._path, "write"):
            self._data.seek(self._end)
            self._data.write(content)
            self._data.flush()
        entry = {"split": split, "begin": begin, "rows": rows, "kept": len(kept), "skipped": skipped}
        entry["lacking"] = sorted({*range(begin, begin + rows)} - {*kept}) if skipped else []
        entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        storage.append_text(self._journal, _line(entry))
        self._chunks[split].append(entry)
        self._end += len(content)

    def finish(self, labels: dict[str, list[int]], shape: tuple[int, int, int], facts: dict[str, Any]) -> None:
        """Write labels and header, and give the file its name."""
        assert self._data is not None
        kept = {}
        for split, own in labels.items():
            lacking = {row for entry in self._chunks[split] for row in entry["lacking"]}
            kept[split] = torch.tensor([label for row, label in enumerate(own) if row not in lacking])
        self._check_length(kept, shape)
        content = b"".join(own.numpy().tobytes() for own in kept.values())
        with storage.storage_errors(self._path, "write"):
            self._data.seek(self._end)
            self._data.write(content)
            self._data.flush()
        header = self._sealed_header(kept, shape, facts)
        with storage.storage_errors(self._path, "write"):
            self._data.seek(0)
            self._data.write(header)
            self._data.flush()
            os.fsync(self._data.fileno())
        self.close()
        with storage.storage_errors(self._target, "write"):
            self._path.replace(self._target)
        self._journal.unlink(missing_ok=True)

    def _sealed_header(self, labels: dict[str, Tensor], shape: tuple[int, int, int], facts: dict[str, Any]) -> bytes:
        """The header with the checksums of what the file holds."""
        mapped, begin = torch.from_file(str(self._path), size=self._end, dtype=torch.uint8), self._header
        tensors = {}
        for split, own in labels.items():
            end = begin + len(own) * shape[0] * shape[1] * shape[2]
            tensors[f"{split}.images"] = mapped[begin:end].view(len(own), *shape)
            begin = end
        of_labels = {f"{split}.labels": own for split, own in labels.items()}
        facts = {**facts, "sha256": content_hash({**tensors, **of_labels})}
        tensors |= {name: own.view(torch.uint8) for name, own in of_labels.items()}
        digests = {name: storage.digest_of(tensor) for name, tensor in tensors.items()}
        return storage.header_of(tensors, storage.seal(digests, facts), self._header - 8)

    def _check_length(self, labels: dict[str, Tensor], shape: tuple[int, int, int]) -> None:
        wanted = sum(len(own) for own in labels.values()) * shape[0] * shape[1] * shape[2]
        if self._end - self._header != wanted:
            raise DamagedError(f"{self._path} holds {self._end - self._header} bytes of images, expected {wanted}")

    def close(self) -> None:
        """Until the next call."""
        if self._data is not None:
            self._data.close()
            self._data = None


def _line(value: Any) -> str:
    return json.dumps(storage.sealed(value)) + "\n"


def content_hash(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of a data set's images and labels with their names, hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        storage.sha256_tensor(digest, tensors[name])
    return digest.hexdigest()
