"""The page of all settings, from ``distillkit/settings.py``: names, defaults and words have one home."""

import re

from distillkit.settings import SECTIONS, RunSettings


def text():
    """The page."""
    parts = ["# Settings", "", f"{RunSettings.__doc__.strip()}", ""]
    parts += [
        "Any of them is set by `--set section.key=value` (repeatable), by a YAML or JSON file (`--config FILE`), or in "
        'Python by `compress(..., settings={"section.key": value})`. Methods and presets lay their own values over '
        "these defaults; `--plan --json` shows what a run would have.",
        "",
    ]
    for name, section in [("", RunSettings), *SECTIONS.items()]:
        own = {key: field for key, field in section.model_fields.items() if key not in SECTIONS}
        parts += [f"## {name or 'of the run'}", "", section.__doc__.strip() if name else "", ""]
        parts += ["| setting | default | |", "| --- | --- | --- |"]
        for key, field in own.items():
            words = re.sub(r"\s+", " ", field.description or "").replace("|", "\\|")
            default = (
                "(required)" if field.is_required() else f"`{_shown(field.get_default(call_default_factory=True))}`"
            )
            parts.append(f"| `{name + '.' if name else ''}{key}` | {default} | {words} |")
        parts.append("")
    return "\n".join(parts)


def _shown(value):
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
