"""In which arithmetic experts are trained: the fastest whose gradient agrees with float32's, as for the students."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit.experts.gsam import Gsam
from distillkit.experts.recipe import expert_recipe
from distillkit.precision import AGREEMENT, arithmetic, candidates, in_precision
from distillkit.settings import ExpertSettings
from distillkit.stages.context import Prepared, Run
from distillkit.training.batches import batch_sizes
from distillkit.training.recipe import Batch

SIZE = 0.1
"""By how much of its length a gradient may be longer or shorter than float32's."""
PIECE = 0.5
"""By how much of its length the gradient of one tensor may differ, if it is not negligible."""
NEGLIGIBLE = 0.01
"""Of the whole gradient's length: tensors before a normalisation have gradients that are rounding alone."""
UNMOVED = 1e-5
"""Share of its gradient from which GSAM steps by anything: with a radius of 0 it is plain SGD."""


def expert_precision(run: Run, prepared: Prepared) -> str:
    """The precision asked for; for ``auto`` the fastest of the device whose gradient of the experts' loss agrees with
    float32's at the initialisation of expert 0, on batches of real images of each size that an epoch has; under GSAM
    also the difference of two gradients that it steps by.

    Decided once for ``prepared``: it is part of what the experts are. One that was asked for and does not agree is
    taken, and that is said.
    """
    if "experts" in prepared.decided:
        return prepared.decided["experts"]
    prepared.decided["experts"] = _chosen(run, prepared, candidates(run.settings.precision, run.device))
    return prepared.decided["experts"]


def keep_expert_precision(run: Run, prepared: Prepared, before: str | None) -> None:
    """A run goes on with the experts that it had ``before``, though another version or machine would choose other
    arithmetic for them; None: it had none.
    """
    if before is not None and before in candidates(run.settings.precision, run.device):
        prepared.decided["experts"] = before


def _chosen(run: Run, prepared: Prepared, allowed: tuple[str, ...]) -> str:
    if allowed[0] == "fp32":
        return "fp32"
    sizes = sorted(set(batch_sizes(len(prepared.train_labels), run.settings.experts.batch_size)))
    exact = [_found(run, prepared, "fp32", size) for size in sizes]
    for precision in allowed:
        if precision == "fp32":
            break
        found = [_found(run, prepared, precision, size) for size in sizes]
        pairs = list(zip(found, exact, strict=True))
        why = next(filter(None, (disagreement(own[0], other[0]) for own, other in pairs)), None)
        rounded = next(filter(None, (_rounded(own[1], other) for own, other in pairs)), None)
        if why is None and rounded is None:
            return precision
        if len(allowed) == 1:
            told = why or rounded
            run.progress.note(f"experts are trained in {precision} as asked, though {told}; `precision=auto` would not")
            return precision
        who = "networks that learn from real images do not compute" if why else "experts of GSAM are not trained"
        run.progress.note(f"{who} in {precision}: {why or rounded}")
    return "fp32"


Found = tuple[Sequence[Tensor], Sequence[Tensor]]
"""The gradient, and the difference of gradients that GSAM steps by; nothing of the second under other optimisers."""


def _rounded(found: Sequence[Tensor], exact: Found) -> str | None:
    """How the difference of gradients that GSAM steps by is not the ``exact`` one, in words; None where they agree, or
    where there is none to speak of.

    GSAM moves a weight by some hundred-thousandths of itself. bfloat16 resolves a 256th of it (and TF32 a 1,024th):
    most weights move not at all, a few much too far, and the difference of the gradients is rounding
    (``examples/benchmarks/gsam_precision.py``).
    """
    if not found or _vector(exact[1]).norm() <= UNMOVED * _vector(exact[0]).norm():
        return None
    cosine = float(F.cosine_similarity(_vector(found), _vector(exact[1]), dim=0))
    if cosine >= AGREEMENT:
        return None
    return f"the cosine to float32's of the difference of gradients that GSAM steps by is {cosine:.4f}"


def disagreement(found: Sequence[Tensor], exact: Sequence[Tensor]) -> str | None:
    """How a gradient, tensor by tensor, differs from the ``exact`` one; None where both agree in direction, in length,
    and in every tensor that is a part of it worth speaking of.
    """
    whole, wanted = _vector(found), _vector(exact)
    if not torch.isfinite(whole).all():
        return "its gradient is not finite"
    cosine = float(F.cosine_similarity(whole, wanted, dim=0))
    if cosine < AGREEMENT:
        return f"its gradient's cosine to float32's is {cosine:.4f}"
    length = float(wanted.norm())
    if abs(float(whole.norm()) - length) > SIZE * length:
        return f"its gradient is {float(whole.norm()) / length:.3g} times as long as float32's"
    for own, other in zip(found, exact, strict=True):
        size, error = float(other.double().norm()), float((own.double() - other.double()).norm())
        if error > PIECE * max(size, NEGLIGIBLE * length):
            shape = "x".join(map(str, other.shape))
            return f"its gradient of a tensor {shape} is off by {error / max(size, 1e-30):.2g} of its length"
    return None


def _vector(pieces: Sequence[Tensor]) -> Tensor:
    return torch.cat([piece.reshape(-1) for piece in pieces]).double()


def _found(run: Run, prepared: Prepared, precision: str, size: int) -> Found:
    return _gradient(run, prepared, precision, size), _flatness(run, prepared, precision, size)


def _gradient(run: Run, prepared: Prepared, precision: str, size: int) -> Sequence[Tensor]:
    """Of the experts' loss on ``size`` images."""
    with _at_start(run, prepared, precision, size) as (_, gradient):
        return gradient()


def _flatness(run: Run, prepared: Prepared, precision: str, size: int) -> Sequence[Tensor]:
    """The difference of gradients that GSAM steps by, on ``size`` images; nothing where the optimiser is another."""
    part = expert_recipe(_unranked(run), None).optimizer
    if not isinstance(part, Gsam):
        return ()
    with _at_start(run, prepared, precision, size) as (model, gradient):
        return part(model.parameters(), run.settings.experts.lr).flatness(gradient)


@contextmanager
def _at_start(
    run: Run, prepared: Prepared, precision: str, size: int
) -> Iterator[tuple[nn.Module, Callable[[], Sequence[Tensor]]]]:
    """The first expert before its first step, and a function that gives the gradient of its loss on ``size`` images at
    the weights that it then has.
    """
    model = in_precision(prepared.build(prepared.network, 0, "agreement")(0), precision).to(run.device)
    images, labels = prepared.train_images[:size], prepared.train_labels[:size]
    loss = expert_recipe(_unranked(run), None).loss

    def gradient() -> Sequence[Tensor]:
        value = loss(model, Batch(images, images, labels), 1.0)
        _spoil_freed_memory(model)
        return torch.autograd.grad(value, list(model.parameters()))

    with arithmetic(precision, run.device):
        yield model, gradient


def _unranked(run: Run) -> ExpertSettings:
    return run.settings.experts.model_copy(update={"order": "shuffle"})


def _spoil_freed_memory(model: nn.Module) -> None:
    """A kernel that leaves its result as it finds it must not find the right one, from the gradient before."""
    spoiled = [
        torch.full_like(parameter, float("nan"), dtype=dtype)
        for parameter in model.parameters()
        for dtype in (torch.float32, torch.bfloat16)
    ]
    del spoiled
