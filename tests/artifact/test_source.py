"""What the config of an artifact decides of the data that are read, and what it may not decide."""

import pytest

from distillkit import load_distilled
from distillkit.artifact.source import Asked, asked_data
from distillkit.config import compose
from distillkit.data.load import load_data
from distillkit.errors import ConfigError, DataError, NotFoundError
from distillkit.hub.sources import source_revision, source_token, sources_read_with
from distillkit.progress import Silent
from distillkit.settings import DatasetSettings
from distillkit.sharing.push import PushOptions, push

SHAPE = (3, 32, 32)


def config(name, hub_id=None, **choices):
    return {"settings": {"dataset": {"name": name, **choices}}, "source": {"hub_id": hub_id, "fingerprint": "f"}}


@pytest.mark.parametrize(
    ("name", "hub_id"),
    [
        ("/", None),
        ("/root/.cache", None),
        ("../private", None),
        ("photos", None),
        ("org/photos", None),
        ("/root/.cache", "/root/.cache"),
        ("org/photos", "org/others"),
        ("here/photos", "here/photos"),  # a folder of this name goes before the repository
        ("x" * 5000, "x" * 5000),
        ("a\0b", "a\0b"),
    ],
)
def test_source__a_folder_is_read_when_the_user_names_it_and_no_other(name, hub_id, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here" / "photos").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"which folder is read is yours to say: `dataset=PATH`"):
        asked_data(config(name, hub_id, data_root="/mnt"), SHAPE)


def test_source__registered_and_hub_names_are_read_as_the_config_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = asked_data(config("org/photos", "org/photos", revision="c1", split_seed=3, data_root="/etc"), SHAPE)
    chosen = asked.settings
    assert (chosen.name, chosen.revision, chosen.split_seed, chosen.data_root) == ("org/photos", "c1", 3, None)
    assert (asked.must_match, asked.fingerprint) == (True, "f")
    assert asked_data(config("cifar10", "uoft-cs/cifar10"), SHAPE, data_root="mine").settings.data_root == "mine"
    pinned = asked_data(config("cifar10", "uoft-cs/cifar10", revision="c1"), SHAPE, data_root="mine").settings
    assert pinned.revision is None  # a local copy has none
    assert asked_data(config("cifar10", "uoft-cs/cifar10", revision="c1"), SHAPE).settings.revision == "c1"
    away = config("org/photos", "org/photos", revision="c1")
    assert asked_data(away, SHAPE, data_root="mine").settings.revision == "c1"  # of which there is no local copy


def test_check__tells_of_other_data_and_refuses_where_they_must_be_the_same():
    notes = []
    Asked(DatasetSettings(name="x"), "abc").check("abc", notes.append)
    Asked(DatasetSettings(name="x")).check("abc", notes.append)
    assert notes == []
    Asked(DatasetSettings(name="grown"), "abc").check("abd", notes.append)
    assert notes[0].startswith("grown is not the data set that was distilled")
    with pytest.raises(DataError, match=r"x is not the data set that was distilled \(fingerprint abd, expected abc\)"):
        Asked(DatasetSettings(name="x"), "abc", must_match=True).check("abd", notes.append)


def test_source__the_folder_that_is_named_is_read_and_split_as_then(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "others").mkdir()
    stored = config("photos", image_column="picture", split_seed=3, max_train=50)
    for name, must_match in (("photos", True), ("./photos", True), (tmp_path / "photos", True), ("others", False)):
        asked = asked_data(stored, SHAPE, name)
        assert (asked.settings.name, asked.must_match) == (str(name), must_match)
        assert (asked.settings.image_column, asked.settings.split_seed, asked.settings.max_train) == ("picture", 3, 50)
        form = (asked.settings.image_size, asked.settings.color)
        assert form == ((None, "auto") if must_match else (32, "rgb"))  # the set's own, whatever is in another folder
    other = asked_data(stored, SHAPE, "cifar10")
    assert (other.settings.name, other.settings.image_column, other.must_match) == ("cifar10", None, False)
    assert (other.settings.image_size, other.settings.color) == (32, "rgb")


@pytest.mark.parametrize(
    ("text", "name", "revision"),
    [
        ("hf://datasets/org/photos@v1", "org/photos", "v1"),
        ("https://huggingface.co/datasets/org/photos/tree/v1", "org/photos", "v1"),
        ("https://huggingface.co/datasets/org/photos", "org/photos", None),
        ("org/photos@v1", "org/photos", "v1"),
        ("cifar10", "cifar10", None),
    ],
)
def test_source__addresses_are_data_sets_everywhere(text, name, revision):
    for found in (
        asked_data(config("digits"), SHAPE, text).settings,
        compose(text, 1, "dm", "quick", "cpu").settings.dataset,
    ):
        assert (found.name, found.revision) == (name, revision)


def test_load_source__a_private_data_set_is_read_with_the_token_of_the_artifact(hub, copy, monkeypatch):
    push(copy, "org/set", PushOptions())
    seen = []

    def load(settings, *_, **__):
        seen.append(source_token())
        return load_data(settings, Silent())

    monkeypatch.setattr("distillkit.distilled.dataset.load_data", load)
    load_distilled("org/set", token="read-token").load_source()
    load_distilled("org/set").load_source(token=" one-token\n")
    load_distilled(copy).load_source()
    assert (seen, source_token()) == (["read-token", "one-token", None], None)


def test_source_revision__is_asked_with_the_token(hub, copy):
    hub.add("org/source", copy, private=True)
    with pytest.raises(NotFoundError), sources_read_with(False):
        source_revision("org/source", None)
    with sources_read_with("read-token"):
        assert source_revision("org/source", None)[0] == hub.repos["org/source"].branches["main"]
