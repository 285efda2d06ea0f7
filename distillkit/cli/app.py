"""The commands: read options, call the library, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillkit.cli import console
from distillkit.cli import options as opt
from distillkit.cli.cache import cache
from distillkit.cli.experts import experts
from distillkit.cli.inspect import datasets, doctor, info, methods, preview
from distillkit.cli.interchange import export, import_files
from distillkit.cli.sharing import card, pull, push
from distillkit.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distillkit.config import Composed
    from distillkit.distilled import DistilledDataset
    from distillkit.distributed import World
    from distillkit.interrupt import StopRequest
    from distillkit.progress import Progress
    from distillkit.records import EvalReport

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress a labelled image data set into a few learned images per class.",
)
app.add_typer(experts, name="experts")
app.add_typer(cache, name="cache")
for command in (info, preview, card, push, pull, export, methods, datasets, doctor):
    app.command()(command)
app.command(name="import")(import_files)


def _version(wanted: bool) -> None:
    if wanted:
        console.results.print(f"distillkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
@console.guarded
def compress(
    dataset: opt.Dataset,
    ipc: opt.Ipc,
    method: opt.MethodName = "mtt",
    preset: opt.Preset = "quick",
    out: Annotated[Path | None, typer.Option("--out", help="Default runs/<dataset>-ipc<N>-<method>.")] = None,
    settings: opt.Set = None,
    config: opt.ConfigFile = None,
    seed: opt.Seed = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    time_budget: Annotated[
        str | None,
        typer.Option("--time-budget", metavar="TIME", help="Fit experts and distillation into 90s, 20m, 1h30m."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print steps, time, memory and disk; make nothing.")] = False,
    world: Annotated[
        int, typer.Option("--world", min=1, help="With --plan: of so many processes, started by torchrun.")
    ] = 1,
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
    paper_protocol: Annotated[
        bool, typer.Option("--paper-protocol", help="Also report the maximum over checkpoints on test data.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="Of the stored images: float32, float16 or uint8; each is measured.")
    ] = None,
    tracker: Annotated[str | None, typer.Option("--tracker", help="tensorboard or wandb.")] = None,
    arch: Annotated[
        list[str] | None,
        typer.Option("--arch", help="Then search a recipe for this network too, as 'tune' does; repeatable."),
    ] = None,
    seconds: Annotated[
        str, typer.Option("--tune-budget", metavar="TIME", help="Of the search for each --arch.")
    ] = "10m",
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
    from distillkit.config import compose, find_method

    flags: dict[str, Any] = {"evaluate.paper_protocol": paper_protocol or None, "artifact.dtype": dtype}
    flags["time_budget"] = None if time_budget is None else opt.seconds_of(time_budget)
    budget = opt.seconds_of(seconds, "--tune-budget")
    layers = opt.layers(settings, config, seed, precision, data, flags)
    record = find_method(method)
    compose(dataset, ipc, record, preset, "cpu", layers)  # usage errors before torch is loaded

    from distillkit import pipeline
    from distillkit.environment import resolve_device
    from distillkit.networks.build import check_architecture

    for text in arch or ():
        check_architecture(text)
    composed = compose(dataset, ipc, record, preset, resolve_device(device).type, layers)
    name = composed.settings.dataset.name
    if plan:
        _plan(composed, device, world, quiet, as_json)
        return
    folder = out or pipeline.default_out(name, ipc, record.name)
    with _running(quiet) as (progress, stop, processes):
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
            command=console.command_line(),
            tracker=tracker,
            world=processes,
        )
        if processes.leads:
            ds = _tuned(ds, folder, arch or [], budget, name, device, data_root, progress, stop)
    _print_set(ds, folder, as_json)


@contextmanager
def _running(quiet: bool) -> Iterator[tuple[Progress, StopRequest, World]]:
    """Who listens to a command that several processes may share, who stops it, and the processes."""
    from distillkit.distributed import is_launched, joined
    from distillkit.interrupt import stop_on_signals

    told = console.say_nothing if quiet else console.tell_of_stop
    with console.progress(quiet) as progress, stop_on_signals(is_launched(), told) as stop, joined(stop) as processes:
        yield progress, stop, processes


def _print_set(ds: DistilledDataset, folder: Path, as_json: bool) -> None:
    if as_json:
        console.print_json({"artifact": str(folder), "results": ds.results, "lr": ds.lr})
        return
    console.print_results(folder, ds.results)


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
    from distillkit.stages.tune import TuneOptions, keep_recipe, name_on, tune

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


def _plan(composed: Composed, device: str, processes: int, quiet: bool, as_json: bool) -> None:
    """Print what the run would cost so many processes."""
    from distillkit.environment import resolve_device
    from distillkit.interrupt import stop_on_signals
    from distillkit.plan import make_plan
    from distillkit.stages.context import make_run

    with (
        console.progress(quiet) as progress,
        stop_on_signals() as stop,
        stop.at_once("while planning", "nothing was made"),
    ):
        planned = make_plan(make_run(composed, resolve_device(device), progress, stop), processes=processes)
    if as_json:
        console.print_json(planned)
        return
    console.print_table("Plan", ["", "steps", "seconds each", "minutes"], planned_rows(planned))
    for line in planned["notes"]:
        console.results.print(line, markup=False)


def planned_rows(planned: dict[str, Any]) -> list[list[str]]:
    """The rows of the plan's table."""
    rows = []
    for stage in planned["stages"]:
        rows.append(
            [
                stage["name"],
                str(stage["steps"]),
                f"{stage['seconds_each']:.4f}",
                f"{stage['seconds'] / 60:.1f}",
            ]
        )
    return [*rows, ["all", "", "", f"{planned['seconds'] / 60:.1f}"]]


