"""``--plan``: what a run would cost, from step times measured here and now."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from distillkit import storage
from distillkit.data.load import survey
from distillkit.errors import StorageError
from distillkit.run_folder import RunFolder
from distillkit.stages.checks import check_distillation
from distillkit.stages.context import Prepared, Run, kept_of_each, of_its_classes, prepare, prepared_from
from distillkit.stages.costs import dealt_costs, measured_costs, stage_costs
from distillkit.stages.initial_set import check_artifact
from distillkit.stages.probe import check_networks
from distillkit.stages.room import sizes
from distillkit.stages.standing import BEGINNING, found_in
from distillkit.stages.threads import settled_threads
from distillkit.stages.time_budget import as_begun, within


def make_plan(
    run: Run, prepared: Prepared | None = None, processes: int = 1, out: Path | None = None, replace: bool = False
) -> dict[str, Any]:
    """Steps, time, memory and disk of a run; trains, decodes and writes nothing.

    Of what is left of it, where ``out`` holds it already; a run that would be refused there is planned, and it is said.

    Of data that are not decoded yet, the tables tell how many images there are, and a few of these stand for all.

    Where the settings have a time budget, of the run that fits into it. Time is that of so many ``processes``, each on
    a machine or device as this one.
    """
    check_distillation(run.settings, run.asked)
    decoding = 0
    if prepared is None:
        surveyed = survey(run.settings.dataset, run.progress, each=kept_of_each(run))
        decoding = surveyed.bytes if surveyed else 0
        _tell_of_decoding(run, decoding)
        prepared = prepared_from(run, surveyed.data) if surveyed else prepare(run)
    run = of_its_classes(run, prepared)
    prepared = prepared if out is None or not decoding else _as_decoded(prepared, out)
    check_networks(run, prepared)
    begun = as_begun(run, _begun_settings(out)) if out is not None and run.settings.time_budget is not None else None
    done, said = (BEGINNING, []) if out is None else found_in(out, begun or run, prepared, replace)
    if not done.begun:
        check_artifact(run, prepared)
    with settled_threads(run, prepared):
        costs = measured_costs(run, prepared, done)
    if run.settings.time_budget is not None:
        run = begun or within(run, dealt_costs(run.settings, costs, processes), run.settings.time_budget)
        done, said = (done, said) if out is None or begun else found_in(out, run, prepared, replace)
    costs = costs.of_experts(0 if done.finished else run.settings.experts.count)
    stages = stage_costs(run, costs, done)
    seconds, alone = (sum(stage.seconds(count) for stage in stages) for count in (processes, 1))
    planned = {
        "settings": run.settings.model_dump(mode="json"),
        "stages": [stage.to_json(processes) for stage in stages],
        "seconds": seconds,
        "processes": processes,
        "seconds_of_one_process": alone,
        "done": done.to_json(),
        **sizes(run, prepared, costs.missing, decoding),
    }
    planned["notes"] += said
    if processes > 1 and stages:
        planned["notes"].append(
            f"time is that of {processes} processes as this one, {alone / max(seconds, 1e-9):.1f} times as fast as one "
            f"({alone / 60:.1f} minutes); outer steps are dealt by distill.segments={run.settings.distill.segments}"
        )
    return planned


def _begun_settings(out: Path) -> dict[str, Any] | None:
    """Of the run that ``out`` holds; None if there is none, or it cannot be read."""
    try:
        return RunFolder(out).stored_settings()
    except (StorageError, OSError):
        return None


def _as_decoded(prepared: Prepared, out: Path) -> Prepared:
    """Data of which a few images stand for all are taken for those of the run that ``out`` holds."""
    try:
        data = str(RunFolder(out).identity()["data"])
    except (StorageError, KeyError):
        return prepared
    info = dataclasses.replace(prepared.data.info, fingerprint=data)
    return dataclasses.replace(prepared, data=dataclasses.replace(prepared.data, info=info))


def _tell_of_decoding(run: Run, wanted: int) -> None:
    """Before anything is measured: what the data will take, and whether there is room for it."""
    if not wanted:
        return
    folder = storage.cache_root() / "data"
    free = storage.free_bytes(folder)
    run.progress.note(f"the images are not decoded yet: {wanted / 1e9:.2f} GB in {folder}")
    if wanted > free:
        run.progress.note(
            f"they will not fit: {free / 1e9:.2f} GB are left; put the cache elsewhere with DISTILLKIT_CACHE"
        )
