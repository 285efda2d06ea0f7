"""What all stages share: the run, and the data as the networks see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillkit.config import Composed
from distillkit.data.augment import Augmentation
from distillkit.data.inputs import Inputs, LazyInputs, check_fits, inputs_of
from distillkit.data.load import load_data
from distillkit.data.preprocess import Preprocess, Standardise
from distillkit.data.registry import DATASETS
from distillkit.data.whitening import fitted
from distillkit.distributed import ALONE, World
from distillkit.environment import keep_freed_memory, repeatable, usable_threads
from distillkit.errors import ConfigError
from distillkit.evaluation.protocol import Examination, TrainingSet
from distillkit.identities import CONTENTS
from distillkit.interrupt import StopRequest
from distillkit.methods import Method
from distillkit.networks.build import build_network
from distillkit.networks.convnet import default_depth
from distillkit.precision import steady
from distillkit.progress import Overheard, Progress, Silent
from distillkit.records import Pixels, SourceData, SyntheticSet
from distillkit.settings import DatasetSettings, NetworkSettings, RunSettings
from distillkit.stages.earlier import contents_named
from distillkit.stages.ipc import check_ipc
from distillkit.tracking import check_tracker
from distillkit.training.memory import needed_for
from distillkit.version import RUN_FORMAT


@dataclass(frozen=True)
class Run:
    """What every stage needs: settings, where to compute, who listens, who may stop it, which processes share it."""

    settings: RunSettings
    origins: dict[str, str]
    method: Method
    asked: frozenset[str]
    device: torch.device
    progress: Progress = field(default_factory=Silent)
    stop: StopRequest = field(default_factory=StopRequest)
    command: str = ""
    tracker: str | None = None
    world: World = ALONE
    to_tune: tuple[str, ...] = ()
    """Architectures that recipes are searched for on the finished set."""
    of_classes: Callable[[int], Composed] | None = None
    """Its settings for so many classes."""

    @property
    def steady_precision(self) -> str:
        """Precision of everything but experts and students: networks that evaluate, validate or score images."""
        return steady(self.settings.precision, self.device)


@dataclass(frozen=True)
class Prepared:
    """Data as the networks see them: inputs float32, made on the device as they are used, labels there."""

    data: SourceData
    preprocess: Preprocess
    augmentation: Augmentation | None
    network: NetworkSettings
    train_images: Inputs
    train_labels: Tensor
    validation: Examination
    decided: dict[str, str] = field(default_factory=dict, compare=False)
    """Choices measured once a run, by name: the experts' precision."""

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.data.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        return self.data.image_shape

    def test(self, device: torch.device) -> Examination:
        """The test images as network inputs; asked for by what reports, never by what chooses."""
        test = self.data.test
        return Examination(inputs_of(self.preprocess, test.pixels, device), test.labels.to(device))

    def build(self, settings: NetworkSettings, seed: int, use: str) -> Callable[[int], nn.Module]:
        """A factory of freshly initialised networks by number."""
        return lambda index: build_network(settings, self.image_shape, self.num_classes, seed, use, index, "init")


def make_run(
    composed: Composed,
    device: torch.device,
    progress: Progress | None = None,
    stop: StopRequest | None = None,
    command: str = "",
    tracker: str | None = None,
    world: World = ALONE,
    to_tune: Sequence[str] = (),
) -> Run:
    """A run of composed settings on a device; sets the arithmetic that they ask for.

    Raises:
        ConfigError: the tracker is unknown or not installed.
    """
    check_tracker(tracker)
    repeatable(composed.settings.deterministic, device)
    keep_freed_memory(device)
    listener = Silent() if progress is None else progress
    request = StopRequest() if stop is None else stop  # an unset request is false
    return Run(
        composed.settings,
        composed.origins,
        composed.method,
        composed.asked,
        device,
        listener,
        request,
        command,
        tracker,
        world,
        tuple(to_tune),
        composed.of_classes,
    )


def of_its_classes(run: Run, prepared: Prepared) -> Run:
    """The run as its preset has it for the classes that the data turned out to have: of how many a set is, decides how
    many steps a pass over it takes. Which images are used stays as it was decided before they were read.
    """
    if run.of_classes is None:
        return run
    found = run.of_classes(prepared.num_classes)
    settings = found.settings.model_copy(update={"dataset": run.settings.dataset})
    return replace(run, settings=settings, origins=found.origins, asked=found.asked, of_classes=None)


def overheard(run: Run, heard: Callable[[], None]) -> Run:
    """The run, with ``heard`` called whenever work of it was done."""
    return replace(run, progress=Overheard(run.progress, heard))


def training_images(data: SourceData) -> Pixels:
    """What the preprocessing is fitted on: uint8 [n, C, H, W]."""
    return data.train.pixels


def prepare(run: Run, fit_on: Callable[[SourceData], Pixels] = training_images) -> Prepared:
    """Load the data, check them against the settings, fit the preprocessing on the training images.

    A signal is answered there and then: nothing is lost but the work of a moment.

    Raises:
        ConfigError: the data do not fit the settings, or not into memory.
    """
    with run.stop.at_once("while reading the data; images that are decoded are kept"):
        return prepared_from(run, load_data(run.settings.dataset, run.progress, each=kept_of_each(run)), fit_on)