@app.command()
@console.guarded
def evaluate(
    artifact: opt.Artifact,
    arch: Annotated[
        list[str] | None,
        typer.Option(
            "--arch", help="convnet, convnet:width=64, vgg11, timm/NAME, timm/NAME:norm=instance; repeatable."
        ),
    ] = None,
    networks: Annotated[int, typer.Option("--networks", min=1, help="Fresh networks of each.")] = 5,
    common_recipe: Annotated[
        bool, typer.Option("--common-recipe", help="Train all by the headline's recipe, as the field's tables do.")
    ] = False,
    seed: opt.Seed = None,
    dataset: opt.OtherData = None,
    device: opt.Device = "auto",
    data_root: opt.DataRoot = None,
    save: Annotated[bool, typer.Option("--save", help="Add the rows to the artifact's results.json.")] = False,
    token: opt.Token = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Train fresh networks on an artifact, each by its recipe, and print their test accuracies.

    Started by torchrun, its processes share the networks.
    """
    from distillkit import load_distilled, pipeline
    from distillkit.errors import ConfigError
    from distillkit.hub.address import is_folder
    from distillkit.stages.contest import check_architectures

    if save and not is_folder(artifact):
        raise ConfigError(f"--save needs a local artifact folder, {artifact!r} is not one; run 'distillkit pull' first")
    asked = arch or ["convnet"]
    with _running(quiet) as (progress, stop, processes):
        ds = load_distilled(artifact, token=token)
        if save and (taken := pipeline.measured_before(ds, asked)):
            raise ConfigError(
                f"{artifact} has results for {', '.join(taken)} already; leave out --save, or that --arch"
            )
        check_architectures(ds, asked)  # before data are fetched and decoded
        with stop.at_once("while reading the data; images that are decoded are kept", "nothing was measured yet"):
            data = ds.load_source(dataset, data_root, parts=("test",), progress=progress)
        if save and not ds.is_source(data):
            raise ConfigError(f"--save is for figures on the data set that was distilled, and {dataset} is another")
        reports = pipeline.evaluate(
            ds,
            asked,
            dataset=data,
            networks=networks,
            seed=seed or 0,
            device=device,
            progress=progress,
            stop=stop,
            common_recipe=common_recipe,
            world=processes,
            keep=(lambda name, report: pipeline.save_reports(Path(artifact), {name: report}))
            if save and processes.leads
            else None,
        )
    _print_reports(artifact, reports, as_json)


def _print_reports(artifact: str, reports: dict[str, EvalReport], as_json: bool) -> None:
    if as_json:
        console.print_json({"artifact": str(artifact), "architectures": {n: r.to_json() for n, r in reports.items()}})
        return
    rows = [[name, console.percent(report), str(len(report.accuracies))] for name, report in reports.items()]
    console.print_table("Test accuracy (%) of fresh networks", ["architecture", "accuracy", "n"], rows)


@app.command()
@console.guarded
def tune(
    artifact: opt.Folder,
    arch: Annotated[str, typer.Option("--arch", help="resnet18, vgg11, timm/NAME, timm/NAME:norm=instance, ...")],
    seconds: Annotated[
        str,
        typer.Option(
            "--time-budget",
            metavar="TIME",
            help="Of the search: 90s, 20m, 1h30m; measuring what it found comes on top.",
        ),
    ] = "10m",
    networks: Annotated[int, typer.Option("--networks", min=1, help="Fresh networks that measure the recipe.")] = 3,
    scorers: Annotated[int, typer.Option("--scorers", min=1, help="Fresh networks that score a candidate.")] = 1,
    images: Annotated[
        int | None, typer.Option("--images", min=1, help="Validation images that they are asked; default 1000.")
    ] = None,
    baselines: Annotated[
        str, typer.Option("--baselines", help="Tuned by the same search beside it: random, kmeans or random,kmeans.")
    ] = "",
    seed: opt.Seed = None,
    dataset: opt.OtherData = None,
    device: opt.Device = "auto",
    data_root: opt.DataRoot = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Search a recipe for one network on validation data, measure it on test data, and keep it in the artifact."""
    from distillkit import load_distilled
    from distillkit.errors import ConfigError
    from distillkit.interrupt import stop_on_signals
    from distillkit.stages.tune import VALIDATED, TuneOptions, keep_recipe
    from distillkit.stages.tune import tune as tuned_recipe

    beside = tuple(name for name in baselines.split(",") if name)
    if unknown := [name for name in beside if name not in ("random", "kmeans")]:
        raise ConfigError(f"--baselines {unknown[0]!r} is unknown; use random, kmeans or both")
    options = TuneOptions(opt.seconds_of(seconds), networks, scorers, images or VALIDATED, beside, seed or 0)  # type: ignore[arg-type]
    ds = load_distilled(artifact)
    told = console.tell_of_stop if not quiet else console.say_nothing
    with console.progress(quiet) as progress, stop_on_signals(heard=told) as stop:
        found = tuned_recipe(
            ds, arch, options, dataset=dataset, device=device, data_root=data_root, progress=progress, stop=stop
        )
    keep_recipe(artifact, found)
    if as_json:
        console.print_json({"artifact": str(artifact), "architecture": found.architecture, **found.row()})
        return
    rows = [["this set", console.percent(found.report), str(len(found.report.accuracies))]]
    rows += [[name, console.percent(report), str(len(report.accuracies))] for name, report in found.baselines.items()]
    console.print_table(f"{found.architecture}: {found.tried[0].candidate.words}", ["", "test accuracy (%)", "n"], rows)


SPINS = "1000"
"""Turns that a thread waits in circles for the others of a step before it sleeps: microseconds. The default of millions
is no faster on a quiet machine and ruinous on a busy one (examples/benchmarks/results/threads.md)."""
SHARED = ("compress", "evaluate")
"""Commands whose work several processes share; any other is the business of the first of them."""


def main() -> None:
    """Entry point of the console script."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if launched and os.environ.get("RANK") != "0":
        if sys.argv[1:2] and sys.argv[1] not in SHARED:
            return
        console.write_a_log()
    if "OMP_WAIT_POLICY" not in os.environ:  # read when torch is loaded
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    console.speak_any_encoding()
    try:
        app()
    except SystemExit as end:
        if launched:  # at once: connections to processes that are gone cannot be taken down in order
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)
        raise
