"""The examples run as their heads say; the one without distillkit reaches what the card promises."""

import json
import math
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distillkit import compress, load_distilled
from distillkit.sharing.push import PushOptions, push
from tests.helpers import TINY

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
CARDS = ROOT / "cards"


SCRIPTS = sorted(path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*.py") if "argparse" in path.read_text())


def run(name, *arguments, **environment):
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    result = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=500, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


@pytest.mark.parametrize("name", ["digits-ipc1-mtt", "digits-ipc10-rat"])  # by SGD, by Adam
def test_plain_torch__reaches_the_card_within_two_standard_deviations(name):
    source = (EXAMPLES / "train_plain_torch.py").read_text()
    assert "distillkit" not in re.findall(r"^(?:import|from) (\w+)", source, re.M)
    mean, std = re.match(r"([\d.]+) ± ([\d.]+)", run("train_plain_torch.py", CARDS / name)).groups()
    promised = json.loads((CARDS / name / "results.json").read_text())["architectures"]["convnet"]
    assert abs(float(mean) - 100 * promised["mean"]) <= 2 * max(float(std), 100 * promised["std"])
    assert float(mean) > 80  # far above random images of the same number


@pytest.mark.parametrize("name", ["cifar10-ipc1-rat", "cifar10-ipc1-dm"])  # whitened, and standardised
def test_plain_torch__says_what_it_does_not_read(name):
    line = [sys.executable, str(EXAMPLES / "train_plain_torch.py"), str(CARDS / name)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("this example is for sets of digits")


@pytest.mark.study
@pytest.mark.parametrize("name", SCRIPTS, ids=str)
def test_scripts__load_and_say_how_they_are_called(name):
    assert run(name, "--help").startswith("usage: ")


def test_train_timm__two_networks(made):
    shown = run("train_timm.py", made, "--model", "test_resnet", "--model", "test_vit", "--epochs", 1)
    assert re.search(r"test_resnet: [\d.]+ % after", shown)
    assert re.search(r"test_vit: [\d.]+ % after", shown)


def test_train_with_datasets__a_folder(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "set", ignore=shutil.ignore_patterns("run"))
    shown = run("train_with_datasets.py", folder, "--epochs", 2, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert "20 images of 0, 1, 2, 3, 4..." in shown


@pytest.mark.parametrize("labels", [[], ["--soft"]])
def test_train_timm_hfds__from_the_hub(hub, copy, tmp_path, labels):
    push(copy, "org/digits-ipc2", PushOptions())
    shown = run(
        "train_timm_hfds.py",
        "org/digits-ipc2",
        "--model",
        "test_resnet",
        "--epochs",
        8,
        *labels,
        HF_ENDPOINT=hub.url,
        HF_HOME=str(tmp_path / "home"),
        HF_HUB_OFFLINE="0",
        HF_DATASETS_OFFLINE="0",
    )
    first, last = (float(value) for value in re.findall(r"loss ([\d.]+)", shown))
    assert last < first


def test_train_timm_hfds__refuses_what_is_whitened(hub, tmp_path):
    push(CARDS / "cifar10-ipc1-rat", "org/whitened", PushOptions(), update_folder=False)
    settings = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    line = [sys.executable, str(EXAMPLES / "train_timm_hfds.py"), "org/whitened"]
    done = subprocess.run(line, env=settings, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "this set is whitened" in done.stderr


@pytest.mark.study
def test_architecture_search__writes_a_correlation(made, tmp_path):
    candidates = ["convnet:width=2,depth=1", "convnet:width=8,depth=2", "timm/test_resnet"]
    options = [part for name in candidates for part in ("--arch", name)]
    few = ["--networks", 1, "--full-epochs", 1, "--search-seconds", 0.01]
    run("architecture_search.py", made, *options, *few, "--out", tmp_path / "out")
    report = json.loads((tmp_path / "out" / "architecture_search-digits-ipc2.json").read_text())
    assert [row["network"] for row in report["rows"]] == candidates
    kinds = ["distilled", "tuned", "random", "full"]
    told = {kind for kind in kinds if len({row[kind] for row in report["rows"]}) > 1}  # of equals there is no ranking
    assert set(report["spearman"]) == (told - {"full"} if "full" in told else set())
    assert all(-1 <= value <= 1 for value in report["spearman"].values())
    assert "Spearman" in (tmp_path / "out" / "architecture_search-digits-ipc2.md").read_text()


def tiny_settings(*without):
    return [part for key, value in TINY.items() if key not in without for part in ("--set", f"{key}={value}")]


@pytest.mark.study
def test_ablation_and_convergence__a_table_and_a_plot(tmp_path):
    settings = tiny_settings("distill.outer_steps", "evaluate.networks")
    work, out = tmp_path / "work", tmp_path / "out"
    arguments = ("--rows", "2,3", "--seeds", "0", "--networks", "1", "--work", work, "--out", out)
    shown = run("ablation.py", "ast", "digits", *arguments, *settings, "--set", "distill.outer_steps=2")
    assert "| MTT |" in shown
    found = json.loads((out / "ablation-ast-digits-ipc1-part.json").read_text())["rows"]
    assert set(found) == {"MTT", "AST"}
    assert [len(one["accuracies"]) for rows in found.values() for one in rows] == [1, 1]
    folders = sorted((work / "ablation-ast-digits-ipc1").iterdir())
    run("convergence.py", f"MTT={folders[0]}", f"AST={folders[1]}", "--out", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


@pytest.mark.study
def test_trajectories__smoothness_storage_and_truncation(tmp_path):
    small = ("--experts", "1", "--epochs", "4", "--width", "4", "--max-train", "200", "--out", tmp_path)
    run("expert_smoothness.py", "digits", *small)
    recipes = json.loads((tmp_path / "expert_smoothness-digits.json").read_text())["recipes"]
    assert len(recipes) == 6
    run(
        "trajectory_storage.py",
        "digits",
        *tiny_settings("experts.epochs"),
        "--set",
        "experts.epochs=6",
        "--out",
        tmp_path,
    )
    rows = json.loads((tmp_path / "trajectory_storage-digits.json").read_text())["rows"]
    assert (
        rows["raw, every epoch"]["bytes"]
        > rows["4 waypoints, float32"]["bytes"]
        > rows["2 endpoints, bfloat16"]["bytes"]
    )
    few = ("--inner-steps", "1,3", "--lr", "0.02", "--segments", "1", "--out", tmp_path)
    run("benchmarks/truncated.py", "digits", *few, *tiny_settings())
    first, later = json.loads((tmp_path / "truncated-digits-ipc1.json").read_text())["rows"]
    assert first["cosine"] == pytest.approx(1, abs=1e-5)
    assert later["cosine"] < first["cosine"]


@pytest.mark.study
def test_difficulty__two_scorings_and_a_picture(tmp_path):
    few = {"experts.difficulty_networks": 1, "experts.difficulty_epochs": 2, "experts.lr": 0.05}
    short = [part for key, value in few.items() for part in ("--set", f"{key}={value}")]
    shown = run("difficulty.py", "digits", "--classes", "1,8", "--out", tmp_path, *short)
    found = json.loads((tmp_path / "difficulty-digits.json").read_text())
    assert found["mean"] > 0.2  # two networks agree on what is hard, chance is 0
    assert f"mean         {found['mean']:.2f}" in shown
    assert (tmp_path / "difficulty-digits.png").stat().st_size > 5_000


@pytest.mark.slow
def test_benchmark_of_the_outer_step__agrees_with_float64(tmp_path):
    few = ("--ipc", "1", "--batch", "10", "--width", "4", "--inner-steps", "2", "--rounds", "1")
    path = tmp_path / "outer.json"
    run("benchmarks/outer_step.py", *few, "--variants", "naive,truncated,exact-eager", "--check", "--json", path)
    rows = {row["variant"]: row for row in json.loads(path.read_text())["rows"]}
    assert all(row["seconds"] > 0 and row["peak_bytes"] > 0 for row in rows.values())
    assert rows["exact-eager"]["relative_to_fp64"] < 1e-4
    assert rows["naive"]["relative_to_fp64"] < 1e-4
    assert rows["truncated"]["cosine_to_fp64"] < rows["naive"]["cosine_to_fp64"]


@pytest.mark.study
def test_benchmark_of_experts__rows_and_a_table(tmp_path):
    few = ("--width", "4", "--batch", "8", "--steps", "1", "--rounds", "1", "--forms", "loader,eager,together")
    run("benchmarks/experts.py", *few, "--out", tmp_path / "experts")
    rows = json.loads((tmp_path / "experts.json").read_text())["rows"]
    assert [rows[form]["size"] for form in ("loader", "eager", "together")] == [1, 1, 2]
    assert all(row["experts_per_hour"] > 0 for row in rows.values())
    assert "| together | 2 |" in (tmp_path / "experts.md").read_text()


@pytest.mark.study
def test_start_to_artifact__seconds_of_each_stage(tmp_path):
    settings = [*tiny_settings(), "--preset", "smoke"]
    run("benchmarks/start_to_artifact.py", "digits", "--out", tmp_path / "start", *settings)
    found = json.loads((tmp_path / "start.json").read_text())
    assert set(found["stages"]) == {"experts", "distill", "evaluate"}
    assert found["seconds"] > sum(found["stages"].values())


def reference_arguments(folder):
    """Of run.py, for two tiny sets below ``folder``."""
    words = ["--only", "digits-ipc1", "--methods", "random,mtt", "--seeds", "0", "--networks", "2"]
    words += ["--preset", "smoke", *tiny_settings("distill.outer_steps")]
    return [*words, "--work", folder / "work", "--cards", folder / "cards", "--out", folder / "out"]


@pytest.mark.slow
def test_reference__sets_cards_and_a_table_and_nothing_twice(tmp_path):
    work, out, arguments = tmp_path / "work", tmp_path / "out", reference_arguments(tmp_path)
    run("reference/run.py", *arguments)
    rows = {row["method"]: row for row in json.loads((out / "results-cpu-part.json").read_text())["rows"]}
    assert set(rows) == {"random", "mtt"}
    assert len(rows["mtt"]["runs"][0]["accuracies"]) == 2
    assert "| mtt | " in (out / "results-cpu-part.md").read_text()
    assert load_distilled(tmp_path / "cards" / "digits-ipc1-mtt").results["architectures"]["convnet"]["n"] == 2
    made = (work / "digits-ipc1-mtt" / "seed0" / "results.json").stat().st_mtime_ns
    run("reference/run.py", *arguments)
    assert (work / "digits-ipc1-mtt" / "seed0" / "results.json").stat().st_mtime_ns == made


@pytest.mark.study
def test_cross__a_row_of_every_network(tmp_path):
    run("reference/run.py", *reference_arguments(tmp_path))
    few = ["--only", "digits-ipc1", "--methods", "mtt,pad", "--networks", "1", "--test-images", "40"]
    shown = run("reference/cross.py", *few, "--work", tmp_path / "work", "--out", tmp_path / "out")
    assert re.search(r"\| mtt \|( [\d.]+ ± [\d.]+ \|){9} [\d.]+ \| [\d.]+ \|", shown)
    found = json.loads((tmp_path / "out" / "cross-digits-ipc1-part.json").read_text())
    assert set(found["sets"]) == {"mtt"}  # of pad there is none
    rows = found["sets"]["mtt"]["rows"]
    assert rows["timm/resnet18"]["n"] == 1
    improvement = rows["ConvNet"]["mean"] - rows["random"]["mean"]
    a = improvement / 2 - (found["full"] - rows["hard labels"]["mean"]) / 2
    expected = (math.exp(a) - math.exp(-1)) / (math.e - math.exp(-1))
    assert found["sets"]["mtt"]["scores"]["label"] == pytest.approx(expected)


REFERENCE = EXAMPLES / "reference"


@pytest.mark.study
def test_search__a_line_a_candidate_and_none_twice(tmp_path):
    out = tmp_path / "out"
    arguments = ["digits-ipc1", "mtt", "--seeds", "0", "--networks", "2", *tiny_settings()]
    arguments += ["--work", tmp_path / "work", "--out", out, "--try", "", "--try", "distill.lr_img=0 distill.lr_lr=0"]
    assert run("reference/search.py", *arguments).count("digits-ipc1 mtt: ") == 2
    rows = [json.loads(line) for line in (out / "search-digits-ipc1.jsonl").read_text().splitlines()]
    assert [row["changes"] for row in rows] == ["", "distill.lr_img=0 distill.lr_lr=0"]
    assert len(rows[0]["runs"][0]["accuracies"]) == 2
    assert rows[0]["mean"] == pytest.approx(sum(rows[0]["runs"][0]["accuracies"]) / 2)
    selection = rows[1]["runs"][0]["selection"]
    assert len(set(selection.values())) == 1  # nothing was learned, so nothing changed
    assert "| distill.lr_img=0 distill.lr_lr=0 |" in (out / "search-digits-ipc1.md").read_text()
    assert "digits-ipc1 mtt: " not in run("reference/search.py", *arguments)
    assert len((out / "search-digits-ipc1.jsonl").read_text().splitlines()) == 2


def test_search__looks_at_no_test_image(tmp_path, monkeypatch, capsys):
    """Of a method without experts: those keep their test accuracy for the record, which chooses nothing."""
    from distillkit.stages.context import Prepared

    monkeypatch.syspath_prepend(str(REFERENCE))
    search = __import__("search")
    monkeypatch.setattr(Prepared, "test", lambda *arguments: pytest.fail("test images were asked for"))
    command = ["search.py", "digits-ipc1", "dm", "--networks", "1", "--folder", str(tmp_path / "a"), *tiny_settings()]
    monkeypatch.setattr(sys, "argv", command)
    search.main()
    assert 0 <= json.loads(capsys.readouterr().out)["accuracies"][0] <= 1


@pytest.mark.slow
def test_reference__ctrl_c_begins_nothing_new(tmp_path):
    work = tmp_path / "work"
    command = [sys.executable, REFERENCE / "run.py", "--only", "digits-ipc1", "--methods", "random,kmeans,mtt"]
    command += ["--seeds", "0", "--work", work, "--cards", tmp_path / "cards", "--out", tmp_path / "out"]
    running = subprocess.Popen(
        [*map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    deadline = time.monotonic() + 120
    while not (work / "digits-ipc1-random" / "seed0" / "run" / "config.json").is_file():
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "the same command goes on" in errors
    assert [folder.name for folder in work.iterdir()] == ["digits-ipc1-random"]


@pytest.mark.study
def test_clock__a_point_a_budget_and_none_twice(tmp_path):
    out, tiny = tmp_path / "out", tiny_settings("evaluate.networks")
    arguments = ["--only", "digits-ipc1", "--methods", "random,dm", "--minutes", "9", "--seeds", "0", *tiny]
    arguments += ["--networks", "2", "--work", tmp_path / "work", "--out", out]
    assert run("reference/clock.py", *arguments).count("digits-ipc1 ") == 3  # a line each, and the head of the table
    rows = {row["method"]: row for row in map(json.loads, (out / "clock.jsonl").read_text().splitlines())}
    assert rows["random"]["minutes"] == 0
    assert (rows["dm"]["experts"], rows["random"]["outer_steps"]) == (0, 0)
    assert rows["dm"]["outer_steps"] == TINY["distill.outer_steps"]  # the settings of a test are done long before
    assert rows["dm"]["learning_seconds"] > 0
    assert "| digits-ipc1 | 9 min |" in (out / "clock.md").read_text()
    assert (out / "clock.png").stat().st_size > 1000
    assert run("reference/clock.py", *arguments).count("digits-ipc1 ") == 1
    assert len((out / "clock.jsonl").read_text().splitlines()) == 2


def in_this_process(monkeypatch, name, *arguments):
    """Without the seconds of another process's imports."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    monkeypatch.syspath_prepend(str((EXAMPLES / name).parent))
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_timm_names__are_sorted_by_what_they_do_and_none_is_tried_twice(tmp_path, monkeypatch, capsys):
    stem, names = tmp_path / "names", ["test_resnet", "test_vit", "edgenext_xx_small", "test_byobnet", "vgg19"]
    in_this_process(monkeypatch, "benchmarks/timm_names.py", *names, "--most-parameters", 1e7, "--out", stem)
    rows = {row["name"]: row for row in json.loads(stem.with_suffix(".json").read_text())["rows"]}
    assert {name: row["kind"] for name, row in rows.items()} == {
        "test_resnet": "changed",
        "test_vit": "changed",
        "edgenext_xx_small": "works",
        "test_byobnet": "changed",
        "vgg19": "too large",
    }
    assert "img_size=32" in rows["test_vit"]["words"]
    assert "| names | 1 | 3 | 0 | 0 | 1 | 0 | 0 |" in stem.with_suffix(".md").read_text()
    capsys.readouterr()
    in_this_process(monkeypatch, "benchmarks/timm_names.py", *names, "--most-parameters", 1e7, "--out", stem)
    assert "test_resnet: " not in capsys.readouterr().out


@pytest.mark.study
def test_wild_gradients__are_found_by_the_law_of_the_gate(copy, tmp_path, monkeypatch, capsys):
    norms = [1.0, 40.0, 1.2, 5.0, 6.0]  # usual before each: -, 1, 1.3, 1.29, 1.661 of norms that count 1, 4, 1.2, 5
    steps = [{"step": step, "loss": 0.5, "gradient_norm": norm} for step, norm in enumerate(norms, 1)]
    rows = [{"step": 0, "validation_accuracy": 0.25}, *steps, {"step": 5, "validation_accuracy": 0.5}]
    (copy / "run" / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    in_this_process(monkeypatch, "benchmarks/wild_gradients.py", copy, "--out", tmp_path / "wild")
    (row,) = json.loads((tmp_path / "wild.json").read_text())
    assert row["wild"] == [[2, pytest.approx(40)]]
    assert "| 25.0 | 50.0 | 50.0 |" in capsys.readouterr().out
    in_this_process(monkeypatch, "benchmarks/wild_gradients.py", copy, "--most", 3, "--out", tmp_path / "wild")
    (row,) = json.loads((tmp_path / "wild.json").read_text())
    assert row["wild"] == [
        [2, 40],
        [4, pytest.approx(5 / (0.9 * 1.2 + 0.12))],
        [5, pytest.approx(6 / (0.9 * 1.2 + 0.36))],
    ]


def test_wild_gradients__of_a_run_are_those_that_it_skipped(tmp_path, monkeypatch):
    still = {"distill.lr_img": 1e-9, "distill.lr_lr": 0.0, "seed": 2}  # only the segments differ in length
    changes = {**still, "distill.gate_norm": 1.01, "distill.outer_steps": 8, "distill.select_every": 8}
    compress("digits", ipc=1, preset="smoke", settings={**TINY, **changes}, out=tmp_path / "set", device="cpu")
    in_this_process(monkeypatch, "benchmarks/wild_gradients.py", tmp_path / "set", "--out", tmp_path / "wild")
    (row,) = json.loads((tmp_path / "wild.json").read_text())
    metrics = map(json.loads, (tmp_path / "set" / "run" / "metrics.jsonl").read_text().splitlines())
    counts = {line["step"]: line["wild"] for line in metrics if "wild" in line}
    skipped = [step for step, count in counts.items() if count > counts.get(step - 1, 0)]
    assert [step for step, _ in row["wild"]] == skipped != []
    assert row["bound"] == 1.01


def test_network_pool__a_row_for_each_student_and_for_all(tmp_path, monkeypatch):
    stem = tmp_path / "pool"
    few = ("--preset", "smoke", "--steps", 2, "--seeds", 1, "--networks", 1, "--width", 4, "--others", "lenet")
    with pytest.raises(Exception, match="lenet does not take images of 8x8 pixels"):
        in_this_process(monkeypatch, "network_pool.py", *few, "--out", stem)
    in_this_process(monkeypatch, "network_pool.py", *few[:-2], "--others", "--out", stem)
    found = json.loads(stem.with_suffix(".json").read_text())["accuracies"]
    assert {name: list(row) for name, row in found.items()} == {
        name: ["convnet", "mlp"] for name in ("convnet", "mlp", "convnet and mlp")
    }
    assert stem.with_suffix(".md").read_text().count("\n| ") == 5


def test_tuned__searches_what_is_missing_and_draws_what_is_there(copy, tmp_path, monkeypatch, capsys):
    few = ["--cards", copy.parent, "--sets", copy.name, "--archs", "mlp", "--networks", 1, "--time-budget", "1s"]
    for _ in range(2):
        in_this_process(monkeypatch, "reference/tuned.py", *few, "--data-root", tmp_path, "--out", tmp_path)
    shown = capsys.readouterr().out
    assert shown.count(f"{copy.name}: mlp\n") == 1  # what a set has a recipe for is not searched again
    row = load_distilled(copy).results["tuned"]["mlp"]
    table = (tmp_path / "tuned.md").read_text()
    means = [row["mean"], row["baselines"]["random"]["mean"], row["baselines"]["kmeans"]["mean"]]
    assert " | ".join([f"| {copy.name} | MLP", *(f"{100 * mean:.1f}" for mean in means), row["recipe"]]) in table
    assert (tmp_path / "tuned.png").read_bytes().startswith(b"\x89PNG")


def test_strides__a_line_of_each_normalisation(tmp_path, monkeypatch):
    few = ["--models", "test_resnet", "--norms", "keep", "instance", "--steps", 2, "--networks", 1, "--images", 40]
    in_this_process(
        monkeypatch, "benchmarks/strides.py", CARDS / "digits-ipc1-mtt", *few, "--out", tmp_path / "strides"
    )
    rows = json.loads((tmp_path / "strides.json").read_text())["rows"]
    assert [(row["norm"], row["ours"]) for row in rows] == [
        ("keep", False),
        ("keep", True),
        ("instance", False),
        ("instance", True),
    ]
    assert rows[0]["accuracies"] == rows[1]["accuracies"]  # eight pixels: the strides are timm's
    assert "| test_resnet | keep | " in (tmp_path / "strides.md").read_text()
