"""A method in a user's own file or object is a method like the others."""

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distillkit import METHODS, ConfigError, compress, load_distilled
from distillkit.cli.app import app
from distillkit.config import compose, find_method
from distillkit.distill.matching import MATCHING, loss_on_curves
from distillkit.parts import Part
from distillkit.settings import DistillSettings

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_method.py"


def test_method_of_a_file__makes_a_set_that_says_so(tiny, tmp_path):
    words = [f"{key}={value}" for key, value in tiny.items()]
    line = ["compress", "digits", "--ipc", "1", "--preset", "smoke", "--method", f"{EXAMPLE}:METHOD", "--quiet"]
    line += ["--out", str(tmp_path / "set"), *(part for word in words for part in ("--set", word))]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    ds = load_distilled(tmp_path / "set")
    assert ds.config["method"] == "direction"
    assert ds.config["settings"]["distill"]["matching"] == "direction"
    assert "Matching the direction of trajectories" in (tmp_path / "set" / "README.md").read_text()


def test_method_as_an_object__learns_other_images_than_the_method_it_varies(tiny, tmp_path):
    own = replace(METHODS["mtt"], name="own", parts={**METHODS["mtt"].parts, "distill.init": "kmeans"})
    made = [
        compress(
            "digits", ipc=1, method=method, preset="smoke", out=tmp_path / str(number), settings=tiny, device="cpu"
        )
        for number, method in enumerate(("mtt", own))
    ]
    assert made[1].config["method"] == "own"
    assert not made[0].images.equal(made[1].images)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mt", "method 'mt' is unknown; known: rat"),
        ("mine.txt:METHOD", r"is not of the form FILE.py:NAME"),
        ("absent.py:METHOD", r"there is no file absent.py"),
        ("broken.py:METHOD", r"broken.py does not run: ZeroDivisionError"),
        ("empty.py:METHOD", r"empty.py defines no METHOD; expected a distillkit.Method"),
        ("empty.py:os", r"os is a module; expected"),
        ("spaced.py:METHOD", r"method name 'a/b' must be 1 to 60 letters"),
        ("same.py:METHOD", r"there is a method 'mtt' already; give yours another name"),
    ],
)
def test_what_is_no_method__is_one_sentence(text, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("1 / 0")
    Path("empty.py").write_text("import os")
    Path("spaced.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass, replace\n"
        "from distillkit import METHODS\n"
        "@dataclass\nclass Own:\n    a: int\nMETHOD = replace(METHODS['mtt'], name='a/b')\n"
    )
    Path("same.py").write_text(
        "from dataclasses import replace\nfrom distillkit import METHODS\nMETHOD = replace(METHODS['mtt'], title='x')\n"
    )
    with pytest.raises(ConfigError, match=words):
        find_method(text)


def test_settings__carry_the_methods_name():
    own = replace(METHODS["mtt"], name="own")
    composed = compose("digits", 1, own, "smoke", "cpu")
    assert composed.settings.method == "own"
    assert composed.method is own


def test_call_from_python__is_recorded_as_the_command_that_repeats_it(tiny, tmp_path):
    ds = compress(
        "digits",
        ipc=1,
        method="random",
        preset="smoke",
        out=tmp_path,
        settings={"evaluate.networks": 2, "evaluate.baselines": []},
    )
    words = "distillkit compress digits --ipc 1 --method random --preset smoke"
    assert ds.config["command"] == words + " --set evaluate.networks=2 --set 'evaluate.baselines=[]'"


def test_file_that_has_changed__is_another_run(tiny, tmp_path):
    own, line = tmp_path / "own.py", {"ipc": 1, "preset": "smoke", "out": tmp_path / "set", "settings": tiny}
    own.write_text(EXAMPLE.read_text())
    compress("digits", method=f"{own}:METHOD", **line)
    own.write_text(EXAMPLE.read_text().replace("return 1 -", "return 2 -"))
    with pytest.raises(ConfigError, match=r"holds another run .*differs in code"):
        compress("digits", method=f"{own}:METHOD", **line)


def test_curves__of_a_loss_of_ones_own_claim_nothing_of_a_student_that_does_not_move(monkeypatch):
    monkeypatch.setitem(MATCHING, "own", Part(lambda settings: None, needs=frozenset({"trajectories"})))
    assert loss_on_curves(DistillSettings(matching="own")) == ("matching loss", None)
    assert loss_on_curves(DistillSettings(matching="intermediate")) == ("matching loss (1 = not moving)", 1.0)
    assert loss_on_curves(DistillSettings(matching="real-loss")) == ("loss on real images", None)
