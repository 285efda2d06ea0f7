"""``distillkit experts``: the cached expert trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from distillkit.cli import console
from distillkit.cli import options as opt
from distillkit.cli.running import running
from distillkit.errors import ConfigError, DistillkitError, NotFoundError

experts = typer.Typer(no_args_is_help=True, help="Train, list, show, share (push, pull) and clear expert trajectories.")
Fingerprint = Annotated[str, typer.Argument(help="As 'experts list' prints it; its beginning is enough.")]


@experts.command()
@console.guarded
def train(
    dataset: opt.Dataset,
    method: opt.MethodName = "mtt",
    ipc: opt.Ipc = 1,
    preset: opt.Preset = "quick",
    settings: opt.Set = None,
    config: opt.ConfigFile = None,
    seed: opt.Seed = None,
    device: opt.Device = "auto",
    precision: opt.Precision = "auto",
    data_root: opt.DataRoot = None,
    image_column: opt.ImageColumn = None,
    label_column: opt.LabelColumn = None,
    train_split: opt.TrainSplit = None,
    test_split: opt.TestSplit = None,
    class_names: opt.ClassNames = None,
    image_size: opt.ImageSize = None,
    skip_corrupt: opt.SkipCorrupt = False,
    classes: opt.Classes = None,
    without_classes: opt.WithoutClasses = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Train the experts that 'compress' with the same options, and the same --method, would use."""
    from distillkit.config import compose
    from distillkit.environment import resolve_device
    from distillkit.pipeline import experts_alone
    from distillkit.stages.context import make_run

    data = opt.DataOptions(
        data_root=data_root,
        image_column=image_column,
        label_column=label_column,
        train_split=train_split,
        test_split=test_split,
        class_names=class_names,
        image_size=image_size,
        skip_corrupt=skip_corrupt,
        classes=classes,
        without_classes=without_classes,
    )
    place = resolve_device(device)
    layers = opt.layers(settings, config, seed, precision, data)
    composed = compose(dataset, ipc, method, preset, place.type, layers)
    with running(quiet) as (progress, stop):
        store = experts_alone(make_run(composed, place, progress, stop))
    _print_store(_summary(store.folder), as_json)


def _summary(folder: Path) -> dict[str, Any]:
    from distillkit.experts.recipe import is_ranked
    from distillkit.experts.report import expert_report
    from distillkit.experts.schedule import schedule_of, seen_shares
    from distillkit.trajectories.store import TrajectoryStore

    store = TrajectoryStore.open(folder)
    numbers = store.experts()
    report = expert_report([store.record(number) for number in numbers])
    recipe = store.setup["recipe"]
    scheduled = is_ranked(recipe.get("order", ""))
    return {
        "fingerprint": folder.name,
        "dataset": store.setup["dataset"],
        "network": store.setup["network"],
        "recipe": recipe,
        "experts": len(numbers),
        "epochs": store.most_epochs,
        "bytes": store.size_bytes(),
        "form": store.form,
        "validation_accuracy": report["mean"].get("last_validation_accuracy"),
        "test_accuracy": report["mean"].get("test_accuracy"),
        "schedule": seen_shares(schedule_of(recipe), store.most_epochs) if scheduled else None,
        "report": report,
    }


