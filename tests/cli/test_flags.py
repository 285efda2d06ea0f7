"""What the library says of its arguments and settings, in Python's words and in those of the command line."""

import ast
import functools
import io
import re
import warnings
from pathlib import Path
from typing import Annotated

import pytest
import typer
from rich.console import Console
from typer.main import get_command
from typer.testing import CliRunner

import distillkit
from distillkit import FewImagesWarning, compress, load_distilled
from distillkit.cli import app as commands
from distillkit.cli import console
from distillkit.cli import experts as expert_commands
from distillkit.cli import options as opt
from distillkit.cli.flags import Flags
from distillkit.cli.listeners import progress
from distillkit.config import known_keys
from distillkit.errors import ConfigError

PACKAGE = Path(distillkit.__file__).parent
COMMANDS = [
    info.callback for group in (commands.app, commands.experts, commands.cache) for info in group.registered_commands
]


def typed(*arguments):
    """What the command line says of it."""
    return CliRunner().invoke(commands.app, [str(argument) for argument in arguments]).stderr


def refused(call):
    with pytest.raises(ConfigError) as error:
        call()
    return str(error.value)


# --- both faces of a message ---


def test_faces__an_argument():
    assert refused(lambda: compress("digits", ipc=0)) == "`ipc` must be 1 or more, got 0"
    assert refused(lambda: compress("digits", ipc="1")) == "`ipc` must be a whole number, got '1'"
    assert typed("compress", "digits", "--ipc", 0) == "error: --ipc must be 1 or more, got 0\n"


