"""The YAML at the head of a card: written so that every reader takes it alike, and merged with what its owner wrote.

The Hub reads YAML 1.2 (js-yaml), Python's PyYAML reads 1.1: ``no`` is a text to the one and False to the other, ``1e3``
a number to the one and a text to the other. What is read here is read as the Hub reads it; what is written here is
quoted where either of them would not see a text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from distillkit.errors import ConfigError
from distillkit.words import first_line

HEAD = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.S)
OF_THE_CONTENT = ("size_categories", "source_datasets", "configs", "dataset_info")
"""Keys that say what the files are: whoever publishes the files says it."""
LISTS = ("tags", "task_categories")
"""Keys whose entries are some ours, some the owner's."""
LICENSE = ("license", "license_name", "license_link")
"""Keys that say one thing together."""
LARGEST = 2**20
"""Characters of a head that is looked at."""

_NUMBER = "tag:yaml.org,2002:float"
_WHOLE = "tag:yaml.org,2002:int"
_TRUTH = "tag:yaml.org,2002:bool"
_RESOLVERS: tuple[tuple[str, str, str], ...] = (
    (_TRUTH, r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
    (_WHOLE, r"(?:[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F_]+|0o[0-7_]+)\Z", "-+0123456789"),
    (_NUMBER, r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", "-+.0123456789"),
    (_NUMBER, r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z", "-+."),
)
"""What is no text in YAML 1.2: the tag, the pattern, the characters that it can begin with."""
_LINE_ENDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff]")


class _Loader(yaml.SafeLoader):
    """Safe, by the rules of YAML 1.2."""


class _Dumper(yaml.SafeDumper):
    """Safe; a text that YAML 1.1 or 1.2 would take for something else is quoted."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag not in (_TRUTH, _WHOLE, _NUMBER)]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))
    _Dumper.add_implicit_resolver(_tag, re.compile(_pattern), list(_first))


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Texts with control characters or with line ends that only some readers know are written with escapes."""
    style = '"' if _LINE_ENDS.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


def dump(matter: dict[str, Any]) -> str:
    """The YAML text, without the lines of dashes around it."""
    text: str = yaml.dump(matter, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)
    return text.strip()


def parse(text: str) -> Any:
    """The value of a YAML text, as the Hub reads it.

    Raises:
        ValueError: it is no YAML, nested too deep, or too long.
    """
    if len(text) > LARGEST:
        raise ValueError(f"{len(text)} characters are more than the {LARGEST} it may have")
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(first_line(error)) from error


def read(card: str, whose: str) -> dict[str, Any]:
    """The metadata at the head of a card; empty if it has none.

    Raises:
        ConfigError: they are no YAML mapping, so nobody can tell what its owner wrote; ``whose`` names the card.
    """
    head = HEAD.match(card)
    try:
        found = parse(head[1]) if head else {}
    except ValueError as error:
        raise ConfigError(f"the metadata of {whose} are no YAML ({error}); mend them, so that none is lost") from error
    if found is not None and not isinstance(found, dict):
        raise ConfigError(f"the metadata of {whose} are no list of names and values; mend them, so that none is lost")
    return found or {}


def replace(card: str, matter: dict[str, Any]) -> str:
    """``card`` with other metadata at its head."""
    return f"---\n{dump(matter)}\n---\n{HEAD.sub('', card, count=1)}"


def merge(
    ours: dict[str, Any], theirs: dict[str, Any], base: dict[str, Any] | None, *, ours_wins: bool = False
) -> dict[str, Any]:
    """What to publish: our metadata, with what the owner of the card on the Hub wrote into it.

    Keys that are not ours (language, gating, ``doi``, ``viewer``, ...) stay as they are. Of ours, those that say what
    the files are stay ours; tags and tasks that were added stay added; any other (the licence, ``pretty_name``) that
    was changed since we wrote it is the owner's.

    Args:
        ours: as generated now.
        theirs: as the card on the Hub has it.
        base: as it was generated for what is on the Hub; None where that is not ours.
        ours_wins: keep ours where both were changed.

    Raises:
        ConfigError: the licence was changed in both places, differently.
    """
    if base is None:
        return ours | {key: value for key, value in theirs.items() if key not in ours and key not in LICENSE}
    merged = dict(ours)
    for key, value in theirs.items():
        if key in LICENSE or (key in ours and key in OF_THE_CONTENT):
            continue
        if key in LISTS and isinstance(value, list):
            known = [*ours.get(key, []), *base.get(key, [])]
            merged[key] = [*ours.get(key, []), *(item for item in value if item not in known)]
        elif key not in base or value != base[key]:
            merged[key] = value
    licence = _licence(ours, theirs, base, ours_wins=ours_wins)
    return {key: value for key, value in merged.items() if key not in LICENSE or key in licence} | licence


def _licence(ours: dict[str, Any], theirs: dict[str, Any], base: dict[str, Any], *, ours_wins: bool) -> dict[str, Any]:
    own, found, before = ({key: side[key] for key in LICENSE if key in side} for side in (ours, theirs, base))
    if not found or found in (own, before):
        return own
    if own == before:
        return found
    if ours_wins:
        return own
    raise ConfigError(
        f"the licence on the Hub is {_words(found)}, that of this folder is {_words(own)}, and both were changed since "
        "the last push; make them equal (dataset.license of 'distillkit compress', or the card on the Hub), or push "
        "this one with `replace=True`"
    )


def _words(licence: dict[str, Any]) -> str:
    return repr(str(licence.get("license_name") or licence.get("license")))
