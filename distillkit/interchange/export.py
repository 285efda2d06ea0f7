"""Writing an artifact in other people's forms: MTT's files, DD-Ranking's, or a folder of class folders of PNGs."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distillkit import storage
from distillkit.artifact.read import Artifact
from distillkit.artifact.views import eight_bit, png_bytes, to_image
from distillkit.data.preprocess import Preprocess, Standardise
from distillkit.data.published_statistics import published_statistics
from distillkit.errors import ConfigError, StorageError

NOTES = "distillkit.json"  # beside the files: what their own format has no place for
CLASS_MAP = "classes.txt"  # what timm's --class-map reads
LONGEST_NAME = 80
SAFE_NAME = re.compile(r"[^\w (),+-]", re.ASCII)


def export(artifact: Artifact, format: str, out: Path, *, replace: bool = False) -> list[Path]:
    """Write the files of ``format`` into ``out`` and return them.

    Raises:
        ConfigError: no such format, or ``out`` holds something and ``replace`` is False.
        StorageError: it cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"`format` {format!r} is unknown; known: {', '.join(FORMATS)}")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"`out` {out} is a file; expected a folder")
    if out.exists() and any(out.iterdir()) and not replace:
        raise ConfigError(f"{out} is there already and not an empty folder; choose another folder, or `replace=True`")
    contents = FORMATS[format](artifact)
    _remove_earlier(out)
    for name, content in contents.items():
        storage.write_bytes(out / name, content)
    storage.write_json(out / NOTES, {**_notes(artifact, format), "files": sorted(contents)})
    return [out / name for name in (*contents, NOTES)]


def _remove_earlier(out: Path) -> None:
    """The files of an earlier export, as its note lists them: two sets in one folder would be read as one."""
    try:
        listed = storage.read_json(out / NOTES)["files"]
    except (StorageError, KeyError, TypeError):
        return
    for name in listed if isinstance(listed, list) else ():
        path = out / str(name)
        if path.is_file() and path.resolve().is_relative_to(out.resolve()):
            with storage.storage_errors(path, "remove"):
                path.unlink()


def _saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _labels(artifact: Artifact, *, probabilities: bool) -> torch.Tensor:
    """Class ids [S] where the labels are one-hot, as research code has them; else [S, K]."""
    synthetic = artifact.synthetic
    hard = torch.eye(synthetic.labels.shape[1])[synthetic.class_ids]
    if synthetic.label_kind == "probabilities" and torch.equal(synthetic.labels, hard):
        return synthetic.class_ids
    return synthetic.targets() if probabilities else synthetic.labels


def _pt(artifact: Artifact) -> dict[str, bytes]:
    """images_best.pt (input space), labels_best.pt (ids, probabilities or logits, as stored), lr_best.pt: tensors."""
    return {
        "images_best.pt": _saved(artifact.synthetic.images),
        "labels_best.pt": _saved(_labels(artifact, probabilities=False)),
        "lr_best.pt": _saved(torch.tensor(artifact.synthetic.lr, dtype=torch.float64)),
    }


def _ddranking(artifact: Artifact) -> dict[str, bytes]:
    """images.pt, labels.pt (ids, or logits: its losses take a softmax of what they are given, so that all images count
    alike, whatever weight their labels had), lr.pt (a tensor).

    Images are in its own normalisation where it has one for the data set, since it normalises test images so.
    """
    return {
        "images.pt": _saved(_in_its_space(artifact)),
        "labels.pt": _saved(_its_labels(artifact)),
        "lr.pt": _saved(torch.tensor(artifact.synthetic.lr)),
    }


DDRANKING = ("cifar10", "cifar100", "tiny-imagenet")
"""Data sets that DD-Ranking's loaders standardise with the published numbers (``get_dataset``)."""


