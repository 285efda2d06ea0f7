"""README and docs: their links lead somewhere, their Python runs, their commands are commands."""

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command

import distillkit
from distillkit.artifact import schema
from distillkit.artifact.layout import FILES
from distillkit.cli.app import app
from distillkit.settings import NetworkSettings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


@each_page
def test_links__lead_to_files(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), link


@each_page
def test_commands__are_commands_with_their_options(page):
    known = get_command(app)
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.S | re.M):
        for line in [] if language else block.splitlines():
            if not line.startswith("distillkit "):
                continue
            words = shlex.split(line, comments=True)
            command = known.commands[words[1]]
            if hasattr(command, "commands"):
                command, words = command.commands[words[2]], words[1:]
            options = {name for parameter in command.params for name in parameter.opts + parameter.secondary_opts}
            assert {word.split("=")[0] for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize("page", ["README.md", "docs/use.md"])
def test_python_of_a_page_runs__one_block_after_the_other(page, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)
    assert "ds.train(model)" in blocks[0]
    monkeypatch.chdir(ROOT)
    names = {}
    for code in blocks:
        exec(code.replace("ds.train(model)", "ds.train(model, epochs=2)"), names)
    assert 0 <= names["ds"].evaluate(names["model"]) <= 1


def test_images_in_memory__become_a_folder(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/make.md").read_text(), re.S)
    assert 'method="rat"' in code
    monkeypatch.chdir(tmp_path)
    shades = np.random.default_rng(0).integers(0, 100, (40, 8, 8), dtype=np.uint8)
    shades[::2] += 120
    names = {"distillkit": distillkit, "arrays": shades, "labels": [row % 2 for row in range(40)]}
    with pytest.raises(distillkit.ConfigError, match=r"is a list, expected a name or a path; .*save_to_disk"):
        distillkit.compress([*shades], ipc=1)
    exec(code.replace('method="rat"', 'method="rat", preset="smoke", device="cpu"'), names)
    made = distillkit.load_distilled("runs/my-images-ipc1-rat")
    assert (made.config["source"]["name"], made.images.shape) == ("my-images", (2, 1, 8, 8))


def test_readme__is_read_in_a_minute():
    assert len((ROOT / "README.md").read_text().split()) <= 850


def test_method_of_ones_own__is_the_example():
    shown = re.search(r"```python\n(.*?)```", (ROOT / "docs/methods.md").read_text(), re.S)
    assert shown
    assert shown[1] in (ROOT / "examples/own_method.py").read_text()


def test_artifact_format__names_every_key_that_loading_checks():
    told = set(re.findall(r"`([\w.-]+)`", (ROOT / "docs/artifact.md").read_text()))
    records = (
        *(schema.ArtifactConfig, schema.Source, schema.RecipeFile, schema.TunedRecipeFile, schema.Optimizer),
        *(
            schema.LrSchedule,
            schema.AugmentationFile,
            schema.ResultsFile,
            schema.Row,
            schema.Selection,
            schema.Identity,
        ),
        NetworkSettings,
    )
    for record in records:
        assert set(record.model_fields) <= told, record.__name__
    text = (ROOT / "docs/artifact.md").read_text()
    for name in dataclasses.astuple(FILES):
        assert f"`{name}" in text, name


def test_faults__name_tests_that_there_are():
    table, named = (ROOT / "tests/FAULTS.md").read_text(), 0
    for cell in re.findall(r"^\|.*\| (.*?) \|$", table, re.M):
        path = None
        for place, test in re.findall(r"`(tests/[\w/.]+)?(?:::(test_\w+))?`", cell):
            path = ROOT / place if place else path
            if path is not None:
                assert path.exists(), place
                assert not test or f"def {test}(" in path.read_text(), test
                named += bool(test)
    assert named > 100
