import json
import os
import signal

import pytest
import torch

from distillkit import compress, evaluate, load_distilled, storage
from distillkit.errors import ConfigError, Interrupted, StorageError
from distillkit.interrupt import StopRequest, stop_on_signals
from distillkit.progress import Silent
from distillkit.trajectories.store import TrajectoryStore

ARTIFACT = (
    "distilled.safetensors",
    "preprocess.safetensors",
    "recipe.json",
    "results.json",
    "curves.png",
    "preview.png",
)


def run(out, tiny, **more):
    settings = {**tiny, **more.pop("settings", {})}
    return compress("digits", ipc=1, preset="smoke", settings=settings, out=out, device="cpu", command="x", **more)


class StopAfter(Silent):
    """Asks for a stop after so many steps of all stages together."""

    def __init__(self, stop, steps):
        self.stop, self.left = stop, steps

    def advance(self, steps=1, **values):
        self.left -= steps
        if self.left <= 0:
            self.stop.signal = signal.SIGTERM


@pytest.fixture
def whole(tmp_path, tiny, monkeypatch):
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "other"))
    run(tmp_path / "whole", tiny)
    monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "whole"


def same_bytes(left, right):
    for name in ARTIFACT:
        assert (left / name).read_bytes() == (right / name).read_bytes(), name
    configs = [json.loads((folder / "distill_config.json").read_text()) for folder in (left, right)]
    for config in configs:
        del config["wall_time_seconds"]
    assert configs[0] == configs[1]


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
    metrics = [json.loads(line)["step"] for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics == [1, 2, 3, 4]


def test_compress__finished_runs_are_not_made_again(whole, tmp_path, tiny, monkeypatch):
    before = (whole / "results.json").stat().st_mtime_ns
    assert run(whole, tiny).results == load_distilled(whole).results
    assert (whole / "results.json").stat().st_mtime_ns == before


def test_compress__a_folder_of_another_run_or_of_other_things_is_left_alone(whole, tmp_path, tiny):
    with pytest.raises(
        ConfigError, match=r"another run \(mtt on digits at ipc 1; differs in settings\.distill\.lr_img"
    ):
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


def test_compress__seeds_differ(tmp_path, tiny):
    first, second = (run(tmp_path / str(seed), tiny, settings={"seed": seed}) for seed in (0, 1))
    assert not torch.equal(first.images, second.images)


def test_compress__ipc_beyond_a_class_names_it(tmp_path, tiny):
    with pytest.raises(ConfigError, match=r"--ipc 90 is more than class '\d' has"):
        compress("digits", ipc=90, preset="smoke", settings=tiny, out=tmp_path / "x", device="cpu")


def test_signals__first_asks_second_interrupts():
    with stop_on_signals() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        with pytest.raises(Interrupted, match="stopped by SIGINT here; run the same command again"):
            stop.check("here")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_evaluate__same_networks_same_numbers_and_other_architectures(whole):
    reports = evaluate(whole, ["convnet", "convnet:width=6", "timm/resnet10t"], networks=2, device="cpu")
    assert list(reports) == ["convnet", "convnet:width=6", "timm/resnet10t"]
    stored = load_distilled(whole).results["architectures"]["convnet"]["accuracies"]
    assert list(reports["convnet"].accuracies) == stored


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
