"""Whether an output folder may hold a run, and whether it holds its artifact, whole, already."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from distillkit.artifact.layout import FILES
from distillkit.artifact.read import read_artifact
from distillkit.artifact.schema import ArtifactConfig
from distillkit.data.registry import DATASETS
from distillkit.distilled import DistilledDataset
from distillkit.errors import ArtifactError, ConfigError
from distillkit.run_folder import RunFolder
from distillkit.sharing.validate import check_files
from distillkit.stages.context import Prepared, Run


def check_place(out: Path, run: Run) -> None:
    """Can the process that writes make files in ``out``? Inside the data set they would be read as a part of it.

    Raises:
        ConfigError: it is a file, or lies there.
        StorageError: files cannot be made in it.
    """
    if run.world.leads:
        RunFolder(out).check_possible()
    dataset = run.settings.dataset
    source = Path(dataset.name)
    if dataset.name not in DATASETS and source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"`out` {out} lies inside the data set {source}; choose a folder outside of it")


def finished_artifact(out: Path, run: Run, prepared: Prepared) -> DistilledDataset | None:
    """The artifact if it is there, whole, this run's, and stored as asked; else it is packed again from the run's own
    files.
    """
    if not (out / FILES.config).is_file():
        return None
    try:
        artifact = read_artifact(out)
        check_files(artifact, ArtifactConfig.model_validate(artifact.config))
        ds = DistilledDataset(artifact)
    except ArtifactError as error:
        run.progress.note(f"{error}; packing it again")
        return None
    card = out / FILES.card
    if not card.is_file() or not card.stat().st_size:
        run.progress.note(f"{out} has no {FILES.card}, or an empty one; packing it again")
        return None
    if not _is_of(ds, run, prepared):
        shorter = _is_of(ds, run, prepared, whatever=("outer_steps",))
        other = "the set of this run with other outer_steps" if shorter else "the artifact of another run"
        run.progress.note(f"{out} holds {other}; this run's will take its place")
        return None
    if prepared.data.info.license not in (None, ds.config["source"].get("license")):
        run.progress.note(f"{out} states another licence; packing it again")
        return None
    stored, wanted = ds.config.get("dtype", "float32"), run.settings.artifact.dtype
    if stored != wanted:
        run.progress.note(f"{out} holds {stored} images; packing it again as {wanted}")
        return None
    run.progress.note(f"{out} is finished already; nothing to do")
    return ds


def _is_of(ds: DistilledDataset, run: Run, prepared: Prepared, whatever: Collection[str] = ()) -> bool:
    """Whether an artifact was made by this run, with any value of the settings called ``whatever``: a copied one may
    lie in its place.
    """
    settings, about = run.settings, ds.config
    wanted = (settings.method, settings.ipc, settings.seed, prepared.data.info.fingerprint)
    found = (about["method"], about["ipc"], about.get("seed", 0), about["source"].get("fingerprint"))
    own = settings.model_dump(mode="json")
    parts = ("network", "distill", "experts", "trajectories")
    stored = {part: about["settings"].get(part) for part in parts}
    same = all(
        stored[part] is None or stored[part].get(key, value) in (value, _last_part(value))
        for part in parts
        for key, value in own[part].items()
        if key not in whatever
    )
    return found == wanted and same


def _last_part(value: Any) -> Any:
    """Of a path, the part that an artifact's config keeps."""
    return Path(value).name if isinstance(value, str) else value
