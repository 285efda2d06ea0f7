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


def same_but_for_length(there: dict[str, Any], here: dict[str, Any]) -> bool:
    """Whether two runs of one method, of as many experts, differ in nothing but how many outer steps there are: one
    then goes on from the steps of the other. Not where a step depends on how many follow: rates that fall, real images
    that are shown from easy to hard, and perhaps code of somebody's own.
    """
    distill = _section(there, "distill")
    depends = distill.get("final_rate", 1) != 1 or distill.get("real_order", "shuffle") != "shuffle"
    learned = outer_steps_of(there) > 0 and outer_steps_of(here) > 0
    return learned and not depends and "code" not in there and same_run(_but_length(there), _but_length(here))


def outer_steps_of(identity: dict[str, Any]) -> int:
    """That a run was asked for; none of an identity that does not say."""
    found = _section(identity, "distill").get("outer_steps")
    return found if isinstance(found, int) else 0


def experts_of(identity: dict[str, Any]) -> int | None:
    """How many experts a run has; None of an identity that does not say."""
    found = _section(identity, "experts").get("count")
    return found if isinstance(found, int) else None


def with_experts(identity: dict[str, Any], count: int) -> dict[str, Any]:
    """An identity with so many experts."""
    settings = {**identity["settings"], "experts": {**_section(identity, "experts"), "count": count}}
    return {**identity, "settings": settings}


def _section(identity: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of the settings; empty where it is damaged."""
    settings = identity.get("settings")
    found = settings.get(name) if isinstance(settings, dict) else None
    return found if isinstance(found, dict) else {}


def _but_length(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without its outer steps and the time budget that they may come from."""
    return _without(identity, ("distill", "outer_steps"))


def but_sizes(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity without how long the run is."""
    return _without(identity, ("distill", "outer_steps"), ("experts", "count"))


def _without(identity: dict[str, Any], *sizes: tuple[str, str]) -> dict[str, Any]:
    """An identity without its time budget and some settings, named by section and key."""
    settings = dict(identity.get("settings") or {})
    settings["time_budget"] = settings["budget_asked"] = None
    for section, key in sizes:
        settings[section] = {**_section(identity, section), key: None}
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
