"""What a run reads back of its own files: never what was changed, never another run's."""

import os
import shutil
import signal
from argparse import Namespace

import pytest
import torch

from distillkit import load_distilled, pipeline, storage
from distillkit.config import SettingsLayer, compose
from distillkit.errors import ConfigError, DamagedError, Interrupted
from distillkit.interrupt import StopRequest, early_signals, stop_on_signals
from distillkit.run_folder import RunFolder
from distillkit.stages import contest
from distillkit.stages.context import make_run, prepare
from distillkit.stages.fingerprints import expert_setup
from distillkit.trajectories.store import TrajectoryStore
from tests.conftest import TINY


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
    storage.write_sealed_json(config, {**folder.identity(), "ipc": 3})  # what lies here is that of another one now
    assert folder.load_synthetic() is None
    assert folder.rows() == {}
    run = Namespace(device=torch.device("cpu"), progress=Notes())
    assert _last_state(run, folder) is None
    assert "is that of another run" in run.progress.notes[0]
    assert (copy / "run" / "checkpoint.safetensors.damaged-1").is_file()


def test_config__a_damaged_one_costs_nothing(copy, tiny):
    """The other files of the run say whose it is; nothing has to be deleted by hand."""
    folder, config = RunFolder(copy), copy / "run" / "config.json"
    identity, settings = folder.identity(), folder.stored_settings()
    for content in (b"", b"{", b"[1]", config.read_bytes().replace(b'"mtt"', b'"dm"')):
        config.write_bytes(content)
        assert folder.stored_settings() == settings
        with pytest.raises(ConfigError, match="holds another run"), folder.claimed({**identity, "ipc": 3}, False):
            pass
        with folder.claimed(identity, replace=False):
            assert folder.identity() == identity
    for name in ("checkpoint", "checkpoint-before", "synthetic"):
        (copy / "run" / f"{name}.safetensors").unlink()
    config.write_bytes(b"{")
    with pytest.raises(ConfigError, match=r"settings cannot be read any more .* or `replace=True`"):
        folder.claimed(identity, replace=False).__enter__()


@pytest.mark.parametrize("begun", ["nothing", "a run", "an artifact alone"])
def test_config__a_kill_while_it_is_written_is_in_nobodys_way(copy, tmp_path, monkeypatch, begun):
    """Whatever was replaced is gone then but for its card; the same command goes on, and nobody deletes by hand."""
    folder = RunFolder(tmp_path / "new" if begun == "nothing" else copy)
    if begun == "an artifact alone":
        shutil.rmtree(copy / "run")
    identity = {"method": "dm", "ipc": 1}

    def killed(path, content):
        path.with_name(f".{path.name}.0123abcd.tmp").write_bytes(content[:9])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.claimed(identity, replace=True).__enter__()
    assert begun == "nothing" or not (copy / "distilled.safetensors").exists()
    with folder.claimed(identity, replace=begun != "nothing"):
        assert folder.identity() == identity
    assert not [*folder.path.glob(".*.tmp")]
    assert begun == "nothing" or (copy / "README.md").is_file()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"pulled_from": 3}'])
def test_experts_report__a_damaged_one_ends_no_run(copy, content):
    from distillkit.stages.package import _pulled_from
    from tests.helpers import Notes

    composed = compose("digits", 2, "mtt", "smoke", "cpu", [SettingsLayer("test", TINY)])
    run = make_run(composed, torch.device("cpu"), Notes())
    prepared = prepare(run)
    store = TrajectoryStore.for_setup(expert_setup(run, prepared))
    for index, origin in enumerate(("org/a@1", "org/b@2")):
        store.write(index, {"epoch-0000": torch.zeros(3)}, 3, {"curve": {}, "pulled_from": origin})
    (copy / "run" / "experts.json").write_bytes(content)
    assert _pulled_from(run, prepared, RunFolder(copy)) == ["org/a@1", "org/b@2"]


