"""Fresh networks of several architectures, trained on an artifact and asked about test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distillkit import storage
from distillkit.distilled import DistilledDataset
from distillkit.distributed import World
from distillkit.environment import versions
from distillkit.errors import ConfigError
from distillkit.evaluation.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.evaluation.recipe import recipe_from_json, recipe_words
from distillkit.interrupt import StopRequest
from distillkit.networks.build import architecture_name, build_network, check_memory, parse_architecture
from distillkit.networks.kinds import needs_several
from distillkit.networks.timm_models import prepare_model
from distillkit.precision import arithmetic, steady
from distillkit.progress import Progress, Silent
from distillkit.records import EvalReport, ImageSet, SourceData
from distillkit.settings import NetworkSettings
from distillkit.stages.threads import threads_for
from distillkit.stages.training_form import fresh_networks
from distillkit.training.recipe import Recipe
from distillkit.words import first_line

Trials = dict[str, tuple[NetworkSettings, dict[str, Any]]]
"""By the names of their rows, networks and the recipes that they are trained by, as JSON."""


@dataclass(frozen=True)
class Contest:
    """Trains ``networks`` fresh networks of each of several architectures on a set, and asks them about test images."""

    ds: DistilledDataset
    networks: int
    seed: int
    place: torch.device
    listener: Progress
    request: StopRequest
    world: World

    @property
    def precision(self) -> str:
        """In which they are trained: that of the run that made the set, where it can be had."""
        return steady(str(self.ds.config["settings"].get("precision", "fp32")), self.place)

    def trials(self, architectures: Sequence[str], common_recipe: bool) -> Trials:
        """What is to be trained, checked before anything is.

        Raises:
            ConfigError: an architecture is unknown or does not fit the images or the recipe.
            LostError: other processes were asked something else.
        """
        ds = self.ds
        found = _networks(ds, architectures, self.listener)
        recipes = {name: ds.recipe if common_recipe else ds.recipe_for(name) for name in found}
        for name, network in found.items():
            _check_takes(ds, name, network, int(recipes[name]["batch_size"]))
        asked = [ds.config, recipes, versions(), self.networks, self.seed, self.precision]
        self.world.agree("artifact, library version or arguments", storage.fingerprint(asked))
        return {name: (network, recipes[name]) for name, network in found.items()}

    def exam(self, dataset: str | Path | ImageSet | SourceData | None, data_root: str | None) -> Examination:
        """The test images.

        Raises:
            DataError: they are not those of the data set that was distilled.
        """
        saved = "while reading the data; images that are decoded are kept"
        with self.request.at_once(saved, "nothing was measured yet"):
            test = self.ds.test_images(dataset, data_root, progress=self.listener)
            return Examination(self.ds.inputs(test, self.place), test.labels.to(self.place))

    def reports(
        self, trials: Trials, exam: Examination, keep: Callable[[str, EvalReport], None] | None
    ) -> dict[str, EvalReport]:
        """Test accuracies by the names of ``trials``; ``keep`` is told each as soon as it is measured."""
        ds, reports = self.ds, dict[str, EvalReport]()
        training = TrainingSet(ds.images.to(self.place), ds.targets.to(self.place))

        def after_network(accuracy: float) -> None:
            self.listener.advance(1, accuracy=accuracy)
            kept = keep is not None and len(reports) > 0
            self.request.check("during evaluation", f"{', '.join(reports)} is saved" if kept else "nothing was saved")

        for name, (network, recipe) in trials.items():
            if recipe is not ds.recipe:
                self.listener.note(f"{name}: {recipe_words(recipe)}")
            self.listener.stage(f"evaluating {name}", self.networks)
            reports[name] = self._report(network, recipe_from_json(recipe), training, exam, after_network)
            if keep is not None:
                keep(name, reports[name])
        return reports

    def _report(
        self,
        network: NetworkSettings,
        recipe: Recipe,
        training: TrainingSet,
        exam: Examination,
        after_network: Callable[[float], None],
    ) -> EvalReport:
        ds, count, seed = self.ds, self.networks, self.seed

        def build(index: int) -> nn.Module:
            return build_network(network, ds.image_shape, ds.num_classes, seed, "evaluate", index, "init")

        form = fresh_networks(
            self.place, recipe, len(ds.images), count, note=self.listener.note, processes=self.world.size
        )
        batch = min(len(ds.images), recipe.batch_size)
        with arithmetic(self.precision, self.place), threads_for(build(0), ds.image_shape, batch, self.place):
            return evaluate_networks(
                build, training, exam, recipe, seed, count, after_network, form=form, world=self.world
            )


def _networks(ds: DistilledDataset, architectures: Sequence[str], listener: Progress) -> dict[str, NetworkSettings]:
    """The networks by the names of their rows; what of them is changed so that the set can train them is told.

    Raises:
        ConfigError: an architecture is unknown or does not fit the images.
    """
    own = NetworkSettings.model_validate(ds.recipe["architecture"])
    found = {}
    for text in architectures:
        asked = parse_architecture(text, own)
        check_memory(asked, ds.image_shape, ds.num_classes, torch.device("cpu"))
        network, note = ds.fitting(asked, keep="norm=" in text)
        name = text if note is None else architecture_name(network)
        found[name] = network
        if note is not None:
            listener.note(f"{name}: {note}")
    for name, network in found.items():
        if name.startswith("timm/"):
            changed = prepare_model(
                network.name,
                num_classes=ds.num_classes,
                image_size=ds.image_shape[1],
                channels=ds.image_shape[0],
                norm=network.replace_norm,
            )[1]
            listener.note(f"{name}: {'; '.join(changed) if changed else 'as timm makes it'}")
    return found


def check_architectures(ds: DistilledDataset, architectures: Sequence[str]) -> list[str]:
    """Can all of these networks be trained on the set? Returns the names that their rows will have.

    Raises:
        ConfigError: one is unknown or does not fit the images or its recipe.
    """
    found = _networks(ds, architectures, Silent())
    for name, network in found.items():
        _check_takes(ds, name, network, int(ds.recipe_for(name)["batch_size"]))
    return list(found)


def _check_takes(ds: DistilledDataset, name: str, network: NetworkSettings, batch_size: int) -> None:
    """Can the network be built for these images, does it give logits of them, and can it be trained on batches of this
    size?

    Raises:
        ConfigError: no.
    """
    try:
        model = build_network(network, ds.image_shape, ds.num_classes, 0, "evaluate").eval()
        with torch.no_grad():
            shape = tuple(model(ds.images[:2].float()).shape)
    except ConfigError:
        raise
    except (RuntimeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{name} does not take this set's images: {first_line(error)}") from error
    if shape[1:] != (ds.num_classes,):
        raise ConfigError(f"{name} gives outputs of shape {shape[1:]}, the set has {ds.num_classes} classes")
    if batch_size == 1 and needs_several(model, ds.image_shape):
        raise ConfigError(
            f"{name} has batch normalisation on a map of one pixel, and its recipe trains on one image at a time, "
            "which gives no statistics; take another network"
        )
