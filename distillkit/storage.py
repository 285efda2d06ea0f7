"""Files: atomic writes, safetensors with one reproducible metadata key, checksums.

Every file of distillkit is written under a temporary name in the same folder, flushed to the disk and renamed, so a
reader sees the old file or the new one and a full disk or a kill leaves the old one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import platformdirs
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distillkit.errors import DamagedError, StorageError
from distillkit.paths import expanded

# safetensors writes its metadata map in an order that changes from process to process, so there is just one key.
METADATA_KEY = "distillkit"
SEAL, SEALED = "sealed", "value"
"""Keys of sealed metadata: the checksums of all that a file holds, and what it says."""
PIECE = 1 << 24
"""Bytes that are hashed at a time, so that a signal is answered between two of them."""
LEFT_BEHIND = 3600
"""Seconds after which nobody is writing into a temporary file any more."""


def cache_root() -> Path:
    """The folder of decoded data, experts and baselines: $DISTILLKIT_CACHE, else the user's cache folder."""
    asked = os.environ.get("DISTILLKIT_CACHE")
    return Path(expanded(asked) if asked else platformdirs.user_cache_dir("distillkit"))


@contextlib.contextmanager
def storage_errors(path: Path, verb: str) -> Iterator[None]:
    """Say of an error of the operating system what could not be done to which file, and why."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"could not {verb} {path}: {reason.lower()}{_cache_hint(path)}") from error


def _cache_hint(path: Path) -> str:
    """What to do about a cache that cannot be used."""
    within = cache_root() in (path, *path.parents)
    return "; DISTILLKIT_CACHE=FOLDER puts the cache elsewhere" if within else ""


def free_bytes(path: Path) -> int:
    """What the disk that ``path`` is on, or would be on, has left for this user."""
    return shutil.disk_usage(_nearest(path)).free


def _nearest(path: Path) -> Path:
    """``path``, or the folder nearest above it, that exists."""
    return next((there for there in (path, *path.absolute().parents) if there.exists()), Path())


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents if they are missing, and return it."""
    with storage_errors(path, "create the folder"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` atomically.

    Raises:
        StorageError: no space, no permission, no such folder, or a device or folder in its place; the old file, if
            any, is untouched.
    """
    with storage_errors(path, "write"):
        taken = path.exists() and not path.is_file()
    if taken:
        raise StorageError(f"could not write {path}: it is there and is no ordinary file")
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with storage_errors(path, "write"):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def check_writable(folder: Path) -> None:
    """Before something is measured that is to be kept there: can a file be made in ``folder``?

    Raises:
        StorageError: no.
    """
    with storage_errors(folder, "write into"):
        _try_to_write(folder)


def check_creatable(folder: Path) -> None:
    """Before anything is computed for it: can files be made in ``folder``, which may be missing yet? Makes nothing.

    Raises:
        StorageError: no, as its permissions, or those of the folder that it is to be made in, have it.
    """
    there = _nearest(folder)
    with storage_errors(folder, "write into" if there == folder else "create the folder"):
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(there, os.W_OK | os.X_OK):
            _try_to_write(there)  # which says why not


def _try_to_write(folder: Path) -> None:
    trial = folder / f".writable.{secrets.token_hex(4)}.tmp"
    trial.touch()
    trial.unlink()


def copy_file(source: Path, target: Path) -> None:
    """Another name for a file that is only ever replaced, never changed: a hard link, or a copy where there is none."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with storage_errors(target, "write"):
        try:
            os.link(source, temporary)
        except OSError:
            temporary.write_bytes(source.read_bytes())
        temporary.replace(target)
        temporary.unlink(missing_ok=True)  # renaming does nothing where both are names of the same file already


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nothing is written over it; the new name is that with the first free number."""
    number = next(number for number in range(1, 10_000) if not path.with_name(f"{path.name}.damaged-{number}").exists())
    target = path.with_name(f"{path.name}.damaged-{number}")
    with storage_errors(path, "rename"):
        path.replace(target)
    return target


def append_text(path: Path, text: str) -> None:
    """Add to the end of a file; a kill may tear the last line.

    Raises:
        StorageError: no space, no permission.
    """
    with storage_errors(path, "write"), path.open("a", encoding="utf-8") as file:
        file.write(text)


def is_leftover(path: Path) -> bool:
    """Whether it is named as a temporary file is that a killed writer may have left."""
    return re.fullmatch(r"\..+\.[0-9a-f]{8}\.tmp", path.name) is not None


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete what a killed writer of ``name`` left in ``folder``; the caller holds the lock of those files."""
    for path in folder.glob(f".{name}.????????.tmp"):
        path.unlink(missing_ok=True)


def remove_old_leftovers(root: Path) -> None:
    """Delete what killed writers left in ``root``, three folders deep, and nobody has written into for an hour."""
    for depth in range(4):
        for path in root.glob("*/" * depth + ".*.????????.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > LEFT_BEHIND:
                    path.unlink()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a JSON value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as readable JSON with sorted keys."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The bytes of a readable JSON file with sorted keys."""
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path, limit: int | None = None) -> Any:
    """Read a JSON file; ``limit`` is how many bytes it may have.

    Raises:
        StorageError: the file cannot be read, is too large, or is not JSON (NaN, Infinity and 1e400 are not).
    """
    _check_regular(path)
    with storage_errors(path, "read"):
        if limit is not None and path.stat().st_size > limit:
            raise StorageError(f"{path.name} has {path.stat().st_size} bytes, more than the {limit} it may have")
        content = path.read_bytes()
    return _parse_json(content, path)


def _parse_json(content: str | bytes, path: Path) -> Any:
    def refuse(word: str) -> Any:
        raise ValueError(f"{word[:40]} is no number that can be held")

    escape: Any = b"\\u" if isinstance(content, bytes) else "\\u"

    def number(word: str) -> float:
        value = float(word)
        return value if math.isfinite(value) else refuse(word)

    try:
        value = json.loads(content, parse_constant=refuse, parse_float=number)
        if escape in content:  # half of a surrogate pair is no text, and no file takes it
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:  # not UTF-8 is a ValueError too
        raise DamagedError(f"{path} is not valid JSON: {error}") from error


def _check_regular(path: Path) -> None:
    """Reading a pipe would wait for ever, reading a device never end."""
    with storage_errors(path, "read"):
        taken = path.exists() and not path.is_file()
    if taken:
        raise StorageError(f"could not read {path}: it is no ordinary file")


def header_bytes(path: Path) -> int:
    """How long a safetensors file says its header is.

    Raises:
        StorageError: missing, or too short to say.
    """
    _check_regular(path)
    with storage_errors(path, "read"), path.open("rb") as file:
        first = file.read(8)
    if len(first) < 8:
        raise DamagedError(f"{path} is damaged: {len(first)} bytes are no safetensors file")
    return int.from_bytes(first, "little")


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Any = None, *, sealed: bool = False) -> bytes:
    """The bytes of a safetensors file; equal tensors and metadata give equal bytes.

    Args:
        tensors: by name.
        metadata: JSON.
        sealed: whether the file carries checksums of both, which ``read_tensors`` compares.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    value = seal({name: digest_of(tensor) for name, tensor in plain.items()}, metadata) if sealed else metadata
    return safetensors.torch.save(plain, {METADATA_KEY: canonical_json(value)})


def header_of(tensors: Mapping[str, Tensor], metadata: Any, length: int) -> bytes:
    """The first 8 + ``length`` bytes of a safetensors file of uint8 tensors that follow in this order.

    Raises:
        StorageError: it is longer.
    """
    header: dict[str, Any] = {"__metadata__": {METADATA_KEY: canonical_json(metadata)}}
    begin = 0
    for name, tensor in tensors.items():
        offsets = [begin, begin + tensor.numel()]
        header[name] = {"dtype": "U8", "shape": list(tensor.shape), "data_offsets": offsets}
        begin = offsets[1]
    text = json.dumps(header).encode()
    if len(text) > length:
        raise StorageError(f"a header of {len(text)} bytes is longer than the {length} that were kept for it")
    return length.to_bytes(8, "little") + text.ljust(length)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Any = None, *, sealed: bool = False) -> None:
    """Write a safetensors file atomically, ``metadata`` as JSON under the key ``distillkit``; ``sealed`` as above."""
    write_bytes(path, tensor_bytes(tensors, metadata, sealed=sealed))


def seal(digests: Mapping[str, str], metadata: Any) -> dict[str, Any]:
    """Metadata with the checksums of tensors, by name, and of itself."""
    return {SEAL: {"tensors": dict(digests), "metadata": _digest_of_json([digests, metadata])}, SEALED: metadata}


def _digest_of_json(value: Any) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def _unsealed(metadata: Any, path: Path) -> tuple[dict[str, str] | None, Any]:
    """The checksums of the tensors (None: the file has none) and what the metadata say.

    Raises:
        DamagedError: the metadata are not what was written.
    """
    if not isinstance(metadata, dict) or not {SEAL, SEALED} & set(metadata):
        return None, metadata
    try:
        digests, value = metadata[SEAL]["tensors"], metadata[SEALED]
        same = metadata[SEAL]["metadata"] == _digest_of_json([digests, value])
    except (KeyError, TypeError):
        same = False
    if not same:
        raise DamagedError(f"{path} is damaged: its metadata are not those that were written")
    return digests, value


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file opened for reading by name, memory-mapped.

    Raises:
        StorageError: missing or damaged.
    """
    try:
        with storage_errors(path, "read"), safe_open(str(path), framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error


def read_tensors(
    path: Path, compared: Collection[str] | None = None, *, sealed: bool = False
) -> tuple[dict[str, Tensor], Any]:
    """All tensors of a file (memory-mapped: pages are read when touched) and its metadata.

    Args:
        path: of the file.
        compared: names of the tensors of a sealed file that are compared with their checksums, which reads them; None:
            all of them. The metadata always are.
        sealed: whether the file was written with checksums, so that one without them is damaged; else it may be that
            of an older version.

    Raises:
        StorageError: missing or damaged.
    """
    with open_tensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        digests, metadata = _unsealed(_metadata_of(file, path), path)
    if digests is None:
        if sealed:
            raise DamagedError(f"{path} is damaged: it has no checksums")
        return tensors, metadata
    if {*digests} != {*tensors}:
        raise DamagedError(f"{path} is damaged: its tensors are not those that were written")
    for name, tensor in tensors.items():
        if (compared is None or name in compared) and digest_of(tensor) != digests[name]:
            raise DamagedError(f"{path} is damaged: {name} is not what was written")
    return tensors, metadata


def _metadata_of(file: Any, path: Path) -> Any:
    return _parse_json((file.metadata() or {}).get(METADATA_KEY, "null"), path)


def read_metadata(path: Path) -> Any:
    """The metadata of a safetensors file alone; reads the header only."""
    with open_tensors(path) as file:
        return _unsealed(_metadata_of(file, path), path)[1]


def write_sealed_json(path: Path, value: Any) -> None:
    """Write ``value`` atomically as JSON beside its checksum."""
    write_json(path, sealed(value))


def sealed(value: Any) -> dict[str, Any]:
    """A JSON value beside its checksum."""
    return {SEAL: _digest_of_json(value), SEALED: value}


def unsealed(found: Any, path: Path, *, or_plain: bool = False) -> Any:
    """The inverse of ``sealed``; ``or_plain``: what has no checksum, since an older version wrote it, as it is.

    Raises:
        DamagedError: it is not what was sealed.
    """
    if not isinstance(found, dict) or not {SEAL, SEALED} & set(found):
        if or_plain:
            return found
        raise DamagedError(f"{path} is damaged: it has no checksum")
    if SEALED not in found or found.get(SEAL) != _digest_of_json(found[SEALED]):
        raise DamagedError(f"{path} is damaged: it is not what was written")
    return found[SEALED]


def read_sealed_json(path: Path, *, or_plain: bool = False) -> Any:
    """What ``write_sealed_json`` wrote; ``or_plain``: a file of an older version, which has no checksum, as it is.

    Raises:
        StorageError: missing or damaged.
    """
    return unsealed(read_json(path), path, or_plain=or_plain)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hex."""
    _check_regular(path)
    with storage_errors(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Hash(Protocol):
    """What takes bytes one after the other."""

    def update(self, data: Any, /) -> None:
        """Take more."""


def sha256_tensor(digest: Hash, tensor: Tensor) -> None:
    """Feed a tensor's shape, dtype and bytes to ``digest``."""
    digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    for begin in range(0, len(content), PIECE):
        digest.update(content[begin : begin + PIECE])


def digest_of(tensor: Tensor) -> str:
    """SHA-256 of a tensor's shape, dtype and bytes, hex."""
    digest = hashlib.sha256()
    sha256_tensor(digest, tensor)
    return digest.hexdigest()
