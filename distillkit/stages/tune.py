"""A recipe for one network on one artifact: searched on validation data, measured on test data once, kept with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from distillkit.artifact.schema import MOST_RECIPES
from distillkit.data.coresets import select_coreset
from distillkit.data.splits import even_subset
from distillkit.distilled import DistilledDataset
from distillkit.environment import resolve_device
from distillkit.errors import ConfigError, DataError, StorageError
from distillkit.evaluation.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.evaluation.tuning import MOST_CANDIDATES, Candidate, Tried, challenged, search
from distillkit.interrupt import StopRequest
from distillkit.networks.build import architecture_name, build_network, check_memory, parse_architecture
from distillkit.precision import arithmetic, steady
from distillkit.progress import Progress, Silent, check_listener
from distillkit.records import EvalReport, ImageSet, SourceData
from distillkit.settings import NetworkSettings
from distillkit.stages.kept_recipes import Tuned
from distillkit.stages.searches import (
    keep_measured,
    keep_tried,
    measured_before,
    search_file,
    tried_before,
    tried_for,
)
from distillkit.stages.threads import threads_for
from distillkit.stages.training_form import fresh_networks
from distillkit.training.given import of_kind, positive, seed_number, whole
from distillkit.words import counted

Baseline = Literal["random", "kmeans"]
VALIDATED = 1000
"""Validation images that a candidate is scored on, by default."""


@dataclass(frozen=True)
class TuneOptions:
    """How a recipe is searched and measured.

    ``seconds`` of search for each set of images; ``networks`` that measure the recipe on test data, ``scorers`` that
    score a candidate; ``validated``: images of the validation split that they are asked, None for all; ``baselines``
    that are tuned alike.
    """

    seconds: float = 600.0
    networks: int = 3
    scorers: int = 1
    validated: int | None = VALIDATED
    baselines: tuple[Baseline, ...] = ()
    seed: int = 0


def tune(
    ds: DistilledDataset,
    architecture: str,
    options: TuneOptions | None = None,
    *,
    dataset: str | Path | None = None,
    device: str = "auto",
    data_root: str | None = None,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
) -> Tuned:
    """Search a recipe for ``architecture`` on validation data, and measure it on test data.

    Args:
        ds: the set.
        architecture: as ``--arch`` has it: ``resnet18``, ``timm/resnet18:norm=instance``, ...
        options: how long and how carefully.
        dataset: the data set that was distilled, where that was a folder: a config decides no folder that is read.
        device: where.
        data_root: where local copies of registered data sets lie.
        progress: listener.
        stop: request that stops between two networks.

    Raises:
        ConfigError: an unknown architecture, no validation images, no time, or a folder that was not named.
        DataError: the data set is not the one that was distilled.
    """
    of_kind("ds", ds, DistilledDataset, "a loaded set: load_distilled(FOLDER)")
    of_kind("architecture", architecture, str, "the name of one network")
    check_listener(progress)
    asked, listener = _checked(options or TuneOptions()), Silent() if progress is None else progress
    request, place = StopRequest() if stop is None else stop, resolve_device(device)
    network = _network(ds, architecture, place, listener)
    with request.at_once("while reading the data; images that are decoded are kept"):
        data = ds.load_source(dataset, data_root, progress=listener)
    _check_source(ds, data, dataset)
    _check_room(ds, architecture_name(network, _own_network(ds)))
    return _Bench(ds, network, asked, place, listener, request).tuned(data)


def _network(ds: DistilledDataset, architecture: str, place: torch.device, listener: Progress) -> NetworkSettings:
    """The network of that name, with its normalisation replaced where the set needs it.

    Raises:
        ConfigError: it is unknown, or does not fit into memory.
    """
    wanted = parse_architecture(architecture, _own_network(ds))
    check_memory(wanted, ds.image_shape, ds.num_classes, place)
    network, note = ds.fitting(wanted, keep="norm=" in architecture)
    if note is not None:
        listener.note(f"{architecture_name(network)}: {note}")
    return network


def _own_network(ds: DistilledDataset) -> NetworkSettings:
    """The network that the set was made for."""
    return NetworkSettings.model_validate(ds.recipe["architecture"])


def _check_source(ds: DistilledDataset, data: SourceData, dataset: str | Path | None) -> None:
    """Are these the data that were distilled, with validation images?

    Raises:
        DataError: they are others.
        ConfigError: none are held out.
    """
    if not ds.is_source(data):
        raise DataError(
            f"{dataset} is not the data set that was distilled; a recipe is searched on its validation images"
        )
    if not len(data.validation):
        raise ConfigError("this set was learned from all training images; none are held out to choose a recipe by")


def _check_room(ds: DistilledDataset, name: str) -> None:
    """Before a recipe is searched: can the artifact hold it?

    Raises:
        ConfigError: it has as many as it can.
    """
    if name not in ds.recipes and len(ds.recipes) >= MOST_RECIPES:
        raise ConfigError(f"this set has {MOST_RECIPES} recipes already, which is as many as an artifact holds")


def _checked(options: TuneOptions) -> TuneOptions:
    of_kind("options", options, TuneOptions, "TuneOptions(seconds=...)")
    of_kind("baselines", options.baselines, (list, tuple), f"some of {get_args(Baseline)}")
    if unknown := [name for name in options.baselines if name not in get_args(Baseline)]:
        raise ConfigError(f"baseline {unknown[0]!r} is unknown; known: {', '.join(get_args(Baseline))}")
    return TuneOptions(
        positive("`seconds`", options.seconds) or TuneOptions.seconds,
        whole("networks", options.networks) or TuneOptions.networks,
        whole("scorers", options.scorers) or TuneOptions.scorers,
        whole("validated", options.validated),
        tuple(options.baselines),
        seed_number(options.seed),
    )


def name_on(ds: DistilledDataset, architecture: str) -> str:
    """What the recipe of ``architecture`` is called on a set, which may have its batch normalisation replaced."""
    own = _own_network(ds)
    network, _ = ds.fitting(parse_architecture(architecture, own), keep="norm=" in architecture)
    return architecture_name(network, own)


def _some(images: ImageSet, asked: TuneOptions) -> ImageSet:
    if asked.validated is None or asked.validated >= len(images):
        return images
    return images.subset(even_subset(images.labels, asked.validated, asked.seed, "tune", "validation"))


def _exam(ds: DistilledDataset, images: ImageSet, place: torch.device) -> Examination:
    return Examination(ds.inputs(images, place), images.labels.to(place))


def _subset(
    ds: DistilledDataset, train: ImageSet, kind: Baseline, seed: int, place: torch.device
) -> Callable[[int], TrainingSet]:
    """Real images, as many as the set has: another random subset for each network, or one k-means coreset."""
    inputs, ipc = ds.inputs(train, place), int(ds.config["ipc"])

    def choose(index: int) -> TrainingSet:
        draw = index if kind == "random" else 0
        rows = select_coreset(kind, inputs, train.labels, ds.num_classes, ipc, seed, draw)
        return TrainingSet(inputs[rows.to(place)], _one_hot(train.labels[rows], ds.num_classes).to(place))

    if kind == "random":
        return choose
    chosen = choose(0)
    return lambda index: chosen


def _one_hot(labels: Tensor, classes: int) -> Tensor:
    return nn.functional.one_hot(labels, classes).to(torch.float32)


@dataclass(frozen=True)
class _Bench:
    """Trains and scores networks of one architecture."""

    ds: DistilledDataset
    network: NetworkSettings
    asked: TuneOptions
    place: torch.device
    listener: Progress
    request: StopRequest

    def tuned(self, data: SourceData) -> Tuned:
        """The recipe that validation images prefer, measured on test images; and the baselines that are asked for."""
        ds, place = self.ds, self.place
        seen = _exam(ds, _some(data.validation, self.asked), place)
        name = architecture_name(self.network, _own_network(ds))
        how = self._chosen_by(data.info.validation_split, len(seen.labels))
        before = tried_for(ds.recipes.get(name), self.network, how)
        training = TrainingSet(ds.images.to(place), ds.targets.to(place))
        tried = self.searched("set", seen, lambda index: training, before)
        seconds = sum(one.seconds for one in tried)
        test = _exam(ds, data.test, place)
        report = self.measured("set", tried[0].candidate, test, lambda index: training)
        baselines: dict[str, EvalReport] = {}
        files = [self._measured_file("set", tried[0].candidate)]
        for kind in self.asked.baselines:
            subset = _subset(ds, data.train, kind, self.asked.seed, place)
            best = self.searched(kind, seen, subset)[0]
            self.listener.note(f"{kind}: {best.candidate.words}")
            baselines[kind] = self.measured(kind, best.candidate, test, subset)
            files.append(self._measured_file(kind, best.candidate))
        for path in files:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        return Tuned(name, self._recipe_json(name, tried, how), tuple(tried), report, baselines, seconds)

    def _chosen_by(self, split: str, images: int) -> dict[str, Any]:
        """What a candidate's score depends on, beside the set and the network."""
        return {"split": split, "images": images, "networks": self.asked.scorers, "seed": self.asked.seed}

    def _recipe_json(self, name: str, tried: Sequence[Tried], how: dict[str, Any]) -> dict[str, Any]:
        """The best of the recipes that were ``tried``, and ``how`` they were, in the form of ``recipe.json``."""
        return tried[0].candidate.to_json(len(self.ds)) | {
            "architecture": self.network.model_dump(mode="json"),
            "tuned_for": name,
            "chosen_by": {**how, "tried": [one.to_json() for one in tried]},
        }

    def searched(
        self, row: str, exam: Examination, training: Callable[[int], TrainingSet], before: Sequence[Tried] = ()
    ) -> Sequence[Tried]:
        """Candidates for what ``row`` is of by their validation accuracy, best first. The best of those ``before``, by
        what the artifact says of its recipe, is among them if it is as good here.
        """
        self.listener.stage("searching a recipe", MOST_CANDIDATES * self.asked.scorers)

        def score(candidate: Candidate) -> float:
            mean = self._run(candidate, exam, training, "tune", self.asked.scorers).mean
            self.listener.note(f"{candidate.words}: {100 * mean:.1f} % on validation images")
            return mean

        path = self._file(row, scorers=self.asked.scorers, validated=self.asked.validated)
        if known := tried_before(path):
            self.listener.note(f"{row}: {counted(len(known), 'candidate')} tried before")

        def keep(tried: Sequence[Tried]) -> None:
            with contextlib.suppress(StorageError):  # a cache that cannot be written costs the next search its start
                keep_tried(path, tried)

        strategy = str(self.ds.recipe["augmentation"].get("strategy", "none"))
        found = challenged(search(score, strategy, self.asked.seconds, self.listener.note, known, keep), before, score)
        keep(found)
        return found

    def _file(self, row: str, **of: Any) -> Path:
        """Where it is kept what was found for ``row``."""
        return search_file(self.ds, self.network, row, seed=self.asked.seed, device=self.place.type, **of)

    def measured(
        self, row: str, candidate: Candidate, exam: Examination, training: Callable[[int], TrainingSet]
    ) -> EvalReport:
        """Test accuracies of fresh networks trained on what ``row`` is of; those that a search measured before it was
        stopped are not trained again.
        """
        self.listener.stage(f"evaluating {row}", self.asked.networks)
        path = self._measured_file(row, candidate)
        known = measured_before(path)[: self.asked.networks]
        if known:
            self.listener.note(f"{row}: {counted(len(known), 'network')} measured before")
        so_far: list[float] = []

        def keep(accuracy: float) -> None:
            so_far.append(accuracy)
            with contextlib.suppress(StorageError):
                keep_measured(path, so_far)

        return self._run(candidate, exam, training, "evaluate", self.asked.networks, keep, known)

    def _measured_file(self, row: str, candidate: Candidate) -> Path:
        """Until all rows are measured; a figure of another day is not given again."""
        return self._file(row, measured=asdict(candidate), precision=steady("auto", self.place))

    def _run(
        self,
        candidate: Candidate,
        exam: Examination,
        training: Callable[[int], TrainingSet],
        use: str,
        count: int,
        keep: Callable[[float], None] = lambda accuracy: None,
        known: Sequence[float] = (),
    ) -> EvalReport:
        ds, seed = self.ds, self.asked.seed
        recipe = candidate.recipe(len(ds))

        def build(index: int) -> nn.Module:
            return build_network(self.network, ds.image_shape, ds.num_classes, seed, use, index, "init")

        def after(accuracy: float) -> None:
            self.listener.advance(1, accuracy=accuracy)
            keep(accuracy)

        def check() -> None:
            doing = "searched" if use == "tune" else "measured"
            self.request.check(f"while a recipe was {doing}", "the next search begins with what was done")

        form = fresh_networks(self.place, recipe, len(ds), count, note=self.listener.note)
        batch = min(len(ds), recipe.batch_size)
        with (
            arithmetic(steady("auto", self.place), self.place),
            threads_for(build(0), ds.image_shape, batch, self.place),
        ):
            for one in known:
                after(one)
            first = len(known)
            report = evaluate_networks(build, training, exam, recipe, seed, count, after, check, form, first=first)
            return replace(report, accuracies=(*known, *report.accuracies))
