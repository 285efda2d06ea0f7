"""Results and recipes added to an artifact that is there: by several at once, and with a kill at any moment."""

import json
import threading

import pytest

from distillkit import load_distilled, storage
from distillkit.artifact.layout import FILES, recipe_file
from distillkit.artifact.schema import MOST_RECIPES
from distillkit.errors import ArtifactError, ConfigError, StorageError
from distillkit.evaluation.tuning import Candidate, Tried
from distillkit.pipeline import save_reports
from distillkit.records import EvalReport
from distillkit.stages.kept_recipes import Tuned, keep_recipe
from tests.artifact.small import write_small


class Killed(BaseException):
    """As a kill: nothing of the library catches it."""


def tuned(name, lr=0.03):
    candidate = Candidate("sgd", lr, 100, "none")
    recipe = candidate.to_json(2) | {
        "architecture": {"name": name, "norm": "instance"},
        "tuned_for": name,
        "chosen_by": {"split": "validation", "images": 3, "networks": 1, "tried": []},
    }
    return Tuned(name, recipe, (Tried(candidate, 0.5, 1.0),), EvalReport((lr,), {"lr": lr}), {}, 1.0)


def add_row(folder):
    save_reports(folder, {"lenet": EvalReport((0.25,), {"lr": 0.02})})


CHANGES = {
    "row": (add_row, lambda ds: "lenet" in ds.results["architectures"]),
    "recipe": (lambda folder: keep_recipe(folder, tuned("vgg11")), lambda ds: "vgg11" in ds.results["tuned"]),
    "recipe anew": (lambda folder: keep_recipe(folder, tuned("mlp", 0.1)), lambda ds: ds.recipes["mlp"]["lr"] == 0.1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_change__killed_before_any_write_leaves_an_artifact_that_goes_on(tmp_path, monkeypatch, name):
    make, is_made = CHANGES[name]
    write, seen = storage.write_bytes, []
    for fatal in range(1, 20):
        folder, calls = tmp_path / str(fatal), iter(range(1, 100))
        write_small(folder)
        keep_recipe(folder, tuned("mlp"))

        def killed(path, content, calls=calls, fatal=fatal):
            if next(calls) == fatal:
                raise Killed
            write(path, content)

        monkeypatch.setattr(storage, "write_bytes", killed)
        try:
            make(folder)
        except Killed:
            pass
        else:
            break
        finally:
            monkeypatch.setattr(storage, "write_bytes", write)
        seen.append(is_made(load_distilled(folder)))
        if name == "row" and seen[-1]:  # which is not overwritten
            keep_recipe(folder, tuned("alexnet"))
        else:
            make(folder)
        ds = load_distilled(folder)
        assert is_made(ds)
        assert "checksums_next" not in ds.config
        assert ds.recipe_for("mlp")["tuned_for"] == "mlp"
    assert seen[0] is False
    assert seen[-1] is True  # only the card was missing
    assert len(seen) == fatal - 1 >= 4


def test_change__files_that_were_damaged_meanwhile_are_still_told(tmp_path, monkeypatch):
    write_small(tmp_path)
    write = storage.write_bytes

    def full(path, content):
        if path.name == FILES.results:
            raise StorageError("no space left on device")
        write(path, content)

    monkeypatch.setattr(storage, "write_bytes", full)
    with pytest.raises(StorageError, match="no space"):
        add_row(tmp_path)
    assert json.loads((tmp_path / FILES.config).read_text())["checksums_next"]
    load_distilled(tmp_path)
    results = json.loads((tmp_path / FILES.results).read_text())
    (tmp_path / FILES.results).write_text(json.dumps({**results, "note": "edited"}))
    with pytest.raises(ArtifactError, match=r"results.json is not the file that distill_config.json names"):
        load_distilled(tmp_path)


def test_change__several_at_once_lose_nothing(tmp_path):
    write_small(tmp_path)
    errors = []

    def add(own):
        try:
            for number in range(4):
                save_reports(tmp_path, {f"timm/net{own}{number}": EvalReport((0.5,), {"lr": 0.02})})
                keep_recipe(tmp_path, tuned(f"timm/own{own}{number}"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=add, args=(own,)) for own in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    ds = load_distilled(tmp_path)
    assert len(ds.recipes) == len(ds.results["tuned"]) == 12
    assert len(ds.results["architectures"]) == 13


def test_change__more_recipes_than_can_be_read_are_refused(tmp_path):
    write_small(tmp_path)
    for number in range(MOST_RECIPES):
        keep_recipe(tmp_path, tuned(f"timm/net{number}"))
    before = (tmp_path / FILES.config).read_bytes()
    with pytest.raises(ConfigError, match=r"cannot hold this as well: recipes: list should have at most 64 items"):
        keep_recipe(tmp_path, tuned("timm/more"))
    assert (tmp_path / FILES.config).read_bytes() == before
    assert not (tmp_path / recipe_file("timm/more")).exists()
    keep_recipe(tmp_path, tuned("timm/net7", 0.1))  # one that it has is replaced
    assert load_distilled(tmp_path).recipes["timm/net7"]["lr"] == 0.1