def test_metrics__damaged_lines_go_and_the_others_stay(tmp_path):
    folder = RunFolder(tmp_path)
    folder.path.mkdir()
    rows = [{"step": step, "loss": 0.5 * step} for step in range(1, 5)]
    for row in rows:
        folder.append_metrics(row)
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    for damaged in (b"3\n", b"\xff\n", lines[1].replace(b"1.0", b"1.5"), lines[1].replace(b"crc32", b"crc33")):
        folder.metrics.write_bytes(lines[0] + damaged + lines[2] + lines[3][:-9])
        assert folder.read_metrics() == [rows[0], rows[2]]
    folder.metrics.write_text('{"step": 1, "loss": 0.5}\n{"step": 2}\n{"st')  # an older version's
    folder.truncate_metrics(1, keep_selection=True)
    assert folder.read_metrics() == rows[:1]
    assert b"crc32" in folder.metrics.read_bytes()


def test_metrics__a_line_alone_whose_checksum_lost_its_name_is_of_no_older_version(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.parent.mkdir()
    folder.append_metrics({"step": 6, "validation_accuracy": 0.5})
    assert len(folder.read_metrics()) == 1
    folder.metrics.write_bytes(folder.metrics.read_bytes().replace(b'"crc32"', b'"crcs2"'))
    assert folder.read_metrics() == []


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
    for damaged in ("1", "false"):  # which Python takes for 0
        path.write_text(path.read_text().replace('"seed": 0', f'"seed": {damaged}'))
        store.describe()
        assert TrajectoryStore.open(store.folder).setup == setup


def test_copy_file__again_leaves_nothing_beside_it(tmp_path):
    """Renaming a name of a file to another name of it does nothing: POSIX has it so."""
    (tmp_path / "checkpoint").write_bytes(b"same")
    for _ in range(2):
        storage.copy_file(tmp_path / "checkpoint", tmp_path / "before")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "checkpoint"]
    assert (tmp_path / "before").read_bytes() == b"same"


def test_leftovers__of_killed_writers_go_once_they_are_old(tmp_path):
    old, new = tmp_path / "baselines" / ".full-1.json.0123abcd.tmp", tmp_path / "a" / "b" / ".setup.json.0123abcd.tmp"
    deep = tmp_path / "experts" / "a1" / "training-0000-0001" / ".epoch-0001.safetensors.0123abcd.tmp"
    for path in (old, new, deep):
        path.parent.mkdir(parents=True)
        path.touch()
    for path in (old, deep):
        os.utime(path, (0, 0))
    storage.remove_old_leftovers(tmp_path)
    assert (old.exists(), deep.exists(), new.exists()) == (False, False, True)


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
def test_signal__while_the_program_is_loaded_is_one_line_and_130(
    monkeypatch, capsys, hangup, swallowed, number
):
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


def test_signal__ends_the_wait_for_an_expert_of_another_process(tmp_path):
    from distillkit import compress
    from tests.helpers import Notes

    class StopWhenWaiting(Notes):
        def note(self, message):
            super().note(message)
            if "waiting for experts" in message:
                stop.ask(signal.SIGTERM)

    composed = compose("digits", 1, "mtt", "smoke", "cpu", [SettingsLayer("test", TINY)])
    run = make_run(composed, torch.device("cpu"), Notes())
    store, stop = TrajectoryStore.for_setup(expert_setup(run, prepare(run))), StopRequest()
    with store.lock(1), pytest.raises(Interrupted, match="an expert that this one waited for"):
        compress(
            "digits",
            ipc=1,
            preset="smoke",
            settings=TINY,
            out=tmp_path / "a",
            device="cpu",
            progress=StopWhenWaiting(),
            stop=stop,
        )
    assert (store.state(0, 2), store.state(1, 2)) == ("good", "absent")


def test_signals__end_a_run_at_once_that_follows_another_process_already():
    with stop_on_signals() as stop:
        stop.follow()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
