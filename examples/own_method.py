"""A method of your own in one file: MTT with another loss.

    distillkit compress digits --ipc 1 --method examples/own_method.py:METHOD

A new part is a line in the table of its seam (here ``distill.matching``); a method is a record that names its parts.
From Python: ``compress("digits", ipc=1, method=METHOD)``.
"""

from dataclasses import replace

import torch.nn.functional as F

from distillkit import METHODS
from distillkit.lab import MATCHING, MatchingTerm, Part


def direction(student):
    """One minus the cosine between the student's way [P] and the expert's [P]: where to, and not how far."""
    start, target = student.start_P, student.point(student.matched.target)

    def loss(end):
        return 1 - F.cosine_similarity(end - start, target - start, dim=0)

    return [MatchingTerm(student.inner_steps, loss)]


MATCHING["direction"] = Part(lambda settings: direction, needs=frozenset({"trajectories"}))

METHOD = replace(
    METHODS["mtt"],
    name="direction",
    title="Matching the direction of trajectories",
    summary="MTT's experts; the student's way after N steps is turned to the expert's",
    parts={**METHODS["mtt"].parts, "distill.matching": "direction"},
    published=lambda problem: None,
    published_problems=(),
    citation="",
)
