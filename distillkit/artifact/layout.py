"""The files of an artifact (one folder, one Hub data set repository, one commit), and of the run that made it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from distillkit.errors import ArtifactError
from distillkit.version import FORMAT_VERSION


@dataclass(frozen=True)
class ArtifactFiles:
    """File names inside an artifact folder; ``run`` holds what the run itself needs and is no part of the artifact."""

    card: str = "README.md"
    config: str = "distill_config.json"
    tensors: str = "distilled.safetensors"
    preprocess: str = "preprocess.safetensors"
    recipe: str = "recipe.json"
    results: str = "results.json"
    parquet: str = "data/train-00000-of-00001.parquet"
    preview: str = "preview.png"
    curves: str = "curves.png"
    recipes: str = "recipes"
    run: str = "run"


@dataclass(frozen=True)
class RunFiles:
    """File names inside a run's own folder."""

    config: str = "config.json"
    checkpoint: str = "checkpoint.safetensors"
    older_checkpoint: str = "checkpoint-before.safetensors"
    synthetic: str = "synthetic.safetensors"
    evaluation: str = "evaluation.json"
    seconds: str = "seconds.json"
    experts: str = "experts.json"
    experts_picture: str = "experts.png"
    schedule_picture: str = "schedule.png"
    metrics: str = "metrics.jsonl"
    test_checkpoints: str = "test_checkpoints.json"
    earlier_runs: str = "earlier.json"


FILES = ArtifactFiles()
RUN_FILES = RunFiles()
LOADED = (FILES.config, FILES.tensors, FILES.preprocess, FILES.recipe, FILES.results)
"""The files that loading reads."""
PUBLISHED = (FILES.card, *LOADED, FILES.parquet, FILES.preview, FILES.curves)
"""The files that are pushed and pulled; nothing else of a folder ever is. Coresets have no curves."""


RECIPE_FILE = re.compile(r"recipes/[A-Za-z0-9][A-Za-z0-9.-]{0,99}\.json")
"""Recipes of further networks, which ``distillkit tune`` found; the config lists those that there are."""


def recipe_file(architecture: str) -> str:
    """The name of the file with the recipe of an architecture: ``timm/resnet18:norm=instance``, say."""
    return f"{FILES.recipes}/{re.sub(r'[^A-Za-z0-9.]+', '-', architecture).strip('-.')[:100]}.json"


def recipe_files(architectures: Iterable[str]) -> tuple[str, ...]:
    """Of several architectures."""
    return tuple(recipe_file(architecture) for architecture in architectures)


def is_published(name: str) -> bool:
    """Whether it is the name of a file of an artifact."""
    return name in PUBLISHED or RECIPE_FILE.fullmatch(name) is not None


def missing_files(folder: Path, learned: bool) -> list[str]:
    """Names of the files that an artifact in ``folder`` should have and has not; only a learned one has curves."""
    wanted = [name for name in PUBLISHED if learned or name != FILES.curves]
    return [name for name in wanted if not (folder / name).is_file()]


def check_format(version: object, file: str = FILES.config) -> None:
    """Accept this major version and older ones; ``file`` is where it was read.

    Raises:
        ArtifactError: newer, or not a version.
    """
    try:
        major = int(str(version).split(".")[0])
    except ValueError:
        raise ArtifactError(f"{file} has format_version {version!r}, expected a number like {FORMAT_VERSION}") from None
    if major > int(FORMAT_VERSION.split(".")[0]):
        raise ArtifactError(
            f"the artifact has format {version}, this distillkit reads up to {FORMAT_VERSION}; upgrade it"
        )
