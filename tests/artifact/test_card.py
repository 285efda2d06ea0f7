"""The card: complete without editing, a pure function of the artifact's files, and the user's section survives."""

import copy as copies
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import yaml

from distillkit import load_distilled
from distillkit.artifact import front_matter as front_matter_of
from distillkit.artifact import own_section
from distillkit.artifact.card import front_matter, render_card
from distillkit.artifact.card_words import other_models, source_link
from distillkit.artifact.layout import FILES
from distillkit.artifact.read import read_artifact
from distillkit.artifact.schema import ArtifactConfig
from distillkit.artifact.write import write_card
from distillkit.errors import ConfigError
from distillkit.sharing import validate
from tests.artifact import small


def card(about=None, measured=None, how=None, own=""):
    about = about or small.config(["dark", "bright"], 1, (1, 4, 4)) | {"uint8_range": {"low": -0.5, "high": 1.5}}
    return render_card(about, how or small.recipe(), measured or small.results(), own)


def config(**changes):
    value = small.config(["dark", "bright"], 1, (1, 4, 4)) | {"uint8_range": {"low": -0.5, "high": 1.5}}
    value["source"] |= changes.pop("source", {})
    return value | changes


def rows_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]


def test_table__architectures_down_set_view_and_baselines_across():
    measured = small.results()
    measured["architectures"]["timm/resnet18"] = {"mean": 0.6, "std": 0.1, "n": 1, "accuracies": [0.6]}
    measured["uint8"] = {"mean": 0.7, "std": 0.0, "n": 1, "accuracies": [0.7]}
    header, main, other = rows_of(card(measured=measured))
    assert header == [
        "network",
        "this set",
        "8-bit view",
        "random real images",
        "k-means coreset",
        "full training data",
    ]
    assert main == ["convnet", "75.0 ± 25.0 (n=2)", "70.0 (n=1)", *["75.0 ± 25.0 (n=2)"] * 3]
    assert other == ["timm/resnet18", "60.0 (n=1)", "–", "–", "–", "–"]


def test_limits__are_the_measured_losses():
    measured = small.results()
    measured["architectures"]["timm/resnet18"] = {"mean": 0.6, "std": 0.1, "n": 1, "accuracies": [0.6]}
    measured["uint8"] = {"mean": 0.7, "std": 0.0, "n": 1, "accuracies": [0.7]}
    measured["baselines"]["full"] = {"mean": 0.95, "std": 0.0, "n": 1, "accuracies": [0.95]}
    text = card(measured=measured)
    assert "timm/resnet18 -15.0" in text
    assert "measured -5.0 points against float images" in text
    assert "Against all training images: -20.0 points on convnet" in text
    assert "Measured on convnet alone" in card()
    measured["uint8"] = None
    assert "whose accuracy was not measured" in card(measured=measured)


def test_length__is_told_where_it_was_looked_at():
    measured = small.results()
    assert "as long" not in card(measured=measured)
    measured["selection"]["image_length"] = {"learned": 30.0, "real": 10.0, "kept": "real"}
    assert "Images are as long (L2 norm of an input) as real ones on average" in card(measured=measured)
    measured["selection"]["image_length"]["kept"] = "learned"
    assert "Images are 3 times as long" in card(measured=measured)


def test_storage__its_loss_is_told_against_float32():
    measured = small.results() | {"float32": {"mean": 0.8, "std": 0.0, "n": 1, "accuracies": [0.8]}}
    text = card(config(dtype="float16"), measured)
    assert "Stored as float16: -5.0 points against float32, which reached 80.0 (n=1)" in text


def test_load_lines__name_the_repository_and_revision_once_there_is_one():
    assert 'load_distilled("path/to/this/folder")' in card()
    text = card(config(hub={"repo": "org/shades", "revision": "v3"}))
    assert 'load_distilled("org/shades", revision="v3")' in text
    assert 'datasets.load_dataset("org/shades", revision="v3")' in text
    assert 'create_dataset("hfds/org/shades", split="train")' in text


def test_load_lines__a_set_made_of_a_folder_says_that_the_folder_is_to_be_named():
    assert 'ds.evaluate(model, "path/to/the/images")' in card()
    assert "ds.evaluate(model))" in card(config(source={"hub_id": "org/shades"}))


def test_load_lines__take_the_recipe_of_the_figure_where_the_network_has_another_now():
    assert "ds.train(model)  #" in card()
    measured, row = small.results(), small.results()["architectures"]["convnet"]
    measured["tuned"] = {"convnet": {**row, "recipe": "sgd", "seconds": 1.0, "baselines": {}}}
    assert "ds.train(model, recipe=ds.recipe)  #" in card(measured=measured)
    measured["tuned"] = {"mlp": measured["tuned"]["convnet"]}
    assert "ds.train(model)  #" in card(measured=measured)


