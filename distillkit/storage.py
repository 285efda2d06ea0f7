"""Files: atomic writes, safetensors with one reproducible metadata key, checksums.

Every file of distillkit is written under a temporary name in the same folder, flushed to the disk and renamed, so a
reader sees the old file or the new one and a full disk or a kill leaves the old one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import platformdirs
import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from distillkit.errors import DamagedError, StorageError

# safetensors writes its metadata map in an order that changes from process to process, so there is just one key.
METADATA_KEY = "distillkit"


def cache_root() -> Path:
    """The folder of decoded data, experts and baselines: $DISTILLKIT_CACHE, else the user's cache folder."""
    return Path(os.environ.get("DISTILLKIT_CACHE") or platformdirs.user_cache_dir("distillkit"))


@contextlib.contextmanager
def _storage_errors(path: Path, verb: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"could not {verb} {path}: {reason.lower()}") from error


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents if they are missing, and return it."""
    with _storage_errors(path, "create the folder"):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` atomically.

    Raises:
        StorageError: no space, no permission, no such folder, or a device or folder in its place; the old file, if
            any, is untouched.
    """
    if path.exists() and not path.is_file():
        raise StorageError(f"could not write {path}: it is there and is no ordinary file")
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _storage_errors(path, "write"):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def copy_file(source: Path, target: Path) -> None:
    """Another name for a file that is only ever replaced, never changed: a hard link, or a copy where there is none."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with _storage_errors(target, "write"):
        try:
            os.link(source, temporary)
        except OSError:
            temporary.write_bytes(source.read_bytes())
        temporary.replace(target)


def set_aside(path: Path) -> Path:
    """Rename a damaged file, so that nothing is written over it; the new name is that with the first free number."""
    number = next(number for number in range(1, 10_000) if not path.with_name(f"{path.name}.damaged-{number}").exists())
    target = path.with_name(f"{path.name}.damaged-{number}")
    with _storage_errors(path, "rename"):
        path.replace(target)
    return target


def append_text(path: Path, text: str) -> None:
    """Add to the end of a file; a kill may tear the last line.

    Raises:
        StorageError: no space, no permission.
    """
    with _storage_errors(path, "write"), path.open("a", encoding="utf-8") as file:
        file.write(text)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Delete what a killed writer of ``name`` left in ``folder``; the caller holds the lock of those files."""
    for path in folder.glob(f".{name}.????????.tmp"):
        path.unlink(missing_ok=True)


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
    with _storage_errors(path, "read"):
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
    if path.exists() and not path.is_file():
        raise StorageError(f"could not read {path}: it is no ordinary file")


def header_bytes(path: Path) -> int:
    """How long a safetensors file says its header is.

    Raises:
        StorageError: missing, or too short to say.
    """
    _check_regular(path)
    with _storage_errors(path, "read"), path.open("rb") as file:
        first = file.read(8)
    if len(first) < 8:
        raise DamagedError(f"{path} is damaged: {len(first)} bytes are no safetensors file")
    return int.from_bytes(first, "little")


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Any = None) -> bytes:
    """The bytes of a safetensors file; equal tensors and metadata give equal bytes."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(plain, {METADATA_KEY: canonical_json(metadata)})


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Any = None) -> None:
    """Write a safetensors file atomically, ``metadata`` as JSON under the key ``distillkit``."""
    write_bytes(path, tensor_bytes(tensors, metadata))


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """A safetensors file opened for reading by name, memory-mapped.

    Raises:
        StorageError: missing or damaged.
    """
    try:
        with _storage_errors(path, "read"), safe_open(str(path), framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise DamagedError(f"{path} is damaged: {error}") from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """All tensors of a file (memory-mapped: pages are read when touched) and its metadata."""
    with open_tensors(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        metadata = _parse_json((file.metadata() or {}).get(METADATA_KEY, "null"), path)
    return tensors, metadata


def read_metadata(path: Path) -> Any:
    """The metadata of a safetensors file alone; reads the header only."""
    with open_tensors(path) as file:
        return _parse_json((file.metadata() or {}).get(METADATA_KEY, "null"), path)


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, hex."""
    _check_regular(path)
    with _storage_errors(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Feed a tensor's shape, dtype and bytes to ``digest``."""
    digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
    digest.update(tensor.contiguous().numpy().tobytes())
