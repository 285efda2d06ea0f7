"""The card of a published set of expert trajectories; every figure comes from its trajectories.json."""

from __future__ import annotations

import json
from typing import Any

from distillkit import licenses
from distillkit.artifact import front_matter as head
from distillkit.artifact import own_section
from distillkit.artifact.card_words import TAGS, byte_count, one_line, source_link, unfenced
from distillkit.experts.report import expert_report
from distillkit.hub.address import REPOSITORY
from distillkit.sharing.experts_schema import TrajectoriesFile


def front_matter(about: TrajectoriesFile) -> dict[str, Any]:
    """The YAML of the card; there is nothing for the Hub's viewer to show."""
    matter: dict[str, Any] = {
        "pretty_name": _title(about),
        **licenses.front_matter(about.license),
        "tags": [*TAGS, "expert-trajectories"],
        "viewer": False,
    }
    if about.hub_id and REPOSITORY.fullmatch(about.hub_id):
        matter["source_datasets"] = [about.hub_id]
    return matter


def _title(about: TrajectoriesFile) -> str:
    return f"{len(about.experts)} expert trajectories on {one_line(about.setup.dataset)}"


def render_experts_card(about: TrajectoriesFile, sizes: dict[str, int], own: str) -> str:
    """The card's text, YAML front matter included.

    Args:
        about: what trajectories.json says.
        sizes: bytes of the experts' files by name.
        own: the user's section.
    """
    network, form, recipe = about.setup.network, about.setup.form, about.setup.recipe.model_dump(exclude_unset=True)
    home = about.hub.repo if about.hub else "org/name"
    at = f"@{about.hub.revision}" if about.hub and about.hub.revision else ""
    source = source_link(about.hub_id, about.source)
    return f"""---
{head.dump(front_matter(about))}
---
# {_title(about)}

Networks trained on {source}, kept not as weights of one moment but as the path they took: what trajectory matching
distils from. {len(about.experts)} experts of {_epochs(about)} epochs, {one_line(network.name)} of width
{network.width} and depth {network.depth} ({about.parameters:,} parameters), {byte_count(sum(sizes.values()))} in all.
Each is convexified (MCT, arXiv:2406.19827): {_waypoints(about)} waypoints stored as {form.dtype}, straight lines
between them, the position on a line by {form.beta}.

## Use it

```
distillkit experts pull {home}{at}
distillkit compress {one_line(about.setup.dataset)} --ipc 10 --method mct \\
  --set experts.source={about.fingerprint} --set experts.count={len(about.experts)} \\
  --set network.width={network.width}
```

The same data (number of training images, split), preprocessing and network are needed, and are checked: where the
presets say otherwise, say so with `--set`. Every method takes these trajectories by `experts.source`.

## Experts

{_table(about)}

Trained with {_recipe_words(recipe)}.
Test accuracies choose nothing.

{own_section.wrap(own)}

## How they were made

```
{unfenced(json.dumps(about.setup.model_dump(mode="json", exclude_unset=True), indent=1, sort_keys=True))}
```

{about.generator}. `trajectories.json` holds every expert's curve and the SHA-256 of its file.

{_licence(about)}
"""


def _licence(about: TrajectoriesFile) -> str:
    """The last section of a card."""
    return f"""## Licence and citation

The licence of the source data is `{one_line(about.license or "not stated by its source")}`.

{f"```bibtex{chr(10)}{unfenced(about.citation.strip())}{chr(10)}```" if about.citation else ""}"""


def _recipe_words(recipe: dict[str, Any]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in sorted(recipe.items()) if value not in (None, [], ()))


def _epochs(about: TrajectoriesFile) -> str:
    """How far their paths go."""
    ends = sorted({one.end for one in about.experts})
    return str(ends[0]) if len(ends) == 1 else f"{ends[0]} to {ends[-1]}"


def _waypoints(about: TrajectoriesFile) -> int:
    chosen = about.setup.form.waypoint_epochs
    return about.setup.form.waypoints if chosen is None else len(chosen)


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else one_line(str(value))


def _table(about: TrajectoriesFile) -> str:
    report = expert_report([record.model_dump(mode="json") for record in about.experts])
    moved = [record.storage_error.segment for record in about.experts if record.storage_error is not None]
    mean = report["mean"]
    rows = [("validation accuracy", "last_validation_accuracy", 100, "%"), ("test accuracy", "test_accuracy", 100, "%")]
    rows += [("largest parameter change of an epoch", "largest_change", 1, "")]
    lines = ["| of the experts | mean ± standard deviation |", "| --- | --- |"]
    for words, key, factor, unit in rows:
        if key in mean:
            lines.append(f"| {words} | {factor * mean[key]:.2f} ± {factor * mean[key + '_std']:.2f}{unit} |")
    if moved:
        lines.append(f"| a one-epoch segment is moved by storage, of its length, at most | {max(moved):.2g} |")
    return "\n".join(lines)
