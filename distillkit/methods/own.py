"""A method in a file of one's own: ``distillkit compress digits --ipc 1 --method ./mine.py:METHOD``."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

from distillkit.errors import ConfigError
from distillkit.methods.base import Method
from distillkit.paths import expanded


def read_method(text: str) -> Method:
    """The method ``NAME`` of ``FILE.py:NAME``. The file is run as Python, and may add parts to the tables.

    What the file says becomes a part of every run's identity: a run of a file that has changed is another run.

    Raises:
        ConfigError: not of that form, no such file or name, or it is no ``Method``.
    """
    file, _, name = text.rpartition(":")
    path = Path(expanded(file))
    if path.suffix != ".py" or not name.isidentifier():
        raise ConfigError(f"method {text!r} is not of the form FILE.py:NAME")
    if not path.is_file():
        raise ConfigError(f"method {text!r}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"distillkit_own_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None, "a .py file has one"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise ConfigError(f"method {text!r}: {path} does not run: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if not isinstance(found, Method):
        what = f"{path} defines no {name}" if found is None else f"{name} is a {type(found).__name__}"
        raise ConfigError(f"method {text!r}: {what}; expected a distillkit.Method")
    return replace(found, code=hashlib.sha256(path.read_bytes()).hexdigest()[:16])
