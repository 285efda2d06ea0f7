"""The packaging stage: a synthetic set and its results to an artifact folder."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distillkit import plots, storage
from distillkit.artifact.headline import headline_row
from distillkit.artifact.layout import FILES, recipe_file
from distillkit.artifact.write import ArtifactContent, write_artifact
from distillkit.data.registry import DATASETS
from distillkit.distill.matching import loss_on_curves
from distillkit.environment import hardware, versions
from distillkit.evaluation.recipe import evaluation_recipe, recipe_json
from distillkit.records import EvalReport, SourceInfo, SyntheticSet
from distillkit.run_folder import RunFolder
from distillkit.settings import RunSettings
from distillkit.stages.checks import needs_experts
from distillkit.stages.context import Prepared, Run
from distillkit.stages.evaluation import HARD, RANDOM_SOFT, set_rows, stored_row
from distillkit.stages.experts import pulled_from
from distillkit.stages.fingerprints import expert_setup
from distillkit.stages.repack import KeptResults, kept
from distillkit.trajectories.store import TrajectoryStore
from distillkit.version import FIRST_FORMAT, FORMAT_VERSION, SECOND_FORMAT, __version__


@dataclass(frozen=True)
class Provenance:
    """Who made the images: the method's name and title as the card tells them, what to cite, files they came from."""

    method: str
    title: str
    citation: str
    imported_from: str | None = None


def package(
    run: Run,
    prepared: Prepared,
    folder: RunFolder,
    synthetic: SyntheticSet,
    selection: dict[str, Any],
    rows: dict[str, EvalReport],
    provenance: Provenance | None = None,
) -> None:
    """Write the artifact's files into the run's output folder; ``provenance``: default that of the method."""
    settings = run.settings
    made_by = provenance or Provenance(run.method.name, run.method.title, run.method.citation)
    architecture = prepared.network.model_dump(mode="json")
    recipe = evaluation_recipe(settings.evaluate, synthetic.lr, prepared.augmentation)
    results = _results_json(run, prepared, folder, selection, rows)
    if _is_learned(run, made_by):
        levels = {"this set": rows[stored_row(settings)].mean}
        levels |= {name: rows[name].mean for name in settings.evaluate.baselines}
        storage.write_bytes(
            folder.out / FILES.curves, plots.curves_png(folder.read_metrics(), levels, *_outer_loss(settings))
        )
    config = _config_json(run, prepared, synthetic, folder, made_by)
    stored = recipe_json(recipe, settings.evaluate, settings.dataset.augmentation, architecture)
    before = kept(folder.out, config, stored)
    _tell(run, before, results["architectures"])
    content = ArtifactContent(
        synthetic=synthetic,
        preprocess=prepared.preprocess,
        classes=prepared.data.classes,
        config=config | before.config(),
        recipe=stored,
        results=before.results(results),
        dtype=settings.artifact.dtype,
    )
    write_artifact(folder.out, content)
    for name in before.outdated:
        (folder.out / recipe_file(name)).unlink(missing_ok=True)


def _tell(run: Run, before: KeptResults, own: Container[str]) -> None:
    if before.recipes:
        run.progress.note(f"recipes kept: {', '.join(before.recipes)}")
    if before.lost:
        run.progress.note(f"recipes that cannot be read, left out: {', '.join(before.lost)}")
    if outdated := [name for name in before.outdated if name not in own]:
        run.progress.note(f"recipes and rows of the images that lay here, left out: {', '.join(outdated)}")


def _outer_loss(settings: RunSettings) -> tuple[str, float | None]:
    """What the outer loss of the run is, and a value of it that means something."""
    distill = settings.distill
    if distill.objective != "unroll":
        return f"distance of {distill.objective}", None
    return loss_on_curves(distill)


def _is_learned(run: Run, made_by: Provenance) -> bool:
    """Whether this run learned the images: they are neither a coreset nor other people's."""
    return run.settings.distill.outer_steps > 0 and made_by.imported_from is None


def _results_json(
    run: Run, prepared: Prepared, folder: RunFolder, selection: dict[str, Any], rows: dict[str, EvalReport]
) -> dict[str, Any]:
    settings = run.settings
    main = stored_row(settings)
    results: dict[str, Any] = {
        "architectures": {headline_row(prepared.network): rows[main].to_json()},
        "baselines": {name: rows[name].to_json() for name in settings.evaluate.baselines},
        "uint8": rows["uint8"].to_json() if "uint8" in set_rows(settings) else None,
        "selection": selection,
        "test_images": len(prepared.data.test),
    }
    if main != "set":
        results["float32"] = rows["set"].to_json()
    if HARD in rows:
        results["hard_labels"] = rows[HARD].to_json()
    if RANDOM_SOFT in rows:
        results["baselines"][RANDOM_SOFT] = rows[RANDOM_SOFT].to_json()
    checkpoints = {
        step: accuracy
        for step, accuracy in folder.test_checkpoints().items()
        if int(step) % settings.distill.select_every == 0 or int(step) == settings.distill.outer_steps
    }  # not the last step of when the run was to be shorter
    if checkpoints:
        best = max(checkpoints, key=checkpoints.__getitem__)
        results["paper_protocol"] = {
            "what": _habit(settings, len(checkpoints)),
            "accuracy": checkpoints[best],
            "step": int(best),
            "checkpoints": checkpoints,
        }
    return results


