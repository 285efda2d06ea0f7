"""Everything that must hold before an artifact is published, checked without the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from distillkit.artifact import front_matter as head
from distillkit.artifact.card import front_matter
from distillkit.artifact.layout import FILES, PUBLISHED, RUN_FILES, missing_files, recipe_files
from distillkit.artifact.read import Artifact, largest_sizes, read_artifact
from distillkit.artifact.schema import ArtifactConfig
from distillkit.artifact.write import read_own_section
from distillkit.errors import ArtifactError
from distillkit.sharing.parquet_view import check_view


@dataclass(frozen=True)
class Checked:
    """A folder fit to be published: its content, and the names of the files that will be."""

    artifact: Artifact
    about: ArtifactConfig
    names: tuple[str, ...]
    own_section: str


def validate(folder: Path) -> Checked:
    """Check files, schema, tensors, results, pictures, the parquet view and the card's metadata.

    Raises:
        ArtifactError: no artifact, or the first thing that is wrong with it.
        ConfigError: the markers of the user's section of the card are damaged.
    """
    artifact = read_artifact(folder)
    about = ArtifactConfig.model_validate(artifact.config)
    try:
        check_files(artifact, about)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; {_remedy(folder)}") from error
    if not artifact.results["architectures"]:
        raise ArtifactError(
            f"{folder} has no results: nothing says how well it trains; run 'distillkit evaluate --save'"
        )
    _check_front_matter(folder, about)
    return Checked(artifact, about, _names(folder, about), read_own_section(folder))


def check_files(artifact: Artifact, about: ArtifactConfig) -> None:
    """Check those files of an artifact that loading does not read, but for the card: are they there and what they
    should be?

    Raises:
        ArtifactError: the first thing that is wrong.
    """
    folder, names = artifact.folder, _names(artifact.folder, about)
    missing = [name for name in missing_files(folder, about.learned) if name != FILES.card]
    if missing:
        raise ArtifactError(f"{folder} is incomplete: it has no {', no '.join(missing)}")
    for name, limit in largest_sizes(about).items():
        if name in names and (folder / name).exists() and (folder / name).stat().st_size > limit:
            raise ArtifactError(f"{folder} is damaged: {name} is larger than {limit} bytes")
    for name in (FILES.preview, FILES.curves):
        if name in names:
            _check_picture(folder, name)
    check_view(folder, artifact, about)


def _names(folder: Path, about: ArtifactConfig) -> tuple[str, ...]:
    """Of the files that will be published; the card is made for it."""
    names = (*PUBLISHED, *recipe_files(about.recipes))
    return tuple(name for name in names if (folder / name).is_file() or name == FILES.card)


def _remedy(folder: Path) -> str:
    """What makes the files of an artifact good again."""
    if (folder / FILES.run / RUN_FILES.synthetic).is_file():
        return f"run the command that made it once more, which packs it from {FILES.run}/ again"
    return f"get or make the whole artifact again: here is no {FILES.run}/ to pack it from"


def _check_picture(folder: Path, name: str) -> None:
    try:
        with Image.open(folder / name) as image:
            image.verify()
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ArtifactError(f"{folder} is damaged: {name} is no picture") from error


def _check_front_matter(folder: Path, about: ArtifactConfig) -> None:
    """The Hub's validator wants lists of texts; it is asked too, but only when there is a network."""
    matter = front_matter(about)
    if head.parse(head.dump(matter)) != matter:
        raise ArtifactError(
            f"{folder}: the card's metadata cannot be written as YAML (a name in it has odd characters)"
        )
    for key in ("tags", "task_categories", "size_categories", "source_datasets"):
        if not all(isinstance(item, str) for item in matter.get(key, [])):
            raise ArtifactError(f"{folder}: the card's {key} must be texts")
