"""``distillkit compress``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillkit.cli import console
from distillkit.cli import options as opt
from distillkit.cli.command_line import command_line
from distillkit.cli.plan import print_plan
from distillkit.cli.running import running_together
from distillkit.errors import ConfigError

if TYPE_CHECKING:
    from distillkit.distilled import DistilledDataset
    from distillkit.interrupt import StopRequest
    from distillkit.progress import Progress


@console.guarded
def compress(
    dataset: opt.Dataset,
    ipc: opt.Ipc,
    method: opt.AnyMethodName = None,
    preset: opt.Preset = "quick",
    out: opt.NewFolder = None,
    settings: opt.Set = None,
    config: opt.ConfigFile = None,
    seed: opt.Seed = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    time_budget: opt.TimeBudget = None,
    plan: opt.Plan = False,
    world: opt.PlannedWorld = None,
    data_root: opt.DataRoot = None,
    image_column: opt.ImageColumn = None,
    label_column: opt.LabelColumn = None,
    train_split: opt.TrainSplit = None,
    test_split: opt.TestSplit = None,
    class_names: opt.ClassNames = None,
    image_size: opt.ImageSize = None,
    skip_corrupt: opt.SkipCorrupt = False,
    license_: opt.License = None,
    classes: opt.Classes = None,
    without_classes: opt.WithoutClasses = None,
    paper_protocol: opt.PaperProtocol = False,
    dtype: opt.StoredDtype = None,
    tracker: opt.Tracker = None,
    arch: opt.TunedFor = None,
    seconds: opt.TuneBudget = None,
    replace: opt.Yes = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Distil DATASET: experts, distillation, evaluation, artifact. Run again, an interrupted one continues.

    Started by torchrun, its processes share the work.
    """
    data = opt.DataOptions(
        data_root=data_root,
        image_column=image_column,
        label_column=label_column,
        train_split=train_split,
        test_split=test_split,
        class_names=class_names,
        image_size=image_size,
        skip_corrupt=skip_corrupt,
        license=license_,
        classes=classes,
        without_classes=without_classes,
    )
    from distillkit.config import compose, default_method, find_method

    flags: dict[str, Any] = {"evaluate.paper_protocol": paper_protocol or None, "artifact.dtype": dtype}
    flags["time_budget"] = None if time_budget is None else opt.seconds_of(time_budget)
    budget = opt.seconds_of(seconds or opt.TUNE_BUDGET, "--tune-budget")
    _check_words(dataset, method)
    _check_effect(searched=bool(arch), budgeted=seconds is not None, planned=plan, world=world)
    layers = opt.layers(settings, config, seed, precision, data, flags)
    record = find_method(method or default_method(dataset, ipc, preset, layers))
    compose(dataset, ipc, record, preset, "cpu", layers)  # usage errors before torch is loaded

    from distillkit import pipeline
    from distillkit.environment import resolve_device
    from distillkit.stages.checks import check_searches

    composed = compose(dataset, ipc, record, preset, resolve_device(device).type, layers)
    check_searches(composed.settings, arch or ())
    name = composed.settings.dataset.name
    if method is None and not quiet:
        console.errors.print(f"by {record.name}, the default for such a set; --method chooses another", markup=False)
    folder = out or pipeline.default_out(name, ipc, record.name)
    if plan:
        place = (composed, device, world or 1, quiet, as_json)
        print_plan(*place, out=folder, replace=replace, tuned=arch or (), budget=budget)
        return
    with running_together(quiet) as (progress, stop, processes):
        ds = pipeline.compress(
            dataset,
            ipc=ipc,
            method=record,
            preset=preset,
            out=folder,
            device=device,
            overrides=layers,
            replace=replace,
            progress=progress,
            stop=stop,
            command=command_line() if method else f"{command_line()} --method {record.name}",
            tracker=tracker,
            world=processes,
            to_tune=arch or (),
        )
        if processes.leads:
            ds = _tuned(ds, folder, arch or [], budget, name, device, data_root, progress, stop)
    console.print_set(ds, folder, as_json)


def _check_words(dataset: str, method: str | None) -> None:
    for name, given in (("DATASET", dataset), ("--method", method)):
        if given is not None and not given.strip():
            raise ConfigError(f"{name} is empty")


def _check_effect(*, searched: bool, budgeted: bool, planned: bool, world: int | None) -> None:
    """Options that belong to others, which were not given."""
    if budgeted and not searched:
        raise ConfigError("--tune-budget is for the searches of --arch; give one, or leave it out")
    if world is not None and not planned:
        raise ConfigError("--world is of --plan: a run has as many processes as torchrun starts")


def _tuned(
    ds: DistilledDataset,
    folder: Path,
    architectures: list[str],
    seconds: float,
    dataset: str,
    device: str,
    data_root: str | None,
    progress: Progress,
    stop: StopRequest,
) -> DistilledDataset:
    """The set with a recipe for each architecture that has none yet."""
    from distillkit import load_distilled
    from distillkit.stages.kept_recipes import keep_recipe
    from distillkit.stages.tune import TuneOptions, name_on, tune

    for name in architectures:
        if name_on(ds, name) not in ds.recipes:
            found = tune(
                ds,
                name,
                TuneOptions(seconds),
                dataset=dataset,
                device=device,
                data_root=data_root,
                progress=progress,
                stop=stop,
            )
            keep_recipe(folder, found)
            ds = load_distilled(folder)
    return ds
