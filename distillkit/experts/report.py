"""What became of the experts: accuracy and smoothness of each, from the records in the cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def expert_report(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The experts one by one, and their means.

    Args:
        records: of ``TrajectoryStore.record``, by expert.

    Returns:
        ``experts``, a row each: ``test_accuracy`` (None where an older version trained it), ``validation_accuracy`` and
        ``loss`` by epoch, ``parameter_change`` |θ(t+1) - θ(t)| by epoch, ``path_length`` its sum,
        ``largest_change`` its maximum; ``mean``: means of the numbers over experts, each with ``_std``.
    """
    rows = [_row(record) for record in records]
    return {"experts": rows, "mean": _means(rows)}


def _row(record: dict[str, Any]) -> dict[str, Any]:
    curve = record["curve"]
    changes = curve.get("parameter_change", [])
    return {
        "test_accuracy": record.get("test_accuracy"),
        "last_validation_accuracy": curve["validation_accuracy"][-1] if curve.get("validation_accuracy") else None,
        "path_length": math.fsum(changes),
        "largest_change": max(changes, default=0.0),
        **curve,
    }


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    means: dict[str, float] = {}
    for name in ("test_accuracy", "last_validation_accuracy", "path_length", "largest_change"):
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            mean = math.fsum(values) / len(values)
            squares = math.fsum((value - mean) ** 2 for value in values)
            means[name] = mean
            means[f"{name}_std"] = math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else 0.0
    return means
