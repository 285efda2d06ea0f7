"""Distilled sets as a user meets them: ``load_distilled``, and what it returns."""

from __future__ import annotations

from distillkit.distilled.dataset import DistilledDataset
from distillkit.distilled.loading import load_distilled

__all__ = ["DistilledDataset", "load_distilled"]