def kept_of_each(run: Run) -> int:
    """Images that each class keeps whatever a preset cuts, which does not know how many classes there are."""
    return run.settings.ipc if "preset" in run.origins.get("dataset.max_train", "") else 0


def prepared_from(run: Run, data: SourceData, fit_on: Callable[[SourceData], Pixels] = training_images) -> Prepared:
    """``prepare`` of data that are loaded."""
    settings = run.settings
    for note in data.info.notes:
        run.progress.note(note)
    check_ipc(data, settings)
    count = sum(len(part) for part in (data.train, data.validation, data.test))
    check_fits(settings.dataset.preprocessing, (count, *data.image_shape), run.device)
    with usable_threads():
        preprocess = fit_preprocess(settings.dataset, fit_on(data), _found_at(settings.dataset, data), run.progress)
    network = settings.network.model_copy(update={"pool": ()})  # which is of students
    if network.name == "convnet" and network.depth is None:
        network = network.model_copy(update={"depth": default_depth(min(data.image_shape[1:]))})
    with needed_for("the images", "lower `dataset.image_size` or dataset.max_train"):
        validation = Examination(
            inputs_of(preprocess, data.validation.pixels, run.device), data.validation.labels.to(run.device)
        )
        train_images = inputs_of(preprocess, data.train.pixels, run.device)
    if isinstance(train_images, LazyInputs) and train_images.stay_on_host:
        size = data.train.pixels.numel() / 2**30
        run.progress.note(f"the training images ({size:.1f} GiB) stay on the host, and batches of them are moved")
    return Prepared(
        data=data,
        preprocess=preprocess,
        augmentation=Augmentation.parse(settings.dataset.augmentation),
        network=network,
        train_images=train_images,
        train_labels=data.train.labels.to(run.device),
        validation=validation,
    )


def fit_preprocess(settings: DatasetSettings, images: Pixels, place: list[str], progress: Progress) -> Preprocess:
    """The preprocessing that the settings ask for, fitted on uint8 training images [n, C, H, W] from ``place`` unless
    it is given.

    Raises:
        ConfigError: one of mean and std without the other, of the wrong number, or with another preprocessing.
    """
    if settings.mean is None and settings.std is None:
        return fitted(settings.preprocessing, images, settings.zca_eps, place, progress)
    channels = images.shape[1]
    if settings.preprocessing != "standardise" or settings.mean is None or settings.std is None:
        raise ConfigError("dataset.mean and dataset.std go together, and with dataset.preprocessing=standardise")
    if len(settings.mean) != channels or len(settings.std) != channels or min(settings.std) <= 0:
        raise ConfigError(
            f"dataset.mean and dataset.std need as many numbers each as the images have channels, {channels}, standard "
            f"deviations above 0; got {len(settings.mean)} and {len(settings.std)}"
        )
    return Standardise(torch.tensor(settings.mean).double(), torch.tensor(settings.std).double())


def _found_at(settings: DatasetSettings, data: SourceData) -> list[str]:
    """For ``distillkit cache``: ``folder`` and where it is, or ``hub`` and the name."""
    place = place_of(settings.name)
    return ["folder", place] if place != settings.name or Path(place).is_absolute() else ["hub", data.info.source]


def place_of(name: str) -> str:
    """A data set's name, or where its folder or file lies: however it is spelled, it is the same data set."""
    return str(Path(name).resolve()) if name not in DATASETS and Path(name).exists() else name


def determining(settings: RunSettings) -> dict[str, Any]:
    """The settings that determine a run's result, as JSON."""
    values = settings.model_dump(mode="json")
    for name in ("data_root", "license"):  # where the data lie, and what is said of them
        values["dataset"].pop(name)
    values["dataset"]["name"] = place_of(settings.dataset.name)
    values.pop("artifact")  # how the result is stored: a finished run is packed again, not made again
    return values


def run_identity(run: Run, prepared: Prepared) -> dict[str, Any]:
    """Everything that determines a run's result: two runs with the same identity make the same bytes."""
    return {
        "dataset": place_of(run.settings.dataset.name),
        "method": run.settings.method,
        "ipc": run.settings.ipc,
        "settings": determining(run.settings),
        "data": prepared.data.info.fingerprint,
        "device": run.device.type,
        "format": RUN_FORMAT,
        **({"selected_by": "the pool"} if run.settings.network.pool else {}),
        **({CONTENTS: contents} if (contents := contents_named(run.settings)) else {}),
        **own_code(run),
    }


def own_code(run: Run) -> dict[str, str]:
    """What identifies the code of a method of somebody's own; nothing of the project's methods."""
    return {} if run.method.code is None else {"code": run.method.code}


def training_set(synthetic: SyntheticSet, device: torch.device) -> TrainingSet:
    """What fresh networks learn from: the synthetic images and their label probabilities, on ``device``."""
    return TrainingSet(synthetic.images.to(device), synthetic.targets().to(device))
