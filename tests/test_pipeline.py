"""The whole pipeline: stopped, damaged, repeated, refused; what it makes and what it leaves alone."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from distillkit import compress, evaluate, load_distilled, plots, storage
from distillkit.artifact.headline import headline_row
from distillkit.artifact.layout import FILES, LOADED, PUBLISHED
from distillkit.distill.state import OuterState
from distillkit.errors import ConfigError, DataError, Interrupted, StorageError, TrajectoryError
from distillkit.interrupt import ECHO, StopRequest, stop_on_signals
from distillkit.lab import effective
from distillkit.pipeline import save_reports
from distillkit.progress import Silent
from distillkit.records import EvalReport
from distillkit.run_folder import RunFolder
from distillkit.settings import DistillSettings, NetworkSettings
from distillkit.stages.distillation import what_to_warn_of
from distillkit.stages.tune import tune
from distillkit.trajectories.store import TrajectoryStore, experts_root
from tests.helpers import TINY, Notes, StopAfter, run, same_bytes, sketch


@pytest.fixture(scope="module")
def whole_once(tmp_path_factory):
    """A finished run of tiny settings, with a cache of its own."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISTILLKIT_CACHE", str(folder / "cache"))
        patch.setattr(plots, "_png", sketch)
        run(folder / "set", TINY)
    return folder / "set"


@pytest.fixture
def whole(whole_once, tmp_path):
    """A copy of it, and a cache that is empty."""
    return shutil.copytree(whole_once, tmp_path / "whole")


def test_compress__stopped_at_every_step_in_turn_ends_at_the_same_bytes(whole, tmp_path, tiny):
    out, stops = tmp_path / "stopped", 0
    for _ in range(60):
        stop = StopRequest()
        try:
            run(out, tiny, stop=stop, progress=StopAfter(stop, 4))  # an expert has 3 epochs: each try finishes one
            break
        except Interrupted:
            stops += 1
    assert stops > 5
    same_bytes(whole, out)
    rows = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert [row["step"] for row in rows if "validation_accuracy" in row] == [0, 2, 4]


def test_compress__finished_runs_are_not_made_again(whole, tmp_path, tiny, monkeypatch):
    before = (whole / "results.json").stat().st_mtime_ns
    assert run(whole, tiny).results == load_distilled(whole).results
    assert (whole / "results.json").stat().st_mtime_ns == before


def test_compress__a_folder_of_another_run_or_of_other_things_is_left_alone(whole, tmp_path, tiny):
    words = r"another run \(mtt on digits at ipc 1; differs in settings\.distill\.lr_img \([\d.]+ there, 7.0 here\)"
    with pytest.raises(ConfigError, match=words):
        run(whole, tiny, settings={"distill.lr_img": 7.0})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        run(tmp_path / "mine", tiny)
    replaced = run(whole, tiny, settings={"distill.lr_img": 7.0}, replace=True)
    assert replaced.config["settings"]["distill"]["lr_img"] == 7.0


def test_experts__are_cached_and_only_a_damaged_one_is_trained_again(tmp_path, tiny):
    run(tmp_path / "one", tiny)
    (folder,) = (tmp_path / "cache" / "experts").iterdir()
    store = TrajectoryStore.open(folder)
    good = store.tensors_path(0).stat().st_mtime_ns
    content = store.tensors_path(1).read_bytes()
    store.tensors_path(1).write_bytes(content[:-4] + b"oops")
    notes = []

    class Notes(Silent):
        def note(self, message):
            notes.append(message)

    run(tmp_path / "two", tiny, progress=Notes())
    assert any("expert 1 in the cache is damaged" in note for note in notes)
    assert store.tensors_path(0).stat().st_mtime_ns == good
    assert store.tensors_path(1).read_bytes() == content
    same_bytes(tmp_path / "one", tmp_path / "two")


