"""The diffs that docs/methods.md shows of a new loss, a new method and a new outer optimiser: they apply, and what they
add is what they say.
"""

import math
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from distillkit.config import compose
from distillkit.distill.matching import StudentFacts
from distillkit.records import Segment
from distillkit.settings import DistillSettings
from distillkit.stages.checks import check_distillation

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def added(tmp_path_factory):
    """A folder of the files that the diffs change and make, as they are then."""
    folder = tmp_path_factory.mktemp("added")
    diffs = re.findall(r"```diff\n(.*?)```", (ROOT / "docs/methods.md").read_text(), re.S)
    changed = [re.findall(r"^--- a/(.+)$", diff, re.M) for diff in diffs]
    assert [len(files) for files in changed] == [1, 1, 1]  # of files that are there, each changes one
    for (name,) in changed:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    outside = os.environ | {"GIT_CEILING_DIRECTORIES": str(folder.parent)}
    subprocess.run(["git", "apply", "-"], input="".join(diffs), text=True, check=True, cwd=folder, env=outside)
    return folder / "distillkit"


def test_loss__is_zero_for_who_does_not_move_and_pulls_by_what_is_left(added):
    """log(|θ - θ*|^2 / |θ_0 - θ*|^2) has the gradient 2 (θ - θ*) / |θ - θ*|^2, whatever the expert's own way was."""
    start, target = torch.zeros(3, dtype=torch.float64), torch.tensor([3.0, 4.0, 0.0], dtype=torch.float64)
    facts = StudentFacts(start, 5, Segment(0, 0, 2), lambda epoch: target if epoch == 2 else start)
    part = runpy.run_path(str(added / "distill/matching.py"))["MATCHING"]["log-distance"]
    (term,) = part.build(DistillSettings())(facts)
    assert term.after == 5
    assert float(term.loss(start)) == part.still == 0
    end = torch.tensor([3.0, 3.0, 0.0], dtype=torch.float64, requires_grad=True)
    loss = term.loss(end)
    assert float(loss.detach()) == pytest.approx(-math.log(25))
    (gradient,) = torch.autograd.grad(loss, end)
    assert gradient.tolist() == [0.0, -2.0, 0.0]


def test_method__composes_for_every_preset_and_is_in_the_table(added):
    (method,) = runpy.run_path(str(added / "methods/dsa_deep.py"))["METHODS"]
    for preset in ("smoke", "quick", "paper"):
        settings = compose("cifar10", 10, method, preset, "cuda").settings
        assert (settings.distill.objective, settings.distill.mask) == ("gradients", "depth")
        assert settings.distill.mask_ratio == 0.25
        check_distillation(settings)
    table = re.search(r"_FILES = \(\n(.*?)\n\)", (added / "methods/__init__.py").read_text(), re.S)
    assert '    "dsa_deep",' in table[1].splitlines()


def test_outer_optimiser__is_that_of_torch(added):
    parts = runpy.run_path(str(added / "distill/outer_optimizers.py"))["OUTER_OPTIMIZERS"]
    step, memory = parts["rmsprop"].build(DistillSettings(lr_img=0.3, lr_lr=0.01)), {}
    own = {"images": torch.nn.Parameter(torch.zeros(2, 1, 3, 3)), "lr": torch.nn.Parameter(torch.zeros(()))}
    theirs = torch.optim.RMSprop([{"params": [own["images"]], "lr": 0.3}, {"params": [own["lr"]], "lr": 0.01}])
    moved = {name: torch.zeros_like(parameter) for name, parameter in own.items()}
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        for parameter in own.values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        changes, memory = step({name: parameter.grad for name, parameter in own.items()}, memory)
        moved = {name: moved[name] + changes[name] for name in moved}
        theirs.step()
    for name, parameter in own.items():
        assert torch.allclose(moved[name], parameter.detach(), rtol=1e-5), name
