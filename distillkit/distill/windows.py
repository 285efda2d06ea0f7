"""Window parts: which of a student's steps are differentiated.

A student takes T steps from a fresh network; L is its loss after step s + W, and only the last W of these steps are
differentiated (truncated back-propagation through time). Where windows lie is the part.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from distillkit import rng
from distillkit.errors import ConfigError
from distillkit.parts import Part, Seam
from distillkit.settings import DistillSettings

Window = Callable[[int], int]
"""Of an outer step, s: the steps that are taken before the window. All students of a step share it."""


def random_window(settings: DistillSettings, seed: int) -> Window:
    """The prefix is uniform on 0 .. T - W, both included, drawn for every step (RaT-BPTT, arXiv:2311.01570, 4.1)."""
    longest = horizon(settings) - settings.inner_steps

    def skipped(step: int) -> int:
        return int(torch.randint(longest + 1, (1,), generator=rng.generator(seed, "distill", "window", step)))

    return skipped


def last_window(settings: DistillSettings, seed: int) -> Window:
    """The prefix is s = T - W, always: the end of the student's training (truncated BPTT; RaT's fixed windows)."""
    return lambda step: horizon(settings) - settings.inner_steps


WINDOWS: Seam[Part[Callable[[DistillSettings, int], Window]]] = Seam(
    "distill.window", {"random": Part(random_window), "last": Part(last_window)}
)


def horizon(settings: DistillSettings) -> int:
    """T; where it is not given, as long as the window.

    Raises:
        ConfigError: it is shorter than the window.
    """
    steps = settings.inner_steps if settings.horizon is None else settings.horizon
    if steps < settings.inner_steps:
        raise ConfigError(
            f"distill.horizon={steps} is shorter than the window, distill.inner_steps={settings.inner_steps}"
        )
    return steps


def mean_prefix_steps(settings: DistillSettings) -> float:
    """Steps before the window, on average; 0 for students that begin at experts."""
    if settings.start != "fresh":
        return 0.0
    longest = horizon(settings) - settings.inner_steps
    return longest if settings.window == "last" else longest / 2


def window_part(settings: DistillSettings, seed: int) -> Window:
    """The part that ``settings.window`` names.

    Raises:
        ConfigError: unknown, or the window is longer than the student's training.
    """
    horizon(settings)
    return WINDOWS.chosen(settings).build(settings, seed)
