"""Optional experiment trackers; metrics.jsonl is written whether or not one is used."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Protocol

from distillkit.errors import ConfigError


class Tracker(Protocol):
    """Receives numbers as they are made."""

    def log(self, values: dict[str, float], step: int) -> None:
        """The ``values`` of outer step ``step``."""

    def close(self) -> None:
        """The run is over."""


class NoTracker:
    """Drops everything."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Ignored."""

    def close(self) -> None:
        """Nothing to do."""


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(project="distillkit", dir=str(folder), config=config)

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def check_tracker(name: str | None) -> None:
    """Before a run: is the tracker known and its package there?

    Raises:
        ConfigError: no.
    """
    if name is None:
        return
    if name not in ("tensorboard", "wandb"):
        raise ConfigError(f"`tracker` {name!r} is unknown; known: tensorboard, wandb")
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"`tracker={name}` needs the package {name}: pip install {name}")


def open_tracker(name: str | None, folder: Path, config: dict[str, Any]) -> Tracker:
    """``tensorboard``, ``wandb`` or, for None, nothing.

    Raises:
        ConfigError: unknown, or its package is not installed.
    """
    check_tracker(name)
    if name is None:
        return NoTracker()
    return _TensorBoard(folder / "tensorboard") if name == "tensorboard" else _Wandb(folder, config)
