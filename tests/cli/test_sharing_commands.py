"""card, push, pull, info, import and export as commands: what they print, and their exit status."""

import json
import re
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from typer.testing import CliRunner

from distillkit import storage
from distillkit.artifact import front_matter
from distillkit.artifact.layout import FILES, PUBLISHED
from distillkit.artifact.write import identity, write_config
from distillkit.cli.app import app
from distillkit.cli.command_line import command_line
from tests.helpers import TINY
from tests.hub_stand_in import Repository

REPO = "org/digits-ipc2"


def invoke(*arguments, **more):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **more)


def test_push_pull_info__from_folder_to_hub_and_back(hub, copy, tmp_path):
    planned = invoke("push", copy, REPO, "--dry-run", "--private")
    assert (planned.exit_code, hub.requests) == (0, [])
    assert all(name in planned.stdout for name in PUBLISHED)
    assert "private" in planned.stdout
    pushed = invoke("push", copy, REPO, "--tag", "v1")
    assert pushed.exit_code == 0, pushed.output
    commit = hub.repos[REPO].tags["v1"]
    assert f'load_distilled("{REPO}", revision="{commit}")' in pushed.stdout
    assert f"{hub.url}/datasets/{REPO}" in pushed.stdout
    again = json.loads(invoke("push", copy, REPO, "--json").stdout)
    assert (again["changed"], again["commit"], again["revision"]) == (False, commit, "v1")
    hub.requests.clear()
    seen = invoke("info", REPO)
    assert len(hub.requests) == 1
    assert "20 of 1x8x8 as F32, 2 for each of 10 classes" in seen.stdout
    assert json.loads(invoke("info", f"{REPO}@v1", "--json").stdout)["tensors"]["images"]["shape"] == [20, 1, 8, 8]
    assert FILES.tensors in invoke("pull", REPO, "--dry-run").stdout
    out = tmp_path / "back"
    pulled = json.loads(invoke("pull", f"{REPO}@v1", "--out", out, "--json").stdout)
    assert pulled["commit"] == commit
    assert (out / FILES.tensors).read_bytes() == (copy / FILES.tensors).read_bytes()
    assert invoke("pull", REPO, "--out", out).exit_code == 2
    measured = json.loads(invoke("evaluate", REPO, "--networks", 1, "--device", "cpu", "--json", "-q").stdout)
    assert measured["architectures"]["convnet"]["n"] == 1
    assert "pull' first" in invoke("evaluate", REPO, "--save").stderr


