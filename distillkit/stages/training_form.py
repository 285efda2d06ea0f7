"""How many networks are trained at a time, and whether by a compiled step: by settings, device and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from distillkit.experts.recipe import expert_recipe
from distillkit.precision import in_precision
from distillkit.stages.context import Prepared, Run
from distillkit.stages.expert_precision import expert_precision
from distillkit.training.recipe import Batch, Recipe
from distillkit.training.stack import Stack, TrainingForm, stackable

COMPILE_FROM_STEPS = 3000
"""Training steps from which compiling pays on a GPU, where small kernels wait for the host."""
COMPILE_FROM_STEPS_OF_AN_EPOCH = 30
"""The same on a CPU in bfloat16, which is a bargain compiled and a burden otherwise: by the steps of one epoch."""
MOST_TOGETHER = 32
SNAPSHOT_BYTES = 4 * 2**30
PROBED = 2
MEMORY_SHARE = 0.8
"""Of a GPU's free memory, what experts side by side may fill."""


def evaluation_form(run: Run, recipe: Recipe, images: int, count: int) -> TrainingForm:
    """Of ``count`` fresh networks that learn from ``images`` images each."""
    settings = run.settings.evaluate
    return fresh_networks(
        run.device, recipe, images, count, settings.together, settings.compile, run.progress.note, run.world.size
    )


def fresh_networks(
    device: torch.device,
    recipe: Recipe,
    images: int,
    count: int,
    together: int | None = None,
    compiling: str = "auto",
    note: Callable[[str], None] = lambda message: None,
    processes: int = 1,
) -> TrainingForm:
    """By default on a GPU all of a process together, compiled where there are many steps, and on a CPU one by one.

    There a set of a few images is bound by launches, here by arithmetic, and compiling costs more than it saves.
    """
    gpu = device.type == "cuda"
    size = min(together or (-(-count // processes) if gpu else 1), count)
    steps = recipe.epochs * -(-images // recipe.batch_size) * -(-count // size)
    pays = gpu and steps >= COMPILE_FROM_STEPS
    return TrainingForm(size, compiling == "always" or (compiling == "auto" and pays), note, compiling == "always")


def expert_form(run: Run, prepared: Prepared, missing: int, epochs: int) -> TrainingForm:
    """Of the experts that are missing, of so many epochs: on a GPU as many together as its free memory holds, on a CPU
    one by one.

    Compiled on a GPU where there are many steps, and on a CPU in bfloat16, which pays compiled alone.
    """
    settings, gpu = run.settings.experts, run.device.type == "cuda"
    module = prepared.build(prepared.network, 0, "form")(0)
    if not stackable(module):
        return TrainingForm()
    each = -(-missing // run.world.size)
    size = settings.together or (min(MOST_TOGETHER, _kept(module, epochs), _fitting(run, prepared), each) if gpu else 1)
    size = min(size, missing)
    pays = compiling_experts_pays(run, prepared, epochs * -(-missing // size) if gpu else 1)
    compiled = settings.compile == "always" or (settings.compile == "auto" and pays)
    return TrainingForm(size, compiled, run.progress.note, settings.compile == "always")


def compiling_experts_pays(run: Run, prepared: Prepared, epochs: int) -> bool:
    """Whether compiling the experts' step pays over so many epochs; on a CPU it is decided by one epoch alone, since
    an expert's bytes depend on it and must not depend on how many epochs are wanted.
    """
    steps = epochs * -(-len(prepared.train_labels) // run.settings.experts.batch_size)
    if run.device.type == "cpu":
        return expert_precision(run, prepared) == "bf16" and steps >= COMPILE_FROM_STEPS_OF_AN_EPOCH
    return steps >= COMPILE_FROM_STEPS


def _kept(module: nn.Module, epochs: int) -> int:
    """Experts whose snapshots fit into the host's memory while they are in training."""
    each = 4 * sum(p.numel() for p in module.parameters()) * (epochs + 1)
    return max(1, int(SNAPSHOT_BYTES / each))


def _fitting(run: Run, prepared: Prepared) -> int:
    """Experts whose training step fits into the free memory of the GPU: what one needs, and what a second one adds."""
    peaks: list[int] = []
    for count in (1, PROBED):
        try:
            peaks.append(_peak(run, prepared, count))
        except torch.OutOfMemoryError:
            break
        finally:
            torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(run.device)
    return fitting_size(peaks, MEMORY_SHARE * free)


def fitting_size(peaks: Sequence[int], free: float) -> int:
    """Networks that fit into ``free`` bytes side by side; ``peaks``: the bytes of one, and of two where two fitted."""
    if len(peaks) < PROBED:
        return 1
    each = max(1, peaks[1] - peaks[0])
    return max(1, 1 + int((free - peaks[0]) / each))


def _peak(run: Run, prepared: Prepared, count: int) -> int:
    """Bytes at the peak of a training step of ``count`` experts side by side."""
    recipe = expert_recipe(run.settings.experts.model_copy(update={"order": "shuffle"}), None)
    build = prepared.build(prepared.network, 0, "form")
    models = [in_precision(build(index), expert_precision(run, prepared)).to(run.device) for index in range(count)]
    size = run.settings.experts.batch_size
    images, labels = (torch.stack([part[:size]] * count) for part in (prepared.train_images, prepared.train_labels))
    torch.cuda.reset_peak_memory_stats(run.device)
    before = torch.cuda.memory_allocated(run.device)
    stack = Stack(models, recipe.loss, TrainingForm())
    stack.step(recipe.optimizer(stack.parameters, recipe.lr, stacked=True), Batch(images, images, labels), 1.0)
    return int(torch.cuda.max_memory_allocated(run.device) - before)
