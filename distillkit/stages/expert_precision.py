"""In which arithmetic experts are trained: the fastest whose gradient agrees with float32's, as for the students."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distillkit.experts.recipe import expert_recipe
from distillkit.precision import AGREEMENT, arithmetic, candidates, in_precision
from distillkit.stages.context import Prepared, Run
from distillkit.training.recipe import Batch


def expert_precision(run: Run, prepared: Prepared) -> str:
    """The precision asked for; for ``auto`` the fastest of the device whose gradient of the experts' loss, at the
    initialisation of expert 0 on a batch of real images, has a cosine of 0.995 or more with that in float32.

    Decided once for ``prepared``: it is part of what the experts are.
    """
    if "experts" in prepared.decided:
        return prepared.decided["experts"]
    allowed = candidates(run.settings.precision, run.device)
    if len(allowed) == 1:
        return allowed[0]
    prepared.decided["experts"] = _fastest_that_agrees(run, prepared, allowed)
    return prepared.decided["experts"]


def _fastest_that_agrees(run: Run, prepared: Prepared, allowed: tuple[str, ...]) -> str:
    exact = _gradient(run, prepared, "fp32")
    for precision in allowed:
        if precision == "fp32":
            break
        cosine = float(F.cosine_similarity(_gradient(run, prepared, precision), exact, dim=0))
        if cosine >= AGREEMENT:
            return precision
        run.progress.note(
            f"experts are not trained in {precision}: their gradient's cosine to float32's is {cosine:.4f}"
        )
    return "fp32"


def _gradient(run: Run, prepared: Prepared, precision: str) -> Tensor:
    """Of the experts' loss, float64 [P]."""
    settings = run.settings.experts.model_copy(update={"order": "shuffle"})
    model = in_precision(prepared.build(prepared.network, 0, "agreement")(0), precision).to(run.device)
    images, labels = prepared.train_images[: settings.batch_size], prepared.train_labels[: settings.batch_size]
    with arithmetic(precision, run.device):
        loss = expert_recipe(settings, None).loss(model, Batch(images, images, labels), 1.0)
        found = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([gradient.reshape(-1) for gradient in found]).double()
