"""Licences: what a card states, and the Hub's identifiers (huggingface.co/docs/hub/repositories-licenses, 2026)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TABLE = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0
wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0
isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openmdw-1.1
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown
"""
UNKNOWN = "unknown"
IDENTIFIERS = frozenset(_TABLE.split())
"""All but ``other``, which the Hub takes beside a name only."""


def stated(matter: Mapping[str, Any]) -> str | None:
    """The licence that the metadata of a data set card state: several joined by commas, the owner's own name of one
    that the Hub calls ``other``; None where they state none.
    """
    found = matter.get("license")
    parts = [str(part) for part in (found if isinstance(found, list) else [found]) if part]
    if parts == ["other"] and matter.get("license_name"):
        return str(matter["license_name"])
    return ", ".join(parts) or None


def front_matter(stated: str | None) -> dict[str, str]:
    """What the head of a card says of a licence: the Hub's identifier for it, else ``other`` and a name.

    ``stated``: in any spelling of case and separators (``CC BY 4.0``); None where nobody knows.
    """
    name = (stated or UNKNOWN).strip().lower()
    slug = re.sub(r"[^a-z0-9.]+", "-", name).strip("-")
    known = next((one for one in (name, slug) if one in IDENTIFIERS), None)
    if known is not None:
        return {"license": known}
    return {"license": "other", "license_name": slug or "stated-by-the-source"}
