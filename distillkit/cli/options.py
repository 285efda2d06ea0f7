"""Options that several commands share, and how they become layers of settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from distillkit.cli import completion
from distillkit.cli.config_file import read_config_file
from distillkit.config import parse_assignments
from distillkit.errors import ConfigError
from distillkit.methods import SettingsLayer
from distillkit.paths import expanded
from distillkit.settings import Precision as PrecisionNames
from distillkit.words import did_you_mean

Dataset = Annotated[
    str,
    typer.Argument(
        help="Registered name (see 'distillkit datasets'), Hub id org/name, or a folder or file.",
        autocompletion=completion.datasets,
    ),
]


def _named(word: str) -> Path:
    """A place to write; an empty word, of an unset variable of the shell, would be the working folder."""
    if not word.strip():
        raise typer.BadParameter("it is empty; '.' is the working folder")
    return Path(expanded(word))  # of --out=~/set, which shells leave as it is


def out(words: str, what: str = "FOLDER") -> Any:
    """``--out`` of a command: the folder, or ``what`` else it writes."""
    return typer.Option("--out", parser=_named, metavar=what, help=words)


Folder = Annotated[Path, typer.Argument(help="An artifact folder.")]
Artifact = Annotated[
    str,
    typer.Argument(
        help="An artifact: a folder, or org/name or org/name@revision on the Hub.", autocompletion=completion.folders
    ),
]
Token = Annotated[
    str | None, typer.Option("--token", help="Of the Hub; default HF_TOKEN, or the saved one of 'hf auth login'.")
]
Ipc = Annotated[int, typer.Option("--ipc", help="Images per class.")]
MethodName = Annotated[
    str, typer.Option("--method", help="See 'distillkit methods'.", autocompletion=completion.methods)
]
AnyMethodName = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="See 'distillkit methods'. Default: rat below five images a class, best from there on (rat with half an "
        "hour or more); mtt for MNIST and Fashion-MNIST, digits below five (rat from there on), the preset paper, and "
        "with settings of experts or trajectories.",
        autocompletion=completion.methods,
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        help="smoke (does it run), quick (minutes), paper (published settings).",
        autocompletion=completion.presets,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change a setting; repeatable.",
        autocompletion=completion.settings,
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Root seed; default 0.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:1.", autocompletion=completion.devices)]
Precision = Annotated[
    str, typer.Option("--precision", help="auto, fp32, tf32 or bf16.", autocompletion=completion.precisions)
]
DataRoot = Annotated[str | None, typer.Option("--data-root", help="Folder with local copies of registered data sets.")]
OtherData = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Name or folder; default what was distilled. Sets made of a folder need it.",
        autocompletion=completion.datasets,
    ),
]
ImageColumn = Annotated[str | None, typer.Option("--image-column", help="Column of the images.")]
LabelColumn = Annotated[str | None, typer.Option("--label-column", help="Column of the class labels.")]
TrainSplit = Annotated[str | None, typer.Option("--train-split", help="Split to learn from.")]
TestSplit = Annotated[
    str | None, typer.Option("--test-split", help="Split for the final accuracies; 'none' cuts one from train.")
]
ClassNames = Annotated[str | None, typer.Option("--class-names", help="Comma-separated, in label order.")]
Classes = Annotated[
    str | None, typer.Option("--classes", help="Only these, by name and in this order, comma-separated.")
]
WithoutClasses = Annotated[
    str | None, typer.Option("--without-classes", help="Leave these out; names, comma-separated.")
]
ImageSize = Annotated[int | None, typer.Option("--image-size", help="Pixels; images are resized and centre-cropped.")]
License = Annotated[
    str | None, typer.Option("--license", help="Of the data, for the card; default: as their own card states it.")
]
SkipCorrupt = Annotated[bool, typer.Option("--skip-corrupt", help="Leave out images that cannot be decoded.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Replace what is there without asking.")]


# of ``compress`` alone
NewFolder = Annotated[Path | None, out("Default runs/<dataset>-ipc<N>-<method>.")]
TimeBudget = Annotated[
    str | None,
    typer.Option("--time-budget", metavar="TIME", help="Fit experts and distillation into 90s, 20m, 1h30m."),
]
Plan = Annotated[
    bool, typer.Option("--plan", help="Print steps, time, memory and disk of what is left to do; make nothing.")
]
PlannedWorld = Annotated[
    int | None, typer.Option("--world", min=1, help="With --plan: of so many processes, started by torchrun.")
]
PaperProtocol = Annotated[
    bool, typer.Option("--paper-protocol", help="Also report the maximum over checkpoints on test data.")
]
StoredDtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Of the stored images: float32, float16 or uint8; each is measured.",
        autocompletion=completion.dtypes,
    ),
]
Tracker = Annotated[
    str | None, typer.Option("--tracker", help="tensorboard or wandb.", autocompletion=completion.trackers)
]
TunedFor = Annotated[
    list[str] | None,
    typer.Option(
        "--arch",
        help="Then search a recipe for this network too, as 'tune' does; repeatable.",
        autocompletion=completion.networks,
    ),
]
TUNE_BUDGET = "10m"
TuneBudget = Annotated[
    str | None,
    typer.Option("--tune-budget", metavar="TIME", help=f"Of the search for each --arch; default {TUNE_BUDGET}."),
]


@dataclass(frozen=True)
class DataOptions:
    """The data set options as typed."""

    data_root: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    class_names: str | None = None
    image_size: int | None = None
    skip_corrupt: bool = False
    license: str | None = None
    classes: str | None = None
    without_classes: str | None = None

    def values(self) -> dict[str, Any]:
        """Settings by dotted key, of the options that were given."""
        values: dict[str, Any] = {}
        for name, value in vars(self).items():
            if value is None or value is False:
                continue
            listed = name in ("class_names", "classes", "without_classes")
            values[f"dataset.{name}"] = [part.strip() for part in value.split(",")] if listed else value
        return values


def seconds_of(text: str, option: str = "--time-budget") -> float:
    """``90s``, ``20m``, ``1h30m``, or plain seconds.

    Raises:
        ConfigError: not a time, or none.
    """
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    plain = f"{text}s" if re.fullmatch(r"\d+(\.\d+)?", text) else text
    if not re.fullmatch(r"(\d+(\.\d+)?[hms])+", plain):
        raise ConfigError(f"{option} {text!r} is not a time; expected 90s, 20m or 1h30m")
    seconds = sum(float(number) * units[unit] for number, _, unit in re.findall(r"(\d+(\.\d+)?)([hms])", plain))
    if seconds == 0:
        raise ConfigError(f"{option} must be positive")
    return seconds


def layers(
    settings: list[str] | None,
    config: Path | None,
    seed: int | None,
    precision: str,
    data: DataOptions,
    more: dict[str, Any] | None = None,
) -> list[SettingsLayer]:
    """The user's layers, weakest first: config file, flags (``more`` by dotted key, None is not given), ``--set``.

    Raises:
        ConfigError: a value that does not fit, or one setting given twice, differently.
    """
    if precision not in (known := get_args(PrecisionNames)):
        raise ConfigError(
            f"--precision {precision!r} is unknown; expected {', '.join(known)}{did_you_mean(precision, known)}"
        )
    flags: dict[str, Any] = data.values() | {key: value for key, value in (more or {}).items() if value is not None}
    if seed is not None:
        flags["seed"] = seed
    if precision != "auto":
        flags["precision"] = precision
    found = [read_config_file(config)] if config is not None else []
    given = parse_assignments(settings or [])
    for key in sorted(flags.keys() & given.values.keys()):
        if flags[key] != given.values[key]:
            raise ConfigError(
                f"--set gives {key}={given.values[key]}, and its own option {flags[key]}; leave out one of the two"
            )
    return [*found, SettingsLayer("command", flags, asked=True), given]
