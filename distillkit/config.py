"""From a method, a preset and the user's own words to the settings of a run. Import-light: no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from distillkit.data.registry import DATASETS
from distillkit.errors import ConfigError
from distillkit.hub.address import spelled
from distillkit.implied import implied, unmirrored
from distillkit.methods import METHODS, Method, Problem, SettingsLayer
from distillkit.methods import presets as shared_presets
from distillkit.methods.own import read_method
from distillkit.settings import RunSettings
from distillkit.words import did_you_mean, meant


class SettingsLoader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-5`` as text; people mean the number. What stands in quotes is text."""


SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)

# Given on the command line; presets and the output folder depend on these, so no layer may change them.
FIXED = ("method", "preset", "ipc", "dataset.name")


@dataclass(frozen=True)
class Composed:
    """The effective settings, for every key that is not a default where its value came from, the method, and the keys
    to which the user gave another value than method and preset; ``of_classes``: the same for so many classes, which
    often nobody knows before the data are read.
    """

    settings: RunSettings
    origins: dict[str, str]
    method: Method
    asked: frozenset[str] = frozenset()
    of_classes: Callable[[int], Composed] | None = None


SMALL_GREY = ("digits", "mnist", "fashion-mnist")
"""Registered data sets that keep ``mtt``: on digits it is as good as ``rat`` at one image a class in half the time (at
ten ``rat`` is ahead); others were not measured."""
FROM_HERE_LABELS = 5
"""Images a class from which on ``best`` is the default: it led at ten, ``rat`` at one; between nothing was measured."""


LONG = 1800.0
"""Seconds of a time budget from which on ``rat`` is ahead at ten images a class too: ``best`` stops learning before
(examples/reference/clock.md)."""


def default_method(dataset: str, ipc: int, preset: str, layers: Sequence[SettingsLayer] = ()) -> str:
    """The method where nobody chose one: what learned most in about the same minutes of a CPU core (docs/methods.md),
    of published settings the oldest, which is also what the user's ``layers`` mean where they set up experts. That of a
    set that is made again, where its config is one of them.
    """
    ipc = whole_ipc(ipc)
    given = {key: value for layer in layers for key, value in layer.values.items()}
    of_a_set = {key: value for layer in layers if not layer.asked for key, value in layer.values.items()}
    if isinstance(named := of_a_set.get("method"), str):
        return named
    asked, budget = {key.partition(".")[0] for key in given}, given.get("time_budget")
    if preset == "paper" or asked & {"experts", "trajectories"}:
        return "mtt"
    if dataset in SMALL_GREY:
        return "rat" if dataset == "digits" and ipc >= FROM_HERE_LABELS else "mtt"
    is_long = isinstance(budget, int | float) and budget >= LONG
    return "rat" if ipc < FROM_HERE_LABELS or is_long else "best"


def whole_ipc(ipc: Any) -> int:
    """Images a class as a plain number.

    Raises:
        ConfigError: it is no whole number of 1 or more.
    """
    if isinstance(ipc, bool) or not isinstance(ipc, Integral):
        raise ConfigError(f"`ipc` must be a whole number, got {ipc!r}")
    if ipc < 1:
        raise ConfigError(f"`ipc` must be 1 or more, got {ipc}")
    return int(ipc)


def find_method(method: str | Method) -> Method:
    """The method called so, the one in a file of one's own (``mine.py:METHOD``), or the given one itself.

    Raises:
        ConfigError: unknown, not loadable from the file, or named like a built-in method.
    """
    if isinstance(method, str):
        if ":" not in method and method not in METHODS:
            raise ConfigError(
                f"method {method!r} is unknown; known: {', '.join(METHODS)}, or FILE.py:NAME for one of your own"
                f"{did_you_mean(method, METHODS)}"
            )
        method = read_method(method) if ":" in method else METHODS[method]
    if METHODS.get(method.name, method) is not method:
        raise ConfigError(f"there is a method {method.name!r} already; give yours another name")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", method.name):
        raise ConfigError(f"method name {method.name!r} must be 1 to 60 letters, digits, '_', '.' or '-'")
    return method


