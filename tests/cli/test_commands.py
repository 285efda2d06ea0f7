"""The commands as a user types them, each in a process of its own where start-up or exit status matters."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from distillkit.cli.app import app
from distillkit.cli.config_file import read_config_file
from distillkit.config import parse_assignments
from distillkit.errors import StorageError
from distillkit.pipeline import default_out
from tests.helpers import TINY

SETTINGS = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def compress(*arguments):
    return invoke("compress", *arguments, "--preset", "smoke", "--device", "cpu", *SETTINGS)


def process(*arguments, **options):
    command = [sys.executable, "-c", "from distillkit.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def test_help__imports_nothing_heavy():
    code = (
        "import sys, distillkit.cli.app\nprint({'torch', 'timm', 'datasets', 'sklearn', 'pyarrow'} & set(sys.modules))"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert made.stdout.strip() == "set()"


@pytest.mark.parametrize(
    "verb", [[], ["compress"], ["experts"], ["experts", "train"], ["evaluate"], ["info"], ["doctor"]]
)
def test_help__exits_zero_and_speaks(verb):
    result = invoke(*verb, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_option_names__are_a_contract():
    from typer.main import get_command

    names = {option for parameter in get_command(app).commands["compress"].params for option in parameter.opts}
    wanted = """dataset --ipc --method --preset --out --set --config --seed --device --precision --plan --time-budget
        --data-root --image-column --label-column --train-split --test-split --class-names --image-size --skip-corrupt
        --tracker --yes -y --json --quiet -q --debug --paper-protocol --dtype --arch --tune-budget
        --license --world --classes --without-classes"""
    assert names == set(wanted.split())


def test_compress__artifact_table_and_the_verbs_that_look_at_it(tmp_path):
    out = tmp_path / "set"
    result = compress("digits", "--ipc", 1, "--out", out)
    assert result.exit_code == 0, result.output
    assert "this set, convnet" in result.stdout
    assert "distilling" in result.stderr
    info = json.loads(invoke("info", out, "--json").stdout)
    assert info["config"]["command"].startswith("distillkit")
    words = "lr  " if info["results"]["selection"]["step"] == 0 else "learned lr"
    assert words in invoke("info", out).stdout
    assert re.search(r"labels +hard, one class each", invoke("info", out).stdout)
    picture = tmp_path / "p.png"
    assert invoke("preview", out, "--out", picture).stdout.strip() == str(picture)
    assert picture.read_bytes() == (out / "preview.png").read_bytes()
    evaluated = invoke(
        "evaluate", out, "--networks", 1, "--device", "cpu", "--arch", "convnet:width=5", "--save", "--json"
    )
    rows = json.loads(evaluated.stdout)["architectures"]
    assert rows["convnet:width=5"]["n"] == 1
    assert "convnet:width=5" in json.loads((out / "results.json").read_text())["architectures"]
    listed = json.loads(invoke("experts", "list", "--json").stdout)["trajectories"]
    assert [entry["experts"] for entry in listed] == [2]
    assert "validation accuracy" in invoke("experts", "show", listed[0]["fingerprint"][:6]).stdout
    for command in (("experts", "clear", listed[0]["fingerprint"]), ("experts", "clear", "--all")):
        asked = CliRunner().invoke(app, list(command))
        assert asked.exit_code == 2
        assert "without --yes nothing is deleted, and there is no terminal to ask on: Delete 1 " in asked.stderr
    cleared = json.loads(invoke("experts", "clear", listed[0]["fingerprint"], "--yes", "--json").stdout)
    assert cleared["deleted"] == [listed[0]["fingerprint"]]
    assert json.loads(invoke("experts", "list", "--json").stdout)["trajectories"] == []
    assert "deleted 0 sets" in invoke("experts", "clear", "--all").stdout  # nothing to ask about


def test_compress__json_is_one_object_and_quiet_is_quiet(tmp_path):
    result = compress("digits", "--ipc", 1, "--out", tmp_path / "set", "--json", "--quiet")
    assert json.loads(result.stdout)["results"]["architectures"]["convnet"]["n"] == 2
    assert result.stderr == ""


def test_plan__makes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where the default output folder is looked for
    result = compress("digits", "--ipc", 1, "--out", tmp_path / "set", "--plan", "--json")
    planned = json.loads(result.stdout)
    assert {stage["name"] for stage in planned["stages"]} >= {"expert epochs", "outer steps", "evaluation networks"}
    assert planned["seconds"] > 0
    assert not (tmp_path / "set").exists()
    assert not (tmp_path / "cache" / "experts").exists()
    assert "minutes" in compress("digits", "--ipc", 1, "--plan").stdout
    more = ("--plan", "--json", "--arch", "mlp", "--arch", "alexnet", "--tune-budget", "2h")
    searched = json.loads(compress("digits", "--ipc", 1, *more).stdout)
    assert {"name": "recipe for alexnet", "steps": 1, "seconds_each": 7200, "seconds": 7200} in searched["stages"]
    assert searched["seconds"] == pytest.approx(sum(stage["seconds"] for stage in searched["stages"]))


def test_plan__looks_at_the_output_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert compress("digits", "--ipc", 1, "--quiet").exit_code == 0
    again = json.loads(compress("digits", "--ipc", 1, "--plan", "--json", "--arch", "mlp").stdout)
    assert again["done"]["finished"]
    assert [stage["name"] for stage in again["stages"]] == ["recipe for mlp"]
    other = compress("digits", "--ipc", 1, "--seed", 9, "--plan", "--out", "runs/digits-ipc1-mtt")
    assert other.exit_code == 0
    assert "this run would be refused" in other.stdout
    assert "--yes" in other.stdout
    assert "replace=True" not in other.stdout


@pytest.mark.parametrize(
    "command", [("tune", "--arch", "mlp", "--time-budget", "1s"), ("evaluate", "--save", "--arch", "mlp")]
)
def test_measuring__does_not_begin_where_its_figures_cannot_be_kept(tmp_path, monkeypatch, command):
    out = tmp_path / "set"
    assert compress("digits", "--ipc", 1, "--out", out).exit_code == 0

    def full(folder):
        raise StorageError(f"could not write into {folder}: no space left on device")

    monkeypatch.setattr("distillkit.storage.check_writable", full)
    verb, *options = command
    result = invoke(verb, out, *options, "--device", "cpu")
    assert result.exit_code == StorageError.exit_status
    assert "no space left on device" in result.stderr
    assert "%" not in result.stderr


def test_tune__says_what_it_found_where_it_cannot_keep_it(tmp_path, monkeypatch):
    out = tmp_path / "set"
    assert compress("digits", "--ipc", 1, "--out", out).exit_code == 0

    def fail(*_):
        raise StorageError("the disk has failed meanwhile")

    monkeypatch.setattr("distillkit.stages.kept_recipes.keep_recipe", fail)
    asked = ("--arch", "mlp", "--time-budget", "0.1s", "--networks", 1, "--device", "cpu")
    result = invoke("tune", out, *asked)
    assert result.exit_code == StorageError.exit_status
    assert re.search(r"the disk has failed meanwhile; found and not kept, for mlp: .+: \d+\.\d %", result.stderr)
    told = json.loads(invoke("tune", out, *asked, "--json").stdout)
    assert "found and not kept, for mlp" in told["error"]


def test_experts_train__is_what_compress_finds(tmp_path):
    trained = invoke("experts", "train", "digits", "--preset", "smoke", "--device", "cpu", *SETTINGS)
    assert trained.exit_code == 0, trained.output
    result = compress("digits", "--ipc", 1, "--out", tmp_path / "set")
    assert "training experts" not in result.stderr


def test_config__a_stored_config_makes_the_same_run(tmp_path):
    compress("digits", "--ipc", 1, "--out", tmp_path / "a", "--seed", 3)
    settings = json.loads((tmp_path / "a" / "distill_config.json").read_text())["settings"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    shared = ("--preset", "smoke", "--device", "cpu", "--config", tmp_path / "config.json")
    assert invoke("compress", "digits", "--ipc", 1, "--out", tmp_path / "b", *shared).exit_code == 0
    for name in ("distilled.safetensors", "results.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("verb", ["methods", "datasets"])
def test_lists__as_table_and_as_json(verb):
    assert {"methods": "mtt", "datasets": "cifar10"}[verb] in invoke(verb).stdout
    assert json.loads(invoke(verb, "--json").stdout)


def test_doctor__finds_this_machine_well():
    result = invoke("doctor", "--json")
    checks = {check["name"]: check["ok"] for check in json.loads(result.stdout)["checks"]}
    assert checks["sanity"]
    assert checks["cache"]


BAD = [
    (["compress", "digits", "--ipc", 1, "--out", ""], 2, "it is empty; '.' is the working folder"),
    (["compress", "digits", "--ipc", 1, "--set", "dataset.std=[1e-45]"], 2, "greater than or equal to 0.000001"),
    (["compress", "digitz", "--ipc", 1], 2, "did you mean 'digits'"),
    (["compress", "digits", "--ipc", 1, "--method", "mttt"], 2, "did you mean 'mtt'?"),
    (["compress", "digits", "--ipc", 1, "--precision", "bf61"], 2, "did you mean 'bf16'?"),
    (["compress", "digits", "--ipc", 1, "--arch", "resnet50"], 2, "did you mean 'timm/resnet50'?"),
    (["compress", "digits", "--ipc", 1, "--arch", "resnet_18"], 2, "did you mean 'resnet18'?"),
    (["compress", "digits", "--ipc", 1, "--preset", "fast"], 2, "preset 'fast' is unknown"),
    (["compress", "digits", "--ipc", 1, "--preset", "quik"], 2, "did you mean 'quick'?"),
    (["compress", "digits", "--ipc", 0], 2, "--ipc must be 1 or more"),
    (["compress", "digits", "--ipc", 500], 2, "--ipc 500 is more than 10 classes have"),
    (["compress", "digits", "--ipc", 1, "--set", "distill.lr_image=3"], 2, "did you mean distill.lr_img"),
    (["compress", "digits", "--ipc", 1, "--set", "nonsense"], 2, "section.key=value"),
    (
        ["compress", "digits", "--ipc", 1, "--set", "distill.inner_steps=many"],
        2,
        "distill.inner_steps='many' does not fit",
    ),
    (["compress", "digits", "--ipc", 1, "--set", "distill.inner_steps=true"], 2, "fit: expected a number, not true"),
    (["compress", "digits", "--ipc", 1, "--set", "evaluate.lengths=[100, yes]"], 2, "not true or false"),
    (["compress", "digits", "--ipc", 1, "--set", "distill.gate=off"], 2, "a number, or null for none, not true"),
    (["compress", "digits", "--ipc", 1, "--set", "distill.gate=none"], 2, "null stands for none"),
    (["compress", "digits", "--ipc", 1, "--set", "seed=1", "--set", "seed=2"], 2, "twice"),
    (["compress", "digits", "--ipc", 1, "--set", "method=ast"], 2, "--set says method=ast, but --method is mtt"),
    (["compress", "digits", "--ipc", 1, "--set", "distill.lr_img=.inf"], 2, "does not fit"),
    (["compress", "a--b/c", "--ipc", 1], 2, "the Hub does not accept a--b/c"),
    (["compress", "digits", "--ipc", 1, "--config", "absent.yaml"], 2, "cannot be read"),
    (["compress", "digits", "--ipc", 1, "--time-budget", "soon"], 2, "expected 90s, 20m or 1h30m"),
    (
        ["compress", "digits", "--ipc", 1, "--arch", "timm/resnet10"],
        2,
        "timm has no network 'resnet10'; similar names: ",
    ),
    (["compress", "digits", "--ipc", 1, "--arch", "resnet10t"], 2, "timm/resnet10t"),
    (["compress", "digits", "--ipc", 10**8], 2, "ipc"),
    (["compress", "digits", "--ipc", 1, "--tune-budget", "soon"], 2, "--tune-budget 'soon' is not a time"),
    (["compress", "digits", "--ipc", 1, "--precision", "fp8"], 2, "expected auto, fp32, tf32, bf16"),
    (["compress", "digits", "--ipc", 1, "--device", "cuda:99"], 2, "asks for a GPU"),
    (["compress", "digits", "--ipc", 1, "--device", "gpu"], 2, "expected auto, cpu"),
    (["compress", "digits", "--ipc", 1, "--tracker", "paper"], 2, "known: tensorboard, wandb"),
    (["compress", "digits", "--ipc", 1, "--preset", "paper"], 2, "no published settings of mtt for digits"),
    (["compress", "./absent", "--ipc", 1], 4, "there is no folder"),
    (["compress", "digits"], 2, "--ipc"),
    (["compress", "digits", "--ipc", 1, "--nope"], 2, "No such option"),
    (["evaluate", "absent"], 4, "not a distillkit artifact"),
    (["info", "absent"], 4, "not a distillkit artifact"),
    (["experts", "show", "absent"], 4, "no expert trajectories"),
    (["experts", "clear"], 2, "a fingerprint, or --all"),
]


@pytest.mark.parametrize(("arguments", "status", "message"), BAD, ids=lambda value: str(value)[:60])
def test_bad_input__one_sentence_and_the_right_status(arguments, status, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == status, result.output
    assert message in re.sub(r"\s*│?\s*\n\s*│?\s*", " ", result.stderr)
    assert "Traceback" not in result.output
    assert result.stdout == ""


def test_bad_input__is_one_json_object_under_json():
    result = invoke("compress", "digits", "--ipc", 0, "--json")
    assert json.loads(result.stdout) == {"error": "--ipc must be 1 or more, got 0", "exit_status": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compress", "digits"], "Missing option '--ipc'."),
        (["compress", "digits", "--ipc", "x"], "Invalid value for '--ipc': "),
        (["compress", "digits", "--ipc", 1, "--nope"], "No such option: --nope"),
        (["experts", "shw"], "No such command 'shw'."),
        (["--nope"], "No such option: --nope"),
    ],
)
def test_bad_usage__is_one_json_object_under_json(arguments, message):
    result = invoke(*arguments, "--json")
    said = json.loads(result.stdout)
    assert (result.exit_code, said.keys(), said["exit_status"]) == (2, {"error", "exit_status"}, 2)
    assert said["error"].startswith(message)
    assert "\n" not in said["error"]
    assert message[:20] in result.stderr


def test_bad_usage__of_a_process_is_one_json_object_under_json():
    result = process("compress", "digits", "--json")
    assert (result.returncode, json.loads(result.stdout)["error"]) == (2, "Missing option '--ipc'.")


def test_config_file__repeated_and_unknown_keys(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("distill:\n  lr_img: 3\n  lr_img: 4\n")
    assert "gives 'lr_img' twice" in compress("digits", "--ipc", 1, "--config", file).stderr
    file.write_text("distil:\n  lr_img: 3\n")
    assert "did you mean distill.lr_img" in compress("digits", "--ipc", 1, "--config", file).stderr
    file.write_text("- 1\n")
    assert "must hold sections" in compress("digits", "--ipc", 1, "--config", file).stderr
    file.write_text("a: [")
    assert "not valid YAML" in compress("digits", "--ipc", 1, "--config", file).stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty; expected sections of settings, as in 'distill: {lr_img: 3}'"),
        (b"# nothing yet\n", "is empty; expected sections of settings, as in 'distill: {lr_img: 3}'"),
        (b"seed: 1\ndistill:\n", "has nothing in section 'distill'; give it settings, or remove it"),
        (b"distill: 3\n", "has 3 as section 'distill'; expected settings, as in 'distill: {lr_img: 3}'"),
        (b"distill:\n  lr_img: 3\ndistill.lr_img: 4\n", "gives 'distill.lr_img' twice; remove one of the two"),
        (b"distill.lr_img: 4\ndistill:\n  lr_img: 3\n", "gives 'distill.lr_img' twice; remove one of the two"),
        (
            b"seed: 1\ndistill:\n  lr_img: [3\nseed: 2\n",
            "is not valid YAML at line 4: expected ',' or ']', but got ':'",
        ),
        (b"seed: 1\n\tdistill: 2\n", "is not valid YAML at line 2: found character '\\t' that cannot start any token"),
        (b"seed: 1\ndistill: \xe9\n", "is not valid YAML: line 2 is not UTF-8"),
        (b"seed: 1\n# \x00\n", "is not valid YAML: special characters are not allowed"),
    ],
)
def test_config_file__what_is_wrong_with_it_is_said(tmp_path, content, message):
    file = tmp_path / "c.yaml"
    file.write_bytes(content)
    result = compress("digits", "--ipc", 1, "--config", file)
    assert (result.exit_code, result.stderr) == (2, f"error: --config {file} {message}\n")


def test_config_file__a_section_may_stand_beside_other_dotted_keys_of_it(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("distill:\n  lr_img: 3\ndistill.outer_steps: 4\nseed: 2\n")
    assert read_config_file(file).values == {"distill.lr_img": 3, "distill.outer_steps": 4, "seed": 2}


def test_config_file__the_config_of_a_set_makes_it_again(tmp_path):
    asked = ("--preset", "smoke", "--device", "cpu", *SETTINGS, "--set", "distill.lr_init=0.03")
    first = invoke("compress", "digits", "--ipc", 1, "--method", "ast", *asked, "--out", tmp_path / "a")
    assert first.exit_code == 0, first.output
    given = ("--preset", "smoke", "--device", "cpu", "--config", tmp_path / "a" / "distill_config.json")
    again = invoke("compress", "digits", "--ipc", 1, *given, "--out", tmp_path / "b")
    assert again.exit_code == 0, again.output
    one, other = (json.loads((tmp_path / name / "distill_config.json").read_text()) for name in "ab")
    assert one["settings"] == other["settings"]
    tensors = [(tmp_path / name / "distilled.safetensors").read_bytes() for name in "ab"]
    assert tensors[0] == tensors[1]
    clash = invoke("compress", "digits", "--ipc", 2, *given)
    assert (clash.exit_code, "says ipc=1, but --ipc is 2" in clash.stderr) == (2, True)


def test_data__corrupt_image_one_class_and_text_labels(class_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = class_folders({"a": 30, "b": 30})
    (folder / "a" / "007.png").write_bytes(b"no image")
    result = compress(folder, "--ipc", 1)
    assert (result.exit_code, "007.png" in result.stderr, "--skip-corrupt" in result.stderr) == (1, True, True)
    assert compress(folder, "--ipc", 1, "--skip-corrupt").exit_code == 0
    lonely = class_folders({"only": 5}, root="lonely")
    result = compress(lonely, "--ipc", 1)
    assert (result.exit_code, "at least two classes" in result.stderr) == (1, True)


def test_data__names_that_tear_the_command_line(class_folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = class_folders({"a b [red]": 30, "$x": 30}, root="my [data] set")
    result = compress(folder, "--ipc", 1, "--json")
    assert result.exit_code == 0, result.output
    assert (
        "a b [red]"
        in json.loads((tmp_path / "runs" / "my [data] set-ipc1-mtt" / "distill_config.json").read_text())["classes"]
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_sigterm__writes_a_checkpoint_exits_130_and_continues(tmp_path):
    out = tmp_path / "set"
    changed = [part.replace("_steps=4", "_steps=200").replace("_every=2", "_every=200") for part in SETTINGS]
    arguments = [
        "compress",
        "digits",
        "--ipc",
        "1",
        "--preset",
        "smoke",
        "--device",
        "cpu",
        *changed,
        "--out",
        str(out),
    ]
    command = [sys.executable, "-c", "from distillkit.cli import main; main()", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL) as running:
        metrics = out / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        running.terminate()
        errors = running.communicate(timeout=120)[1]
    assert running.returncode == 130, errors
    assert "stopped by SIGTERM" in errors
    assert (out / "run" / "checkpoint.safetensors").exists()
    result = process(*arguments)
    assert result.returncode == 0, result.stderr
    assert "continuing from step" in result.stderr


def test_output__that_cannot_be_written_is_one_line():
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("no /dev/full here")
    with device.open("w") as full:
        command = [sys.executable, "-c", "from distillkit.cli import main; main()", "methods", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr.strip()) == (1, "error: No space left on device")


def test_evaluate__a_file_is_no_artifact(tmp_path):
    (tmp_path / "set.txt").write_text("x")
    result = invoke("evaluate", tmp_path / "set.txt")
    assert result.exit_code == 4
    assert "it is a file; expected a folder" in result.stderr


def test_doctor__a_cache_that_cannot_be_written_fails_and_says_where_it_may_lie(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "file" / "cache"))
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    (cache,) = [check for check in json.loads(result.stdout)["checks"] if check["name"] == "cache"]
    assert not cache["ok"]
    assert "DISTILLKIT_CACHE" in cache["detail"]


def test_plan__a_signal_ends_it_at_once(monkeypatch):
    def slow(*given, **more):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr("distillkit.plan.make_plan", slow)
    result = invoke("compress", "digits", "--ipc", 1, "--plan")
    assert result.exit_code == 130
    assert "while planning; nothing was made" in result.stderr


def test_set__quotes_make_text_of_a_number(tmp_path):
    given = {"a": '"2023"', "b": "2023", "c": "1e-5", "d": "'1e-5'", "e": "[1e-5, 2, .5e1]", "f": "-3E+2", "g": "e5"}
    wanted = {"a": "2023", "b": 2023, "c": 1e-5, "d": "1e-5", "e": [1e-5, 2, 5.0], "f": -300.0, "g": "e5"}
    assert parse_assignments([f"{key}={value}" for key, value in given.items()]).values == wanted
    file = tmp_path / "c.yaml"
    file.write_text("dataset:\n" + "".join(f"  {key}: {value}\n" for key, value in given.items()))
    assert read_config_file(file).values == {f"dataset.{key}": value for key, value in wanted.items()}


def test_compress__a_search_that_cannot_be_is_told_before_the_set_is_made(tmp_path):
    asked = ("compress", "digits", "--ipc", "1", "--preset", "smoke", "--arch", "lenet", "--out", str(tmp_path / "a"))
    for more, words in (
        (("--tune-budget", "0s"), "--tune-budget must be positive"),
        (("--set", "dataset.validation_fraction=0"), "holds none out"),
        ((), "lenet does not take images of 8x8 pixels"),
        (("--plan",), "lenet does not take images of 8x8 pixels"),
    ):
        result = CliRunner().invoke(app, [*asked, *more])
        assert (result.exit_code, words in result.stderr) == (2, True), result.output
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("environment", [{"WORLD_SIZE": "2"}, {"WORLD_SIZE": ""}, {"WORLD_SIZE": "x", "RANK": "0"}])
def test_launch__what_a_scheduler_says_by_half_is_no_launch(environment):
    known = {key: value for key, value in os.environ.items() if key not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        [sys.executable, "-m", "distillkit", "methods"], env=known | environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"RaT-BPTT" in done.stdout


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--tune-budget", "1m"), "--tune-budget is for the searches of --arch"),
        (("--world", "4"), "--world is of --plan"),
        (("--method", ""), "--method is empty"),
        (("--seed", 1, "--set", "seed=2"), "--set gives seed=2, and its own option 1"),
        (
            ("--image-size", 8, "--set", "dataset.image_size=16"),
            "--set gives dataset.image_size=16, and its own option 8",
        ),
    ],
)
def test_compress__options_without_effect_or_that_contradict_are_refused(more, words):
    result = invoke("compress", "digits", "--ipc", 1, "--preset", "smoke", *more)
    assert (result.exit_code, words in result.stderr) == (2, True), result.output


def test_compress__a_data_set_without_a_name_is_refused():
    assert "DATASET is empty" in invoke("compress", " ", "--ipc", 1).stderr


def test_experts_train__of_a_method_that_asks_none():
    for more in ((), ("--set", "experts.count=1")):
        result = invoke("experts", "train", "digits", "--method", "rat", "--preset", "smoke", *more)
        assert (result.exit_code, "rat matches no experts and asks none" in result.stderr) == (2, True), result.output


@pytest.mark.parametrize(("named", "called"), [(".", "a"), ("..", "pets"), ("../a/", "a"), ("digits", "digits")])
def test_default_out__is_called_by_the_folder_however_it_is_named(tmp_path, monkeypatch, named, called):
    (tmp_path / "pets" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "pets" / "a")
    assert default_out(named, 1, "rat") == Path("runs") / f"{called}-ipc1-rat"


def test_home__is_where_a_tilde_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert compress("digits", "--ipc", 1, "--method", "random", "--out=~/set").exit_code == 0
    assert (tmp_path / "home" / "set" / "distilled.safetensors").is_file()
    assert invoke("export", "~/set", "--to", "pt", "--out=~/pt").exit_code == 0
    assert (tmp_path / "home" / "pt" / "lr_best.pt").is_file()
    assert invoke("preview", tmp_path / "home" / "set", "--out=~/p.png").exit_code == 0
    assert (tmp_path / "home" / "p.png").is_file()
    begun = ("--set", "distill.init=artifact", "--set", "distill.init_from=~/set", "--plan")
    planned = compress("digits", "--ipc", 1, "--method", "mtt", *begun)
    assert planned.exit_code == 0, planned.stderr
    assert not (tmp_path / "~").exists()


def test_module__completes_no_commands_of_python(tmp_path):
    environment = {**os.environ, "HOME": str(tmp_path), "_DISTILLKIT_COMPLETE": "source_bash"}
    command = [sys.executable, "-m", "distillkit"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert "complete -o default -F _distillkit_completion distillkit" in made.stdout
