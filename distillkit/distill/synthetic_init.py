"""Initial synthetic images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distillkit import rng
from distillkit.data.coresets import select_coreset
from distillkit.data.inputs import Inputs
from distillkit.errors import ConfigError
from distillkit.parts import Part, Seam

LOGITS, NOISE, ARTIFACT = "kmeans-logits", "noise", "artifact"
"""The part that clusters logits, and those that choose no training images."""
AskExpert = Callable[[int, Tensor | None, Callable[[Tensor], Tensor]], Tensor]
"""Of the logits that the last point of an expert gives the un-augmented training images at indices [m] (None: all) what
a function of so many of them wants, [B, K] to [B, ...]: [m, ...]."""


def whole(logits: Tensor) -> Tensor:
    """Logits as they are."""
    return logits


def largest(logits: Tensor) -> Tensor:
    """Of logits [B, K] the class [B]."""
    return logits.argmax(1)


@dataclass(frozen=True)
class RealData:
    """Real training images as network inputs, ``images`` float [n, C, H, W], ``labels`` int64 [n], K classes.

    ``experts``: numbers of those that parts can ``ask``.
    """

    images: Inputs
    labels: Tensor
    num_classes: int
    experts: tuple[int, ...] = ()
    ask: AskExpert | None = None

    def asker(self, part: str) -> AskExpert:
        """``ask``.

        Raises:
            ConfigError: there are no experts; ``part`` names who asks.
        """
        if self.ask is None:
            raise ConfigError(f"{part} needs an expert, and this method trains none")
        return self.ask


InitPart = Callable[[RealData, int, int], Tensor]
"""Indices int64 [S] of the chosen training images, class by class; of data, ipc and seed."""


def _real(data: RealData, ipc: int, seed: int) -> Tensor:
    """Random training images (the released default since March 2022)."""
    return select_coreset("random", data.images, data.labels, data.num_classes, ipc, seed)


def _kmeans(data: RealData, ipc: int, seed: int) -> Tensor:
    """Training images nearest to class-wise centroids in input space."""
    return select_coreset("kmeans", data.images, data.labels, data.num_classes, ipc, seed)


def _representative(data: RealData, ipc: int, seed: int) -> Tensor:
    """AST: per class, k-means with k = ipc on a random expert's logits of the images; nearest to each centroid.

    The authors' latest commit has ten clusters for every ipc and returns nothing below ten; this is that of May 2023.
    """
    logits = data.asker("distill.init=kmeans-logits")(data.experts[0], None, whole)
    return select_coreset("kmeans", logits, data.labels, data.num_classes, ipc, seed)


def experts_asked(name: str, count: int, seed: int, others: tuple[int, ...]) -> tuple[int, ...]:
    """The experts, of ``count``, that the part ``name`` asks: of logits a random one, else the first, or all that are
    trained to the end anyway for ``others``, the initial labels.
    """
    if name == LOGITS:
        return (int(torch.randint(count, (1,), generator=rng.generator(seed, "distill", "init expert"))),)
    return others or (0,)


def _correct(data: RealData, ipc: int, seed: int) -> Tensor:
    """DATM: per class the first ipc images, in random order, that expert 0 classifies correctly.

    Where it gets too few right, those that the next expert gets right follow, if there is one to be asked, and so on;
    then whatever is left.
    """
    ask, labels = data.asker("distill.init=correct"), data.labels.cpu()
    chosen: list[list[int]] = [[] for _ in range(data.num_classes)]
    for expert in data.experts:
        right = ask(expert, None, largest) == labels
        for class_id, taken in enumerate(chosen):
            order = _random_order(labels, class_id, seed)
            taken += [index for index in order[right[order]].tolist() if index not in taken][: ipc - len(taken)]
        if all(len(taken) == ipc for taken in chosen):
            break
    for class_id, taken in enumerate(chosen):
        order = _random_order(labels, class_id, seed)
        if len(order) < ipc:
            raise ConfigError(f"class {class_id} has {len(order)} training images, fewer than `ipc={ipc}`")
        taken += [index for index in order.tolist() if index not in taken][: ipc - len(taken)]
    return torch.tensor([index for taken in chosen for index in taken])


def _random_order(labels: Tensor, class_id: int, seed: int) -> Tensor:
    members = torch.nonzero(labels == class_id).flatten()
    return members[torch.randperm(len(members), generator=rng.generator(seed, "distill", "init correct", class_id))]


def unit_noise(data: RealData, ipc: int, seed: int) -> Tensor:
    """Pixels from N(0, 1), every image scaled to unit L2 norm (RaT-BPTT): [S, C, H, W], from no real image."""
    shape = (data.num_classes * ipc, *data.images.shape[1:])
    noise = torch.randn(shape, generator=rng.generator(seed, "distill", "init noise"))
    lengths: Tensor = noise.flatten(1).norm(dim=1)
    return noise / lengths.view(-1, 1, 1, 1)


INITS: Seam[Part[InitPart | None]] = Seam(
    "distill.init",
    {
        "real": Part(_real),
        "kmeans": Part(_kmeans),
        LOGITS: Part(_representative, needs=frozenset({"opinion"})),
        "correct": Part(_correct, needs=frozenset({"opinion"})),
        NOISE: Part(None),
        ARTIFACT: Part(None, reads=("distill.init_from",)),
    },
)


def check_init(name: str) -> None:
    """Is there such a part?

    Raises:
        ConfigError: no.
    """
    INITS.named(name)


@dataclass(frozen=True)
class InitialImages:
    """S = K * ipc images, class by class: ``images`` [S, C, H, W] on the CPU, copies; ``class_ids`` int64 [S] and, of
    real ones, ``indices`` into the training images, int64 [S].
    """

    images: Tensor
    class_ids: Tensor
    indices: Tensor | None


def initial_images(name: str, data: RealData, ipc: int, seed: int) -> InitialImages:
    """The images that the part ``name`` chooses.

    Raises:
        ConfigError: the part ``name`` is unknown, or a class has fewer than ``ipc`` images.
    """
    choose = INITS.named(name).build
    assert name != ARTIFACT, "the stage reads it"
    class_ids = torch.arange(data.num_classes).repeat_interleave(ipc)
    if choose is None:
        return InitialImages(unit_noise(data, ipc, seed), class_ids, None)
    indices = choose(data, ipc, seed)
    return InitialImages(data.images[indices.to(data.images.device)].cpu().clone(), class_ids, indices)