def _habit(settings: RunSettings, checkpoints: int) -> str:
    """How the figure of the paper protocol came about."""
    evaluate, each = settings.evaluate, ""
    if evaluate.lengths:
        each = f" at the best of {len(evaluate.lengths)} lengths"
    elif evaluate.peak_every:
        each = f", of each its best reading every {evaluate.peak_every} epochs"
    networks = f"{settings.distill.select_networks} network" + "s" * (settings.distill.select_networks > 1)
    return (
        f"maximum on test data over {checkpoints} checkpoints, {networks} each{each}: the habit of the field; it chose "
        "nothing here"
    )


def _config_json(
    run: Run, prepared: Prepared, synthetic: SyntheticSet, folder: RunFolder, made_by: Provenance
) -> dict[str, Any]:
    settings, data = run.settings, prepared.data
    stored = settings.model_dump(mode="json")
    stored["dataset"]["data_root"] = None  # a path of this machine says nothing elsewhere
    stored["dataset"]["revision"] = data.info.revision
    stored["dataset"]["name"] = _public_name(settings.dataset.name, data.info)
    if settings.experts.ranking is not None:
        stored["experts"]["ranking"] = Path(settings.experts.ranking).name
    if settings.distill.init_from is not None:
        stored["distill"]["init_from"] = Path(settings.distill.init_from).name
    stood_for = len(data.train) + (len(data.validation) if made_by.imported_from else 0)
    selected = folder.load_synthetic()
    unmoved = selected is not None and selected[1].get("step") == 0  # the initial images were never improved on
    experts, learned = None, _is_learned(run, made_by)
    if learned and needs_experts(settings):
        experts = {
            "count": settings.experts.count,
            "fingerprint": storage.fingerprint(expert_setup(run, prepared)),
            "pulled_from": _pulled_from(run, prepared, folder),
        }
    return {
        "format_version": _needed_format(settings, synthetic, learned and experts is None),
        "generator": f"distillkit {__version__}",
        "method": made_by.method,
        "method_title": made_by.title,
        "citation": made_by.citation,
        "imported_from": made_by.imported_from,
        "ipc": settings.ipc,
        "seed": settings.seed,
        "image_shape": list(prepared.image_shape),
        "classes": list(data.classes),
        "label_kind": synthetic.label_kind,
        "settings": stored,
        "origins": run.origins,
        "source": _source_json(data.info) | {"train_images": stood_for, "test_images": len(data.test)},
        "experts": experts,
        "learned_here": learned and not unmoved,
        "command": shortened(run.command, 15_000),
        "versions": versions(),
        "hardware": hardware(run.device),
        "wall_time_seconds": folder.seconds(),
        **({"earlier_runs": earlier} if (earlier := folder.earlier_runs()) else {}),
    }


def _needed_format(settings: RunSettings, synthetic: SyntheticSet, without_experts: bool) -> str:
    """The oldest format that can say all of this: a reader of an older one must not misunderstand it."""
    if settings.dataset.preprocessing == "unit-dct":
        return FORMAT_VERSION
    evaluate = settings.evaluate
    new = without_experts or settings.dataset.preprocessing == "unit-zca"
    new |= evaluate.optimizer != "sgd" or evaluate.momentum_after_drop is not None
    return SECOND_FORMAT if new or synthetic.label_kind == "weights" else FIRST_FORMAT


def _pulled_from(run: Run, prepared: Prepared, folder: RunFolder) -> list[str]:
    """Hub revisions that the run's experts came from, as its own report says: the cache may be cleared by now. Where
    the report is lost, as the experts that are still there say.
    """
    origins = folder.expert_origins()
    if origins is not None:
        return origins
    store = TrajectoryStore.for_setup(expert_setup(run, prepared))
    return pulled_from(store, (index for index in store.experts() if store.state(index) != "damaged"))


def _public_name(name: str, info: SourceInfo) -> str:
    """A folder or file is known by its name, without the path on this machine; Hub ids and registered names stay."""
    return name if info.revision is not None or name in DATASETS else Path(name).resolve().name or name


def _source_json(info: SourceInfo) -> dict[str, Any]:
    known = DATASETS.get(info.name)
    if known is not None and info.source not in (known.hub_id, known.embedded_as):
        known = None  # a folder that happens to have this name
    hub_id = known.hub_id if known else (info.source if info.revision else None)
    facts = asdict(info) | {"license": shortened(info.license, 1_000) if info.license else None}
    if info.grey_range is None:
        del facts["grey_range"]
    return {**facts, "hub_id": hub_id, "citation": known.citation if known else ""}


def shortened(text: str, length: int) -> str:
    """``text``, cut to ``length`` characters where it is longer: the format bounds what a reader must take."""
    return text if len(text) <= length else text[: length - 3] + "..."
