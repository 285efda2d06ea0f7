"""What a run begins with that settings name by a path: the artifact to go on from, and what its files hold."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.artifact.read import Artifact, read_artifact
from distillkit.artifact.schema import ArtifactConfig
from distillkit.distill.synthetic_init import ARTIFACT
from distillkit.errors import ArtifactError, StorageError
from distillkit.settings import RunSettings

LEARNED = "learned"
"""What images are that some run moved, beside ``real`` ones and ``noise``."""


def beginning(settings: RunSettings) -> Artifact | None:
    """The artifact ``distill.init_from``; None of runs that begin with real images or noise.

    Raises:
        ArtifactError: it is none.
    """
    if settings.distill.init != ARTIFACT or settings.distill.init_from is None:
        return None
    return read_artifact(Path(settings.distill.init_from))


def content_of(artifact: Artifact) -> str:
    """A digest of the set and its preprocessing, wherever the folder lies and whatever was measured of it since."""
    digest, synthetic = hashlib.sha256(), artifact.synthetic
    for tensor in (synthetic.images, synthetic.labels, synthetic.class_ids):
        storage.sha256_tensor(digest, tensor)
    for _, tensor in sorted(artifact.preprocess.to_tensors().items()):
        storage.sha256_tensor(digest, tensor)
    digest.update(f"{synthetic.lr!r} {synthetic.label_kind}".encode())
    return digest.hexdigest()[:16]


def contents_named(settings: RunSettings) -> dict[str, str]:
    """Digests of what settings name by a path and the result depends on, by setting; not of what is not there."""
    found: dict[str, str] = {}
    with contextlib.suppress(ArtifactError, StorageError):  # gone: a run that has begun needs it no more
        if (begun := beginning(settings)) is not None:
            found["distill.init_from"] = content_of(begun)
    ranking = settings.experts.ranking
    if ranking is not None and Path(ranking).is_file():
        found["experts.ranking"] = storage.sha256_file(Path(ranking))[:16]
    return found


def kind_of(artifact: Artifact) -> str:
    """What its images are: ``learned``, ``real`` or ``noise``."""
    return ArtifactConfig.model_validate(artifact.config).kind


def earlier_runs(settings: RunSettings) -> list[dict[str, Any]]:
    """Of the artifact that a run begins with: who made it, and what that cost; oldest first, none of another start."""
    found = beginning(settings)
    if found is None:
        return []
    config = found.config
    own = {key: config.get(key) for key in ("method", "command", "hardware")}
    steps = config["settings"]["distill"].get("outer_steps")
    seconds = sum(config.get("wall_time_seconds", {}).values())
    return [
        *config.get("earlier_runs", []),
        {**own, "outer_steps": steps, "seconds": seconds, "kind": kind_of(found)},
    ]
