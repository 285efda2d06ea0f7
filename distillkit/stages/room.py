"""What a run needs of a machine's memory, told before it is asked for: a system ends a process that asks too much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from distillkit import storage
from distillkit.distill.inner_optimizers import inner_optimizer
from distillkit.distill.labels import label_part
from distillkit.distill.objectives import needs
from distillkit.distill.step_functions import EagerFunctions, InnerLoss, Wanted, trace_bytes
from distillkit.errors import ConfigError
from distillkit.memory import memory, peak_bytes
from distillkit.networks.functional import FlatNetwork
from distillkit.settings import DistillSettings
from distillkit.stages.architectures import student_pool
from distillkit.stages.context import Prepared, Run
from distillkit.stages.engine_trials import DEFAULT_KEPT
from distillkit.stages.experts import expert_bytes

PROBE_INNER_STEPS = 2
"""Steps of a student in an outer step that is timed."""
FEW = 4
"""Images on which a step is measured."""
TIMES_ITS_GRAPH = 2.5
"""Of a step, its peak in units of what its graph holds: 1.9 to 3.0 in ConvNets on digits without kept graphs."""


def largest_student(run: Run, prepared: Prepared) -> nn.Module:
    """The network of most parameters among those that students take turns in."""
    students = [prepared.build(network, 0, "room")(0) for network in student_pool(run, prepared)]
    return max(students, key=lambda student: sum(p.numel() for p in student.parameters()))


def graph_bytes(run: Run, prepared: Prepared) -> int:
    """What the graph of a student's step on its batch holds, from a step on a few images; 0 where none is unrolled."""
    settings = run.settings.distill
    if not settings.outer_steps or settings.objective != "unroll":
        return 0
    size = run.settings.ipc * prepared.num_classes
    batch = min(settings.batch_size or size, size)
    part, count = label_part(settings), min(FEW, batch)
    network = FlatNetwork(largest_student(run, prepared).to(run.device))
    seen = prepared.train_images[torch.zeros(count, dtype=torch.int64, device=run.device)]
    logits = torch.zeros(1, count, prepared.num_classes)
    labels = part.initial(torch.zeros(count, dtype=torch.int64), prepared.num_classes, logits).to(run.device)
    functions = EagerFunctions(InnerLoss(network, part))
    return trace_bytes(functions, network.size, seen, labels, Wanted(part.learned, True)) * batch // count


def check_step_fits(run: Run, prepared: Prepared, *, now: bool = False) -> None:
    """Does a step of a student fit into the memory that there is, or that is free ``now``?

    Raises:
        ConfigError: no.
    """
    total, free = memory(run.device)
    room = free if now else total
    if room is None:
        return
    wanted = int(graph_bytes(run, prepared) * TIMES_ITS_GRAPH)
    if wanted <= room:
        return
    size = run.settings.ipc * prepared.num_classes
    batch = min(run.settings.distill.batch_size or size, size)
    raise ConfigError(
        f"a student's step on {batch} images needs about {wanted / 2**30:.1f} GiB of memory, there are "
        f"{room / 2**30:.1f}{' free' if now else ''}; `distill.batch_size={max(1, batch * room // wanted // 2)}`, "
        "a narrower network.width or smaller images need less"
    )


def _path_bytes(settings: DistillSettings, parameters: int) -> int:
    """What students keep of their steps: parameters, and what their optimiser remembers."""
    if not settings.outer_steps or settings.objective != "unroll":
        return 0
    vectors = 1 + inner_optimizer(settings).remembered
    return settings.segments * (settings.inner_steps + 1) * vectors * parameters * 4


def _kept_bytes(run: Run, prepared: Prepared) -> int:
    """What graphs that are kept fill in the run beyond what they did in the probe, on a CPU."""
    distill = run.settings.distill
    if run.device.type != "cpu" or not distill.outer_steps or distill.objective != "unroll":
        return 0
    kept = (DEFAULT_KEPT if distill.keep_gib is None else distill.keep_gib) * 2**30
    not_in_probe = 1 - min(PROBE_INNER_STEPS, distill.inner_steps) / distill.inner_steps
    return int(min(kept, graph_bytes(run, prepared) * distill.inner_steps) * not_in_probe)


def sizes(run: Run, prepared: Prepared, missing: Mapping[int, int], decoding: int) -> dict[str, Any]:
    """Parameters, disk and memory of a run, with notes for people, after its steps were tried.

    Args:
        run: whose.
        prepared: data.
        missing: of the experts to train, by number, how many epochs.
        decoding: bytes of images that are to be decoded.
    """
    settings = run.settings
    parameters = sum(p.numel() for p in largest_student(run, prepared).parameters())
    experts = expert_bytes(run, prepared, missing)
    disk, free = experts + decoding, storage.free_bytes(storage.cache_root())
    path = _path_bytes(settings.distill, parameters) + _kept_bytes(run, prepared)
    total, _ = memory(run.device)
    peak = peak_bytes(run.device)
    data = prepared.data
    of_disk = f", more than the {free / 1e9:.1f} GB that are left" if disk > free else f" of {free / 1e9:.1f} GB left"
    too_much = total is not None and peak + path > total
    of_memory = "" if total is None else f"{', more than the' if too_much else ' of'} {total / 2**30:.1f} GiB there are"
    return {
        "parameters": parameters,
        "disk_bytes": disk,
        "disk_free_bytes": free,
        "memory_bytes": peak + path,
        "notes": [
            f"data:    {len(data.train)} training, {len(data.validation)} validation, {len(data.test)} test images",
            f"network: {prepared.network.name}, {parameters:,} parameters",
            f"disk:    {disk / 1e6:.1f} MB to add{of_disk}: experts to train ({len(missing)}) {experts / 1e6:.1f} MB, "
            f"decoded images {decoding / 1e6:.1f} MB",
            f"memory:  about {(peak + path) / 2**30:.1f} GiB{of_memory} (the peak of the probe steps, and what a "
            "student keeps of its steps)",
            "time is measured with a few steps on this machine"
            + ("; the ranking of the images is not in it" if "ranking" in needs(settings.distill) else ""),
        ],
    }