def compose(
    dataset: str,
    ipc: int,
    method: str | Method,
    preset: str,
    device: str,
    overrides: Sequence[SettingsLayer] = (),
    num_classes: int | None = None,
) -> Composed:
    """Lay the values of data set, preset, method and user over the defaults, in this order.

    ``num_classes``: None for what is known of the data set by its name, which may be nothing.

    Raises:
        ConfigError: an unknown method, preset or key, or a value that does not fit.
    """
    ipc, record = whole_ipc(ipc), find_method(method)
    given, (dataset, revision) = dataset, spelled(dataset)
    known = DATASETS.get(dataset)
    problem = Problem(dataset, ipc, device, num_classes or (known.num_classes if known else None))
    chosen = {key: value for layer in overrides for key, value in layer.values.items()}
    ours = [*_preset_layers(record, problem, preset), *_habits(record, preset, chosen)]
    layers = [_dataset_layer(dataset), *(unmirrored(layer, known) for layer in ours)]
    layers.append(implied(chosen, {key: value for layer in layers for key, value in layer.values.items()}))
    if revision is not None:
        layers.append(SettingsLayer(f"data set ({dataset})", {"dataset.revision": revision}))
    layers += overrides
    values: dict[str, Any] = {"method": record.name, "preset": preset, "ipc": ipc, "dataset.name": dataset}
    origins = dict.fromkeys(values, "command")
    asked: set[str] = set()
    for layer in layers:
        for key, value in layer.values.items():
            _check_key(key)
            if key in FIXED and value != values[key]:
                raise ConfigError(
                    f"{layer.origin} says {key}={value}, but `{key}` is {values[key]}; remove one of the two"
                )
            if layer.asked and _plain(values.get(key)) != _plain(value):
                asked.add(key)
            values[key] = value
            origins[key] = layer.origin
    again = partial(compose, given, ipc, record, preset, device, tuple(overrides))
    return Composed(_validate(values), origins, record, frozenset(asked), lambda count: again(num_classes=count))


def _plain(value: Any) -> Any:
    """As JSON has it, to compare what a file says with what a preset says."""
    return list(value) if isinstance(value, tuple) else value


def _dataset_layer(dataset: str) -> SettingsLayer:
    known = DATASETS.get(dataset)
    values: dict[str, Any] = {}
    if known is not None:
        values = {"dataset.augmentation": known.augmentation, "dataset.image_size": known.image_size}
    return SettingsLayer(f"data set ({dataset})", values)


def _preset_layers(method: Method, problem: Problem, preset: str) -> list[SettingsLayer]:
    parts = SettingsLayer(f"method ({method.name})", method.parts)
    if preset == "paper":
        published = method.published(problem)
        if published is None:
            raise ConfigError(
                f"there are no published settings of {method.name} for {problem.dataset} at ipc {problem.ipc}; "
                f"published: {', '.join(method.published_problems)}; use `preset=quick` and `settings` for others"
            )
        return [parts, published]
    if preset == "quick":
        return [parts, shared_presets.quick(problem), method.quick(problem)]
    if preset == "smoke":
        quick, smoke = method.quick(problem), shared_presets.smoke(problem)
        fixed = {
            key: quick.values[key] for key in ("experts.count", "distill.outer_steps") if quick.values.get(key) == 0
        }
        return [parts, quick, smoke, SettingsLayer(quick.origin, {**fixed, **method.smoke})]
    known = shared_presets.PRESETS
    raise ConfigError(f"preset {preset!r} is unknown; known: {', '.join(known)}{did_you_mean(preset, known)}")


def _habits(method: Method, preset: str, chosen: dict[str, Any]) -> list[SettingsLayer]:
    """What a paper does its own way besides its method: train on the set, and read test accuracies."""
    if preset != "paper":
        return []
    layers = (
        []
        if chosen.get("evaluate.recipe") == "common"
        else [SettingsLayer(f"{method.name}'s own recipe", method.recipe)]
    )
    if chosen.get("evaluate.paper_protocol"):
        layers.append(SettingsLayer(f"{method.name}'s own protocol", method.protocol))
    return layers


def known_keys() -> list[str]:
    """All dotted setting keys."""
    keys = []
    for name, field in RunSettings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += [f"{name}.{key}" for key in section.model_fields]
        else:
            keys.append(name)
    return keys


def _check_key(key: str) -> None:
    known = known_keys()
    if key not in known:
        close = meant(key, known)
        hint = (
            f"did you mean {close}?"
            if close
            else "sections: dataset, network, experts, trajectories, distill, evaluate, artifact"
        )
        raise ConfigError(f"setting {key!r} is unknown; {hint}")


def _validate(values: dict[str, Any]) -> RunSettings:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    try:
        return RunSettings.model_validate(nested)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        words = first["msg"].removeprefix("Value error, ").lower()
        raise ConfigError(f"setting {key}={first['input']!r} does not fit: {words}") from error


def parse_assignments(assignments: Sequence[str]) -> SettingsLayer:
    """``section.key=value`` texts of ``--set``; values are YAML (``null``, ``true``, ``[1, 2]``, numbers, words).

    Raises:
        ConfigError: not of that form, or a key twice.
    """
    values: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"`settings` {text!r} is not of the form section.key=value")
        if key in values:
            raise ConfigError(f"`settings` gives {key} twice")
        try:
            values[key] = yaml.load(value, SettingsLoader)
        except yaml.YAMLError as error:
            raise ConfigError(f"`settings` {text!r} has a value that is not valid YAML") from error
    return SettingsLayer("--set", values, asked=True)
