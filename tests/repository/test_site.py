"""The documentation site: it builds without a warning, and everything on it leads somewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / ".mkdocs.yml", "-d", folder]
    built = subprocess.run(
        [*map(str, line)], capture_output=True, text=True, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    )
    assert built.returncode == 0, built.stderr
    return folder


def test_every_link_and_picture_is_there(site):
    pages = {path: path.read_text(encoding="utf-8") for path in site.rglob("*.html") if path.name != "404.html"}
    names = {path: set(re.findall(r'\sid="([^"]+)"', text)) for path, text in pages.items()}
    broken = []
    for path, text in pages.items():
        for link in re.findall(r'\s(?:href|src)="([^"]+)"', text):
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.exists() or (anchor and target in names and anchor not in names[target]):
                broken.append((path.name, link))
    assert not broken


def test_gallery__shows_every_learned_set_with_pictures(site):
    text = (site / "gallery.html").read_text(encoding="utf-8")
    for card in (ROOT / "cards").iterdir():
        if (card / "preview.png").is_file() and not card.name.endswith(("-random", "-kmeans")):
            assert f'id="{card.name}"' in text
            assert (site / "gallery" / f"{card.name}.png").read_bytes() == (card / "preview.png").read_bytes()


def test_settings__all_of_them_with_words(site):
    from distillkit.settings import SECTIONS

    text = (site / "settings.html").read_text(encoding="utf-8")
    for name, section in SECTIONS.items():
        for key, field in section.model_fields.items():
            assert f"{name}.{key}" in text
            assert field.description, f"{name}.{key} says nothing"
    assert re.search(r"All: <code>parameter-distance</code>.*<code>real-loss</code>", text)  # as its table has them
