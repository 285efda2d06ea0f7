"""The data set card (README.md) of an artifact, from its three JSON files."""

from __future__ import annotations

from importlib import resources
from string import Template
from typing import Any

import yaml


def render_card(config: dict[str, Any], recipe: dict[str, Any], results: dict[str, Any]) -> str:
    """The card's text, YAML front matter included; every number comes from the arguments."""
    template = Template(resources.files("distillkit.artifact").joinpath("card_template.md").read_text("utf-8"))
    shape = config["image_shape"]
    count = config["ipc"] * len(config["classes"])
    source = config["source"]
    return template.substitute(
        front_matter=yaml.safe_dump(_front_matter(config), sort_keys=False, allow_unicode=True).strip(),
        title=_title(config),
        count=count,
        ipc=config["ipc"],
        classes=len(config["classes"]),
        shape=f"{shape[0]} x {shape[1]} x {shape[2]}",
        source=source["source"],
        method=config["method_title"],
        share=f"{count / source['train_images']:.2%}",
        train_images=source["train_images"],
        command=config["command"],
        rows="\n".join(_rows(results)),
        selection=_selection(results["selection"]),
        lr=f"{recipe['lr']:.6g}",
        epochs=recipe["schedule"]["epochs"],
        drops=", ".join(map(str, recipe["schedule"]["lr_drop_epochs"])) or "never",
        drop_factor=recipe["schedule"]["lr_drop_factor"],
        momentum=recipe["optimizer"]["momentum"],
        weight_decay=recipe["optimizer"]["weight_decay"],
        batch=recipe["batch_size"],
        augmentation=recipe["augmentation"].get("strategy", "none"),
        preprocessing=_preprocessing(config),
        kind="learned" if config["experts"] else "real",
        lr_kind=" (learned)" if config["experts"] else "",
        low=f"{config['uint8_range']['low']:.4f}",
        high=f"{config['uint8_range']['high']:.4f}",
        license=source["license"] or "not stated by the source",
        citation=config["citation"] or "(none)",
        versions=", ".join(f"{name} {version}" for name, version in sorted(config["versions"].items())),
        hardware=config["hardware"],
        seconds=f"{sum(config['wall_time_seconds'].values()):.0f}",
    )


def _title(config: dict[str, Any]) -> str:
    return f"{config['source']['name']} distilled to {config['ipc']} images per class ({config['method']})"


def _front_matter(config: dict[str, Any]) -> dict[str, Any]:
    count = config["ipc"] * len(config["classes"])
    matter: dict[str, Any] = {
        "pretty_name": _title(config),
        "license": config["source"]["license"] or "unknown",
        "task_categories": ["image-classification"],
        "tags": ["distillkit", "dataset-distillation", config["method"]],
        "size_categories": ["n<1K" if count < 1000 else "1K<n<10K" if count < 10_000 else "10K<n<100K"],
        "configs": [
            {
                "config_name": "default",
                "default": True,
                "data_files": [{"split": "train", "path": "data/train-*"}],
            }
        ],
    }
    if config["source"]["revision"]:
        matter["source_datasets"] = [config["source"]["source"]]
    return matter


def _selection(selection: dict[str, Any]) -> str:
    """Which checkpoint was kept, and by what."""
    if "step" not in selection:
        return f"Chosen by: {selection['split']}."
    kept = f"outer step {selection['step']} of {selection['outer_steps']}"
    if selection["step"] == 0:
        kept = f"the initial images (no checkpoint of {selection['outer_steps']} outer steps was better)"
    return f"Kept: {kept}, selected on {selection['split']}."


def _rows(results: dict[str, Any]) -> list[str]:
    rows = [("this set, " + name, row) for name, row in results["architectures"].items()]
    if results.get("uint8"):
        rows.append(("this set, 8-bit view", results["uint8"]))
    names = {"random": "random real images", "kmeans": "k-means coreset", "full": "full training data"}
    rows += [(names[name], row) for name, row in results["baselines"].items()]
    return [
        f"| {name} | {100 * row['mean']:.1f} ± {100 * row['std']:.1f} | {row['n']} | {row['lr']:.4g} |"
        for name, row in rows
    ]


def _preprocessing(config: dict[str, Any]) -> str:
    if config["settings"]["dataset"]["preprocessing"] == "zca":
        return "ZCA-whitened pixels: `(x.flatten() - zca_mean) @ zca_matrix` of pixels x in [0, 1]"
    return "standardised pixels: `(x - mean) / std` per channel of pixels x in [0, 1]"
