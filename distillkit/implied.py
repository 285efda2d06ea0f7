"""What the words of a user, and the kind of a data set, mean for settings that a method or preset chose. Import-light.

A preset is written for its own values. Where one of them is exchanged, those that belonged to it are not what the user
meant: the lengths among which validation data would choose, where a length is given; the mean of an earlier
preprocessing; narrow students, where another network is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from distillkit.data.registry import KnownDataset
from distillkit.methods import SettingsLayer

FLIP = "flip"
STATISTICS = ("dataset.mean", "dataset.std")
NARROW = re.compile(r"convnet:width=(\d+)")


def unmirrored(layer: SettingsLayer, known: KnownDataset | None) -> SettingsLayer:
    """The layer of a method or preset without mirrored images, where the data set's own strategy has none: a mirrored
    digit is another one, or none.
    """
    key = "dataset.augmentation"
    strategy = layer.values.get(key)
    if known is None or strategy is None or FLIP in known.augmentation.split("_"):
        return layer
    kept = "_".join(name for name in strategy.split("_") if name != FLIP)
    return replace(layer, values={**layer.values, key: kept or "none"})


def implied(chosen: Mapping[str, Any], preset: Mapping[str, Any]) -> SettingsLayer:
    """Values that follow from what the user has ``chosen``, over those of data set, method and ``preset``."""
    values = {**_length(chosen), **_statistics(chosen), **_students(chosen, preset)}
    return SettingsLayer("follows from other settings", {key: value for key, value in values.items() if key in preset})


def _length(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A given number of epochs is the one that counts."""
    return {"evaluate.lengths": ()} if "evaluate.epochs" in chosen else {}


def _statistics(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation go with standardising, and with nothing else."""
    if chosen.get("dataset.preprocessing", "standardise") != "standardise":
        return dict.fromkeys(STATISTICS)
    if any(chosen.get(key) is not None for key in STATISTICS):
        return {"dataset.preprocessing": "standardise"}
    return {}


def _students(chosen: Mapping[str, Any], preset: Mapping[str, Any]) -> dict[str, Any]:
    """Narrow students teach the preset's ConvNet in less time; where another network is asked for, or one that is as
    narrow, the students are of that one.
    """
    narrow = NARROW.fullmatch(str(preset.get("distill.student")))
    if narrow is None:
        return {}
    other = str(chosen.get("network.name", "convnet")) != "convnet"
    width = chosen.get("network.width")
    if other or (isinstance(width, int) and width <= int(narrow[1])):
        return {"distill.student": None}
    return {}