def test_load_lines__run_as_written_give_the_cards_figure():
    """Of the set that the README shows first, by itself and by the card as it lies there."""
    folder = Path(__file__).parents[2] / "cards" / "digits-ipc1-ast"
    code = re.search(r"```python\n(.*?)```", (folder / FILES.card).read_text(), re.S).group(1)
    code = code.replace("path/to/this/folder", str(folder))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    promised = json.loads((folder / FILES.results).read_text())["architectures"]["convnet"]
    assert abs(float(result.stdout) - promised["mean"]) <= 3 * promised["std"]


@pytest.mark.parametrize(
    ("ipc", "size", "norm"),
    [
        (1, 8, ', norm="instance"'),
        (63, 8, ', norm="instance"'),
        (256, 8, ""),
        (15, 32, ', norm="instance"'),
        (16, 28, ""),
    ],
)
def test_other_models__the_line_builds_a_network_that_the_set_can_train(ipc, size, norm):
    about = ArtifactConfig.model_validate(config(ipc=ipc, image_shape=[1, size, size]))
    words = other_models(about)
    call = f'distillkit.prepare_model("resnet18", num_classes=2, image_size={size}, channels=1{norm})'
    assert f"`{call}` gives a network of timm" in words
    assert ("batch normalisation is replaced" in words) == bool(norm)


@pytest.mark.parametrize(
    ("init", "steps", "kind"),
    [("artifact", 4, "learned"), ("noise", 4, "noise"), ("kmeans", 4, "real"), ("kmeans", 0, "real")],
)
def test_limits__say_whose_privacy_is_at_stake(init, steps, kind):
    about = config(learned_here=False, imported_from=None)
    about["settings"]["distill"] = {"init": init, "outer_steps": steps}
    text = card(about)
    assert ("no guarantee of privacy" in text) == (kind == "learned")
    assert ("real ones of the data set, as they are" in text) == (kind == "real")
    assert f"\n2 {kind} images" in text


def test_limits__say_what_was_said_of_the_data():
    text = card(
        config(source={"notes": ["9,000 of the 50,000 training images are used (`dataset.max_train`)", "<b>\n# x"]})
    )
    assert "- Of the data: 9,000 of the 50,000 training images are used" in text
    assert "<b>" not in text.partition("## Limits")[2]
    assert "Of the data" not in card(config(source={"notes": "not a list"}))


def test_front_matter__features_are_those_that_datasets_writes():
    matter = front_matter(ArtifactConfig.model_validate(config(source={"hub_id": "org/source"})))
    assert matter["source_datasets"] == ["org/source"]
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=["dark", "bright"]),
        soft_label=datasets.List(datasets.Value("float32"), length=2),
    )
    assert matter["dataset_info"]["features"] == features._to_yaml_list()
    info = datasets.DatasetInfo._from_yaml_dict(copies.deepcopy(matter["dataset_info"]))
    assert info.features == features
    assert info.splits["train"].num_examples == 2


@pytest.mark.parametrize(
    ("stated", "written"),
    [
        ("MIT", {"license": "mit"}),
        (None, {"license": "unknown"}),
        ("Own Licence, v2", {"license": "other", "license_name": "own-licence-v2"}),
    ],
)
def test_license__only_names_that_the_hub_knows(stated, written):
    matter = front_matter(ArtifactConfig.model_validate(config(source={"license": stated})))
    assert {key: matter[key] for key in matter if key.startswith("license")} == written


def test_load_dataset__on_the_folder_shows_the_features(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "artifact", ignore=shutil.ignore_patterns("run"))
    table = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert table.features["label"].names == [str(k) for k in range(10)]
    assert isinstance(table.features["image"], datasets.Image)
    assert (len(table), table.features["soft_label"].length) == (20, 10)
    assert table[0]["image"].size == (8, 8)


def test_own_section__survives_and_damaged_markers_are_not_overwritten(copy):
    path = copy / FILES.card
    text = path.read_text().replace(own_section.wrap(""), own_section.wrap("Ask **me** for $5.\n\n- really"))
    path.write_text(text)
    ds = load_distilled(copy)
    write_card(copy, ds.config, ds.recipe, ds.results)
    assert path.read_text() == text
    path.write_text(text.replace(own_section.END, ""))
    with pytest.raises(ConfigError, match="expected one of each"):
        write_card(copy, ds.config, ds.recipe, ds.results)
    assert "Ask **me**" in path.read_text()


