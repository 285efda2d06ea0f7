"""``load_distilled``: an artifact from a folder or from the Hub."""

from __future__ import annotations

import os
from pathlib import Path

from distillkit.artifact.read import read_artifact
from distillkit.distilled.dataset import DistilledDataset
from distillkit.distilled.files import Origin
from distillkit.environment import made_on_the_host
from distillkit.errors import ConfigError
from distillkit.hub.address import is_folder, looks_like_address, parse_address
from distillkit.hub.client import Cache
from distillkit.paths import expanded
from distillkit.sharing.pull import fetch
from distillkit.training.given import of_kind, yes_or_no


@made_on_the_host
def load_distilled(
    source: str | Path,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> DistilledDataset:
    """Load an artifact from a folder or from the Hub; everything read is checked, nothing in it is executed.

    Args:
        source: a folder, ``org/name``, ``org/name@revision`` or ``hf://datasets/org/name@revision``; a folder that is
            there takes precedence over a repository of the same name.
        revision: branch, tag or commit; resolved once, ``.revision`` of the result is the commit.
        token: of the Hub; default the saved one, False for none.
        cache_dir: instead of the Hub client's own cache.
        local_files_only: never ask the Hub, read what the cache holds.
        force_download: fetch again what the cache holds.

    Raises:
        ArtifactError: not an artifact, damaged, or of a newer format.
        ConfigError: not an address, a revision of a folder, or something else than True or False.
        AuthError: a wrong token.
        NotFoundError: no such repository (or a private one), or no such revision.
        NetworkError: the Hub is out of reach and the cache does not have it.
    """
    of_kind("source", source, (str, os.PathLike), "a folder, org/name or hf://datasets/org/name")
    if revision is not None:
        of_kind("revision", revision, str, "a branch, a tag or a commit")
    source = expanded(source) if isinstance(source, str) else Path(expanded(source))
    if isinstance(source, Path) or is_folder(source) or not looks_like_address(source):
        if revision is not None:
            raise ConfigError(f"{source} is a folder and has no revisions; leave out revision={revision!r}")
        return DistilledDataset(read_artifact(Path(source)))
    offline, anew = yes_or_no("local_files_only", local_files_only), yes_or_no("force_download", force_download)
    origin = Origin(parse_address(source, revision), Cache(token, cache_dir, offline, anew))
    fetched = fetch(origin.address, origin.cache)
    return DistilledDataset(fetched.artifact, fetched.commit, origin)
