"""The Hub's client as this package uses it: whose token, which cache, which attempts are repeated.

What is asked of it is beside: ``sources`` (source data sets), ``download`` (commits of artifacts and experts),
``repository`` (what is there), ``upload`` (repositories, commits, tags).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distillkit.errors import AuthError, ConfigError, NetworkError
from distillkit.hub.failures import LOGIN, is_transient
from distillkit.version import __version__

KIND = "dataset"
RETRY_SECONDS = (1.0, 2.0, 4.0, 8.0)  # waits before the second to the fifth attempt
Token = str | bool | None
T = TypeVar("T")


@dataclass(frozen=True)
class Cache:
    """How to read: whose token, which cache folder (default the Hub's own), whether the network may be used."""

    token: Token = None
    folder: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False

    def __post_init__(self) -> None:
        """Refuse to fetch again what must not be asked for."""
        if self.local_files_only and self.force_download:
            raise ConfigError("force_download=True asks the Hub and local_files_only=True forbids it; give one of them")


def api_of(token: Token) -> Any:
    """The client's ``HfApi`` of this token, imported on first use.

    Raises:
        AuthError: as ``clean_token`` says.
    """
    from huggingface_hub import HfApi

    return HfApi(library_name="distillkit", library_version=__version__, token=clean_token(token))


def clean_token(token: Token) -> Token:
    """A token without the white space around it that files and shells add.

    Raises:
        AuthError: it has characters that no token has; they are not shown, nor sent.
    """
    if not isinstance(token, str):
        return token
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise AuthError(f"the token that was given is empty or has characters that no token has; {LOGIN}")
    return token


def no_bars() -> None:
    """The client's own bars would stand between our lines."""
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()


def retried(action: Callable[[], T], before_retry: Callable[[], T | None] = lambda: None) -> T:
    """``action()``, again after 429, 5xx and broken connections: the client does not repeat a commit by itself.

    ``before_retry`` may find that the first attempt did succeed, and gives its result.
    """
    for seconds in RETRY_SECONDS:
        try:
            return action()
        except Exception as error:
            if not is_transient(error):
                raise
        time.sleep(seconds)
        with contextlib.suppress(NetworkError):  # out of order too: the next attempt will tell
            found = before_retry()
            if found is not None:
                return found
    return action()
