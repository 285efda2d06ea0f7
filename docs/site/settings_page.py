"""The page of all settings, from ``distillkit/settings.py`` and the tables of parts: names and words have one home."""

import re

from distillkit.distill.objectives import LEARNING_SEAMS
from distillkit.experts.recipe import EXPERT_SEAMS
from distillkit.parts import all_parts
from distillkit.settings import SECTIONS, RunSettings
from distillkit.trajectories.forms import FORMS


def text():
    """The page."""
    known = {}
    for setting, name, _ in all_parts((*LEARNING_SEAMS, *EXPERT_SEAMS, FORMS)):
        known.setdefault(setting, {})[name] = None
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
            setting = f"{name}.{key}" if name else key
            words = re.sub(r"\s+", " ", field.description or "").replace("|", "\\|")
            if setting in known:
                words += f" All: {', '.join(f'`{part}`' for part in known[setting])}."
            default = (
                "(required)" if field.is_required() else f"`{_shown(field.get_default(call_default_factory=True))}`"
            )
            parts.append(f"| `{setting}` | {default} | {words} |")
        parts.append("")
    return "\n".join(parts)


def _shown(value):
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
