"""The smallest artifact, made without a run: for tests that need thousands of them, or large ones."""

import torch

from distillkit.artifact.write import ArtifactContent, write_artifact
from distillkit.data.preprocess import Standardise, Whiten
from distillkit.records import SyntheticSet

ROW = {"mean": 0.75, "std": 0.25, "n": 2, "accuracies": [0.5, 1.0], "lr": 0.02, "epochs": 3}


def config(classes, ipc, shape, *, zca=False):
    return {
        "format_version": "1.0",
        "generator": "distillkit 0.1.0",
        "method": "mtt",
        "method_title": "MTT: matching training trajectories",
        "citation": "@misc{a}",
        "ipc": ipc,
        "seed": 0,
        "image_shape": list(shape),
        "classes": classes,
        "label_kind": "probabilities",
        "settings": {
            "dataset": {"name": "shades", "preprocessing": "zca" if zca else "standardise"},
            "precision": "fp32",
        },
        "source": {"name": "shades", "source": "shades", "revision": None, "license": "mit", "train_images": 60},
        "experts": {"count": 2},
        "command": "distillkit compress shades",
        "versions": {"torch": "2.11"},
        "hardware": "CPU",
        "wall_time_seconds": {"experts": 1.0},
    }


def recipe():
    return {
        "architecture": {"name": "convnet", "width": 4, "depth": 1, "norm": "instance"},
        "optimizer": {"name": "sgd", "momentum": 0.9, "weight_decay": 5e-4},
        "lr": 0.02,
        "schedule": {"epochs": 3, "lr_drop_epochs": [2], "lr_drop_factor": 0.1, "new_optimizer_at_drop": True},
        "batch_size": 256,
        "augmentation": {"name": "dsa", "strategy": "color_crop"},
    }


def results():
    return {
        "architectures": {"convnet": dict(ROW)},
        "baselines": {name: dict(ROW) for name in ("random", "kmeans", "full")},
        "uint8": dict(ROW),
        "selection": {"split": "the validation split", "step": 50, "outer_steps": 100},
    }


def write_small(folder, classes=("dark", "bright"), ipc=1, shape=(1, 4, 4), *, dtype="float32", zca=False, soft=False):
    generator = torch.Generator().manual_seed(0)
    count, size = len(classes) * ipc, shape[0] * shape[1] * shape[2]
    ids = torch.arange(len(classes)).repeat_interleave(ipc)
    labels = torch.eye(len(classes))[ids]
    if soft:
        labels = torch.randn(labels.shape, generator=generator).softmax(1)
    images = torch.randn(count, *shape, generator=generator)
    ones = torch.ones(shape[0], dtype=torch.float64)
    preprocess = (
        Whiten(torch.zeros(size).double(), torch.eye(size).double()) if zca else Standardise(ones / 2, ones / 4)
    )
    synthetic = SyntheticSet(images, labels, ids, 0.02)
    about = config(list(classes), ipc, shape, zca=zca)
    write_artifact(folder, ArtifactContent(synthetic, preprocess, tuple(classes), about, recipe(), results(), dtype))
    return folder
