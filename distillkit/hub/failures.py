"""What the Hub's client raises, as distillkit's own errors: a sentence and an exit status each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distillkit.errors import (
    AuthError,
    ConfigError,
    DataError,
    DistillkitError,
    NetworkError,
    NotFoundError,
    StorageError,
)
from distillkit.words import first_line

LOGIN = "log in with 'hf auth login', or set HF_TOKEN"


def reason(error: BaseException) -> str:
    """What the Hub itself says of a request that it refused, in one line; else the first line of the error."""
    said = getattr(error, "server_message", None)
    words = " ".join(str(said).split()) if said else first_line(error)
    return "".join(char if char.isprintable() else " " for char in words)[:300]


def _said(error: BaseException) -> str:
    """The Hub's own words as the end of a sentence, where it said any."""
    return f"; the Hub says: {reason(error)}" if getattr(error, "server_message", None) else ""


def status_code(error: BaseException) -> int | None:
    """The HTTP status behind an error of the client, if there is one."""
    code = getattr(getattr(error, "response", None), "status_code", None)
    return code if isinstance(code, int) else None


def _real(error: BaseException) -> BaseException:
    """The error that the client wrapped into a plain ValueError (forced downloads) or RuntimeError (uploads)."""
    wrapped = type(error) in (ValueError, RuntimeError) and error.__cause__ is not None
    words = ("download", "uploading")
    if wrapped and any(word in str(error).lower() for word in words):
        return _real(error.__cause__ or error)
    return error


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later: 429, 5xx, a connection that broke, a file cut short."""
    from huggingface_hub import errors as hub
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    error = _real(error)
    if isinstance(error, (hub.LocalEntryNotFoundError, hub.RevisionResolutionError)):
        cause = error.__cause__  # not in the cache either; whether the Hub answered at all is what counts
        return cause is not None and status_code(cause) is not None and is_transient(cause)
    if isinstance(error, (DistillkitError, OfflineModeIsEnabled, LocalTokenNotFoundError)):
        return False
    code = status_code(error)
    if isinstance(error, HfHubHTTPError) or code is not None:
        return code == 429 or (code is not None and code >= 500)
    return _is_connection_error(error) or _is_short(error)


def _is_short(error: BaseException) -> bool:
    """Whether fewer bytes of a file came than it has, which the client tells by a plain OSError; what came is kept, and
    another attempt asks for the rest.
    """
    return type(error) is OSError and error.errno is None and "consistency check failed" in str(error).lower()


def _is_connection_error(error: BaseException) -> bool:
    """The HTTP library's own errors: which library it is depends on the client's version."""
    library = type(error).__module__.split(".")[0]
    if type(error).__name__ in ("LocalProtocolError", "InvalidURL", "UnsupportedProtocol"):
        return False  # our own request is at fault
    return library in ("httpx", "httpx2", "httpcore", "requests", "urllib3") or isinstance(
        error, (ConnectionError, TimeoutError)
    )


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Errors of the client inside the block, as distillkit's own; ``what`` is the repository they are about.

    Raises:
        AuthError: no token, a wrong one, or one that may not do this.
        NotFoundError: no such repository, revision or file (the Hub says the same of what is private).
        ConfigError: the Hub does not accept a name or the card's metadata.
        NetworkError: offline, unreachable, or out of order.
    """
    try:
        yield
    except DistillkitError:
        raise
    except OSError as error:
        raise _of_client(error, what) or StorageError(f"{what}: {(error.strerror or first_line(error))}") from error
    except Exception as error:
        found = _of_client(error, what)
        if found is None:
            raise
        raise found from error


def _of_client(error: BaseException, what: str) -> DistillkitError | None:
    error = _real(error)
    return _known(error, what) or _by_status(error, what) or _unreachable(error, what)


def _known(error: BaseException, what: str) -> DistillkitError | None:
    """The kinds that the client itself tells apart."""
    from huggingface_hub import errors as hub

    if isinstance(error, hub.LocalTokenNotFoundError):
        return AuthError(f"there is no token for the Hub; {LOGIN}")
    if isinstance(error, hub.GatedRepoError):
        return AuthError(f"{what} is gated: accept its terms on the Hub and {LOGIN}{_said(error)}")
    if isinstance(error, hub.RepositoryNotFoundError):
        words = f"the Hub has no data set {what}, or it is private and your token does not open it"
        return NotFoundError(f"{words}; and there is no folder of that name here")
    if isinstance(error, hub.RevisionNotFoundError):
        return NotFoundError(f"{what}: the Hub has no such revision")
    if isinstance(error, (hub.LocalEntryNotFoundError, hub.RevisionResolutionError)):
        if error.__cause__ is not None and status_code(error.__cause__) is not None:
            return _by_status(error.__cause__, what)
        return NetworkError(
            f"{what} is no folder here and not in the local cache of the Hub's sets, and the Hub is out of reach or "
            "not to be asked"
        )
    if isinstance(error, hub.EntryNotFoundError):
        return NotFoundError(f"{what} lacks a file: {first_line(error)}")
    if isinstance(error, hub.HFValidationError):
        return ConfigError(f"the Hub does not accept {what}: {first_line(error)}")
    if isinstance(error, hub.OfflineModeIsEnabled):
        return NetworkError(f"{what} needs the Hub, and offline mode is on (HF_HUB_OFFLINE)")
    return None


def _by_status(error: BaseException, what: str) -> DistillkitError | None:
    code = status_code(error)
    if code == 401:
        return AuthError(f"the Hub does not know this token (asked for {what}); {LOGIN}")
    if code == 402:
        return AuthError(
            f"the Hub refuses {what} for reasons of the account's plan or quota, not of the token{_said(error)}"
        )
    if code == 403:
        words = f"the Hub refuses {what} to this token: it may not write there, or not read it; {LOGIN}"
        return AuthError(f"{words}{_said(error)}")
    if code == 404:
        return NotFoundError(f"the Hub has no {what}")
    if code == 409:
        return ConfigError(f"{what} is there already: {reason(error)}")
    if code == 412:
        return DataError(f"{what} was changed on the Hub in the meantime; nothing was published, run it again")
    if code is not None and 400 <= code < 500 and code not in (408, 429):
        return DataError(f"the Hub does not accept {what}: {reason(error)}")
    if code is not None:
        return NetworkError(f"the Hub answered {code} for {what}; try again later{_said(error)}")
    return None


def _unreachable(error: BaseException, what: str) -> DistillkitError | None:
    text = first_line(error)
    if _is_short(error):
        return NetworkError(f"the Hub sent a part of a file of {what} and not the whole; try again later")
    if isinstance(error, ValueError) and "metadata" in text.lower():
        return ConfigError(f"the Hub does not accept the card of {what}: {text}")
    library = type(error).__module__.split(".")[0]
    if _is_connection_error(error) or library in ("huggingface_hub", "hf_xet"):
        # the text of a connection error may quote the request, and so the token: only its kind is told
        return NetworkError(f"the Hub cannot be reached for {what} ({type(error).__name__}); try again later")
    return None
