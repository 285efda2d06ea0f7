"""The data set card (README.md) of an artifact: a pure function of its three JSON files and the user's own section."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from string import Template
from typing import Any

from distillkit import licenses
from distillkit.artifact import front_matter as head
from distillkit.artifact import own_section
from distillkit.artifact.card_words import (
    LABEL_WORDS,
    TAGS,
    augmentation_words,
    byte_count,
    curves_line,
    dtype_words,
    earlier_words,
    habit_words,
    length_words,
    license_words,
    limits,
    load_lines,
    load_words,
    lr_words,
    network_words,
    one_line,
    optimizer_words,
    origin_words,
    other_models,
    paper_links,
    plain,
    results_table,
    selection_words,
    source_link,
    student_words,
    tensor_bytes,
    tuned_table,
    unfenced,
)
from distillkit.artifact.layout import FILES
from distillkit.artifact.schema import ArtifactConfig, RecipeFile, ResultsFile
from distillkit.hub.address import REPOSITORY


def render_card(config: dict[str, Any], recipe: dict[str, Any], results: dict[str, Any], own: str = "") -> str:
    """The card's text, YAML front matter included; every number comes from the arguments, ``own`` is the user's."""
    about = ArtifactConfig.model_validate(config)
    how, measured = RecipeFile.model_validate(recipe), ResultsFile.model_validate(results)
    template = Template(resources.files("distillkit.artifact").joinpath("card_template.md").read_text("utf-8"))
    values = _identity(about, how, measured) | _training(about, how, measured) | _figures(about, how, measured)
    return template.substitute(values, own_section=own_section.wrap(own))


def front_matter(about: ArtifactConfig) -> dict[str, Any]:
    """The YAML of the card: licence, viewer configuration, features, tags, the source data set."""
    count = about.size
    matter: dict[str, Any] = {
        "pretty_name": _title(about),
        **licenses.front_matter(about.source.license),
        "task_categories": ["image-classification"],
        "tags": [*TAGS, "dataset-compression", f"ipc-{about.ipc}", about.method],
        "size_categories": [_size_category(count)],
    }
    if about.source.hub_id and REPOSITORY.fullmatch(about.source.hub_id):
        matter["source_datasets"] = [about.source.hub_id]
    data_files = [{"split": "train", "path": FILES.parquet}]  # by name: nothing else in the folder is part of the set
    matter["configs"] = [{"config_name": "default", "default": True, "data_files": data_files}]
    matter["dataset_info"] = {"features": _features(about), "splits": [_split(about)]}
    return matter


def _size_category(count: int) -> str:
    steps = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for limit, name in steps if count < limit), "1M<n<10M")


def _features(about: ArtifactConfig) -> list[dict[str, Any]]:
    names = {str(position): name for position, name in enumerate(about.classes)}
    return [
        {"name": "image", "dtype": "image"},
        {"name": "label", "dtype": {"class_label": {"names": names}}},
        {"name": "soft_label", "list": "float32", "length": about.num_classes},
    ]


def _split(about: ArtifactConfig) -> dict[str, Any]:
    return {"name": "train", "num_bytes": tensor_bytes(about), "num_examples": about.size}


def _title(about: ArtifactConfig, words: Callable[[str], str] = one_line) -> str:
    images = "image" if about.ipc == 1 else "images"
    return f"{words(about.source.name)} distilled to {about.ipc} {images} per class ({about.method})"


def _identity(about: ArtifactConfig, how: RecipeFile, measured: ResultsFile) -> dict[str, str]:
    channels, height, width = about.image_shape
    source_bytes = about.source.train_images * channels * height * width
    source = source_link(about.source.hub_id, about.source.source, about.source.revision)
    return {
        "front_matter": head.dump(front_matter(about)),
        "title": _title(about, plain),
        "count": str(about.size),
        "kind": about.kind,
        "ipc": str(about.ipc),
        "classes": str(about.num_classes),
        "shape": f"{channels} x {height} x {width}",
        "bytes": byte_count(tensor_bytes(about)),
        "source": source,
        "share": f"{about.size / about.source.train_images:.2%}",
        "byte_share": f"{tensor_bytes(about) / source_bytes:.2%}",
        "train_images": f"{about.source.train_images:,}",
        "class_bits": f"{8 * tensor_bytes(about) / about.num_classes / 1e3:.1f} kbit",
        "papers": paper_links(about),
        "origin": origin_words(about),
        "load_lines": load_lines(about, how, measured),
        "other_models": other_models(about),
        "load_words": load_words(about),
        "command": _command(about),
        "made": _made(about) + earlier_words(about),
        "license": license_words(about),
        "citations": "\n\n".join(
            f"```bibtex\n{unfenced(text.strip())}\n```" for text in (about.citation, about.source.citation) if text
        ),
    }


def _command(about: ArtifactConfig) -> str:
    return unfenced(about.command)


def _made(about: ArtifactConfig) -> str:
    seconds = about.wall_time_seconds
    times = ", ".join(f"{plain(stage)} {time:.0f} s" for stage, time in seconds.items() if time >= 0.5)
    whole = f"{sum(seconds.values()):.0f} seconds in all" + (f" ({times})" if times else "")
    if about.experts:
        whole += ", those of experts that the cache held already not among them"
    versions = ", ".join(f"{plain(name)} {plain(version)}" for name, version in sorted(about.versions.items()))
    return f"{versions}. {plain(about.hardware)}; {whole}; seed {about.seed}. `{FILES.config}` holds every setting."


def _training(about: ArtifactConfig, how: RecipeFile, measured: ResultsFile) -> dict[str, str]:
    drops, momentum = ", ".join(map(str, how.schedule.lr_drop_epochs)), how.schedule.momentum_after_drop
    later = "" if momentum is None else f" of momentum {momentum:g}"
    factor = how.schedule.lr_drop_factor
    return {
        "optimizer": optimizer_words(how),
        "lr": f"{how.lr:.6g}",
        "lr_kind": " (learned)" if about.lr_learned else "",
        "drops": f"times {factor:g} from epoch {drops} on with a new optimiser{later}" if drops else "constant",
        "epochs": str(how.schedule.epochs),
        "batch": "all images in one batch" if how.batch_size >= about.size else f"batches of {how.batch_size}",
        "loss": "cross-entropy with the label " + ("weights" if about.label_kind == "weights" else "probabilities"),
        "augmentation": augmentation_words(how),
        "preprocessing": _preprocessing(about),
        "dtype_words": dtype_words(about),
        "label_words": LABEL_WORDS[about.label_kind],
        "length_words": length_words(measured),
    }


def _preprocessing(about: ArtifactConfig) -> str:
    if about.settings.dataset.preprocessing == "unit-zca":
        return (
            "whitened pixels: each image minus its own mean, divided by its L2 norm, then "
            "`x.flatten() @ unit_zca_matrix`"
        )
    if about.settings.dataset.preprocessing == "unit-dct":
        return (
            "whitened pixels: each image minus its own mean, divided by its L2 norm, transformed by an orthonormal "
            "DCT-II over rows and columns, the channels of each frequency multiplied by its matrix of "
            "`unit_dct_matrices`, transformed back"
        )
    if about.settings.dataset.preprocessing == "zca":
        return "ZCA-whitened pixels, `(x.flatten() - zca_mean) @ zca_matrix` of pixels x in [0, 1]"
    return "standardised pixels, `(x - mean) / std` per channel of pixels x in [0, 1]"


def _figures(about: ArtifactConfig, how: RecipeFile, measured: ResultsFile) -> dict[str, str]:
    return {
        "table": results_table(about, how, measured),
        "network_words": (network_words(how) + student_words(about)).strip(),
        "lr_words": lr_words(how, measured),
        "selection": selection_words(about, measured.selection) + habit_words(measured.paper_protocol),
        "tuned": tuned_table(about, measured),
        "curves": curves_line(about),
        "limits": limits(about, how, measured),
    }
