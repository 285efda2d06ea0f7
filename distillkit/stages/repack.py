"""What an artifact keeps when its run packs it again, as another dtype say: what was found for its images since."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distillkit import storage
from distillkit.artifact.layout import FILES
from distillkit.artifact.read import MAX_JSON, read_config, read_recipe
from distillkit.artifact.schema import ResultsFile
from distillkit.errors import ArtifactError, StorageError

BY_OTHER_MEANS = ("artifact", "dataset.license", "dataset.data_root", "dataset.name", "dataset.revision")
"""Settings that may be others for the same images: how they are stored, and what is said of their source."""
OF_A_SET = ("method", "ipc", "seed", "classes", "label_kind", "imported_from")


@dataclass(frozen=True)
class KeptResults:
    """Where the artifact was pushed to, networks with a recipe of their own and their rows, rows of ``evaluate``."""

    hub: dict[str, Any] | None = None
    recipes: list[str] = field(default_factory=list)
    tuned: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    """Networks whose recipe cannot be read any more."""
    outdated: list[str] = field(default_factory=list)
    """Networks with a recipe or row of other images that lay there, which the artifact does not keep."""

    def config(self) -> dict[str, Any]:
        """For distill_config.json."""
        return ({"hub": self.hub} if self.hub else {}) | ({"recipes": self.recipes} if self.recipes else {})

    def results(self, own: dict[str, Any]) -> dict[str, Any]:
        """The results of the run with the rows that were added since."""
        rows = {name: row for name, row in self.rows.items() if name not in own["architectures"]}
        results = {**own, "architectures": {**own["architectures"], **rows}}
        return results | ({"tuned": self.tuned} if self.tuned else {})


def kept(out: Path, config: dict[str, Any], recipe: dict[str, Any]) -> KeptResults:
    """What the artifact in ``out``, if there is one of the same images, goes on with.

    Rows say as which dtype the images were stored when they were measured.

    Args:
        out: the artifact's folder, before it is written.
        config: of the artifact that will be written.
        recipe: its recipe; rows of other networks by another recipe are not its.
    """
    try:
        before = read_config(out)
    except ArtifactError:
        return KeptResults()
    if not _same_set(before, config):
        rows = _results(out / FILES.results).get("architectures", {})
        return KeptResults(before.get("hub"), outdated=sorted({*rows, *before.get("recipes", [])}))
    results, dtype = _results(out / FILES.results), before.get("dtype", "float32")
    found = {name: _has_recipe(out, name) for name in before.get("recipes", []) if name in results.get("tuned", {})}
    recipes = [name for name, good in found.items() if good]
    tuned = {name: _dated(results["tuned"][name], dtype) for name in recipes}
    rows = results.get("architectures", {}) if _read(out / FILES.recipe) == recipe else {}
    lost = [name for name, good in found.items() if not good]
    return KeptResults(
        before.get("hub"), recipes, tuned, {name: _dated(row, dtype) for name, row in rows.items()}, lost
    )


def _same_set(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether two configs are of the same images, but for how they are stored."""
    if any(before.get(key) != now.get(key) for key in OF_A_SET):
        return False
    if before["source"].get("fingerprint") != now["source"].get("fingerprint"):
        return False
    old, new = _flat(before["settings"]), _flat(now["settings"])  # an older version knew fewer settings
    return all(old.get(key, value) == value for key, value in new.items() if not key.startswith(BY_OTHER_MEANS))


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for section, value in settings.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {f"{section}.{key}".rstrip("."): one for key, one in inner.items()}
    return flat


def _dated(row: dict[str, Any], dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, **row}


def _has_recipe(out: Path, architecture: str) -> bool:
    try:
        read_recipe(out, architecture)
    except StorageError:
        return False
    return True


def _read(path: Path) -> Any:
    try:
        return storage.read_json(path, MAX_JSON)
    except StorageError:
        return {}


def _results(path: Path) -> dict[str, Any]:
    value = _read(path)
    try:
        ResultsFile.model_validate(value)
    except ValidationError:
        return {}
    found: dict[str, Any] = value
    return found
