"""The objective of DM: synthetic and real images of a class should have the same mean embedding in random networks.

DM (Zhao and Bilen, WACV 2023, arXiv:2110.04181, Eq. 4), with ψ what a fresh network computes before its last layer and
the same augmentation A for both sides:

    L = Σ_c | mean ψ(A(X_c)) - mean ψ(A(R_c)) |²
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.func import grad_and_value

from distillkit.data.augment import Augmentation
from distillkit.distill.joined_students import average
from distillkit.distill.labels import LabelPart
from distillkit.distill.objective import Engine, Work
from distillkit.distill.real import ClassBatches, siamese
from distillkit.distill.state import OuterState
from distillkit.distill.step_functions import compiled_function
from distillkit.distill.unroll import Hypergradient
from distillkit.networks.embedding import Embedding
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.settings import DistillSettings


@dataclass(frozen=True)
class DistributionMatching:
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
        return average([self._of(state, number) for number in numbers])

    def work(self, size: int) -> Work:
        """Nothing at second order: the set goes through the network once, there and back."""
        return Work(size, 0, 1, self.settings.real_per_class)

    def run_by(self, engine: Engine) -> DistributionMatching:
        """Computed by ``engine``."""
        return replace(self, engine=engine)

    @cached_property
    def _embed(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Parameters [P] and images [B, C, H, W] to embeddings [B, F]."""
        network = FlatNetwork(Embedding(self.engine.network.module))
        return compiled_function(network) if self.engine.compiled else network

    @cached_property
    def _loss_and_gradient(self) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Of the set as the network sees it [S, C, H, W], parameters [P], targets [K, F]; the derivative first."""
        network = FlatNetwork(Embedding(self.engine.network.module))

        def loss(seen_S: Tensor, theta_P: Tensor, targets_KF: Tensor) -> Tensor:
            embedded = network(theta_P, seen_S)
            means = embedded.view(len(targets_KF), -1, embedded.shape[1]).mean(1)
            return (means - targets_KF).square().sum()

        function = grad_and_value(loss)
        return compiled_function(function) if self.engine.compiled else function

    def _of(self, state: OuterState, number: int) -> Hypergradient:
        theta = flatten_parameters(self.build(number)).to(state.images.device)
        batch = state.images.detach().requires_grad_()
        seen, targets = [], []
        for class_id in range(self.real.real.num_classes):
            augment = siamese(self.augmentation, batch, self.seed, number, class_id)
            own = torch.nonzero(state.class_ids == class_id).flatten().to(batch.device)
            seen.append(augment(batch[own]))
            targets.append(augment(self.real.images(number, class_id)))
        seen_S = torch.cat(seen)  # the set is in the order of its classes
        images_bar, loss = self._loss_and_gradient(seen_S.detach(), theta, self._means(theta, targets))
        (images,) = torch.autograd.grad(seen_S, batch, images_bar)
        zero = torch.zeros_like(loss)
        labels = torch.zeros_like(state.labels) if self.labels.learned else None
        return Hypergradient(loss.detach(), images, labels, zero)

    @torch.no_grad()
    def _means(self, theta: Tensor, images: Sequence[Tensor]) -> Tensor:
        """Mean embeddings [K, F]; of all classes at once where images of a batch see each other's statistics."""
        modules = self.engine.network.module.modules()
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules):
            pieces = self._embed(theta, torch.cat(list(images))).split([len(own) for own in images])
            return torch.stack([piece.mean(0) for piece in pieces])
        return torch.stack([self._embed(theta, own).mean(0) for own in images])
