"""The packaging stage: a synthetic set and its results to an artifact folder."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from distillkit import plots, storage
from distillkit.artifact.layout import FILES
from distillkit.artifact.write import ArtifactContent, write_artifact
from distillkit.config import find_method
from distillkit.environment import hardware, versions
from distillkit.evaluation.recipe import evaluation_recipe, recipe_json
from distillkit.records import EvalReport, SyntheticSet
from distillkit.run_folder import RunFolder
from distillkit.stages.context import Prepared, Run
from distillkit.stages.experts import expert_setup
from distillkit.version import FORMAT_VERSION, __version__


def package(
    run: Run,
    prepared: Prepared,
    folder: RunFolder,
    synthetic: SyntheticSet,
    selection: dict[str, Any],
    rows: dict[str, EvalReport],
) -> None:
    """Write the artifact's files into the run's output folder."""
    settings = run.settings
    architecture = prepared.network.model_dump(mode="json")
    recipe = evaluation_recipe(settings.evaluate, synthetic.lr, prepared.augmentation)
    results: dict[str, Any] = {
        "architectures": {prepared.network.name: rows["set"].to_json()},
        "baselines": {name: rows[name].to_json() for name in settings.evaluate.baselines},
        "uint8": rows["uint8"].to_json() if "uint8" in rows else None,
        "selection": selection,
        "test_images": len(prepared.data.test),
    }
    checkpoints = folder.test_checkpoints()
    if checkpoints:
        best = max(checkpoints, key=checkpoints.__getitem__)
        results["paper_protocol"] = {
            "what": "maximum over checkpoints on test data, the field's habit; chose nothing here",
            "accuracy": checkpoints[best],
            "step": int(best),
            "checkpoints": checkpoints,
        }
    levels = {"this set": rows["set"].mean}
    levels |= {name: rows[name].mean for name in settings.evaluate.baselines}
    storage.write_bytes(folder.out / FILES.curves, plots.curves_png(folder.read_metrics(), levels))
    content = ArtifactContent(
        synthetic=synthetic,
        preprocess=prepared.preprocess,
        classes=prepared.data.classes,
        config=_config_json(run, prepared, synthetic, folder.seconds()),
        recipe=recipe_json(recipe, settings.evaluate, settings.dataset.augmentation, architecture),
        results=results,
    )
    write_artifact(folder.out, content)


def _config_json(run: Run, prepared: Prepared, synthetic: SyntheticSet, seconds: dict[str, float]) -> dict[str, Any]:
    settings, data = run.settings, prepared.data
    method = find_method(settings.method)
    stored = settings.model_dump(mode="json")
    stored["dataset"]["data_root"] = None  # a path of this machine says nothing elsewhere
    stored["dataset"]["revision"] = data.info.revision
    experts = None
    if settings.distill.outer_steps > 0:
        experts = {
            "count": settings.experts.count,
            "fingerprint": storage.fingerprint(expert_setup(run, prepared)),
        }
    return {
        "format_version": FORMAT_VERSION,
        "generator": f"distillkit {__version__}",
        "method": settings.method,
        "method_title": method.title,
        "citation": method.citation,
        "ipc": settings.ipc,
        "seed": settings.seed,
        "image_shape": list(prepared.image_shape),
        "classes": list(data.classes),
        "label_kind": synthetic.label_kind,
        "settings": stored,
        "origins": run.origins,
        "source": {**asdict(data.info), "train_images": len(data.train), "test_images": len(data.test)},
        "experts": experts,
        "command": run.command,
        "versions": versions(),
        "hardware": hardware(run.device),
        "wall_time_seconds": seconds,
    }
