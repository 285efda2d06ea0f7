"""``best``: the parts of the published methods that together did best on validation data of digits and CIFAR-10.

No paper's method: a combination, chosen on small settings (``examples/ABLATIONS.md`` has the tables): AST's momentum in
the experts and in the student, and its start; no smoothing, no perturbation, no balance.
"""

from __future__ import annotations

from distillkit.methods import ast, mtt
from distillkit.methods.base import Layer, Method, Problem

CHANGED = {
    "experts.loss": "cross-entropy",
    "distill.perturbation": "none",
    "distill.inner_scale": "none",
}
"""What differs from AST."""


def published(problem: Problem) -> Layer | None:
    """AST's published settings with the changed parts, where there are some."""
    layer = ast.published(problem)
    return None if layer is None else Layer(f"{layer.origin}; the parts of best", {**layer.values, **CHANGED})


def quick(problem: Problem) -> Layer:
    """AST's quick settings with the changed parts; its experts are not clipped, so the student takes MTT's steps."""
    steps = {"distill.inner_steps": mtt.quick(problem).values["distill.inner_steps"]}
    return Layer("quick preset (best)", {**ast.quick(problem).values, **CHANGED, **steps})


BEST = Method(
    name="best",
    title="best: AST without smoothing, perturbation and balance",
    summary="the combination of the papers' parts that did best on validation data of digits and CIFAR-10",
    parts={**ast.AST.parts, **CHANGED},
    published=published,
    quick=quick,
    published_problems=ast.AST.published_problems,
    citation=ast.AST.citation,
)
