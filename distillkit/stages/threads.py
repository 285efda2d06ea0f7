"""How many threads of a CPU a run computes with: by the size of its steps.

The threads of a tiny step wait for each other longer than they compute, the more so on cores that other work keeps
busy. Besides, the command line has them sleep soon instead of waiting in circles, which costs a busy machine up to
eight times the time of one thread (examples/benchmarks/results/threads.md).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distillkit.environment import usable_cores
from distillkit.stages.checks import needs_experts
from distillkit.stages.context import Prepared, Run

THREADS_FROM_FLOP = 2e8
"""Of a training step, from which two threads are 1.4 times as fast as one on a quiet machine, and at worst 0.7 times on
a busy one."""


def sample_flop(model: nn.Module, image_shape: tuple[int, int, int]) -> float:
    """Floating point operations of a forward pass of one image [C, H, W]."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(2, *image_shape))
    return float(counter.get_total_flops()) / 2


@contextmanager
def settled_threads(run: Run, prepared: Prepared) -> Iterator[None]:
    """Meanwhile, as many threads as ``threads`` asks for; else as OMP_NUM_THREADS says, up to the cores that there are
    for it; else one for small steps and one for each core for large ones; in every process of the run as many as in the
    first. Nothing changes on a GPU.
    """
    if run.device.type != "cpu":
        yield
        return
    with _at_most(run.settings.threads, lambda: _largest_step(run, prepared)):
        torch.set_num_threads(run.world.decided(torch.get_num_threads))
        yield


@contextmanager
def threads_for(
    model: nn.Module, image_shape: tuple[int, int, int], batch: int, device: torch.device
) -> Iterator[None]:
    """Meanwhile, as many threads as training steps of ``batch`` images [C, H, W] want, unless OMP_NUM_THREADS says how
    many. Nothing changes on a GPU.
    """
    if device.type != "cpu":
        yield
        return
    with _at_most(None, lambda: 3 * batch * sample_flop(model, image_shape)):
        yield


@contextmanager
def _at_most(asked: int | None, flop_of_a_step: Callable[[], float]) -> Iterator[None]:
    """As many as were ``asked`` for, else as the environment says, else as a step wants of those that there are now;
    unless they were asked for, no more than the cores that the process may use. Afterwards as many as before.
    """
    before = torch.get_num_threads()
    try:
        if asked is not None:
            torch.set_num_threads(asked)
        else:  # threads that share a core wait for each other in circles: an epoch took six times as long
            most = min(before, usable_cores())
            told = "OMP_NUM_THREADS" in os.environ
            torch.set_num_threads(most if told else fitting_threads(flop_of_a_step(), most))
        yield
    finally:
        torch.set_num_threads(before)


def fitting_threads(flop: float, cores: int) -> int:
    """For a training step of so many operations."""
    return cores if flop >= THREADS_FROM_FLOP else 1


def _largest_step(run: Run, prepared: Prepared) -> float:
    """Operations of the largest training step of the run: on the synthetic set, or of an expert."""
    settings, size = run.settings, run.settings.ipc * prepared.num_classes
    batches = [min(size, settings.distill.batch_size or size), min(size, settings.evaluate.batch_size)]
    if needs_experts(settings):
        batches.append(min(len(prepared.train_labels), settings.experts.batch_size))
    model = prepared.build(prepared.network, 0, "threads")(0)
    return 3 * max(batches) * sample_flop(model, prepared.image_shape)