@pytest.mark.parametrize(
    ("ours", "theirs", "base", "merged"),
    [
        ("", "", None, ""),
        ("a", "", None, "a"),
        ("", "b", None, "b"),
        ("a", "a", None, "a"),
        ("a", "b", "a", "b"),  # edited there since the last push
        ("a", "b", "b", "a"),  # edited here
        ("", "b", "b", ""),  # deleted here
        ("a", "", "a", ""),  # deleted there
        ("a", "", "", "a"),  # written here since
        ("a", "b", "c", ConfigError),
        ("a", "b", None, ConfigError),
    ],
)
def test_merge__of_the_section_here_and_on_the_hub(ours, theirs, base, merged):
    last = own_section.digest(base) if base is not None else None
    if merged is ConfigError:
        with pytest.raises(ConfigError, match="both were changed"):
            own_section.merge(ours, theirs, last, ours_wins=False)
        assert own_section.merge(ours, theirs, last, ours_wins=True) == ours
    else:
        assert own_section.merge(ours, theirs, last, ours_wins=False) == merged


def test_names__with_odd_characters_break_neither_yaml_nor_table():
    about = config(classes=["a: b", "- |\n# x"], source={"name": 'na"me: [x]'})
    measured = small.results()
    measured["architectures"]["odd | name\nx"] = dict(small.ROW)
    text = card(about, measured)
    matter = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert matter["dataset_info"]["features"][1]["dtype"]["class_label"]["names"] == {"0": "a: b", "1": "- |\n# x"}
    assert matter["pretty_name"].startswith('na"me: [x]')
    assert len(rows_of(text.replace("\\|", ""))) == 3


def test_card__of_a_run_has_pictures_command_licence_and_both_citations(made):
    text = (made / FILES.card).read_text()
    for part in ("](preview.png)", "](curves.png)", "distillkit compress digits", "`cc-by-4.0`", "cazenavette2022mtt"):
        assert part in text
    assert "alpaydin1998digits" in text
    assert "seconds in all" in text
    assert (made / FILES.preview).is_file()
    assert json.loads((made / FILES.config).read_text())["versions"]["torch"] in text


HOSTILE = "[x](http://evil) <script>y</script> ![p](q) *z* `w` |"


def test_card__of_foreign_words_has_no_link_picture_or_html_of_theirs():
    about = config(
        hardware=HOSTILE,
        versions={HOSTILE: HOSTILE},
        wall_time_seconds={HOSTILE: 9.0},
        method_title=HOSTILE,
        source={"hub_id": f"org/x) {HOSTILE}", "name": HOSTILE, "source": HOSTILE, "revision": HOSTILE},
    )
    measured = small.results()
    row = measured["architectures"]["convnet"]
    measured["architectures"][HOSTILE] = row
    measured["selection"]["split"] = HOSTILE
    measured["tuned"] = {HOSTILE: {**row, "recipe": HOSTILE, "seconds": 1.0, "baselines": {HOSTILE: row}}}
    body = re.sub(r"`[^`]*`", "", card(about, measured).split("---\n", 2)[2])
    unescaped = re.sub(r"\\.", "", body)
    assert "script" in unescaped
    for mark in ("<script", "](http://evil", "![p]", "*z*", "huggingface.co/datasets/org/x"):
        assert mark not in unescaped


@pytest.mark.parametrize("names", [["1e3", "no"], ["a\x85b", "c\u2028d"], ["0x1F", "2024-01-01"]])
def test_card__class_names_are_texts_for_every_reader(tmp_path, names):
    folder = small.write_small(tmp_path / "artifact", names)
    artifact = read_artifact(folder)
    validate._check_front_matter(folder, ArtifactConfig.model_validate(artifact.config))
    head = (folder / FILES.card).read_text().split("---\n")[1]
    for read in (front_matter_of.parse, yaml.safe_load):
        found = read(head)["dataset_info"]["features"][1]["dtype"]["class_label"]["names"]
        assert list(found.values()) == names


def test_card__a_learning_rate_that_was_given_is_not_called_learned(made):
    config = json.loads((made / FILES.config).read_text()) | {"learned_here": True}
    assert ArtifactConfig.model_validate(config).lr_learned
    given = copies.deepcopy(config)
    given["settings"]["evaluate"]["lr"] = 0.5
    assert not ArtifactConfig.model_validate(given).lr_learned
    read = [json.loads((made / name).read_text()) for name in (FILES.recipe, FILES.results)]
    assert "(learned)" in render_card(config, *read, "")
    assert "(learned)" not in render_card(given, *read, "")


def test_source__is_a_link_where_it_is_a_repository_and_no_link_to_elsewhere():
    """As the cards of artifacts and of trajectories have it; both may be somebody else's."""
    assert source_link("org/name", "org/name", "v1") == (
        "[org/name](https://huggingface.co/datasets/org/name) (revision `v1`)"
    )
    assert source_link("x](https://example.org) [y", "a folder") == source_link(None, "a folder") == "`a folder`"