def test_faces__replace_is_yes(copy, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    said = refused(lambda: load_distilled(copy).export("pt", tmp_path / "full"))
    assert said.endswith("choose another folder, or `replace=True`")
    shown = typed("export", copy, "--to", "pt", "--out", tmp_path / "full")
    assert shown == f"error: {said.replace('`replace=True`', '--yes')}\n"


def test_faces__a_setting_is_assigned(tmp_path):
    settings = {"distill.mask": "depth"}
    said = refused(lambda: compress("digits", ipc=1, method="dm", settings=settings, out=tmp_path / "a", device="cpu"))
    assert said.endswith("compares none; `distill.mask=none`")
    options = ["--method", "dm", "--set", "distill.mask=depth", "--out", tmp_path / "a", "--device", "cpu"]
    shown = typed("compress", "digits", "--ipc", 1, *options)
    assert shown == f"error: {said.replace('`distill.mask=none`', '--set distill.mask=none')}\n"


def test_faces__a_name_of_push(copy):
    said = refused(lambda: load_distilled(copy).push_to_hub("org/name@main"))
    assert said.endswith("name a branch with `revision`, a tag with `tag`")
    assert typed("push", copy, "org/name@main").endswith("name a branch with --revision, a tag with --tag\n")


@pytest.mark.parametrize("terminal", [True, False])
def test_faces__notes_and_warnings(monkeypatch, terminal):
    screen = Console(file=io.StringIO(), force_terminal=terminal, width=200, highlight=False, color_system=None)
    monkeypatch.setattr(console, "errors", screen)

    @console.guarded
    def command(
        image_size: opt.ImageSize = None,
        private: Annotated[bool, typer.Option("--private")] = False,
    ) -> None:
        with progress(quiet=False) as told:
            told.note("cropped (`dataset.image_size` changes it)")
            warnings.simplefilter("always", FewImagesWarning)
            warnings.warn("public; `private=True` keeps it", FewImagesWarning, stacklevel=1)

    command()
    assert "cropped (--image-size changes it)" in screen.file.getvalue()
    assert "warning: public; --private keeps it" in screen.file.getvalue()


# --- what a command has a flag for ---


def test_flags__are_those_that_typer_parses():
    found = 0
    for group in (get_command(commands.app), get_command(commands.experts), get_command(commands.cache)):
        for command in group.commands.values():
            if command.callback is None or hasattr(command, "commands"):
                continue
            flags = Flags.of(command.callback).by_name
            for parameter in command.params:
                name = parameter.name.rstrip("_")
                if parameter.name != "help":
                    found += 1
                    assert flags[name] in (*parameter.opts, name.upper())
    assert found > 150


@pytest.mark.parametrize(
    ("command", "said", "shown"),
    [
        (commands.compress, "`dataset.skip_corrupt=True`", "--skip-corrupt"),
        (commands.compress, "`dataset.license`", "--license"),  # its parameter ends in _, license being a builtin
        (commands.compress, "`precision=fp32`", "--precision fp32"),
        (commands.compress, "`evaluate.lengths=[]`", "--set 'evaluate.lengths=[]'"),
        (commands.compress, "`preset=quick` and `settings`", "--preset quick and --set"),
        (commands.compress, "`dataset.max_train`", "dataset.max_train"),
        (commands.tune, "`dataset=PATH`", "--dataset PATH"),
        (commands.compress, "give more `seconds`", "give more --tune-budget"),  # of the search that follows
        (commands.tune, "`seconds` must", "--time-budget must"),
        (commands.evaluate, "`dataset.image_size`", "dataset.image_size"),  # it has no such flag, and no --set
        (commands.evaluate, "`distill.mask=none`", "distill.mask=none"),
        (commands.import_files, "`kind` 'x', `zca=True`", "--from 'x', --zca"),
        (commands.import_files, "`distill.labels=hard`", "--set distill.labels=hard"),  # not --labels, of the files
        (commands.import_files, "`precision=fp32`", "--set precision=fp32"),
        (commands.compress, "mend it, or pass `dataset.skip_corrupt=True`", "mend it, or pass --skip-corrupt"),
        (commands.evaluate, "mend it, or pass `dataset.skip_corrupt=True`", "mend it"),  # it could not be passed
        (expert_commands.train, "`replace=True`", "`replace=True`"),
        (expert_commands.push, "`replace=True`", "--yes"),
        (commands.compress, "`x` `y=1` `` ` `a b`", "`x` `y=1` `` ` `a b`"),
    ],
)
def test_flags__of_the_command_at_hand(command, said, shown):
    assert Flags.of(command).spoken(said) == shown


# --- no flag in the library ---

QUOTED = re.compile(r"'distillkit [^']*'")
"""A command to run is understood in Python too."""
ALLOWED = {
    ("config.py", "--set"): "where a setting came from, as every config.json has recorded it",
    ("distributed.py", "--nproc-per-node"): "of torchrun, which both start",
    ("pipeline.py", "--ipc"): "the command that repeats a run, recorded in config.json",
    ("pipeline.py", "--method"): "the same",
    ("pipeline.py", "--preset"): "the same",
    ("pipeline.py", "--set"): "the same",
    ("sharing/experts_card.py", "--ipc"): "a command on the card",
    ("sharing/experts_card.py", "--method"): "the same",
    ("sharing/experts_card.py", "--set"): "the same",
}


def texts(module):
    """The strings of a module other than docstrings, ``?`` for what is put into them."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            yield "".join(part.value if isinstance(part, ast.Constant) else "?" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


@functools.cache
def library():
    """Module and text of all of them outside ``cli``."""
    found = []
    for module in sorted(PACKAGE.rglob("*.py")):
        name = module.relative_to(PACKAGE).as_posix()
        if not name.startswith("cli/"):
            found += [(name, text) for text in texts(module)]
    return found


def test_library__names_no_flag_of_the_command_line():
    found = {
        (name, flag): text
        for name, text in library()
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", QUOTED.sub("", text))
    }
    assert {place: text for place, text in found.items() if place not in ALLOWED} == {}
    assert ALLOWED.keys() == found.keys()


def test_library__what_it_names_in_backticks_is_a_setting_or_an_argument_of_a_command():
    arguments = {name for command in COMMANDS for name in Flags.of(command).by_name}
    known = {*arguments, *known_keys(), "?"}
    found = [
        (module, name)
        for module, text in library()
        if "card" not in module
        for name in re.findall(r"(?<!`)`([a-z_.?]+)(?:=[^`]*)?`(?!`)", text)
    ]
    assert [place for place in found if place[1] not in known] == []
    assert len(found) > 80
