"""What can be wrong with a network on these images, found in the first seconds: before experts, before files go."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit.distill.matching import MATCHING
from distillkit.errors import ConfigError
from distillkit.networks.build import architecture_name, check_memory
from distillkit.networks.embedding import Embedding
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.networks.kinds import needs_several
from distillkit.settings import NetworkSettings
from distillkit.stages.architectures import all_networks, selecting_networks, student_pool, tuned_networks
from distillkit.stages.checks import needs_experts
from distillkit.stages.context import Prepared, Run
from distillkit.words import first_line

MISSING = re.compile(r"derivative for (\S+) is not implemented|the derivative of '?(\w+)'? is not implemented")
PROBED = 2


def check_networks(run: Run, prepared: Prepared) -> None:
    """``check_network`` of every network of the run; those that the finished set is to train must take the images.

    Raises:
        ConfigError: one cannot be used.
    """
    for network in all_networks(run, prepared):
        check_network(run, prepared, network)
    for network in tuned_networks(run, prepared):
        _built(run, prepared, network)


def check_network(run: Run, prepared: Prepared, network: NetworkSettings) -> None:
    """Does ``network`` fit into memory, can it be built for these images, does it give logits of them, can it be
    trained on batches of the sizes that the settings ask for, and, if students are of it, has it what the objective
    asks for: a second derivative, or a last layer that it names?

    Raises:
        ConfigError: no; the message names the setting or the operation.
    """
    check_memory(network, prepared.image_shape, prepared.num_classes, run.device)
    module = _built(run, prepared, network)
    _check_batches(run, prepared, network, module)
    if run.settings.distill.outer_steps == 0 or network not in student_pool(run, prepared):
        return
    if run.settings.distill.objective == "embeddings":
        Embedding(module)
    else:
        images, labels = prepared.train_images[:PROBED], prepared.train_labels[:PROBED]
        check_second_derivative(network.name, module, images, labels)


def check_second_derivative(name: str, module: nn.Module, images: Tensor, labels: Tensor) -> None:
    """Can a gradient of the network called ``name``, on images [B, C, H, W] and class ids [B], be differentiated again?

    Raises:
        ConfigError: no; the message names the operation.
    """
    theta, flat = flatten_parameters(module).requires_grad_(), FlatNetwork(module)
    seen = images.clone().requires_grad_()
    try:
        (gradient,) = torch.autograd.grad(F.cross_entropy(flat(theta, seen), labels), theta, create_graph=True)
        torch.autograd.grad(gradient.square().sum(), (theta, seen), allow_unused=True)
    except RuntimeError as error:
        found = MISSING.search(str(error))
        if found is None:
            raise ConfigError(f"network {name!r} cannot be distilled with: {first_line(error, 200)}") from error
        operation = next(group for group in found.groups() if group).removeprefix("aten::")
        raise ConfigError(
            f"network {name!r} cannot be distilled with: its {operation} has no second derivative; take convnet, a "
            "ResNet or another one, and train this one on the finished set"
        ) from error


def _built(run: Run, prepared: Prepared, network: NetworkSettings) -> nn.Module:
    try:
        module = prepared.build(network, 0, "probe")(0).to(run.device)
        with torch.no_grad():
            logits = module.eval()(prepared.train_images[:PROBED])
    except (RuntimeError, MemoryError, AssertionError) as error:
        what = "needs more memory than there is" if "alloc" in str(error).lower() else first_line(error, 200)
        raise ConfigError(f"network {network.name!r} cannot be used here: {what}") from error
    if logits.shape[1:] != (prepared.num_classes,):
        raise ConfigError(f"network {network.name!r} gives outputs of shape {tuple(logits.shape[1:])}")
    return module.train()


def _check_batches(run: Run, prepared: Prepared, network: NetworkSettings, module: nn.Module) -> None:
    single = next(_of_one_image(run, prepared, network), None)
    if single is not None and needs_several(module, prepared.image_shape):
        raise ConfigError(
            f"network {architecture_name(network)!r} has batch normalisation on a map of one pixel, which a batch of "
            f"one image gives no statistics, and {single}; take 2 or more, or another network"
        )


def _of_one_image(run: Run, prepared: Prepared, network: NetworkSettings) -> Iterator[str]:
    """The settings by which ``network`` would be trained on one image at a time."""
    settings = run.settings
    learns = settings.distill.outer_steps > 0
    measuring = (prepared.network, *(selecting_networks(run, prepared).values() if learns else ()))
    if network in measuring and settings.evaluate.batch_size == 1:
        yield "evaluate.batch_size=1"
    experts = settings.experts.source is None and needs_experts(settings)
    if network == prepared.network and experts and settings.experts.batch_size == 1:
        yield "experts.batch_size=1"
    if network in student_pool(run, prepared) and learns:
        yield from _students_of_one_image(run, prepared)


def _students_of_one_image(run: Run, prepared: Prepared) -> Iterator[str]:
    distill, own = run.settings.distill, run.settings.distill.objective
    names = ["batch_size"] if own != "embeddings" else []
    if own == "unroll":
        read = MATCHING.chosen(distill).reads
        names += [name for name in ("real_batch", "real_piece") if f"distill.{name}" in read]
    yield from (f"distill.{name}=1" for name in names if getattr(distill, name) == 1)
    if own == "gradients" and run.settings.ipc == 1:
        yield "distill.objective=gradients looks at one class at a time, of one image with `ipc=1`"
    if own == "gradients" and min(distill.real_per_class, *prepared.data.train.class_counts()) == 1:
        yield "distill.objective=gradients looks at one class at a time, of one real image"
