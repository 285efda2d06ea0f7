"""What a shell offers after Tab, asked as the shell asks."""

import os
import subprocess
import sys
from typing import get_args

import pytest

from distillkit.cli import completion
from distillkit.interchange.export import FORMATS
from distillkit.methods import METHODS
from distillkit.networks.field import FIELD
from distillkit.records import LabelKind
from distillkit.settings import StoredDtype


def offered(typed, folder):
    """Words that bash would show for a line whose last word is not finished."""
    program = "from distillkit.cli.app import app; import sys; app(prog_name='distillkit')"
    words = typed.split(" ")
    asked = {"_DISTILLKIT_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **asked},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("distillkit compress cifar", ["cifar10", "cifar100"]),
        ("distillkit compress ph", ["photos/"]),
        ("distillkit compress digits --method m", ["mtt", "mct", "mct-no-zca"]),
        ("distillkit compress digits --preset p", ["paper"]),
        ("distillkit compress digits --precision t", ["tf32"]),
        ("distillkit compress digits --set distill.lr_i", ["distill.lr_img=", "distill.lr_init="]),
        ("distillkit tune runs/a --arch alex", ["alexnet"]),
        ("distillkit export runs/a --to dd", ["ddranking"]),
        ("distillkit import x.pt --from d", ["datm"]),
        ("distillkit import x.pt --labels w", ["weights"]),
        ("distillkit compress digits --dtype f", ["float16", "float32"]),
        ("distillkit compress digits --tracker w", ["wandb"]),
        ("distillkit info photos/", ["photos/cats/"]),
    ],
)
def test_shell__is_offered_the_values(typed, expected, tmp_path):
    (tmp_path / "photos" / "cats").mkdir(parents=True)
    (tmp_path / "photos" / ".hidden").mkdir()
    assert sorted(offered(typed, tmp_path)) == sorted(expected)


def test_values__are_all_that_there_are():
    assert completion.methods("") == list(METHODS)
    assert set(FIELD) < set(completion.networks(""))
    assert completion.precisions("") == [*get_args(completion.Precision)]
    assert set(completion.formats("")) == set(FORMATS)
    assert set(completion.dtypes("")) == {*get_args(StoredDtype)}
    assert set(completion.labels("")) == {*get_args(LabelKind)}
    assert completion.folders("/no/such/place/") == []


def test_values__need_no_torch():
    program = "import sys; from distillkit.cli import completion as c; c.datasets(''); c.methods(''); c.settings('')"
    code = f"{program}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
