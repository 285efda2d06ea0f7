"""``load_distilled`` and what it returns: a distilled set that trains networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from torch import Tensor, nn
from torch.utils.data import Dataset

from distillkit import rng
from distillkit.artifact.read import Artifact, read_artifact
from distillkit.artifact.views import eight_bit, parquet_bytes
from distillkit.artifact.write import ArtifactContent, write_artifact
from distillkit.data.augment import Augmentation
from distillkit.data.decode import resize_and_crop, to_mode
from distillkit.data.load import load_data
from distillkit.data.preprocess import to_inputs
from distillkit.errors import ArtifactError, ConfigError, DataError
from distillkit.evaluation.recipe import recipe_from_json
from distillkit.progress import Silent
from distillkit.records import ImageSet, SourceData
from distillkit.settings import DatasetSettings
from distillkit.training.fit import accuracy, fit


class DistilledDataset(Dataset[tuple[Tensor, Tensor]]):
    """A distilled set: item i is ``(image float [C, H, W], label probabilities [K])``, in the network's input space."""

    def __init__(self, artifact: Artifact, revision: str | None = None) -> None:
        self._artifact = artifact
        self.revision = revision
        self.images = artifact.synthetic.images
        self.labels = artifact.synthetic.labels
        self.class_ids = artifact.synthetic.class_ids
        self.lr = artifact.synthetic.lr
        self.config = artifact.config
        self.recipe = artifact.recipe
        self.results = artifact.results
        self.classes = tuple(artifact.config["classes"])
        self.num_classes = len(self.classes)
        self._targets = artifact.synthetic.targets()

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

    def preprocess(self, images: Tensor | Image.Image) -> Tensor:
        """Real images to the space the networks are trained in.

        Args:
            images: uint8 tensor [C, H, W] or [n, C, H, W] of the set's shape, or a Pillow image of any mode and size.

        Returns:
            float32, [C, H, W] or [n, C, H, W].

        Raises:
            ConfigError: a tensor of another dtype or shape.
        """
        if isinstance(images, Image.Image):
            images = self._from_pillow(images)
        if images.dtype != torch.uint8 or tuple(images.shape[-3:]) != self.image_shape:
            raise ConfigError(
                f"preprocess expects uint8 images of shape {self.image_shape}, got {images.dtype} {tuple(images.shape)}"
            )
        batch = images if images.dim() == 4 else images[None]
        inputs = to_inputs(self._artifact.preprocess, batch, images.device)
        return inputs if images.dim() == 4 else inputs[0]

    def _from_pillow(self, image: Image.Image) -> Tensor:
        from torchvision.transforms.functional import pil_to_tensor

        channels, size, _ = self.image_shape
        tensor: Tensor = pil_to_tensor(resize_and_crop(to_mode(image, gray=channels == 1), size))
        return tensor

    def augment(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One DSA draw of the recipe on ``images`` [B, C, H, W]; as they are if the recipe has no augmentation."""
        augmentation = Augmentation.parse(self.recipe["augmentation"].get("strategy", "none"))
        if augmentation is None:
            return images
        return augmentation(images, generator or torch.default_generator)

    def loader(
        self,
        batch_size: int | None = None,
        device: str | torch.device = "cpu",
        *,
        shuffle: bool = True,
        seed: int = 0,
    ) -> TensorLoader:
        """Batches ``(images, label probabilities)`` resident on ``device``; no workers, the set is small."""
        size = batch_size or int(self.recipe["batch_size"])
        return TensorLoader(self.images.to(device), self._targets.to(device), size, shuffle, seed)

    def criterion(self) -> Callable[[Tensor, Tensor], Tensor]:
        """The loss that fits the targets: cross-entropy against probabilities, mean over the batch."""
        return F.cross_entropy

    def train(
        self,
        model: nn.Module,
        *,
        device: str | torch.device | None = None,
        seed: int = 0,
        lr: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        progress: Callable[[int, float], None] | None = None,
    ) -> nn.Module:
        """Train any torch module by the artifact's recipe, in place, and return it.

        Args:
            model: maps [B, C, H, W] to logits [B, K].
            device: where to train; default where the model is.
            seed: of data order and augmentation.
            lr: instead of the learned one.
            epochs: instead of the recipe's; lr drops move in proportion.
            batch_size: instead of the recipe's.
            progress: called with epoch and mean loss after each epoch.

        Raises:
            ConfigError: the model does not take such images or has another number of outputs.
        """
        place = torch.device(device) if device is not None else next(model.parameters()).device
        model.to(place)
        self._check(model, place)
        recipe = recipe_from_json(self._overridden(lr, epochs, batch_size))
        for summary in fit(model, self.images.to(place), self._targets.to(place), recipe, seed, "train"):
            if progress is not None:
                progress(summary.epoch, float(summary.loss))
        return model.eval()

    def _overridden(self, lr: float | None, epochs: int | None, batch_size: int | None) -> dict[str, Any]:
        value = dict(self.recipe)
        value["lr"] = lr or value["lr"]
        value["batch_size"] = batch_size or value["batch_size"]
        if epochs is not None:
            schedule = dict(value["schedule"])
            drops = [round(drop * epochs / schedule["epochs"]) for drop in schedule["lr_drop_epochs"]]
            value["schedule"] = {**schedule, "epochs": epochs, "lr_drop_epochs": drops}
        return value

    def _check(self, model: nn.Module, device: torch.device) -> None:
        try:
            with torch.no_grad():
                shape = tuple(model.eval()(self.images[:2].to(device)).shape)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"the model does not take images of shape {self.image_shape}: {str(error).splitlines()[0]}; "
                "distillkit.prepare_model builds timm networks that do"
            ) from error
        if shape[1:] != (self.num_classes,):
            raise ConfigError(f"the model gives outputs of shape {shape[1:]}, the set has {self.num_classes} classes")

    def evaluate(
        self,
        model: nn.Module,
        dataset: str | ImageSet | SourceData | None = None,
        *,
        data_root: str | None = None,
    ) -> float:
        """Accuracy (fraction) of a trained model on the test split of ``dataset``.

        Args:
            model: maps [B, C, H, W] to logits [B, K].
            dataset: a name or folder, data already loaded, or None for the data set that was distilled.
            data_root: where local copies of registered data sets lie.
        """
        test = self._test_images(dataset, data_root)
        device = next(model.parameters()).device
        return accuracy(model, self.preprocess(test.images.to(device)), test.labels.to(device))

    def _test_images(self, dataset: str | ImageSet | SourceData | None, data_root: str | None) -> ImageSet:
        if isinstance(dataset, ImageSet):
            return dataset
        if isinstance(dataset, SourceData):
            return dataset.test
        return self.load_source(dataset, data_root).test

    def load_source(self, dataset: str | None = None, data_root: str | None = None) -> SourceData:
        """The data set that was distilled, decoded and split as then; ``dataset`` names another one to read instead.

        Raises:
            DataError: the data set is not what it was when it was distilled, so its test images may be others.
        """
        known = {key: self.config["settings"]["dataset"].get(key) for key in DatasetSettings.model_fields}
        try:
            stored = DatasetSettings.model_validate({key: value for key, value in known.items() if value is not None})
        except (ValidationError, AttributeError) as error:
            raise ArtifactError("the artifact does not say which data set it was made of; name one") from error
        if dataset is not None and dataset != stored.name:
            size, gray = self.image_shape[1], self.image_shape[0] == 1
            other = DatasetSettings(name=dataset, image_size=size, color="gray" if gray else "rgb", data_root=data_root)
            return load_data(other, Silent())
        data = load_data(stored.model_copy(update={"data_root": data_root}), Silent())
        expected = self.config["source"].get("fingerprint")
        if data.info.fingerprint != expected:
            raise DataError(
                f"{stored.name} is not the data set that was distilled (fingerprint {data.info.fingerprint}, expected "
                f"{expected}); pass the data themselves to measure on them all the same"
            )
        return data

    def to_hf_dataset(self) -> Any:
        """The 8-bit view as a ``datasets.Dataset`` with columns image, label, soft_label."""
        import io

        import datasets
        import pyarrow.parquet as pq

        view = eight_bit(self._artifact.synthetic, self._artifact.preprocess)
        content = parquet_bytes(view, self._artifact.synthetic, self.classes)
        return datasets.Dataset(pq.read_table(io.BytesIO(content)))

    def save(self, folder: str | Path) -> Path:
        """Write the artifact to a folder, curves excepted (they belong to the run)."""
        artifact, path = self._artifact, Path(folder)
        content = ArtifactContent(
            artifact.synthetic,
            artifact.preprocess,
            self.classes,
            artifact.config,
            artifact.recipe,
            artifact.results,
        )
        write_artifact(path, content)
        return path


class TensorLoader:
    """Iterates over tensors on their device in batches, in a new order each pass if ``shuffle``."""

    def __init__(self, images: Tensor, targets: Tensor, batch_size: int, shuffle: bool, seed: int) -> None:
        self.images, self.targets, self.batch_size = images, targets, batch_size
        self._shuffle, self._seed, self._passes = shuffle, seed, 0

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.images))
        if self._shuffle:
            order = torch.randperm(len(order), generator=rng.generator(self._seed, "loader", self._passes))
        self._passes += 1
        for indices in order.to(self.images.device).split(self.batch_size):
            yield self.images[indices], self.targets[indices]


def load_distilled(source: str | Path) -> DistilledDataset:
    """Load an artifact folder.

    Raises:
        ArtifactError: not an artifact, damaged, or of a newer format.
    """
    return DistilledDataset(read_artifact(Path(source)))
