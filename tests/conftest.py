"""Shared fixtures: an own cache folder, one thread, tiny image folders."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of child processes; two spinning ones on shared cores take ages

os.environ["_TYPER_FORCE_DISABLE_TERMINAL"] = "1"  # which it takes where GITHUB_ACTIONS is set
os.environ.pop("FORCE_COLOR", None)

import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from distillkit import plots
from tests.helpers import TINY, sketch
from tests.hub_stand_in import StandIn


def pytest_collection_modifyitems(items):
    """Long ones first: the last one would run alone while other processes wait."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test sees the user's cache, or another test's."""
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


@pytest.fixture
def hangup():
    """SIGHUP as a terminal has it, also where pytest was begun by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture(autouse=True)
def sketched(request, monkeypatch):
    """A figure is a small picture whose comment says what its lines are: drawing text takes longer than a tiny run.
    Tests that are marked ``drawn``, and other processes, draw.
    """
    if request.node.get_closest_marker("drawn") is None:
        monkeypatch.setattr(plots, "_png", sketch)


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


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The folder of a tiny artifact (digits, two images per class); not to be changed, see ``copy``."""
    from distillkit import compress

    folder = tmp_path_factory.mktemp("artifact")
    before = os.environ.get("DISTILLKIT_CACHE")
    os.environ["DISTILLKIT_CACHE"] = str(folder / "cache")
    words = "distillkit compress digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "_png", sketch)
        compress("digits", ipc=2, preset="smoke", settings=TINY, out=folder / "set", device="cpu", command=words)
    os.environ["DISTILLKIT_CACHE"] = before or str(folder / "cache")
    return folder / "set"


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the tiny artifact that a test may damage."""
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in Hub that the real client of this process talks to, with an empty cache and a token that may write."""
    from huggingface_hub import constants

    from distillkit.hub import client

    with StandIn() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(client, "RETRY_SECONDS", (0.0, 0.0, 0.0, 0.0))
        monkeypatch.setenv("HF_TOKEN", "write-token")
        yield server


@pytest.fixture
def tiny():
    """Settings of a run of a second or two."""
    return dict(TINY)
