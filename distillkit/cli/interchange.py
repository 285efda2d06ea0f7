"""Commands for other people's files: import and export."""

from __future__ import annotations

from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillkit.cli import completion, console
from distillkit.cli import options as opt
from distillkit.cli.command_line import command_line
from distillkit.cli.running import running
from distillkit.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from distillkit.stages.importing import Lost


@console.guarded
def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="images*.pt, labels*.pt and lr*.pt, a folder of them, res_*.pt of DC, DSA, DM, or data.pt of IDC."
        ),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--from", help="Whose files: mtt, datm (PAD too), or pt for others.", autocompletion=completion.files_of
        ),
    ],
    dataset: Annotated[str, typer.Option("--dataset", help="What they were distilled from; see 'datasets'.")],
    zca: Annotated[
        bool | None, typer.Option("--zca/--no-zca", help="Whether the images are ZCA-whitened; the files do not say.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option("--mean", help="Channel means, comma-separated; 0,0,0 for pixels.")
    ] = None,
    std: Annotated[str | None, typer.Option("--std", help="Channel standard deviations; 1,1,1 for pixels.")] = None,
    lr: Annotated[str | None, typer.Option("--lr", help="Learning rate in place of the files', or 'search'.")] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels", help="Soft labels: probabilities, logits or weights.", autocompletion=completion.labels
        ),
    ] = None,
    experiment: Annotated[
        int | None, typer.Option("--experiment", min=0, help="Which of several in a res_*.pt; the first is 0.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Of the method, for the card.")] = None,
    out: Annotated[Path | None, opt.out("Artifact folder.")] = None,
    preset: opt.Preset = "quick",
    settings: opt.Set = None,
    config: opt.ConfigFile = None,
    seed: opt.Seed = None,
    device: opt.Device = "auto",
    data_root: opt.DataRoot = None,
    replace: opt.Yes = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    """Turn research code's .pt FILES into an artifact, and measure it. They are read as tensors, never executed."""
    lost = _lost(files, zca, mean, std, lr, labels)
    from distillkit import pipeline

    layers = opt.layers(settings, config, seed, "auto", opt.DataOptions(data_root=data_root))
    with running(quiet) as (progress, stop):
        ds = pipeline.import_files(
            files,
            kind,
            dataset,
            lost,
            title=title,
            experiment=experiment,
            preset=preset,
            out=out,
            device=device,
            overrides=layers,
            replace=replace,
            progress=progress,
            stop=stop,
            command=command_line(),
        )
    console.print_set(ds, ds.folder, as_json)


def _lost(
    files: list[Path], zca: bool | None, mean: str | None, std: str | None, lr: str | None, labels: str | None
) -> Lost:
    """What the files do not say, from the options; a whitening that neither they nor a note beside the files tell of
    is asked for on a terminal.

    Raises:
        ConfigError: an option is no such value, or there is nobody to ask.
    """
    if labels not in (None, "probabilities", "logits", "weights"):
        raise ConfigError(f"--labels {labels!r} is unknown; expected probabilities, logits or weights")
    rate, search = _rate(lr), lr == "search"
    from distillkit.stages.importing import Lost, told_beside

    if gone := next((path for path in files if not path.exists()), None):
        raise NotFoundError(f"{gone} does not exist")
    lost = Lost(zca, rate, search, labels, _numbers("--mean", mean), _numbers("--std", std))
    if mean is None and zca is None and told_beside(files, lost) == lost:
        return replaced(lost, zca=_asked_zca())
    return lost


def _asked_zca() -> bool:
    if not console.has_terminal():
        raise ConfigError("the files do not say whether the images are ZCA-whitened; give --zca or --no-zca")
    return typer.confirm("Were the images distilled with ZCA whitening (--zca of MTT)?", err=True)


def _rate(text: str | None) -> float | None:
    if text is None or text == "search":
        return None
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 < rate < float("inf"):
        raise ConfigError(f"--lr {text!r} is no learning rate; expected a positive number, or search")
    return rate


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"{option} {text!r}: expected numbers with commas between them, one a channel") from error


@console.guarded
def export(
    artifact: opt.Artifact,
    format: Annotated[
        str,
        typer.Option(
            "--to", help="pt (MTT's files), ddranking, or imagefolder (8-bit PNGs).", autocompletion=completion.formats
        ),
    ],
    out: Annotated[Path, opt.out("Folder to write.")],
    token: opt.Token = None,
    replace: opt.Yes = False,
    as_json: opt.Json = False,
    debug: opt.Debug = False,
) -> None:
    """Write an artifact in the format of other tools, with a distillkit.json of what that format has no place for."""
    from distillkit import load_distilled

    ds = load_distilled(artifact, token=token)
    files = ds.export(format, out, replace=replace)
    if format == "ddranking" and ds.config["label_kind"] == "weights":
        lost = (
            "a softmax of labels makes all images count alike there; what each counted: label_weight in distillkit.json"
        )
        console.errors.print(lost, markup=False)
    if as_json:
        console.print_json({"files": [str(path) for path in files]})
        return
    folders = sorted({path.parent for path in files})
    shown = files if len(files) <= 8 else folders
    for path in shown:
        console.results.print(str(path), markup=False)