def test_experts__other_settings_do_not_share_and_more_experts_do(tmp_path, tiny):
    run(tmp_path / "a", tiny)
    run(tmp_path / "b", tiny, settings={"experts.count": 3})
    assert len(list((tmp_path / "cache" / "experts").iterdir())) == 1
    run(tmp_path / "c", tiny, settings={"experts.lr": 0.5})
    assert len(list((tmp_path / "cache" / "experts").iterdir())) == 2


def test_compress__a_damaged_checkpoint_starts_again_and_a_torn_metrics_line_goes(whole, tmp_path, tiny):
    stop, out = StopRequest(), tmp_path / "torn"
    with pytest.raises(Interrupted):
        run(out, tiny, stop=stop, progress=StopAfter(stop, 8))
    with (out / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    run(out, tiny)
    same_bytes(whole, out)
    stop, out = StopRequest(), tmp_path / "damaged"
    with pytest.raises(Interrupted):
        run(out, tiny, stop=stop, progress=StopAfter(stop, 8))
    (out / "run" / "checkpoint.safetensors").write_bytes(b"nonsense")
    run(out, tiny)
    same_bytes(whole, out)


def test_paper_protocol__reports_the_habit_and_changes_nothing_else(whole, tmp_path, tiny):
    ds = run(tmp_path / "paper", tiny, settings={"evaluate.paper_protocol": True})
    assert (tmp_path / "paper" / "distilled.safetensors").read_bytes() == (whole / "distilled.safetensors").read_bytes()
    habit = ds.results.pop("paper_protocol")
    words = f"By the paper's protocol {100 * habit['accuracy']:.1f}, at outer step {habit['step']} (maximum on test"
    assert words in (tmp_path / "paper" / "README.md").read_text()
    assert "paper's protocol" not in (whole / "README.md").read_text()
    assert ds.results == load_distilled(whole).results
    assert set(habit["checkpoints"]) == {"0", "2", "4"}
    assert habit["accuracy"] == max(habit["checkpoints"].values()) == habit["checkpoints"][str(habit["step"])]


def test_compress__a_finished_but_damaged_artifact_is_packed_again(whole, tmp_path, tiny):
    content = (whole / "distilled.safetensors").read_bytes()
    (whole / "distilled.safetensors").write_bytes(content[:50])
    run(whole, tiny)
    assert (whole / "distilled.safetensors").read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (name, content)
        for name in sorted(set(PUBLISHED) - set(LOADED))
        for content in (None, b"", b"no such file")
        if name != FILES.card or not content
    ],
)
def test_compress__a_finished_artifact_that_lacks_a_file_is_packed_again(whole, tiny, name, content):
    """Also a file that loading does not read; whatever a card says is its owner's, if it says anything."""
    before, notes = (whole / name).read_bytes(), Notes()
    (whole / name).unlink()
    if content is not None:
        (whole / name).write_bytes(content)
    run(whole, tiny, progress=notes)
    assert (whole / name).read_bytes() == before
    assert any(name in note and note.endswith("packing it again") for note in notes.notes)
    assert not [note for note in notes.notes if "nothing to do" in note]
    again = Notes()
    run(whole, tiny, progress=again)
    assert again.notes[-1].endswith("is finished already; nothing to do")


def test_compress__an_incomplete_artifact_without_its_run_is_called_so(whole, tiny):
    shutil.rmtree(whole / "run")
    with pytest.raises(ConfigError, match="holds an artifact that another run made; choose another"):
        run(whole, tiny)
    (whole / FILES.preview).unlink()
    (whole / FILES.curves).unlink()
    with pytest.raises(ConfigError, match=r"is incomplete \(it has no preview\.png, no curves\.png, and no run/ to"):
        run(whole, tiny)


@pytest.mark.parametrize("name", ["synthetic.safetensors", "evaluation.json", "seconds.json"])
def test_compress__damaged_files_of_the_run_are_made_again(whole, tmp_path, tiny, name):
    content = (whole / "distilled.safetensors").read_bytes()
    (whole / "run" / name).write_bytes(b"\xff nonsense")
    (whole / "distill_config.json").unlink()
    assert run(whole, tiny).results["architectures"]
    assert (whole / "distilled.safetensors").read_bytes() == content


