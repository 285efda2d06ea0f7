"""The licence of a data set: what the user says, what the registry knows, what the source's card states; no guess."""

import json

import pytest

from distillkit import compress, licenses
from distillkit.artifact.card_words import license_words
from distillkit.artifact.schema import ArtifactConfig
from distillkit.data.load import load_data
from distillkit.progress import Silent
from distillkit.settings import DatasetSettings
from tests.artifact import small
from tests.helpers import TINY


def stated(folder, **settings):
    return load_data(DatasetSettings(name=str(folder), **settings), Silent()).info.license


@pytest.mark.parametrize(
    ("card", "found"),
    [
        (None, None),
        ("no head", None),
        ("---\nlicense: cc-by-4.0\n---\n", "cc-by-4.0"),
        ("---\r\nlicense: [mit, apache-2.0]\r\n---\r\n", "mit, apache-2.0"),
        ("---\nlicense: unknown\n---\n", None),
        ("---\nlicense: other\nlicense_name: our-terms\n---\n", "our-terms"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\n: [\n---\n", None),
        ("---\n- a list\n---\n", None),
    ],
)
def test_a_folder_says_it_in_its_card(class_folders, card, found):
    folder = class_folders({"a": 8, "b": 8})
    if card is not None:
        (folder / "README.md").write_text(card)
    assert stated(folder) == found


def test_what_the_user_says_comes_first(class_folders):
    folder = class_folders({"a": 8, "b": 8})
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    assert stated(folder, license="cc0-1.0") == "cc0-1.0"
    assert load_data(DatasetSettings(name="digits"), Silent()).info.license == "cc-by-4.0"


def test_a_finished_run_is_packed_again_with_another_licence__and_not_made_again(tmp_path):
    def made(**more):
        compress("digits", ipc=1, preset="smoke", settings=TINY | more, out=tmp_path / "set", device="cpu")
        return json.loads((tmp_path / "set" / "distill_config.json").read_text())

    first, steps = made(), (tmp_path / "set" / "run" / "checkpoint.safetensors").stat().st_mtime_ns
    second = made(**{"dataset.license": "my own terms"})
    assert (first["source"]["license"], second["source"]["license"]) == ("cc-by-4.0", "my own terms")
    assert (tmp_path / "set" / "run" / "checkpoint.safetensors").stat().st_mtime_ns == steps
    card = (tmp_path / "set" / "README.md").read_text()
    assert "license_name: my-own-terms" in card
    assert "is `my own terms`" in card


@pytest.mark.parametrize("name", sorted(licenses.IDENTIFIERS))
def test_every_identifier_of_the_hub_is_written_as_itself(name):
    assert licenses.front_matter(name) == {"license": name}
    assert licenses.front_matter(name.upper()) == {"license": name}


@pytest.mark.parametrize(
    ("stated", "written"),
    [
        (None, {"license": "unknown"}),
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ("OpenRAIL++", {"license": "openrail++"}),
        ("other", {"license": "other", "license_name": "other"}),
        ("mit, apache-2.0", {"license": "other", "license_name": "mit-apache-2.0"}),
        ("???", {"license": "other", "license_name": "stated-by-the-source"}),
    ],
)
def test_another_one_is_written_with_its_name(stated, written):
    assert licenses.front_matter(stated) == written


def test_the_hubs_table_is_whole():
    """83 names when a reviewer counted it, ``other`` among them."""
    assert len(licenses.IDENTIFIERS) == 82
    assert "other" not in licenses.IDENTIFIERS
    for name in licenses.IDENTIFIERS:  # as lines are broken at hyphens by some
        assert not name.startswith("-"), name
        assert not name.endswith("-"), name
    assert {"cc-by-3.0", "cc-by-nc-nd-4.0", "fair-noncommercial-research-license"} <= licenses.IDENTIFIERS


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "is unknown to distillkit; ask its source"),
        ("unknown", "is unknown to distillkit; ask its source"),
        ("mit", "is `mit`"),
        ("mit`\n# A heading\n<script>", "is `mit' # A heading <script>`"),
    ],
)
def test_the_card_claims_only_what_is_known__and_foreign_text_stays_text(source, words):
    about = small.config(["dark", "bright"], 1, (1, 4, 4)) | {"uint8_range": {"low": 0.0, "high": 1.0}}
    about["source"] |= {"license": source}
    assert words in license_words(ArtifactConfig.model_validate(about))
