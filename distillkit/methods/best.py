"""``best``: the parts of the published methods that together did best on validation data of digits and CIFAR-10.

No paper's method: a combination, chosen on small settings (``examples/ABLATIONS.md`` has the tables). Trajectories and
segments are MCT's, labels and initial images DATM's, experts those of plain SGD.
"""

from __future__ import annotations

from typing import Any

from distillkit.methods import datm, mct
from distillkit.methods.base import Method, Problem, SettingsLayer

START = {"distill.init": "correct"}
"""Of all its problems, also where DATM begins with any real images."""
PARTS: dict[str, Any] = {**mct.MCT.parts, "distill.labels": "soft"} | START
UNUSED = {"distill.first_max_start_epoch": None}
"""DATM's growing bound, which segments that start at any time do not have."""


def published(problem: Problem) -> SettingsLayer | None:
    """DATM's published settings with the parts of ``best``, where there are some."""
    layer = datm.published(problem)
    if layer is None:
        return None
    return SettingsLayer(f"{layer.origin}; the parts of best", {**layer.values, **START, **UNUSED})


def quick(problem: Problem) -> SettingsLayer:
    """DATM's quick settings with the parts of ``best``."""
    return SettingsLayer("quick preset (best)", {**datm.quick(problem).values, **UNUSED})


BEST = Method(
    name="best",
    title="best: convexified trajectories (MCT) and learned soft labels (DATM)",
    summary="the combination of the parts that did best on validation data: MCT's paths, DATM's labels and start",
    parts=PARTS,
    published=published,
    quick=quick,
    published_problems=datm.DATM.published_problems,
    protocol=datm.PROTOCOL,
    when="photographs at five images a class and more, in minutes of a CPU (soft labels)",
    citation=f"{mct.MCT.citation}\n\n{datm.CITATION}",
)
METHODS = (BEST,)