def test_compress__an_empty_run_folder_is_free(tmp_path, tiny):
    (tmp_path / "set" / "run").mkdir(parents=True)
    assert run(tmp_path / "set", tiny).lr > 0


def test_compress__a_folder_in_use_is_not_touched_even_with_yes(whole, tiny):
    with FileLock(whole / "run" / ".lock"), pytest.raises(ConfigError, match="another process is working"):
        run(whole, tiny, settings={"distill.lr_img": 7.0}, replace=True)
    assert (whole / "run" / "synthetic.safetensors").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("distill.matching", "x", "distill.matching='x' is unknown"),
        ("distill.labels", "x", "distill.labels='x' is unknown"),
        ("distill.init", "x", "distill.init='x' is unknown"),
        ("distill.sampler", "x", "distill.sampler='x' is unknown"),
        ("experts.loss", "x", "experts.loss='x' is unknown"),
        ("experts.count", 0, "one is the least"),
        ("distill.max_start_epoch", 9, "needs experts of 9 epochs"),
        ("trajectories.form", "x", "trajectories.form='x' is unknown"),
    ],
)
def test_compress__wrong_parts_are_found_before_experts_are_trained(tmp_path, tiny, key, value, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "x", tiny, settings={key: value})
    assert not (tmp_path / "cache" / "experts").exists()


def test_experts__a_damaged_record_is_trained_again(tmp_path, tiny):
    run(tmp_path / "one", tiny)
    (record,) = (tmp_path / "cache" / "experts").glob("*/expert-0000.json")
    content = record.read_bytes()
    record.write_bytes(b"\xff\xfe nonsense")
    run(tmp_path / "two", tiny)
    assert record.read_bytes() == content


def test_evaluate__a_data_set_that_changed_is_refused(class_folders, tmp_path, tiny):
    folder = class_folders({"a": 30, "b": 30})
    compress(str(folder), ipc=1, preset="smoke", settings=tiny, out=tmp_path / "set", device="cpu", command="x")
    with pytest.raises(ConfigError, match=r"made of images in a folder \('images'\), and which folder is read"):
        evaluate(tmp_path / "set", networks=1, device="cpu")
    assert evaluate(tmp_path / "set", dataset=folder, networks=1, device="cpu")["convnet"].accuracies
    elsewhere = shutil.copytree(folder, tmp_path / "elsewhere")
    ds = load_distilled(tmp_path / "set")
    assert ds.is_source(ds.load_source(elsewhere))  # split as then, wherever it lies
    (folder / "a" / "003.png").unlink()
    with pytest.raises(DataError, match="is not the data set that was distilled"):
        evaluate(tmp_path / "set", dataset=str(folder), networks=1, device="cpu")
    (elsewhere / "a" / "003.png").unlink()
    assert not ds.is_source(ds.load_source(elsewhere))
    with pytest.raises(DataError, match="a recipe is searched on its validation images"):
        tune(ds, "convnet", dataset=elsewhere, device="cpu")


def test_evaluate__data_of_other_classes_are_refused_before_images_are_decoded(whole, class_folders, monkeypatch):
    monkeypatch.setattr("distillkit.data.load.decode_into", None)
    with pytest.raises(ConfigError, match=r"other classes than the set: without '0', '1', .* and with 'a', 'b'"):
        evaluate(whole, dataset=class_folders({"a": 30, "b": 30}), networks=1, device="cpu")


def test_save_reports__does_not_overwrite_and_renews_the_card(whole):
    with pytest.raises(ConfigError, match="has results for convnet already"):
        save_reports(whole, {"convnet": EvalReport((0.5,), {"lr": 0.1})})
    own = load_distilled(whole).recipe["architecture"]
    with pytest.raises(ConfigError, match="has results for convnet:width="):  # the same by another name
        save_reports(whole, {f"convnet:width={own['width']}": EvalReport((0.5,), {"lr": 0.1})})
    save_reports(whole, {"timm/x": EvalReport((0.5,), {"lr": 0.1})})
    assert "timm/x | 50.0" in (whole / "README.md").read_text()


