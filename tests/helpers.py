"""What several test files use: tiny settings and runs, listeners, comparisons."""

import io
import json
import signal

import torch
from PIL import Image, PngImagePlugin

from distillkit import compress
from distillkit.config import compose
from distillkit.methods import SettingsLayer
from distillkit.progress import Silent
from distillkit.stages.context import make_run

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
    "distill.select_networks": 2,
    "distill.checkpoint_every": 1,
    "distill.picture_every": 2,
    "evaluate.networks": 2,
    "evaluate.epochs": 3,
    "evaluate.full_epochs": 1,
}
ARTIFACT = (
    "distilled.safetensors",
    "preprocess.safetensors",
    "recipe.json",
    "results.json",
    "curves.png",
    "preview.png",
)


def run(out, tiny, **more):
    """A tiny set of digits at ``out``."""
    settings = {**tiny, **more.pop("settings", {})}
    return compress("digits", ipc=1, preset="smoke", settings=settings, out=out, device="cpu", command="x", **more)


def sketch(figure):
    """PNG bytes that differ where the lines of two figures differ."""
    lines = [line.get_xydata().tolist() for axes in figure.axes for line in axes.lines]
    words, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    words.add_text("Comment", json.dumps(lines))
    Image.new("RGB", (4, 2)).save(buffer, format="png", pnginfo=words)
    return buffer.getvalue()


def made(tiny, **settings):
    """A run of digits by ``mtt``, of which nothing is made yet."""
    layers = [SettingsLayer("test", {**tiny, **settings})]
    return make_run(compose("digits", 1, "mtt", "smoke", "cpu", layers), torch.device("cpu"), Notes())


class StopAfter(Silent):
    """Asks for a stop after so many steps of all stages together."""

    def __init__(self, stop, steps):
        self.stop, self.left = stop, steps

    def advance(self, steps=1, **values):
        self.left -= max(steps, 1)
        if self.left <= 0:
            self.stop.signal = signal.SIGTERM


class Notes(Silent):
    """A listener that keeps what it is told."""

    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


class Watcher:
    """An observer of the outer loop that keeps what it sees, and gives candidates the accuracies that it was told."""

    def __init__(self, accuracies=None):
        self.records, self.selected, self.accuracies = [], [], accuracies or {}

    def select(self, synthetic, step):
        self.selected.append(step)
        return self.accuracies.get(step, 0.0)

    def on_step(self, record, state):
        self.records.append(record)

    def on_selection(self, accuracy, state):
        pass


def images(count=20):
    """Of digits' shape, numbers of a normal distribution."""
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def same_bytes(left, right):
    """Are these artifacts the same, but for their time?"""
    for name in ARTIFACT:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    configs = [json.loads((folder / "distill_config.json").read_text()) for folder in (left, right)]
    for config in configs:
        del config["wall_time_seconds"]
    assert configs[0] == configs[1]
