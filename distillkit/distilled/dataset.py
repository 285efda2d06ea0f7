"""A distilled set that trains networks, what ``load_distilled`` returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from distillkit import rng
from distillkit.artifact.read import Artifact
from distillkit.artifact.source import asked_data
from distillkit.artifact.views import eight_bit, parquet_bytes
from distillkit.data.augment import parse_augmentation
from distillkit.data.inputs import Inputs, LazyInputs, inputs_of
from distillkit.data.load import BOTH, load_data
from distillkit.data.preprocess import to_inputs
from distillkit.distilled.files import Origin, whole_folder
from distillkit.distilled.real_images import check_images, check_pixels, from_pillow, with_ids_of
from distillkit.distilled.training import (
    check_can_train,
    given_recipe,
    overridden,
    train,
    training_targets,
    warn_of_batch_norm,
)
from distillkit.environment import made_on_the_host, resolve_device
from distillkit.errors import ConfigError
from distillkit.evaluation.choice import choose_recipe, fitting_network
from distillkit.evaluation.recipe import recipe_from_json
from distillkit.hub.client import Token
from distillkit.hub.sources import sources_read_with
from distillkit.interchange.export import export
from distillkit.networks.build import build_network
from distillkit.networks.kinds import architecture_of, batch_statistics
from distillkit.paths import expanded
from distillkit.progress import Progress, Silent
from distillkit.records import ImageSet, SourceData
from distillkit.settings import NetworkSettings
from distillkit.sharing.pull import copy_files
from distillkit.sharing.push import PushOptions, PushReport, push
from distillkit.training.fit import accuracy, in_training_form
from distillkit.training.given import (
    callable_or_none,
    check_outputs,
    device_of,
    of_kind,
    seed_number,
    whole,
    yes_or_no,
)
from distillkit.training.loader import TensorLoader


class DistilledDataset(Dataset[tuple[Tensor, Tensor]]):
    """A distilled set: item i is ``(image float [C, H, W], label probabilities [K])``, in the network's input space."""

    def __init__(self, artifact: Artifact, revision: str | None = None, origin: Origin | None = None) -> None:
        self._artifact, self._origin = artifact, origin
        self.revision = revision  # the commit, of a set that came from the Hub
        self.images = artifact.synthetic.images
        self.labels = artifact.synthetic.labels
        self.class_ids = artifact.synthetic.class_ids
        self.lr = artifact.synthetic.lr
        self.config = artifact.config
        self.recipe = artifact.recipe
        self.results = artifact.results
        self.recipes = artifact.recipes
        self.classes = tuple(artifact.config["classes"])
        self.num_classes = len(self.classes)
        self._targets = artifact.synthetic.targets()

    def __repr__(self) -> str:
        source, size = self.config["source"].get("name", "unknown data"), "x".join(map(str, self.image_shape))
        return (
            f"DistilledDataset({str(self.folder)!r}: {len(self)} images {size} of {source}, "
            f"{self.num_classes} classes, ipc {self.config['ipc']}, {self.config['method']})"
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self._targets[index]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """C, H, W."""
        channels, height, width = self.images.shape[1:]
        return int(channels), int(height), int(width)

    @property
    def targets(self) -> Tensor:
        """Label probabilities [S, K]."""
        return self._targets

    @made_on_the_host
    def preprocess(self, images: Tensor | Image.Image) -> Tensor:
        """Real images to the space the networks are trained in.

        Args:
            images: uint8 tensor [C, H, W] or [n, C, H, W] of the set's shape, or a Pillow image of any mode and size.

        Returns:
            float32, [C, H, W] or [n, C, H, W].

        Raises:
            ConfigError: a tensor of another dtype or shape, or greys of more than 8 bits where the set's had 8.
        """
        if isinstance(images, Image.Image):
            resize = self.config["settings"]["dataset"].get("resize", "crop")
            values = self.config["source"].get("grey_range")
            images = from_pillow(images, self.image_shape, resize, tuple(values) if values else None)
        check_images(images)
        check_pixels(images.dtype, images.shape, self.image_shape)
        batch = images if images.dim() == 4 else images[None]
        inputs = to_inputs(self._artifact.preprocess, batch, images.device)
        return inputs if images.dim() == 4 else inputs[0]

    def inputs(self, images: ImageSet, device: str | torch.device = "cpu") -> Inputs:
        """Real images as network inputs float32 [n, C, H, W] on ``device``: made as they are used, but at once where
        the preprocessing is a whitening.

        Raises:
            ConfigError: images of another dtype or shape.
        """
        check_pixels(images.pixels.stored.dtype, images.pixels.shape, self.image_shape)
        return inputs_of(self._artifact.preprocess, images.pixels, device)

    @made_on_the_host
    def augment(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One DSA draw of the recipe on ``images`` [B, C, H, W]; as they are if the recipe has no augmentation.

        ``generator`` may be one of any device; draws are made on the CPU.

        Raises:
            ConfigError: no float tensor of four dimensions.
        """
        if not isinstance(images, Tensor) or images.dim() != 4 or not images.dtype.is_floating_point:
            raise ConfigError("augment expects inputs float [B, C, H, W], as ds.preprocess and ds.loader give them")
        of_kind("generator", generator, (torch.Generator, type(None)), "a torch.Generator, or None")
        augmentation = parse_augmentation(self.recipe["augmentation"].get("strategy", "none"))
        if augmentation is None:
            return images
        return augmentation(images, rng.on_the_host(generator))

    @made_on_the_host
    def loader(
        self,
        batch_size: int | None = None,
        device: str | torch.device = "cpu",
        *,
        shuffle: bool = True,
        hard_labels: bool = False,
        seed: int = 0,
    ) -> TensorLoader:
        """Batches ``(images, targets)`` resident on ``device``; no workers, the set is small. A single image that is
        left over joins the last batch.

        Args:
            batch_size: default the recipe's.
            device: where the whole set is kept.
            shuffle: another order each pass.
            hard_labels: class ids int64 [B] instead of label probabilities [B, K].
            seed: of the orders.

        Raises:
            ConfigError: ``batch_size`` is not positive, or no whole number; there is no such device.
        """
        size, place = whole("batch_size", batch_size) or int(self.recipe["batch_size"]), resolve_device(str(device))
        images, targets = self.images.to(place), self._chosen(hard_labels).to(place)
        return TensorLoader(images, targets, size, yes_or_no("shuffle", shuffle), seed_number(seed))

    def _chosen(self, hard_labels: bool) -> Tensor:
        return self.class_ids if yes_or_no("hard_labels", hard_labels) else self._targets

    def criterion(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss that fits the targets, probabilities or class ids: cross-entropy, mean over the batch."""
        return F.cross_entropy

    @made_on_the_host
    def train(
        self,
        model: nn.Module,
        *,
        device: str | torch.device | None = None,
        seed: int = 0,
        lr: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        augment: bool = True,
        hard_labels: bool = False,
        progress: Callable[[int, float], None] | None = None,
        recipe: Mapping[str, Any] | None = None,
        amp: bool = False,
        compiled: bool = False,
    ) -> nn.Module:
        """Train any torch module, in place, by the recipe that fits it, and return it in evaluation mode.

        That is the recipe of its architecture, if ``distillkit tune`` found one (``.recipes``), else of its family,
        else a default for networks with batch normalisation or attention, else the artifact's (``.recipe``).

        Args:
            model: maps [B, C, H, W] to logits [B, K].
            device: where to train; default where the model is.
            seed: of data order and augmentation.
            lr: instead of the learned one.
            epochs: instead of the recipe's; lr drops move in proportion.
            batch_size: instead of the recipe's.
            augment: False trains without the recipe's augmentation.
            hard_labels: True trains on class ids instead of the set's label probabilities.
            progress: called with epoch and mean loss after each epoch; default a bar, where standard error is a
                terminal.
            recipe: another one, in the form of ``recipe.json``: ``recipe=ds.recipe`` is the headline's.
            amp: compute in bfloat16 where torch's autocast thinks it safe.
            compiled: compile the model's forward pass; it pays from thousands of steps on.

        Raises:
            ConfigError: the model does not take such images, gives anything but finite logits of the set's classes,
                cannot be trained (by batches of one image, say), is none, or a number is not positive, a recipe none.
            DivergenceError: the loss did not stay finite.
        """
        place = resolve_device(str(device)) if device is not None else device_of(model)
        seed = seed_number(seed)
        callable_or_none("progress", progress)
        chosen = self.recipe_for(model) if recipe is None else given_recipe(recipe)
        how = recipe_from_json(overridden(chosen, lr, epochs, batch_size, yes_or_no("augment", augment)))
        check_can_train(model, self.images, self.num_classes, place, how.batch_size)
        found = batch_statistics(model, self.image_shape, min(len(self), how.batch_size))
        if found is not None and found.are_few and architecture_of(model) not in self.recipes:
            warn_of_batch_norm(found)
        amp, compiled = yes_or_no("amp", amp), yes_or_no("compiled", compiled)
        seen = in_training_form(model, place, amp=amp, compiled=compiled)
        targets = training_targets(self._chosen(hard_labels), how, self.num_classes)
        train(seen, self.images.to(place), targets.to(place), how, seed, progress)
        return model.eval()

    @made_on_the_host
    def recipe_for(self, model: nn.Module | str) -> dict[str, Any]:
        """The recipe that ``train`` takes for a model, or an architecture by name, in the form of ``recipe.json``."""
        of_kind("model", model, (nn.Module, str), "a network (torch.nn.Module), or the name of one")
        return choose_recipe(model, self.recipe, self.recipes, self.image_shape, self.num_classes, len(self))

    @made_on_the_host
    def fitting(self, network: NetworkSettings, *, keep: bool) -> tuple[NetworkSettings, str | None]:
        """``network`` as this set can train it: a timm network whose normalisation nobody chose (``keep``: somebody
        did) has its batch normalisation replaced where there are few images. The note says so, or is None.
        """
        keep = yes_or_no("keep", keep)
        seen = min(len(self), int(self.recipe["batch_size"]))
        return (network, None) if keep else fitting_network(network, self.image_shape, self.num_classes, seen)

    @made_on_the_host
    def network(self, seed: int = 0) -> nn.Module:
        """A fresh network of the architecture that the headline figure belongs to; another one for every ``seed``."""
        settings = NetworkSettings.model_validate(self.recipe["architecture"])
        return build_network(settings, self.image_shape, self.num_classes, seed_number(seed), "network")

    @made_on_the_host
    def evaluate(
        self,
        model: nn.Module,
        dataset: str | Path | ImageSet | SourceData | None = None,
        *,
        data_root: str | None = None,
    ) -> float:
        """Accuracy (fraction) of a trained model on the test split of ``dataset``.

        Args:
            model: maps [B, C, H, W] to logits [B, K].
            dataset: a name or folder, data already loaded, or None for the data set that was distilled (which must be
                named where it was a folder).
            data_root: where local copies of registered data sets lie.

        Raises:
            ConfigError: the set was made of a folder and ``dataset`` is None; the data have other classes; or the
                model does not take such images, or gives anything but finite logits of the set's classes.
            DataError: the data set is not what it was when it was distilled.
        """
        test = self.test_images(dataset, data_root)
        device = device_of(model)
        check_outputs(model, self.images[:2].to(device), self.num_classes)
        check_pixels(test.pixels.stored.dtype, test.pixels.shape, self.image_shape)
        inputs = LazyInputs(test.pixels, self._artifact.preprocess, device)  # whitened too, in chunks of ``accuracy``
        return accuracy(model, inputs, test.labels.to(device))

    def test_images(
        self,
        dataset: str | Path | ImageSet | SourceData | None = None,
        data_root: str | None = None,
        *,
        progress: Progress | None = None,
    ) -> ImageSet:
        """The test images that ``evaluate`` asks, with this set's class ids; ``progress`` listens.

        Raises:
            ConfigError, DataError: as ``evaluate`` says.
        """
        if isinstance(dataset, ImageSet):
            return with_ids_of(self.classes, dataset)
        if isinstance(dataset, SourceData):
            return with_ids_of(self.classes, dataset.test)
        source = self.load_source(dataset, data_root, parts=("test",), progress=progress)
        return with_ids_of(self.classes, source.test)

    @made_on_the_host
    def load_source(
        self,
        dataset: str | Path | None = None,
        data_root: str | None = None,
        token: Token = None,
        *,
        parts: Collection[str] = BOTH,
        progress: Progress | None = None,
    ) -> SourceData:
        """The data set that was distilled, decoded and split as then; ``dataset`` names another one to read instead.

        Args:
            dataset: a name or folder. A set that was made of a folder needs it: a config, which may come from anywhere,
                decides no folder that is read.
            data_root: where local copies of registered data sets lie.
            token: of the Hub, for a private data set; default the one that the artifact was loaded with.
            parts: the splits that will be looked at, ``train`` and ``test``; no checksum of the others is compared.
            progress: listener.

        Raises:
            ConfigError: the set was made of a folder, and ``dataset`` does not say where it is; or the classes are
                others, which is told before images are decoded.
            DataError: the data set is not what it was when it was distilled, so its test images may be others.
        """
        asked = asked_data(self.config, self.image_shape, dataset, data_root)
        listener = Silent() if progress is None else progress
        with sources_read_with(self._token if token is None else token):
            data = load_data(asked.settings, listener, parts=parts, each=int(self.config["ipc"]), classes=self.classes)
        asked.check(data.info.fingerprint, listener.note)
        return data

    @property
    def _token(self) -> Token:
        return None if self._origin is None else self._origin.cache.token

    def is_source(self, data: SourceData) -> bool:
        """Whether ``data`` are those that were distilled, split as then."""
        return bool(data.info.fingerprint == self.config["source"].get("fingerprint"))

    @made_on_the_host
    def to_hf_dataset(self) -> Any:
        """The 8-bit view as a ``datasets.Dataset`` with columns image, label, soft_label."""
        import io

        import datasets
        import pyarrow.parquet as pq

        stored = self.config["uint8_range"]
        view = eight_bit(self._artifact.synthetic, self._artifact.preprocess, (stored["low"], stored["high"]))
        content = parquet_bytes(view, self._artifact.synthetic, self.classes)
        return datasets.Dataset(pq.read_table(io.BytesIO(content)))

    def save(self, folder: str | Path) -> Path:
        """Copy the artifact's files to a new folder, as they are.

        Raises:
            ConfigError: the folder is there and not empty.
            StorageError: it cannot be written, or the files that were loaded are gone or others by now.
        """
        of_kind("folder", folder, (str, os.PathLike), "a folder")
        path = Path(expanded(folder))
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"{path} is there already and not an empty folder; choose another one")
        copy_files(whole_folder(self._artifact, self._origin, self.revision), path)
        return path

    @property
    def folder(self) -> Path:
        """Where the artifact was read: the folder, or a snapshot in the Hub's cache."""
        return self._artifact.folder

    @made_on_the_host
    def export(self, format: str, folder: str | Path, *, replace: bool = False) -> list[Path]:
        """Write the set in another format, ``pt`` (MTT's files), ``ddranking`` or ``imagefolder``; return the files.

        Raises:
            ConfigError: unknown format, or the folder holds something and ``replace`` is False.
            StorageError: it cannot be written.
        """
        of_kind("folder", folder, (str, os.PathLike), "a folder")
        return export(self._artifact, format, Path(expanded(folder)), replace=yes_or_no("replace", replace))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        tag: str | None = None,
        create_pr: bool = False,
        commit_message: str | None = None,
        replace: bool = False,
        token: str | bool | None = None,
    ) -> PushReport:
        """Publish the artifact as a Hub data set repository: what ``distillkit push`` does.

        Args:
            repo_id: ``org/name``.
            private: create it as a private repository.
            revision: branch to push to; default main.
            tag: of the commit; default the next free ``v<n>``.
            create_pr: open a pull request instead.
            commit_message: default says what it is.
            replace: also among foreign files; the artifact's own section of the card wins over the Hub's.
            token: default the saved one.

        Raises:
            StorageError: the files that were loaded are gone or others by now.
            DistillkitError: as ``distillkit.sharing.push.push`` says.
        """
        for name, value in (("revision", revision), ("tag", tag), ("commit_message", commit_message)):
            of_kind(name, value, (str, type(None)), "text, or None")
        of_kind("repo_id", repo_id, str, "org/name")
        alone = None if private is None else yes_or_no("private", private)
        create_pr, replace = yes_or_no("create_pr", create_pr), yes_or_no("replace", replace)
        options = PushOptions(alone, revision, tag, create_pr, commit_message, replace)
        folder = whole_folder(self._artifact, self._origin, self.revision)
        return push(folder, repo_id, options, token, update_folder=self._origin is None)