def test_card__is_made_again(copy):
    (copy / FILES.card).unlink()
    result = invoke("card", copy)
    assert (result.exit_code, result.stdout.strip()) == (0, str(copy / FILES.card))
    assert "## Limits" in (copy / FILES.card).read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["push", "{copy}", "org/x", "--token", "wrong"], 3, "does not know this token"),
        (["push", "{copy}", "stranger/x"], 3, "refuses"),
        (["push", "{copy}", "nothing"], 2, "expected org/name"),
        (["push", "{copy}", "org/x@v1"], 2, "name a branch with --revision"),
        (["push", "{tmp}/absent", "org/x"], 4, "not a distillkit artifact"),
        (["pull", "org/absent"], 4, "has no data set org/absent"),
        (["pull", "../x"], 2, "is no Hub repository"),
        (["info", "org/absent"], 4, "has no data set"),
        (["info", "hf://models/a/b"], 2, "names no data set repository"),
        (["card", "{tmp}"], 4, "has no distill_config"),
        (["export", "{copy}", "--to", "zip", "--out", "{tmp}/o"], 2, "known: pt, imagefolder, ddranking"),
        (["import", "{tmp}/x.pt", "--from", "mtt", "--dataset", "digits", "--no-zca"], 4, "x.pt does not exist"),
        (["import", "{tmp}/x.pt", "--from", "mtt", "--dataset", "digits"], 4, "x.pt does not exist"),
        (["import", "{copy}", "--from", "mtt", "--dataset", "digits"], 2, "give --zca or --no-zca"),
        (["import", "{copy}", "--from", "mtt", "--dataset", "digits", "--zca"], 4, "has no images_best.pt"),
        (["import", "{copy}", "--from", "pt", "--dataset", "digits", "--mean", "a"], 2, "numbers with commas"),
        (["import", "{copy}", "--from", "pt", "--dataset", "digits", "--zca", "--lr", "0"], 2, "is no learning rate"),
    ],
)
def test_errors__one_sentence_and_the_right_status(hub, copy, tmp_path, arguments, status, message):
    words = [word.format(copy=copy, tmp=tmp_path) for word in arguments]
    result = invoke(*words)
    assert (result.exit_code, result.stdout) == (status, ""), result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_unreachable__is_five(copy, monkeypatch, hub):
    nobody = "http://127.0.0.1:9"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", nobody + "/{repo_id}/resolve/{revision}/{filename}")
    for arguments in (["push", copy, REPO], ["info", REPO], ["pull", REPO]):
        result = invoke(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (5, 1), result.output


def test_import_export__commands(copy, tmp_path):
    exported = json.loads(invoke("export", copy, "--to", "pt", "--out", tmp_path / "pt", "--json").stdout)
    assert len(exported["files"]) == 4
    settings = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    shared = ("--preset", "smoke", "--device", "cpu", "--out", tmp_path / "set", "--mean", "0.3", "--std", "0.4")
    result = invoke("import", tmp_path / "pt", "--from", "pt", "--dataset", "digits", *shared, *settings)
    assert result.exit_code == 0, result.output
    assert "this set, convnet" in result.stdout
    stored = torch.load(tmp_path / "pt" / "images_best.pt", weights_only=True)
    assert stored.shape == (20, 1, 8, 8)


def test_command_line__is_recorded_without_paths_and_what_is_only_shown(monkeypatch, tmp_path):
    (tmp_path / "acme").mkdir()
    words = f"distillkit compress {tmp_path}/acme --ipc 1 --set dataset.data_root=/srv/x --set seed=3 --out /home/me/x"
    words += f" --data-root=/srv --config {tmp_path}/acme -q --yes --json --tracker wandb --arch timm/resnet18"
    monkeypatch.setattr(sys, "argv", words.split())
    assert command_line() == "distillkit compress acme --ipc 1 --set seed=3 --config acme --arch timm/resnet18"


@pytest.mark.parametrize("quote", ["", '"'])
def test_command_line__names_the_artifact_that_a_set_starts_from_and_not_its_folder(monkeypatch, tmp_path, quote):
    value = f"distill.init_from={quote}{tmp_path}/narrow{quote}"
    for words in (["--set", value], [f"--set={value}"]):
        monkeypatch.setattr(sys, "argv", ["distillkit", "compress", "digits", *words])
        assert command_line() == "distillkit compress digits --set distill.init_from=narrow"
    monkeypatch.setattr(
        sys, "argv", ["distillkit", "compress", "cifar10", "--set=dataset.data_root=/home/me/x", "--ipc=1"]
    )
    assert command_line() == "distillkit compress cifar10 --ipc=1"


def test_command_line__of_a_program_without_words(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x"])
    assert command_line() == "distillkit"


def test_evaluate_save__a_row_that_is_there_is_told_before_the_training(copy):
    result = invoke("evaluate", copy, "--save", "--networks", 99999)
    assert (result.exit_code, "has results for convnet already" in result.stderr) == (2, True)


def test_evaluate_save__a_row_of_a_network_that_is_changed_is_told_before_the_training_too(copy):
    asked = ("evaluate", copy, "--save", "--arch", "timm/test_resnet", "--device", "cpu")
    assert invoke(*asked, "--networks", 1).exit_code == 0
    again = invoke(*asked, "--networks", 99999)
    assert (again.exit_code, "results for timm/test_resnet:norm=instance already" in again.stderr) == (2, True)


def test_card_push__the_head_that_a_user_wrote_stays_and_other_lines_are_told(hub, copy):
    path = copy / FILES.card
    config = json.loads((copy / FILES.config).read_text())
    write_config(copy, {**config, "source": {**config["source"], "license": None}})
    path.unlink()
    assert invoke("card", copy).exit_code == 0
    edited = (
        path.read_text().replace("license: unknown", "license: mit\nlanguage: de").replace("tags:\n", "tags:\n- own\n")
    )
    assert edited.count("license: mit") == 1
    path.write_text(edited)
    made_again = invoke("card", copy)
    assert "outside your own section" not in made_again.stderr
    matter = front_matter.read(path.read_text(), "the card")
    assert (matter["license"], matter["language"], matter["tags"][-1]) == ("mit", "de", "own")
    assert front_matter.HEAD.sub("", path.read_text()) == front_matter.HEAD.sub("", edited)
    path.write_text(path.read_text() + "\nA line of mine\n")
    pushed = invoke("push", copy, REPO)
    assert "1 line of README.md outside your own section" in pushed.stderr
    for card in (path.read_text(), hub.repos[REPO].commits[hub.repos[REPO].resolve("main")][FILES.card].decode()):
        assert "license: mit" in card
        assert "language: de" in card
        assert "- own\n" in card
        assert "A line of mine" not in card
    path.write_text(path.read_text().replace("license: mit", "license: [mit"))
    broken = invoke("card", copy)
    assert (broken.exit_code, "are no YAML" in broken.stderr) == (2, True)


def test_preview__is_a_png(copy, tmp_path):
    assert "call it NAME.png" in invoke("preview", copy, "--out", tmp_path / "x.jpg").stderr
    assert invoke("preview", copy, "--out", tmp_path / "x.PNG").exit_code == 0


def test_pull__of_a_folder_that_is_here(copy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "org").mkdir()
    copy.rename(tmp_path / "org" / "set")
    result = invoke("pull", "org/set")
    assert (result.exit_code, "org/set is a folder here, so there is nothing to fetch" in result.stderr) == (4, True)


@pytest.mark.parametrize("learned", [True, False])
def test_info__of_images_that_no_step_moved_claims_nothing_learned(hub, copy, learned):
    config = json.loads((copy / FILES.config).read_text()) | {"learned_here": learned}
    (copy / FILES.config).write_text(json.dumps(config))
    texts = [json.loads((copy / name).read_text()) for name in (FILES.recipe, FILES.results)]
    tensors = load_file(copy / FILES.tensors)
    hub.repos[REPO] = Repository()
    hub.repos[REPO].commit(
        "main", {FILES.tensors: storage.tensor_bytes(tensors, identity(config, *texts))}, "as it is written"
    )
    title = "MTT: matching training trajectories"
    words = "the images that a run of {} began with; no step of it was better, nothing was learned"
    expected = f"{config['generator']}, {title if learned else words.format(title)}"
    for artifact in (copy, REPO):
        lines = invoke("info", artifact).stdout.splitlines()
        assert [line.removeprefix("made by").strip() for line in lines if line.startswith("made by")] == [expected]


def test_control_characters__of_others_do_not_reach_the_terminal(copy):
    config = json.loads((copy / FILES.config).read_text())
    config["classes"][0] = "\x1b[2Jgone"
    config["command"] = "rm\r\x1b]0;owned\x07"
    (copy / FILES.config).write_text(json.dumps(config))
    shown = invoke("info", copy).stdout
    assert "gone" in shown
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown)


def commands():
    from typer.main import get_command

    found = [[]]
    for name, command in get_command(app).commands.items():
        found.append([name])
        found += [[name, inner] for inner in getattr(command, "commands", {})]
    return found


HELP_OF_EACH = """
import contextlib, io, json, sys
from distillkit.cli import main

heavy, found = {"torch", "timm", "datasets", "huggingface_hub", "pyarrow", "matplotlib"}, []
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    sys.argv = ["distillkit", *words, "--help"]
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main()
    found.append([words, "Usage" in said.getvalue(), sorted(heavy & set(sys.modules))])
print(json.dumps(found))
"""


def test_help__answers_without_the_heavy_libraries():
    """Of each verb, one after the other in a process: the first that imports one is the one that has it."""
    command = [sys.executable, "-c", HELP_OF_EACH, json.dumps(commands())]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert json.loads(result.stdout) == [[words, True, []] for words in commands()]


def test_evaluate__a_folder_that_a_config_names_is_not_read(copy):
    config = json.loads((copy / FILES.config).read_text())
    config["settings"]["dataset"]["name"] = "/root"
    (copy / FILES.config).write_text(json.dumps(config))
    result = invoke("evaluate", copy, "--networks", 1, "--device", "cpu")
    assert (result.exit_code, "yours to say: --dataset PATH" in result.stderr) == (2, True)
    named = invoke("evaluate", copy, "--dataset", "digits", "--networks", 1, "--device", "cpu", "--json", "-q")
    assert json.loads(named.stdout)["architectures"]["convnet"]["n"] == 1, named.stderr
    other = ["--arch", "convnet:width=5", "--dataset", "digits", "--save", "--networks", 1]
    assert "on the data set that was distilled, and digits is another" in invoke("evaluate", copy, *other).stderr


def test_artifact__a_slip_in_a_folders_name_is_no_network_error(copy, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    copy.rename(tmp_path / "runs" / "digits-ipc1-ast")
    monkeypatch.chdir(tmp_path)
    for command in ("info", "evaluate"):
        result = invoke(command, "runs/digits-ipc1-asd")
        assert result.exit_code == 4, command
        assert "there is no folder runs/digits-ipc1-asd" in result.stderr
        assert "did you mean runs/digits-ipc1-ast?" in result.stderr


def test_artifact__of_a_card_alone_says_so(copy):
    for name in ("distilled.safetensors", "preprocess.safetensors"):
        (copy / name).unlink()
    result = invoke("info", copy)
    assert result.exit_code == 4
    assert "holds the card and the figures of a set, and not its images" in result.stderr
