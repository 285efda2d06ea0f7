"""How hard each training image is, by networks early in their training (Paul et al., arXiv:2107.07075).

EL2N: χ = E |softmax(f(x)) - onehot(y)|; GraNd, here of the last layer: E |∂CE/∂(W, b)| = |p - y| sqrt(|h|² + 1), with h
the last layer's input. E is the mean over networks; larger is harder. PAD (arXiv:2408.03360, Eq. 3) ranks by EL2N.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit.data.inputs import Inputs
from distillkit.errors import ConfigError
from distillkit.parts import Part, Seam
from distillkit.training.memory import in_pieces

Score = Callable[[nn.Module, Tensor, Tensor], Tensor]


def el2n(logits_nK: Tensor, labels_n: Tensor) -> Tensor:
    """|softmax(logits) - onehot|, [n]."""
    scores: Tensor = (logits_nK.softmax(1) - F.one_hot(labels_n, logits_nK.shape[1])).norm(dim=1)
    return scores


def _score_el2n(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return el2n(model(images), labels)


def _score_grand(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The norm of the gradient of the last linear layer, image by image.

    Raises:
        ConfigError: the network has none.
    """
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise ConfigError("experts.difficulty=grand needs a network with a linear layer at its end; use el2n")
    inputs: list[Tensor] = []
    handle = layers[-1].register_forward_hook(lambda module, given, result: inputs.append(given[0]))
    try:
        error = el2n(model(images), labels)
    finally:
        handle.remove()
    if len(inputs) != 1 or inputs[0].dim() != 2:
        raise ConfigError("experts.difficulty=grand needs a network that ends in a linear layer on features; use el2n")
    features = inputs[0].square().sum(1)
    bias = 1.0 if layers[-1].bias is not None else 0.0
    return error * (features + bias).sqrt()


SCORES: Seam[Part[Score]] = Seam("experts.difficulty", {"el2n": Part(_score_el2n), "grand": Part(_score_grand)})


@torch.no_grad()
def score_images(score: Score, model: nn.Module, images: Inputs, labels: Tensor, batch_size: int = 512) -> Tensor:
    """Scores [n] of un-augmented ``images`` [n, C, H, W] by one network, on the CPU."""
    model.eval()
    return in_pieces(lambda some, theirs: score(model, some, theirs), batch_size, images, labels).cpu()


def easy_to_hard(scores_n: Tensor, labels_n: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """Of each class, the indices of its images from easy to hard; equal scores in the order of the data."""
    found = []
    for class_id in range(num_classes):
        members = torch.nonzero(labels_n == class_id).flatten()
        found.append(members[scores_n[members].argsort(stable=True)])
    return tuple(found)
