"""What the outer loop starts from: images and labels, chosen, made up, or those of another artifact."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from torch import Tensor

from distillkit.artifact.read import Artifact
from distillkit.data.preprocess import UnitLength
from distillkit.distill.labels import label_part, labels_ask_experts
from distillkit.distill.synthetic_init import ARTIFACT, RealData, initial_images, whole
from distillkit.errors import ConfigError
from distillkit.networks.functional import FlatNetwork
from distillkit.records import SyntheticSet, TrajectorySource
from distillkit.settings import RunSettings
from distillkit.stages.asking import Answer, answers
from distillkit.stages.context import Prepared, Run
from distillkit.stages.earlier import beginning
from distillkit.stages.image_length import as_long_as_learned
from distillkit.stages.reach import expert_reach


def real_data(run: Run, prepared: Prepared, trajectories: TrajectorySource | None, network: FlatNetwork) -> RealData:
    """The training images, and what the last points of experts say of them."""
    images = prepared.train_images
    if trajectories is None:
        return RealData(images, prepared.train_labels, prepared.num_classes)

    def ask(expert: int, indices: Tensor | None, wanted: Answer) -> Tensor:
        point = trajectories.point(expert, trajectories.end(expert)).to(images.device)
        return answers(network, point, images, indices, wanted, run.settings.seed)

    return RealData(images, prepared.train_labels, prepared.num_classes, expert_reach(run.settings).init, ask)


def initial_labels(settings: RunSettings, real: RealData, class_ids: Tensor, indices: Tensor | None) -> Tensor:
    """The label part's labels [S, K] of the real images at ``indices`` [S]; None: of images that are not real.

    Raises:
        ConfigError: experts are asked about images that are not real.
    """
    logits = None
    if labels_ask_experts(settings.distill) and real.ask is not None:
        if indices is None:
            raise ConfigError(
                f"distill.labels={settings.distill.labels} asks experts about real images; take distill.init=real"
            )
        logits = torch.stack([real.ask(expert, indices, whole) for expert in expert_reach(settings).labels])
    return label_part(settings.distill).initial(class_ids, real.num_classes, logits)


def initial_set(run: Run, prepared: Prepared, real: RealData) -> SyntheticSet:
    """The set before the first outer step, by the parts ``distill.init`` and ``distill.labels``, on the CPU.

    Raises:
        ConfigError: experts are asked about images that are not real, or the artifact to start from does not fit.
    """
    settings = run.settings
    if settings.distill.init == ARTIFACT:
        return set_of_artifact(run, prepared)
    first = initial_images(settings.distill.init, real, settings.ipc, settings.seed)
    labels = initial_labels(settings, real, first.class_ids, first.indices)
    kind = label_part(settings.distill).kind
    return SyntheticSet(first.images, labels, first.class_ids, settings.distill.lr_init, kind)


def check_artifact(run: Run, prepared: Prepared) -> None:
    """Before experts are trained: does the artifact fit that a run begins with, if it does?

    Raises:
        ConfigError: it is not of the same classes, ipc, image size and kind of labels, or of another split.
    """
    if run.settings.distill.init == ARTIFACT:
        _fitting_artifact(run, prepared)


SPLIT = ("test_fraction", "validation_fraction", "split_seed", "max_train")
"""Settings of the data that decide which images a run learns from."""


def _fitting_artifact(run: Run, prepared: Prepared) -> Artifact:
    settings = run.settings.distill
    found = beginning(run.settings)
    assert found is not None  # as checked with the settings
    wanted = {
        "classes": list(prepared.data.classes),
        "ipc": run.settings.ipc,
        "image_shape": list(prepared.image_shape),
        "label_kind": label_part(settings).kind,
    }
    for key, value in wanted.items():
        if found.config[key] != value:
            raise ConfigError(
                f"distill.init_from={settings.init_from} has {key} {found.config[key]}, this run has {value}"
            )
    if found.config["source"].get("fingerprint") != prepared.data.info.fingerprint:
        raise ConfigError(
            f"distill.init_from={settings.init_from} was learned from other images, some of which this run may test or "
            f"validate with; {_split_words(run, found)}"
        )
    return found


def _split_words(run: Run, found: Artifact) -> str:
    """How to have the split of the artifact's run, as far as settings say."""
    theirs, own = found.config["settings"].get("dataset") or {}, run.settings.dataset.model_dump(mode="json")
    unlike = [f"dataset.{key}={json.dumps(theirs[key])}" for key in SPLIT if key in theirs and theirs[key] != own[key]]
    return f"it had {', '.join(unlike)}" if unlike else "it must be of the same data set, unchanged since"


def set_of_artifact(run: Run, prepared: Prepared) -> SyntheticSet:
    """The set of the artifact ``distill.init_from``, as inputs of this run's networks.

    Raises:
        ConfigError: it is not of the same classes, ipc, image size and kind of labels, or of another split.
    """
    found = _fitting_artifact(run, prepared)
    first = replace(found.synthetic, lr=_first_lr(run, found))
    own, theirs = prepared.preprocess.to_tensors(), found.preprocess.to_tensors()
    same = own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)
    if same:
        return as_long_as_learned(run, prepared, first, found.results["selection"].get("image_length"))
    run.progress.note(
        f"{run.settings.distill.init_from} has another preprocessing; its images come by way of their pixels"
    )
    pixels = found.preprocess.invert(first.images)
    # unit whitening gives away the length that a learned image had: back by the inverse of how it came
    both = prepared.preprocess, found.preprocess
    alike = all(isinstance(one, UnitLength) for one in both) or type(both[0]) is type(both[1])
    to_inputs = prepared.preprocess.from_view if alike else prepared.preprocess
    return replace(first, images=to_inputs(pixels))


def _first_lr(run: Run, found: Artifact) -> float:
    """A learning rate that was given, else the artifact's, unless that belongs to another optimiser than this run's."""
    own, optimizer = run.settings.distill.lr_init, run.settings.evaluate.optimizer
    theirs = found.recipe["optimizer"].get("name", "sgd")
    if "distill.lr_init" in run.asked:
        return own
    if theirs == optimizer:
        return found.synthetic.lr
    run.progress.note(
        f"{run.settings.distill.init_from} was learned with {theirs} at {found.synthetic.lr:.4g}; this run trains with "
        f"{optimizer}, at distill.lr_init={own:g}"
    )
    return own
