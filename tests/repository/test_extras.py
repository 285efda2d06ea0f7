"""Using a set needs no more than what is installed without extras; what needs more says which."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = """
import sys
BLOCKED = ("timm", "torchvision", "sklearn", "scipy", "matplotlib", "datasets", "pyarrow", "pandas", "huggingface_hub")

sys.modules.update(dict.fromkeys(BLOCKED))
"""
USE = """
import torch
from distillkit import load_distilled
from distillkit.records import ImageSet

ds = load_distilled("cards/digits-ipc10-mtt")
model = ds.network()
ds.train(model, epochs=2)
test = ImageSet((torch.rand(20, 1, 8, 8) * 255).to(torch.uint8), torch.arange(20) % 10, tuple(ds.classes))
assert 0 <= ds.evaluate(model, test) <= 1
"""
CLI = """
from distillkit.cli import main
main()
"""


def python(code, *words):
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)


def test_a_set_is_loaded_trained_on_and_evaluated_without_extras():
    done = python(BLOCK + USE)
    assert done.returncode == 0, done.stderr


def test_commands_that_look_at_a_set_need_none():
    for words in (["info", "cards/digits-ipc1-mtt"], ["methods"], ["--help"], ["doctor"]):
        done = python(BLOCK + CLI, *words)
        assert done.returncode == 0, done.stderr


def test_a_missing_extra_is_one_sentence():
    done = python(BLOCK + CLI, "evaluate", "cards/digits-ipc1-mtt", "--networks", "1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: this needs sklearn, which is not installed: pip install 'distillkit[distill]'"
    )
    done = python(BLOCK + CLI, "evaluate", "cards/digits-ipc1-mtt", "--arch", "timm/resnet10t")
    assert "pip install 'distillkit[timm]'" in done.stderr
    done = python(BLOCK + CLI, "pull", "org/name")
    assert "pip install 'distillkit[hub]'" in done.stderr
