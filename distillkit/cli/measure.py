"""``distillkit evaluate`` and ``distillkit tune``: networks trained on an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from distillkit.cli import completion, console
from distillkit.cli import options as opt
from distillkit.cli.running import running, running_together
from distillkit.errors import ConfigError, DistillkitError

if TYPE_CHECKING:
    from distillkit.distilled import DistilledDataset
    from distillkit.records import EvalReport
    from distillkit.stages.kept_recipes import Tuned


@console.guarded
def evaluate(
    artifact: opt.Artifact,
    arch: Annotated[
        list[str] | None,
        typer.Option(
            "--arch",
            help="convnet, convnet:width=64, vgg11, timm/NAME, timm/NAME:norm=instance; repeatable.",
            autocompletion=completion.networks,
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
    from distillkit.stages.contest import check_architectures

    if save:
        _check_local(artifact)
    asked = arch or ["convnet"]
    with running_together(quiet) as (progress, stop, processes):
        ds = load_distilled(artifact, token=token)
        rows = check_architectures(ds, asked)  # before data are fetched and decoded
        if save:
            _check_new(ds, artifact, rows)
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


def _check_local(artifact: str) -> None:
    from distillkit.hub.address import is_folder

    if not is_folder(artifact):
        raise ConfigError(f"--save needs a local artifact folder, {artifact!r} is not one; run 'distillkit pull' first")


def _check_new(ds: DistilledDataset, artifact: str, architectures: list[str]) -> None:
    from distillkit import pipeline, storage

    if again := pipeline.named_twice(ds.recipe, architectures):
        raise ConfigError(f"--arch {again} is a network that another --arch names; leave one of them out")
    storage.check_writable(Path(artifact))
    if taken := pipeline.measured_before(ds.results, ds.recipe, architectures):
        raise ConfigError(f"{artifact} has results for {', '.join(taken)} already; leave out --save, or that --arch")


def _print_reports(artifact: str, reports: dict[str, EvalReport], as_json: bool) -> None:
    if as_json:
        console.print_json({"artifact": str(artifact), "architectures": {n: r.to_json() for n, r in reports.items()}})
        return
    rows = [[name, console.percent(report), str(len(report.accuracies))] for name, report in reports.items()]
    console.print_table("Test accuracy (%) of fresh networks", ["architecture", "accuracy", "n"], rows)


@console.guarded
def tune(
    artifact: opt.Folder,
    arch: Annotated[
        str,
        typer.Option(
            "--arch",
            help="resnet18, vgg11, timm/NAME, timm/NAME:norm=instance, ...",
            autocompletion=completion.networks,
        ),
    ],
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
        str,
        typer.Option(
            "--baselines",
            help="Tuned by the same search beside it: random, kmeans or random,kmeans.",
            autocompletion=completion.baselines,
        ),
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
    from distillkit import load_distilled, storage
    from distillkit.stages.kept_recipes import keep_recipe
    from distillkit.stages.tune import VALIDATED, Baseline, TuneOptions
    from distillkit.stages.tune import tune as tuned_recipe

    beside = tuple(name.strip() for name in baselines.split(",") if name.strip())
    if unknown := [name for name in beside if name not in get_args(Baseline)]:
        raise ConfigError(f"--baselines {unknown[0]!r} is unknown; use random, kmeans or random,kmeans")
    options = TuneOptions(opt.seconds_of(seconds), networks, scorers, images or VALIDATED, beside, seed or 0)  # type: ignore[arg-type]
    ds = load_distilled(artifact)
    storage.check_writable(artifact)
    with running(quiet) as (progress, stop):
        found = tuned_recipe(
            ds, arch, options, dataset=dataset, device=device, data_root=data_root, progress=progress, stop=stop
        )
    try:
        replaced = keep_recipe(artifact, found)
    except DistillkitError as error:  # a figure that was measured is told, whatever happened to the folder
        words = f"{found.tried[0].candidate.words}: {console.percent(found.report)} %"
        raise type(error)(f"{error}; found and not kept, for {found.architecture}: {words}") from error
    if replaced is not None and not quiet:
        was = f"{replaced['recipe']} ({100 * replaced['mean']:.1f} % of the test images)"
        console.errors.print(f"in place of the recipe that the set had: {was}", markup=False)
    if as_json:
        console.print_json({"artifact": str(artifact), "architecture": found.architecture, **found.row()})
    else:
        _print_tuned(found)


def _print_tuned(found: Tuned) -> None:
    rows = [["this set", console.percent(found.report), str(len(found.report.accuracies))]]
    rows += [[name, console.percent(report), str(len(report.accuracies))] for name, report in found.baselines.items()]
    console.print_table(f"{found.architecture}: {found.tried[0].candidate.words}", ["", "test accuracy (%)", "n"], rows)
