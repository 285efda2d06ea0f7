"""What the site has besides the pages of this folder: the README as its start, pages made from the code and from the
cards, and the files of the repository that pages point to.
"""

import os
import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import gallery
import settings_page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "examples/ABLATIONS.md": "lab-notes.md",
    "examples/benchmarks/README.md": "benchmarks.md",
}
"""Pages that lie elsewhere in the repository, with their names on the site."""
FOLDERS = {
    "cards": "gallery.md",
    "examples/benchmarks": "benchmarks.md",
    "examples/benchmarks/results": "benchmarks.md",
}
INSTEAD = {"distillkit/settings.py": "settings.md"}
"""Files that are shown as a page made from them."""
LINK = re.compile(r"(?P<before>!?\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


class Site:
    """The generated files of a build; a page that is pointed to brings along what it points to."""

    def __init__(self, files, config):
        self.files, self.config, self.names = files, config, {}

    def add(self, name, content):
        self.files.append(File.generated(self.config, name, content=content))

    def page(self, source):
        """The name on the site of a Markdown file of the repository."""
        if source.startswith("docs/"):
            return source.removeprefix("docs/")
        if source not in self.names:
            self.names[source] = PAGES.get(source, f"more/{source}")
            text = (ROOT / source).read_text(encoding="utf-8")
            self.add(self.names[source], self.linked(text, source, self.names[source]))
        return self.names[source]

    def file(self, source):
        """The name on the site of another file."""
        if source not in self.names:
            self.names[source] = f"files/{source}"
            self.add(self.names[source], (ROOT / source).read_bytes())
        return self.names[source]

    def linked(self, text, source, name):
        """``text`` of the repository's file ``source``, called ``name`` on the site, with links as they are there."""

        def relative(target):
            return os.path.relpath(target, os.path.dirname(name) or ".")

        def changed(match):
            target, anchor = match["target"], match["anchor"] or ""
            if re.match(r"[a-z]+:", target):
                return match[0]
            wanted = os.path.normpath(os.path.join(os.path.dirname(source), target))
            path = ROOT / wanted
            if wanted in INSTEAD:
                return f"{match['before']}{relative(INSTEAD[wanted])})"
            if wanted in FOLDERS:
                return f"{match['before']}{relative(FOLDERS[wanted])})"
            if wanted.startswith("cards/") and path.is_dir():
                return f"{match['before']}{relative('gallery.md')}#{path.name})"
            if path.is_dir():
                return match["text"]
            if path.suffix == ".md":
                return f"{match['before']}{relative(self.page(wanted))}{anchor})"
            return f"{match['before']}{relative(self.file(wanted))}{anchor})"

        return LINK.sub(changed, text)


def on_files(files, config):
    """Add what is generated."""
    site = Site(files, config)
    config["site_of_distillkit"] = site
    for source in PAGES:
        site.page(source)
    site.add("settings.md", settings_page.text())
    for name, content in gallery.pages(ROOT):
        site.add(name, content)
    for file in list(files.documentation_pages()):
        source = f"docs/{file.src_uri}"
        if (ROOT / source).is_file() and file.generated_by is None:
            site.linked((ROOT / source).read_text(encoding="utf-8"), source, file.src_uri)  # brings its files along
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of the pages of this folder."""
    source = f"docs/{page.file.src_uri}"
    if page.file.generated_by is not None or not (ROOT / source).is_file():
        return markdown
    return config["site_of_distillkit"].linked(markdown, source, page.file.src_uri)
