"""The reference sets in cards/ load in a fresh clone, and their cards say what their results say."""

import json
from pathlib import Path

import pytest

from distillkit import load_distilled
from distillkit.artifact.card import render_card
from distillkit.artifact.card_words import percent
from distillkit.artifact.schema import ResultsFile
from distillkit.cli.config_file import read_config_file
from distillkit.config import compose
from distillkit.stages.checks import check_distillation

ALL = sorted(path.parent for path in (Path(__file__).parents[2] / "cards").glob("*/distill_config.json"))
WHOLE = [folder for folder in ALL if (folder / "distilled.safetensors").is_file()]


@pytest.mark.parametrize("folder", WHOLE, ids=lambda folder: folder.name)
def test_card__loads_and_is_what_its_files_say(folder):
    ds = load_distilled(folder)
    own, random = ds.results["architectures"]["convnet"]["mean"], ds.results["baselines"]["random"]["mean"]
    assert own > random or ds.config["method"] == "random"
    assert (folder / "README.md").read_text() == render_card(ds.config, ds.recipe, ds.results)


@pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.name)
def test_card__shows_its_accuracy_and_no_picture_that_is_not_there(folder):
    measured = ResultsFile.model_validate(json.loads((folder / "results.json").read_text()))
    card = (folder / "README.md").read_text()
    assert percent(measured.architectures["convnet"]) in card
    assert all((folder / name).is_file() for name in ("preview.png", "curves.png") if f"]({name})" in card)


@pytest.mark.parametrize("folder", [folder for folder in ALL if folder not in WHOLE], ids=lambda folder: folder.name)
def test_card__of_a_set_that_is_not_here_says_so(folder):
    card = (folder / "README.md").read_text()
    assert "Only the card and the figures are kept here, not the images" in card
    assert "load_distilled" not in card


@pytest.mark.parametrize("folder", ALL, ids=lambda folder: folder.name)
def test_card__its_config_can_be_given_to_compress(folder):
    layer = read_config_file(folder / "distill_config.json")
    told = json.loads((folder / "distill_config.json").read_text())
    name, ipc, preset = (told["settings"][key] for key in ("dataset", "ipc", "preset"))
    composed = compose(name["name"], ipc, told["method"], preset, "cpu", [layer])
    check_distillation(composed.settings, composed.asked)
    assert composed.settings.distill.model_dump(mode="json").items() >= told["settings"]["distill"].items()


def test_cards__are_there():
    assert WHOLE
