"""What a run is: the settings and data that its bytes depend on, as JSON in its own files; and how two runs differ."""

from __future__ import annotations

import json
from typing import Any

from distillkit.settings import SECTIONS, RunSettings, defaults

LONGEST = 20
"""Characters of a value that is told."""
CONTENTS = "contents"
"""In an identity, digests of what files hold that settings name by their paths, by setting: of those that are there."""


def same_run(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether two identities are of one run. A file that is gone, or that older versions did not read, may be any."""
    one, other = _contents(there), _contents(here)
    alike = all(one[key] == other[key] for key in one.keys() & other.keys())
    return alike and _but_contents(there) == _but_contents(here)


def with_contents_of(identity: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """The identity, with what an earlier one of the same run knew of files that are gone."""
    known = _contents(before) | _contents(identity)
    return {**identity, CONTENTS: known} if known else identity


def _contents(identity: dict[str, Any]) -> dict[str, Any]:
    """None of an identity that does not say."""
    found = identity.get(CONTENTS)
    return found if isinstance(found, dict) else {}


def _but_contents(identity: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in identity.items() if key != CONTENTS}


def completed(identity: Any) -> dict[str, Any]:
    """A stored identity with the settings that were added since it was written, at their defaults: they are neutral."""
    if not isinstance(identity, dict) or not isinstance(identity.get("settings"), dict):
        return identity if isinstance(identity, dict) else {}
    settings = dict(identity["settings"])
    for section, own in SECTIONS.items():
        if isinstance(settings.get(section), dict):
            settings[section] = _but_places(defaults(own)) | settings[section]
    return {**identity, "settings": defaults(RunSettings) | settings}


def _but_places(values: dict[str, Any]) -> dict[str, Any]:
    """Where data lie, and what is said of them, does not determine a run, and is in no identity."""
    return {name: value for name, value in values.items() if name not in ("data_root", "license")}


def but_sizes(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without how long the run is."""
    settings = dict(identity.get("settings", {}))
    settings["time_budget"] = settings["budget_asked"] = None
    for section, key in (("distill", "outer_steps"), ("experts", "count")):
        settings[section] = {**settings.get(section, {}), key: None}
    return {**identity, "settings": settings}


def difference(left: Any, right: Any) -> str:
    """Dotted keys in which two JSON objects differ, the first few, with short values: ``a.b (1 there, 2 here)``."""
    told = _differences(left, right, "")
    said_twice = {f"settings.{words}" for words in told}  # ipc and method stand in the settings as well
    return ", ".join([words for words in told if words not in said_twice][:4])


def _differences(left: Any, right: Any, prefix: str) -> list[str]:
    keys: list[str] = []
    for key in sorted(set(left) | set(right)):
        a, b = left.get(key), right.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            keys += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            keys.append(f"{prefix}{key}{_both(a, b)}")
    return keys


def _both(there: Any, here: Any) -> str:
    words = [json.dumps(value) for value in (there, here)]
    return "" if max(map(len, words)) > LONGEST else f" ({words[0]} there, {words[1]} here)"
