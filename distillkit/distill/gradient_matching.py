"""The objective of DSA: gradients of the loss on synthetic and on real images of a class should point the same way.

DC (Zhao et al., ICLR 2021, arXiv:2006.05929) with DSA's augmentation (Zhao and Bilen, ICML 2021, arXiv:2102.08259):

    L = Σ_c D(∇_θ ℓ(θ; A(X_c)), ∇_θ ℓ(θ; A(R_c))),   D(g, h) = Σ_tensors Σ_rows (1 - g_rᵀh_r / (|g_r| |h_r| + 1e-6))

with ipc synthetic images X_c and n real images R_c of class c, and the same augmentation A for both. A row is what goes
into one output of a layer; vectors (biases, normalisation) are left out, as in the released code. The network θ is
fresh every ``restart_every`` outer steps, and is trained on the set between two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from distillkit import rng
from distillkit.data.augment import Augmentation
from distillkit.distill.inner_steps import plan_inner_steps, to_device
from distillkit.distill.joined_students import average
from distillkit.distill.labels import LabelPart
from distillkit.distill.objective import Engine, Work
from distillkit.distill.real import ClassBatches, siamese
from distillkit.distill.state import OuterState
from distillkit.distill.step_functions import Wanted
from distillkit.distill.unroll import Hypergradient, Unroll
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.parts import Part, Seam
from distillkit.settings import DistillSettings
from distillkit.training.batches import batch_sizes

GUARD = 1e-6
"""Added to the product of two norms, as released."""


def layerwise_distance(
    network: FlatNetwork, synthetic_P: Tensor, real_P: Tensor, kept_P: Tensor | None = None
) -> Tensor:
    """D of two gradients [P], a scalar; differentiable in ``synthetic_P``.

    Args:
        network: tells the tensors.
        synthetic_P: gradient on synthetic images.
        real_P: gradient on real images.
        kept_P: bool [P], entries that count (PAD's masks); rows without any count for nothing. Default all.
    """
    total = synthetic_P.new_zeros(())
    masks = [None] * len(network.shapes) if kept_P is None else network.split(kept_P)
    for g, h, kept in zip(network.split(synthetic_P), network.split(real_P), masks, strict=True):
        if g.dim() == 1:
            continue
        g, h = g.flatten(1), h.flatten(1)
        if kept is not None:
            rows = kept.flatten(1)
            g, h = (torch.where(rows, side, 0) for side in (g, h))
        distances = 1 - (g * h).sum(1) / (g.norm(dim=1) * h.norm(dim=1) + GUARD)
        # rows are not chosen but multiplied by 0: their number would be asked of a GPU, and the host would wait
        total = total + (distances if kept is None else distances * rows.any(1)).sum()
    return total


KeptEntries = Callable[[Tensor, Tensor, float], Tensor | None]
"""Of a synthetic and a real gradient [P] and a ratio, the entries that count, bool [P], or None for all."""


def deep_entries(synthetic_P: Tensor, real_P: Tensor, ratio: float) -> Tensor:
    """PAD: without the first floor(ratio * P) entries, those of shallow layers."""
    return torch.arange(len(real_P), device=real_P.device) >= int(ratio * len(real_P))


def different_entries(synthetic_P: Tensor, real_P: Tensor, ratio: float) -> Tensor:
    """PAD's released mask: without the floor(ratio * P) entries of the smallest squared difference."""
    order = (synthetic_P.detach() - real_P).square().argsort(stable=True)
    kept = torch.ones_like(real_P, dtype=torch.bool)
    kept[order[: int(ratio * len(real_P))]] = False
    return kept


GRADIENT_MASKS: Seam[Part[KeptEntries]] = Seam(
    "distill.mask",
    {
        "none": Part(lambda synthetic_P, real_P, ratio: None),
        "depth": Part(deep_entries, reads=("distill.mask_ratio",)),
        "loss": Part(different_entries, reads=("distill.mask_ratio",)),
    },
)


@dataclass(frozen=True)
class GradientMatching:
    """``build`` makes a network by number; ``real`` gives images of a class; both sides are augmented alike."""

    settings: DistillSettings
    engine: Engine
    build: Callable[[int], nn.Module]
    real: ClassBatches
    labels: LabelPart
    augmentation: Augmentation | None
    seed: int

    def gradient(self, state: OuterState, numbers: Sequence[int]) -> Hypergradient:
        """One network after the other."""
        return average([self._of(state, number % self.settings.segments, number) for number in numbers])

    def work(self, size: int) -> Work:
        """A gradient of each class."""
        classes = self.real.real.num_classes
        return Work(max(1, size // classes), classes, 1, self.settings.real_per_class, theta=False)

    def run_by(self, engine: Engine) -> GradientMatching:
        """Computed by ``engine``."""
        return replace(self, engine=engine)

    def _of(self, state: OuterState, place: int, number: int) -> Hypergradient:
        theta = self._theta(state, place, number)
        lr = torch.zeros((), dtype=theta.dtype, device=theta.device)
        total, images, labels = lr.clone(), torch.zeros_like(state.images), torch.zeros_like(state.labels)
        for class_id in range(self.real.real.num_classes):
            own = torch.nonzero(state.class_ids == class_id).flatten().to(images.device)
            loss, images_bar, labels_bar = self._of_class(state, theta, own, class_id, number)
            total = total + loss
            images[own] = images_bar
            if labels_bar is not None:
                labels[own] = labels_bar
        return Hypergradient(total, images, labels if self.labels.learned else None, lr, theta[None])

    def _theta(self, state: OuterState, place: int, number: int) -> Tensor:
        """The network of this step: a fresh one, or that of the last step after some training on the set."""
        settings, device = self.settings, state.images.device
        if state.step % settings.restart_every == 0 or state.carried is None:
            return flatten_parameters(self.build(number)).to(device)
        batch = min(settings.batch_size or len(state.images), len(state.images))
        channels, height, width = (int(size) for size in state.images.shape[1:])
        steps = plan_inner_steps(
            settings.network_epochs * len(batch_sizes(len(state.images), batch)),
            len(state.images),
            settings.batch_size,
            (channels, height, width),
            self.augmentation,
            rng.generator(self.seed, "distill", "network", number),
        )
        lr = torch.tensor(settings.network_lr, dtype=state.carried.dtype, device=device)
        unroll = Unroll(self.engine.inner, to_device(steps, device), at_once=state.images.is_cuda)
        return unroll.arrive(state.carried[place], state.images, state.labels, lr)[0]

    def _of_class(
        self, state: OuterState, theta: Tensor, own: Tensor, class_id: int, number: int
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The loss of one class, and its derivatives in the images [ipc, C, H, W] and labels of the class."""
        seen_by_both = siamese(self.augmentation, state.images, self.seed, number, class_id)
        real = self.real.images(number, class_id)
        wanted_label = torch.zeros(len(real), self.real.real.num_classes, dtype=real.dtype, device=real.device)
        wanted_label[:, class_id] = 1
        target = self.engine.real.gradient(theta, seen_by_both(real), wanted_label).clone()
        batch = state.images[own].detach().requires_grad_()
        seen = seen_by_both(batch)
        wanted = Wanted(labels=self.labels.learned, theta=False)
        trace = self.engine.inner.trace(theta, seen, state.labels[own], wanted) if self.engine.kept else None
        found = self.engine.inner.gradient(theta, seen, state.labels[own]) if trace is None else trace.gradient
        loss, direction = self._distance(found, target)
        if trace is None:
            s = self.engine.inner.adjoint(theta, seen.detach(), state.labels[own], direction, wanted)
        else:
            s = trace.adjoint(direction, wanted)
        images_bar = s.images if seen is batch else torch.autograd.grad(seen, batch, s.images)[0]
        return loss, images_bar, s.labels

    def _distance(self, synthetic_P: Tensor, real_P: Tensor) -> tuple[Tensor, Tensor]:
        """D, and its derivative in the synthetic gradient [P]."""
        mask = GRADIENT_MASKS.chosen(self.settings).build
        leaf = synthetic_P.detach().requires_grad_()
        kept = mask(leaf, real_P, self.settings.mask_ratio)
        loss = layerwise_distance(self.engine.network, leaf, real_P, kept)
        return loss.detach(), torch.autograd.grad(loss, leaf)[0]