def small_disk(tmp_path, options):
    """A file system of its own; needs root, as containers have."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("cannot mount a tmpfs here")
    return place


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
def test_full_disk__one_sentence_and_the_run_goes_on_when_there_is_room(tmp_path, tiny):
    place = small_disk(tmp_path, "size=56k")
    try:
        with pytest.raises(StorageError, match="no space left on device"):
            run(place / "set", tiny)
        checkpoint = place / "set" / "run" / "checkpoint.safetensors"
        if checkpoint.exists():
            assert storage.read_tensors(checkpoint)
        subprocess.run(["mount", "-o", "remount,size=8m", str(place)], check=True)
        made = run(place / "set", tiny)
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert torch.equal(made.images, run(tmp_path / "roomy", tiny).images)


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount")
def test_read_only_folder__one_sentence(tmp_path, tiny):
    place = small_disk(tmp_path, "ro")
    try:
        for out in (place / "set", place):
            with pytest.raises(StorageError, match="read-only file system"):
                run(out, tiny)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_compress__an_output_that_cannot_even_be_looked_at_is_one_sentence(tmp_path, tiny, monkeypatch):
    plain = Path.exists

    def refused(path, **kwargs):
        if path.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, **kwargs)

    monkeypatch.setattr(Path, "exists", refused)
    with pytest.raises(StorageError, match=r"could not look at .*closed: permission denied"):
        run(tmp_path / "closed", tiny)


def test_compress__seeds_differ(tmp_path, tiny):
    first, second = (run(tmp_path / str(seed), tiny, settings={"seed": seed}) for seed in (0, 1))
    assert not torch.equal(first.images, second.images)


def test_compress__ipc_beyond_a_class_names_it(tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"`ipc=90` is more than 10 classes have: '0' \(18"):
        compress("digits", ipc=90, preset="smoke", settings=tiny, out=tmp_path / "x", device="cpu")


def test_signals__first_asks_second_interrupts():
    before = signal.getsignal(signal.SIGINT)  # a job in the background of a shell is born with it ignored
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        with pytest.raises(Interrupted, match="stopped by SIGINT here; run the same command again"):
            stop.check("here")
        os.kill(os.getpid(), signal.SIGINT)  # ``timeout`` sends its signal to a process and to its group
        time.sleep(1.5 * ECHO)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_evaluate__same_networks_same_numbers_and_other_architectures(whole):
    reports = evaluate(whole, ["convnet", "convnet:width=6", "timm/resnet10t"], networks=2, device="cpu")
    assert list(reports) == ["convnet", "convnet:width=6", "timm/resnet10t:norm=instance"]  # one image a class
    stored = load_distilled(whole).results["architectures"]["convnet"]["accuracies"]
    assert list(reports["convnet"].accuracies) == stored


def test_storage__a_pipe_or_folder_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(StorageError, match="no ordinary file"):
            storage.write_bytes(place, b"x")


def test_storage__a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    storage.write_bytes(path, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=f"could not write {path}: no space left"):
        storage.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "cache"] == ["file"]


def test_compress__soft_labels_are_measured_beside_hard_ones_and_random_images(tmp_path, tiny):
    settings = {
        "experts.difficulty_networks": 1,
        "experts.difficulty_epochs": 1,
        "distill.lr_label": 1.0,
        "distill.gate": None,
    }
    ds = run(tmp_path / "pad", tiny, method="pad", settings=settings)
    assert ds.config["label_kind"] == "logits"
    assert torch.allclose(ds.targets.sum(1), torch.ones(10))
    assert ds.results["hard_labels"]["n"] == ds.results["baselines"]["random-soft"]["n"] == 2
    assert "with hard labels the same images reach" in (tmp_path / "pad" / "README.md").read_text()
    assert "random real images, soft labels of the experts" in (tmp_path / "pad" / "README.md").read_text()
    assert ds.results["selection"]["gated_steps"] == 0
    again = load_distilled(tmp_path / "pad")
    assert torch.equal(again.targets, ds.targets)
    _is_measured_again_without_training_an_expert(tmp_path / "pad", tiny, settings, ds)
    hard = run(tmp_path / "mtt", tiny)
    assert "hard_labels" not in hard.results
    assert "random-soft" not in hard.results["baselines"]


def _is_measured_again_without_training_an_expert(folder, tiny, settings, ds):
    rows, trained = folder / "run" / "evaluation.json", experts_root()
    (folder / "distill_config.json").unlink()  # as a run that was stopped while it was measured
    rows.rename(folder / "rows")
    trained.rename(folder / "experts")
    with pytest.raises(TrajectoryError, match=r"experts 0, .* any more; 'distillkit experts train' with the options"):
        run(folder, tiny, method="pad", settings=settings)
    assert not list(trained.glob("*/*.safetensors"))
    assert {"set", "hard"} <= set(RunFolder(folder).rows())
    shutil.rmtree(trained, ignore_errors=True)
    (folder / "experts").rename(trained)
    assert run(folder, tiny, method="pad", settings=settings).results["baselines"] == ds.results["baselines"]
    (folder / "rows").unlink()


def test_compress__random_images_with_the_experts_labels_need_no_outer_step(tmp_path, tiny):
    settings = {"distill.outer_steps": 0, "distill.init": "real"}
    ds = run(tmp_path / "soft", effective(tiny | settings, "digits", 2, "datm", "smoke"), method="datm")
    assert ds.config["label_kind"] == "logits"
    assert ds.results["selection"]["split"].startswith("nothing")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compress__compiled_repeats_to_the_byte_and_stays_near_the_eager_run(tmp_path, tiny):
    made = {}
    for name, mode in (("a", "always"), ("b", "always"), ("c", "never")):
        notes = Notes()
        made[name] = run(tmp_path / name, tiny, settings={"distill.compile": mode, "precision": "fp32"}, progress=notes)
        assert any("compiling" in note for note in notes.notes) == (mode == "always")
    assert torch.equal(made["a"].images, made["b"].images)
    assert made["a"].lr == made["b"].lr
    start = load_distilled(tmp_path / "c").images
    assert torch.allclose(made["a"].images, start, atol=1e-3)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compress__compiled_with_some_graphs_kept_goes_on_to_the_same_bytes(tmp_path, tiny):
    settings = {"distill.compile": "always", "distill.inner_steps": 3, "distill.keep_gib": 3e-5}
    whole = run(tmp_path / "whole", tiny, settings=settings)
    state = OuterState.load(tmp_path / "whole" / "run" / "checkpoint.safetensors", "cpu")
    assert 0 < state.kept < 3
    stop = StopRequest()
    with pytest.raises(Interrupted):
        run(tmp_path / "a", tiny, settings=settings, stop=stop, progress=StopAfter(stop, 9))
    assert torch.equal(run(tmp_path / "a", tiny, settings=settings).images, whole.images)


def test_compress__eager_where_the_step_cannot_be_compiled(tmp_path, tiny, monkeypatch):
    from distillkit.stages import engine, engine_trials

    class Broken(engine_trials.CompiledFunctions):
        def trace(self, *arguments):
            raise OSError("no g++")

    monkeypatch.setattr(engine_trials, "CompiledFunctions", Broken)
    monkeypatch.setattr(engine, "compiling_pays", lambda *arguments: True)
    notes = Notes()
    eager = run(tmp_path / "a", tiny, progress=notes)
    assert any("cannot be compiled here (OSError: no g++); distilling eagerly" in note for note in notes.notes)
    never = run(tmp_path / "b", tiny, settings={"distill.compile": "never"})
    assert torch.equal(eager.images, never.images)
    with pytest.raises(ConfigError, match=r"distill\.compile=always, but the student's step cannot be compiled here"):
        run(tmp_path / "c", tiny, settings={"distill.compile": "always"})


@pytest.mark.parametrize(
    ("to_tune", "more", "words"),
    [
        ("lenet", {}, "lenet does not take images of 8x8 pixels"),
        (["mlp", "lennet"], {}, "'lennet' is unknown"),
        (["mlp"], {"dataset.validation_fraction": 0}, "recipes are searched for on validation images"),
    ],
)
def test_compress__searches_that_could_not_be_are_told_before_anything_is_learned(tmp_path, to_tune, more, words):
    with pytest.raises(ConfigError, match=words):
        compress("digits", ipc=1, preset="smoke", settings=more, out=tmp_path / "a", device="cpu", to_tune=to_tune)
    assert not (tmp_path / "a").exists()


def test_compress__says_so_when_the_gate_skips_most_steps(tmp_path, tiny):
    notes = Notes()
    ds = run(tmp_path / "a", tiny, settings={"distill.gate": 1e-9}, progress=notes)
    assert ds.results["selection"]["gated_steps"] == tiny["distill.outer_steps"]
    assert any(
        "4 of 4 steps were skipped, since their loss exceeded distill.gate=1e-09" in note for note in notes.notes
    )


def test_compress__says_so_when_most_gradients_are_wild(tmp_path, tiny):
    still = {"distill.gate_norm": 1.001, "distill.outer_steps": 3, "distill.lr_img": 1e-9, "distill.lr_lr": 0.0}
    notes = Notes()
    ds = run(tmp_path / "a", tiny, settings={**still, "seed": 2}, progress=notes)  # of seed 2, two segments are longer
    assert ds.results["selection"]["wild_steps"] == 2
    words = "2 of 3 steps were skipped, since their gradients were longer than distill.gate_norm=1.001 times the usual"
    assert any(words in note for note in notes.notes)
    assert any(words in warning for warning in ds.results["selection"]["warnings"])


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"gated": 5}, []),
        (
            {"gated": 3, "wild": 3},
            ["3 of 10 steps were skipped, since their loss", "3 of 10 steps were skipped, since th"],
        ),
        ({"skipped": 9, "wild": 1}, ["9 of 10 steps had no finite loss"]),
    ],
)
def test_warnings__steps_lost_for_several_reasons_are_counted_together(counts, told):
    """More than half of ten steps, whatever each was lost to; a reason of few of them is not told."""
    settings, images = DistillSettings(gate=1.0, gate_norm=4.0), torch.zeros(1, 1, 2, 2)
    state = OuterState(images, torch.ones(1, 1), torch.zeros(1), "hard", settings.lr_init, step=10, **counts)
    found = what_to_warn_of(settings, state, 10)
    assert [line[: len(start)] for line, start in zip(found, told, strict=True)] == told


def test_headline__is_named_as_arch_names_it(tmp_path):
    own = {"network.name": "vgg11", "network.norm": "batch", "evaluate.networks": 1, "evaluate.epochs": 1}
    settings = {key: value for key, value in TINY.items() if key != "network.width"} | own
    ds = compress("digits", ipc=1, method="random", preset="smoke", out=tmp_path / "a", settings=settings, device="cpu")
    assert list(ds.results["architectures"]) == ["vgg11:norm=batch"]
    assert "| vgg11:norm=batch |" in (tmp_path / "a" / "README.md").read_text()
    assert ds.recipe_for("vgg11:norm=batch") == ds.recipe
    report = {"vgg11": EvalReport((0.5,), {"lr": 0.1})}
    save_reports(tmp_path / "a", report)  # another network
    old = load_distilled(tmp_path / "a")
    rows = {"vgg11": old.results["architectures"]["vgg11:norm=batch"]}  # as it was called before
    assert headline_row(NetworkSettings.model_validate(old.recipe["architecture"]), rows) == "vgg11"
