"""What a run reads back of its own files: never what was changed, never another run's."""

import os
import signal
from argparse import Namespace

import pytest
import torch

from distillkit import load_distilled, pipeline, storage
from distillkit.config import compose
from distillkit.errors import ConfigError, DamagedError, Interrupted
from distillkit.interrupt import StopRequest, early_signals, stop_on_signals
from distillkit.run_folder import RunFolder
from distillkit.stages import contest
from distillkit.trajectories.store import TrajectoryStore


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_sealed__every_bit_of_a_small_file_is_compared(tmp_path):
    tensors, about = {"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.int64)}, {"step": 3}
    path = tmp_path / "file.safetensors"
    storage.write_tensors(path, tensors, about, sealed=True)
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            found, said = storage.read_tensors(path)
        except DamagedError:
            continue
        assert said in (about, None)
        assert all(torch.equal(found[name], tensors[name]) for name in found if name in tensors)
    storage.write_sealed_json(tmp_path / "file.json", {"rows": [1, 2]})
    text = (tmp_path / "file.json").read_text()
    (tmp_path / "file.json").write_text(text.replace("2\n", "3\n"))
    with pytest.raises(DamagedError, match="is not what was written"):
        storage.read_sealed_json(tmp_path / "file.json")


def test_run_files__that_were_changed_are_made_again(copy, made, tmp_path, tiny):
    folder = RunFolder(copy)
    synthetic, _ = folder.load_synthetic()
    assert synthetic.images.shape == (20, 1, 8, 8)
    assert {"set", "random"} <= set(folder.rows())
    flip(copy / "run" / "synthetic.safetensors", -40)
    assert folder.load_synthetic() is None
    path = copy / "run" / "evaluation.json"
    path.write_text(path.read_text().replace('"n": 2', '"n": 9'))
    assert folder.rows() == {}


def test_run_files__of_another_run_are_refused(copy, made, monkeypatch):
    from distillkit.stages.distillation import _last_state
    from tests.helpers import Notes

    folder, config = RunFolder(copy), copy / "run" / "config.json"
    config.write_text(config.read_text().replace('"ipc": 2', '"ipc": 3'))  # what lies here is that of another one now
    assert folder.load_synthetic() is None
    assert folder.rows() == {}
    run = Namespace(device=torch.device("cpu"), progress=Notes())
    assert _last_state(run, folder) is None
    assert "is that of another run" in run.progress.notes[0]
    assert (copy / "run" / "checkpoint.safetensors.damaged-1").is_file()


def test_experts__a_changed_record_or_setup_is_noticed(tmp_path):
    setup = {"dataset": "d", "seed": 0}
    store = TrajectoryStore.for_setup(setup)
    store.write(0, {"epoch-0000": torch.zeros(3)}, 0, {"curve": {"loss": [0.5]}})
    assert TrajectoryStore.open(store.folder).state(0) == "good"
    record = store.record_path(0)
    record.write_text(record.read_text().replace("0.5", "0.4"))
    assert store.state(0) == "damaged"
    path = store.folder / "setup.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DamagedError, match=f"is not the set-up .* 'distillkit experts clear {store.folder.name}'"):
        TrajectoryStore.open(store.folder)
    store.describe()
    assert TrajectoryStore.open(store.folder).setup == setup


def test_leftovers__of_killed_writers_go_once_they_are_old(tmp_path):
    old, new = tmp_path / "baselines" / ".full-1.json.0123abcd.tmp", tmp_path / "a" / "b" / ".setup.json.0123abcd.tmp"
    for path in (old, new):
        path.parent.mkdir(parents=True)
        path.touch()
    os.utime(old, (0, 0))
    storage.remove_old_leftovers(tmp_path)
    assert (old.exists(), new.exists()) == (False, True)


def test_evaluate__all_names_are_tried_before_one_is_trained(copy, monkeypatch):
    monkeypatch.setattr(contest, "evaluate_networks", None)
    with pytest.raises(ConfigError):
        pipeline.evaluate(load_distilled(copy), ["convnet:width=4", "convnet:depth=9"], device="cpu")


def test_evaluate__each_row_is_kept_as_soon_as_it_is_measured(copy):
    kept = {}
    names = ["convnet:width=4", "convnet:width=5"]
    found = pipeline.evaluate(load_distilled(copy), names, networks=1, device="cpu", keep=kept.__setitem__)
    assert kept == found


def test_presets__a_student_sees_a_batch_of_a_large_set():
    def batch(dataset, ipc, device="cpu", method="mtt"):
        return compose(dataset, ipc, method, "quick", device).settings.distill.batch_size

    assert batch("cifar10", 10) is None
    assert (batch("cifar10", 50), batch("cifar10", 1000), batch("cifar10", 50, "cuda")) == (100, 100, 256)
    assert batch("cifar100", 10) == 100
    assert batch("some/thing", 1) == 256  # nobody knows how many classes; up to 256 images that is all of them


def test_stop__where_nothing_is_lost_it_is_at_once_elsewhere_at_the_next_safe_place():
    heard = []
    with stop_on_signals(heard=lambda: heard.append(1)) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert (stop.signal, heard) == (signal.SIGTERM, [1])
    request = StopRequest()
    with (
        pytest.raises(Exception, match="stopped by SIGHUP while listing; run the same"),
        request.at_once("while listing"),
    ):
        request.ask(signal.SIGHUP)


def test_nohup__stays(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("swallowed", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal__while_the_program_is_loaded_is_one_line_and_130(monkeypatch, capsys, swallowed, number):
    from distillkit import cli
    from distillkit.cli import app

    def loading():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            if swallowed:  # as a module does that is loaded just then
                raise AttributeError("module 'numpy' has no attribute 'ma'") from None
            raise

    def end(status):
        raise SystemExit(status)

    monkeypatch.setattr(app, "main", loading)
    monkeypatch.setattr(cli.os, "_exit", end)
    monkeypatch.setattr("sys.argv", ["distillkit", "compress", "digits", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 130
    assert said.err == "error: interrupted\n"
    assert said.out == '{"error": "interrupted", "exit_status": 130}\n'


def test_signal__that_a_module_swallowed_stops_the_command_before_it_begins():
    with early_signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted, match="stopped by SIGINT before anything was begun"), stop_on_signals():
            pass
