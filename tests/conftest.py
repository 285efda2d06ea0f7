"""Shared fixtures: an own cache folder, one thread, tiny image folders."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test sees the user's cache, or another test's."""
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks gain nothing from threads, and lose much where cores are shared."""
    torch.set_num_threads(1)


@pytest.fixture
def class_folders(tmp_path):
    """A maker of folders of class folders: ``make({"cat": 6, "dog": 8}, size=(12, 10))``."""

    def make(counts, *, size=(12, 12), mode="RGB", root="images", suffix="png"):
        generator = np.random.default_rng(0)
        folder = tmp_path / root
        for label, (name, count) in enumerate(counts.items()):
            (folder / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = generator.integers(0, 60, (size[1], size[0], 3)) + 120 * (label % 2)
                image = Image.fromarray(pixels.astype(np.uint8)).convert(mode)
                image.save(folder / name / f"{index:03d}.{suffix}")
        return folder

    return make


TINY = {
    "dataset.max_train": 200,
    "network.width": 4,
    "experts.count": 2,
    "experts.epochs": 3,
    "distill.outer_steps": 4,
    "distill.inner_steps": 2,
    "distill.expert_epochs": 1,
    "distill.max_start_epoch": 2,
    "distill.select_every": 2,
    "distill.checkpoint_every": 1,
    "distill.picture_every": 2,
    "evaluate.networks": 2,
    "evaluate.epochs": 3,
    "evaluate.full_epochs": 1,
}


@pytest.fixture
def tiny():
    """Settings of a run of a second or two."""
    return dict(TINY)