def _its_preprocess(artifact: Artifact) -> Preprocess:
    """What DD-Ranking's networks see test images through; of whitened sets our own, which its ZCA flag is for."""
    name = str(artifact.config["source"]["name"])
    known = published_statistics(name) if name in DDRANKING else None
    if known is None or not isinstance(artifact.preprocess, Standardise):
        return artifact.preprocess
    return Standardise(*(torch.tensor(values).double() for values in known))


def _in_its_space(artifact: Artifact) -> torch.Tensor:
    images, own = artifact.synthetic.images, _its_preprocess(artifact)
    if own is artifact.preprocess:
        return images
    return own(artifact.preprocess.invert(images)).to(images.dtype)


def _its_labels(artifact: Artifact) -> torch.Tensor:
    labels = _labels(artifact, probabilities=True)
    if labels.dim() == 1:
        return labels
    if artifact.synthetic.label_kind == "logits":
        return artifact.synthetic.labels
    return labels.clamp_min(torch.finfo(labels.dtype).tiny).log()


def _lost_weight(artifact: Artifact) -> list[float] | None:
    """Of labels that are weights, by how much each image counts [S], which a softmax takes away."""
    synthetic = artifact.synthetic
    return synthetic.labels.sum(1).tolist() if synthetic.label_kind == "weights" else None


def _imagefolder(artifact: Artifact) -> dict[str, bytes]:
    """``train/<class>/<number>.png``, 8-bit, and ``classes.txt``, the folders in the order of the class ids."""
    stored = artifact.config["uint8_range"]
    view = eight_bit(artifact.synthetic, artifact.preprocess, (stored["low"], stored["high"]))
    names = folder_names(artifact.config["classes"])
    files = {CLASS_MAP: "".join(f"{name}\n" for name in names).encode()}
    for position, class_id in enumerate(artifact.synthetic.class_ids.tolist()):
        files[f"train/{names[class_id]}/{position:05d}.png"] = png_bytes(to_image(view.images[position]))
    return files


def folder_names(classes: list[str]) -> list[str]:
    """A folder name for each class that every reader numbers as the class is: ``00_cat``, ``01_dog``.

    Readers sort folders, some by letters (torchvision, ``datasets``), some naturally and without case (timm). The
    number, of as many digits for all, makes these the same order, keeps equal names apart where upper and lower case
    are one, and no name is one that a file system reserves. Of the class's name only ASCII letters, digits and
    ``(),+-`` and spaces stay.
    """
    digits = max(2, len(str(len(classes) - 1)))
    words = [SAFE_NAME.sub("_", name)[:LONGEST_NAME].strip() for name in classes]
    return [f"{class_id:0{digits}d}_{word}".rstrip("_ ") for class_id, word in enumerate(words)]


def _notes(artifact: Artifact, format: str) -> dict[str, Any]:
    """Of the files as they were written, whose space and labels need not be the artifact's own."""
    preprocess = _its_preprocess(artifact) if format == "ddranking" else artifact.preprocess
    tensors = {name: tensor.tolist() for name, tensor in preprocess.to_tensors().items() if tensor.dim() == 1}
    soft = _labels(artifact, probabilities=False).dim() == 2
    synthetic, view = artifact.synthetic, artifact.config["uint8_range"]
    return {
        "form": format,
        "classes": artifact.config["classes"],
        "folders": folder_names(artifact.config["classes"]) if format == "imagefolder" else None,
        "label_kind": "logits" if soft and format == "ddranking" else synthetic.label_kind,
        "label_weight": _lost_weight(artifact) if soft and format == "ddranking" else None,
        "lr": synthetic.lr,
        "preprocessing": artifact.config["settings"]["dataset"].get("preprocessing", "standardise"),
        "preprocess": {name: values for name, values in tensors.items() if name in ("mean", "std")},
        "uint8_range": view if format == "imagefolder" else None,
        "recipe": artifact.recipe,
    }


FORMATS: dict[str, Callable[[Artifact], dict[str, bytes]]] = {
    "pt": _pt,
    "imagefolder": _imagefolder,
    "ddranking": _ddranking,
}
