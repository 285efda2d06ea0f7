"""Whether every class has the images that are asked of it, and what to do where it has not."""

from __future__ import annotations

import json
from collections.abc import Sequence

from distillkit.data.labels import SHOWN
from distillkit.errors import ConfigError
from distillkit.records import SourceData
from distillkit.settings import RunSettings


def check_ipc(data: SourceData, settings: RunSettings) -> None:
    """Refuse an ``ipc`` that is more than the training images of a class.

    Raises:
        ConfigError: it is; the message names the classes, where their other images went, and the ways on.
    """
    counts, ipc = data.train.class_counts(), settings.ipc
    few = [class_id for class_id, count in enumerate(counts) if count < ipc]
    if not few:
        return
    names = [data.classes[class_id] for class_id in few]
    first, *rest = [f"{name!r} ({counts[class_id]}" for name, class_id in zip(names, few, strict=True)][:SHOWN]
    listed = ", ".join([f"{first} training images)", *(f"{words})" for words in rest)])
    more = f" and {len(few) - SHOWN} others" if len(few) > SHOWN else ""
    whose = "a class has" if len(few) == 1 else f"{len(few)} classes have"
    raise ConfigError(
        f"`ipc={ipc}` is more than {whose}: {listed}{more}{_elsewhere(data, settings, few)}; "
        f"{_ways(min(counts), names, len(counts))}"
    )


def _elsewhere(data: SourceData, settings: RunSettings, few: Sequence[int]) -> str:
    """Where the images of these classes went that are not trained on."""
    counts, held = data.train.class_counts(), data.validation.class_counts()
    totals = [count + more for count, more in zip(counts, held, strict=True)]
    reasons = []
    if any(held[class_id] for class_id in few):
        reasons.append("a part is held out for validation (dataset.validation_fraction)")
    if data.info.test_split.startswith("none given"):
        reasons.append("another for testing (dataset.test_fraction)" if reasons else "a part is held out for testing")
    limit = settings.dataset.max_train
    # the even subset takes of small classes all there is: only the largest of those that are left were cut
    if limit is not None and sum(totals) >= limit and any(totals[class_id] >= max(totals) - 1 for class_id in few):
        reasons.append(f"dataset.max_train={limit} cuts the rest")
    return f"; {', '.join(reasons)}" if reasons else ""


def _ways(fewest: int, names: Sequence[str], num_classes: int) -> str:
    ways = [f"use `ipc={fewest}` or less"] if fewest else []
    if num_classes - len(names) >= 2:
        ways.append(f"leave out what is too small: {_without(names)}")
    return ", or ".join(ways) or "use more images of each class"


def _without(names: Sequence[str]) -> str:
    listed = ["NAME", "NAME", "..."] if len(names) > SHOWN else list(names)
    value = json.dumps(listed, ensure_ascii=False).replace("`", "\\u0060")  # backticks end what is named
    return f"`dataset.without_classes={value}`"