def _print_store(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.print_json(summary)
        return
    size = summary["bytes"] / 1e6
    console.results.print(
        f"{summary['fingerprint']}: {summary['experts']} experts of {summary['epochs']} epochs "
        f"on {summary['dataset']}, {size:.1f} MB",
        markup=False,
    )
    if summary["schedule"] is not None:
        _print_schedule(summary["schedule"])
    curves = summary["report"]["experts"]
    if not curves:
        return
    _print_each(curves)
    rows = []
    epochs = max(len(curve["loss"]) for curve in curves)
    for epoch in sorted({*range(0, epochs, max(1, epochs // 10)), epochs - 1}):
        longer = [curve for curve in curves if len(curve["loss"]) > epoch]
        loss, change = (sum(one[name][epoch] for one in longer) / len(longer) for name in ("loss", "parameter_change"))
        scores = [one["validation_accuracy"][epoch] for one in longer if one["validation_accuracy"]]
        score = sum(scores) / len(scores) if scores else 0.0
        words = [f"{100 * score:.1f}", "█" * round(40 * score)] if scores else ["-", ""]
        rows.append([str(epoch + 1), str(len(longer)), f"{loss:.3f}", f"{change:.3f}", *words])
    header = ["epoch", "experts", "loss", "parameter change", "validation accuracy (%)", ""]
    console.print_table("Means over experts", header, rows)


def _print_schedule(shares: list[tuple[float, float]]) -> None:
    rows = []
    for epoch, (first, end) in enumerate(shares):
        if epoch and epoch + 1 < len(shares) and shares[epoch - 1] == (first, end) == shares[epoch + 1]:
            continue  # the middle of a stretch of equal epochs
        begin, stop = round(40 * first), round(40 * end)
        bar = "·" * begin + "█" * (stop - begin) + "·" * (40 - stop)
        rows.append([str(epoch + 1), f"{first:.1%} to {end:.1%}", bar])
    console.print_table("Images an epoch sees, by difficulty", ["epoch", "ranks of each class", "easy to hard"], rows)


def _print_each(rows: list[dict[str, Any]]) -> None:
    table = []
    for number, row in enumerate(rows):
        shares = [row["test_accuracy"], row["last_validation_accuracy"]]
        accuracies = ["-" if share is None else f"{100 * share:.1f}" for share in shares]
        table.append([str(number), *accuracies, f"{row['largest_change']:.3f}", f"{row['path_length']:.2f}"])
    header = ["expert", "test accuracy (%)", "validation (%)", "largest change of an epoch", "path length"]
    console.print_table("Experts", header, table)


def _folders() -> list[Path]:
    from distillkit.trajectories.store import SETUP, experts_root

    root = experts_root()
    return sorted(path.parent for path in root.glob(f"*/{SETUP}")) if root.is_dir() else []


def _find(fingerprint: str) -> Path:
    found = [folder for folder in _folders() if folder.name.startswith(fingerprint)]
    if len(found) > 1:
        raise ConfigError(f"{fingerprint!r} fits several: {', '.join(folder.name for folder in found)}")
    if not found or not fingerprint:
        raise NotFoundError(
            f"no expert trajectories called {console.printable(fingerprint)}; 'distillkit experts list' shows what is "
            "there"
        )
    return found[0]


def _summaries() -> list[dict[str, Any]]:
    """Of all trajectories that can be read; a line on stderr for each that cannot."""
    summaries = []
    for folder in _folders():
        try:
            summaries.append(_summary(folder))
        except (DistillkitError, KeyError, TypeError, ValueError):
            console.errors.print(
                f"{folder.name} cannot be read; 'distillkit experts clear {folder.name}'", markup=False
            )
    return summaries


@experts.command("list")
@console.guarded
def list_(as_json: opt.Json = False, debug: opt.Debug = False) -> None:
    """List the cached trajectories with their storage."""
    summaries = _summaries()
    if as_json:
        for summary in summaries:
            del summary["report"]
        console.print_json({"trajectories": summaries, "bytes": sum(summary["bytes"] for summary in summaries)})
        return
    rows = []
    for summary in summaries:
        score = summary["validation_accuracy"]
        network = summary["network"]
        words = f"{network['name']} width {network['width']} depth {network['depth']}"
        accuracy = "-" if score is None else f"{100 * score:.1f}"
        counts = [str(summary["experts"]), str(summary["epochs"]), f"{summary['bytes'] / 1e6:.1f}"]
        rows.append([summary["fingerprint"], Path(summary["dataset"]).name, words, *counts, accuracy])
    header = ["fingerprint", "data set", "network", "experts", "epochs", "MB", "validation (%)"]
    console.print_table("Cached expert trajectories", header, rows)


@experts.command("inspect", hidden=True)  # the same under its other name
@experts.command()
@console.guarded
def show(
    fingerprint: Fingerprint,
    out: Annotated[Path | None, opt.out("Folder for experts.json and the plot experts.png.")] = None,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Show accuracy, smoothness and storage of one set of trajectories."""
    summary = _summary(_find(fingerprint))
    if out is not None:
        from distillkit import plots, storage
        from distillkit.artifact.layout import RUN_FILES

        storage.write_json(out / RUN_FILES.experts, summary["report"])
        rows = {summary["fingerprint"]: summary["report"]["experts"]}
        storage.write_bytes(out / RUN_FILES.experts_picture, plots.experts_png(rows))
        if summary["schedule"] is not None:
            storage.write_bytes(out / RUN_FILES.schedule_picture, plots.schedule_png(summary["schedule"]))
    _print_store(summary, as_json)


@experts.command()
@console.guarded
def push(
    fingerprint: Fingerprint,
    repo: Annotated[str, typer.Argument(help="Hub data set repository, org/name; created if it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="Create it as a private repository.")] = False,
    revision: Annotated[str | None, typer.Option("--revision", help="Branch to push to; default main.")] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Tag of the commit; default the next free v<n>.")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="Commit message.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead; no tag.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and list the files; needs no network.")] = False,
    token: opt.Token = None,
    replace: opt.Yes = False,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Publish compact (convex) trajectories as a data set repository of their own."""
    from distillkit.sharing.experts import plan_push_experts, push_experts
    from distillkit.sharing.publication import PushOptions
    from distillkit.trajectories.store import TrajectoryStore

    store = TrajectoryStore.open(_find(fingerprint))
    options = PushOptions(True if private else None, revision, tag, create_pr, message, replace)
    if dry_run:
        console.print_files(f"Would be pushed to {repo}", plan_push_experts(store, repo, options), as_json, repo=repo)
        return
    report = push_experts(store, repo, options, token)
    if as_json:
        value = report.to_json()
        del value["load"]
        console.print_json(value | {"fingerprint": store.folder.name})
        return
    what = "pushed" if report.changed else "all of it is there already; nothing pushed"
    lines = {"done": what, "url": report.url, "commit": report.commit, "revision": report.revision or "-"}
    for name, text in {**lines, "use": f"distillkit experts pull {repo}@{report.commit}"}.items():
        console.results.print(f"{name:<10} {text}", markup=False)


@experts.command()
@console.guarded
def pull(
    address: Annotated[str, typer.Argument(help="org/name, org/name@revision or hf://datasets/org/name@revision.")],
    revision: Annotated[str | None, typer.Option("--revision", help="Branch, tag or commit; default main.")] = None,
    token: opt.Token = None,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Fetch published trajectories into the cache, checked; 'compress --set experts.source=...' then uses them."""
    from distillkit.hub.address import parse_address
    from distillkit.hub.client import Cache
    from distillkit.sharing.experts import pull_experts

    found = pull_experts(parse_address(address, revision), Cache(token))
    name, count = found.store.folder.name, len(found.store.experts())
    if as_json:
        console.print_json({"fingerprint": name, "experts": count, "added": found.added, "commit": found.commit})
        return
    console.results.print(
        f"{count} experts, {found.added} of them new\ncommit: {found.commit}\n"
        f"use:    distillkit compress ... --set experts.source={name} --set experts.count={count}",
        markup=False,
    )


@experts.command()
@console.guarded
def clear(
    fingerprint: Annotated[str | None, typer.Argument(help="Which one.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    yes: opt.Yes = False,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Delete cached trajectories."""
    from distillkit.trajectories.store import TrajectoryStore

    if (fingerprint is None) == (not everything):
        raise ConfigError("say which trajectories to delete: a fingerprint, or --all")
    folders = _folders() if fingerprint is None else [_find(fingerprint)]
    stores = [TrajectoryStore(folder, {}) for folder in folders]  # a damaged set-up is no reason to keep it
    size = sum(store.size_bytes() for store in stores)
    if folders and not console.confirmed(f"Delete {len(folders)} sets of trajectories ({size / 1e6:.1f} MB)?", yes):
        raise typer.Exit(1)
    for store in stores:
        store.clear()
    if as_json:
        console.print_json({"deleted": [folder.name for folder in folders], "bytes": size})
    else:
        console.results.print(f"deleted {len(folders)} sets of trajectories, {size / 1e6:.1f} MB")
