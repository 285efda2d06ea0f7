"""Images in folders that are their classes: ``<class>/<image>``, ``<split>/<class>/<image>``, Tiny ImageNet's form.

``datasets``' own ``imagefolder`` reads paths as patterns (brackets in a name hide the images) and drops the labels of a
set of one class.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from distillkit.data.listing import (
    files_below,
    first_part,
    folders_in,
    holds_images,
    is_hidden,
    is_image,
    split_called,
    suffix_of,
)
from distillkit.errors import DataError

Classes = dict[str, list[str]]
"""Paths of images by the name of their class."""
ANNOTATIONS = "{0}_annotations.txt"  # Tiny ImageNet's val/val_annotations.txt: file, class, bounding box, tabs between


def read_class_folders(folder: Path, asked: frozenset[str], notes: list[str]) -> dict[str, Classes]:
    """Images by split and class; ``asked``: folder names that somebody called splits; ``notes`` hears what is left out.

    Raises:
        DataError: there are no class folders with images, or only splits without any.
    """
    _check_labelled(folder, asked)
    splits = {name: _images_of(path, notes) for name, path in split_folders(folder, asked, notes).items()}
    holders = [path for path in folders_in(folder) if holds_images(path)]
    if not splits and len(holders) == 1 and kind_of(holders[0]) == "classes":  # an archive unpacked into its own folder
        notes.append(f"the data set is what {holders[0].name}/ holds")
        return read_class_folders(holders[0], asked, notes)
    return splits or {"train": _images_of(folder, notes)}


def _check_labelled(folder: Path, asked: frozenset[str]) -> None:
    """Splits of images without class folders are not classes called ``train`` and ``test``."""
    kinds = {path.name: kind_of(path) for path in folders_in(folder)}
    holders = [name for name, kind in kinds.items() if kind != "empty"]
    meant = {split_called(name, asked) for name in holders}
    if len(holders) > 1 and {kinds[name] for name in holders} == {"images"} and "train" in meant and None not in meant:
        raise DataError(
            f"{', '.join(f'{name}/' for name in holders)} hold images but no class folders, so nothing tells their "
            f"labels; expected {holders[0]}/<class>/<image>, or a table beside them with columns file_name and label"
        )


def split_folders(folder: Path, asked: frozenset[str], notes: list[str]) -> dict[str, Path]:
    """The sub-folders that are splits, by the name of the split; none where the sub-folders are classes.

    A split holds class folders (or images with annotations). Sub-folders are splits if all that hold images are called
    like splits (or asked for as such), and one of them is the training split; otherwise ``train`` may be a class beside
    ``bus`` and ``car``. A training split and another one that hold the same class folders are splits beside anything.
    """
    parts = folders_in(folder)
    kinds = {path: kind_of(path) for path in parts}
    known = {path: split_called(path.name, asked) for path in parts}
    splits = {name: path for path, name in known.items() if name is not None and kinds[path] == "classes"}
    others = [path.name for path in parts if known[path] is None and kinds[path] != "empty"]
    bare = [path.name for path in parts if known[path] is not None and kinds[path] == "images"]
    named = bool(asked & {path.name for path in parts}) or _share_classes(splits)
    if not splits or (others and not named) or ("train" not in splits and len(splits) > 1 and not named):
        return {}
    if bare and "train" not in splits and not named:
        return {}
    for name in bare:
        notes.append(f"{name}/ holds images but no class folders: it has no labels, and was passed over")
    if others:
        notes.append(f"passed over beside the splits: {', '.join(others[:5])}")
    return splits


def _share_classes(splits: dict[str, Path]) -> bool:
    """Whether the training split has the class folders of another split."""
    classes = {
        name: {first_part(path) for path in files_below(folder) if is_image(path)} for name, folder in splits.items()
    }
    train = classes.pop("train", set())
    return bool(train) and train in classes.values()


def kind_of(folder: Path) -> str:
    """``classes`` (sub-folders with images, or annotations of them), ``images`` (images alone), or ``empty``."""
    images = [path for path in files_below(folder) if is_image(path)]
    if not images:
        return "empty"
    below = {first_part(path) for path in images} - {None}
    annotated = (folder / ANNOTATIONS.format(folder.name)).is_file()
    return "classes" if annotated or (below and below != {"images"}) else "images"


def _images_of(folder: Path, notes: list[str]) -> Classes:
    annotations = folder / ANNOTATIONS.format(folder.name)
    return _annotated(folder, annotations, notes) if annotations.is_file() else _class_images(folder, notes)


def _annotated(folder: Path, annotations: Path, notes: list[str]) -> Classes:
    """Images of one folder by the class that a line of ``annotations`` gives each; names are not opened."""
    images = {path.rpartition(os.sep)[2]: str(folder / path) for path in files_below(folder) if is_image(path)}
    found: Classes = {}
    for line in annotations.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0].strip()
        path = images.pop(name.strip(), None)
        if path is not None and label:
            found.setdefault(label, []).append(path)
    if not found:
        raise DataError(f"{annotations} names no image of {folder}; expected lines of file, tab, class")
    if images:
        notes.append(f"{len(images)} images of {folder.name}/ are not in {annotations.name}, and are left out")
    return dict(sorted(found.items()))


def _class_images(folder: Path, notes: list[str]) -> Classes:
    """Images below each sub-folder, sorted; folders without images are no classes. What is no image is counted."""
    found, others = Classes(), Counter[str]()
    for part in folders_in(folder):
        files = files_below(part)
        images = [f"{part}{os.sep}{path}" for path in files if is_image(path)]
        others.update(suffix_of(path) or "no suffix" for path in files if not is_image(path))
        if images:
            found[part.name] = images
        elif files:
            notes.append(f"class folder {part.name!r} holds no images and is no class")
    if not found:
        raise DataError(
            f"{folder} has no class folders with images; expected {folder.name}/<class>/<image>, or beside the images "
            "a metadata.csv with columns file_name and label"
        )
    beside = sum(path.is_file() and is_image(path.name) and not is_hidden(path, folder) for path in folder.iterdir())
    if beside:
        notes.append(
            f"{beside} images of {folder.name}/ lie beside the class folders, belong to no class, and are left out"
        )
    hidden = sorted(path.name for path in folder.iterdir() if path.is_dir() and is_hidden(path, folder))
    if with_images := [name for name in hidden if not name.startswith("__") and holds_images(folder / name)]:
        notes.append(f"hidden folders with images, passed over: {', '.join(with_images[:5])}")
    if others:
        words = ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items()))
        notes.append(f"files that are no images, left out: {words}")
    return found
