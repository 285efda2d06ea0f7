"""The reference sets in cards/ load in a fresh clone, and their cards say what their results say."""

from pathlib import Path

import pytest

from distillkit import load_distilled
from distillkit.artifact.card import render_card

CARDS = sorted(path.parent for path in (Path(__file__).parent.parent / "cards").glob("*/distill_config.json"))


@pytest.mark.parametrize("folder", CARDS, ids=lambda folder: folder.name)
def test_card__loads_and_is_what_its_files_say(folder):
    ds = load_distilled(folder)
    assert ds.results["architectures"]["convnet"]["mean"] > ds.results["baselines"]["random"]["mean"]
    assert (folder / "README.md").read_text() == render_card(ds.config, ds.recipe, ds.results)


def test_cards__are_there():
    assert CARDS
