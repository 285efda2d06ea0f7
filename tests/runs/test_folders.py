"""Output folders: nothing is taken for what it is not, deleted too early, or somebody else's and touched."""

import dataclasses
import shutil
import signal
import time

import pytest
import torch
from PIL import Image

from distillkit import compress, load_distilled, storage
from distillkit.artifact.schema import ArtifactConfig
from distillkit.config import compose
from distillkit.distill.state import OuterState
from distillkit.errors import ConfigError, DistillkitError, Interrupted
from distillkit.interrupt import StopRequest
from distillkit.methods import METHODS, SettingsLayer
from distillkit.plan import make_plan
from distillkit.progress import Silent
from distillkit.run_folder import RunFolder
from distillkit.stages.context import make_run
from distillkit.stages.costs import Costs
from distillkit.stages.kept_recipes import keep_recipe
from distillkit.stages.tune import TuneOptions, tune
from tests.helpers import TINY


def make(out, **more):
    settings = {**TINY, **more.pop("settings", {})}
    arguments = {"ipc": 1, "preset": "smoke", "method": "mtt", "device": "cpu", **more}
    return compress(arguments.pop("dataset", "digits"), settings=settings, out=out, **arguments)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def photographs(folder, names=("a", "b")):
    generator = torch.Generator().manual_seed(0)
    for name in names:
        for index in range(30):
            path = folder / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(0, 255, (8, 8, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(path)
    return folder


def test_out__a_copied_artifact_is_not_this_runs_result(made, tmp_path):
    """It printed another set's results, of another method and data set, as this run's."""
    out = shutil.copytree(made, tmp_path / "copy")
    with pytest.raises(ConfigError, match="holds another run"):
        make(out)
    shutil.rmtree(out / "run")
    with pytest.raises(ConfigError, match="holds an artifact that another run made"):
        make(out)
    before = load_distilled(out)
    after = make(out, replace=True)
    assert (after.config["ipc"], before.config["ipc"]) == (1, 2)
    saved = load_distilled(made).save(tmp_path / "saved")
    with pytest.raises(ConfigError, match="holds an artifact"):
        make(saved, dataset=str(photographs(tmp_path / "set")))
    other = make(saved, dataset=str(tmp_path / "set"), replace=True)
    assert other.classes == ("a", "b")


def test_out__an_artifact_put_in_the_place_of_a_runs_own_is_packed_again(made, tmp_path):
    mine = make(tmp_path / "mine")
    for name in ("distill_config.json", "distilled.safetensors", "results.json", "recipe.json"):
        shutil.copy2(made / name, tmp_path / "mine" / name)
    again = make(tmp_path / "mine")
    assert torch.equal(again.images, mine.images)
    assert again.config["ipc"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network.name": "resnet"}, "network 'resnet' is unknown"),
        ({"network.name": "timm/nope", "network.width": 128}, "timm has no network"),
        ({"network.depth": 9}, "needs images of 512 pixels"),
        ({"network.width": 10_000_000}, "does not fit into memory"),
    ],
)
def test_out__what_can_be_checked_is_checked_before_anything_is_deleted(tmp_path, settings, message):
    make(tmp_path / "a")
    before = contents(tmp_path / "a")
    with pytest.raises(ConfigError, match=message):
        make(tmp_path / "a", settings=settings, replace=True)
    assert contents(tmp_path / "a") == before


def test_out__foreign_files_survive_whatever_was_said(tmp_path):
    out = tmp_path / "a"
    make(out)
    (out / "thesis.tex").write_text("mine")
    (out / "run" / "notes.txt").write_text("mine too")
    make(out, ipc=2, replace=True)
    assert (out / "thesis.tex").read_text() == "mine"
    assert (out / "run" / "notes.txt").read_text() == "mine too"


@pytest.mark.parametrize("name", ["README.md", "results.json", "recipe.json"])
def test_out__a_file_of_our_name_that_is_no_artifacts_is_never_written_over(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"holds a {name} that is no artifact's"):
        make(tmp_path, replace=True)
    assert (tmp_path / name).read_text() == "mine"


def test_out__a_foreign_run_folder_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds files that are no run of distillkit"):
        make(tmp_path, replace=True)


def test_out__inside_the_data_set_is_refused(tmp_path, monkeypatch):
    photographs(tmp_path)
    monkeypatch.chdir(tmp_path)
    for dataset, out in ((".", "runs/x"), (str(tmp_path), tmp_path / "a" / "distilled")):
        with pytest.raises(ConfigError, match="lies inside the data set"):
            make(out, dataset=dataset)


def test_out__one_folder_in_any_spelling_is_one_run(tmp_path, monkeypatch):
    photographs(tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    first = make("out", dataset="set")
    for spelling in ("set/", "./set", str(tmp_path / "set")):
        assert torch.equal(make("out", dataset=spelling).images, first.images)


def test_yes__a_kill_while_another_run_is_deleted_leaves_it_its_run(tmp_path, monkeypatch):
    make(tmp_path / "a")
    identity = (tmp_path / "a" / "run" / "config.json").read_text()
    (tmp_path / "a" / "run" / "seconds.json").unlink()

    def killed(self):
        raise KeyboardInterrupt

    from pathlib import Path

    unlink, calls = Path.unlink, []

    def count(self, missing_ok=False):
        calls.append(self.name)
        if len(calls) > 12:
            raise KeyboardInterrupt
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", count)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "a", ipc=2, replace=True)
    monkeypatch.setattr(Path, "unlink", unlink)
    assert (tmp_path / "a" / "run" / "config.json").read_text() == identity
    assert RunFolder(tmp_path / "a").stored_settings()["ipc"] == 1
    with pytest.raises(ConfigError, match="holds another run"):
        make(tmp_path / "a", ipc=2)
    assert make(tmp_path / "a").config["ipc"] == 1


def test_network__without_a_second_derivative_is_refused_in_the_first_seconds(tmp_path, monkeypatch):
    from distillkit.stages import probe

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, gradient):
            raise RuntimeError("derivative for aten::_scaled_dot_product_flash_attention_backward is not implemented")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(64, 10)

        def forward(self, images):
            return Fused.apply(self.linear(images.flatten(1)))

    monkeypatch.setattr(probe, "_built", lambda run, prepared, network: Network())
    with pytest.raises(ConfigError, match="its _scaled_dot_product_flash_attention_backward has no second derivative"):
        make(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    assert not (tmp_path / "cache" / "experts").exists()


@pytest.mark.study
def test_network__of_timm_with_attention_is_distilled_with(tmp_path):
    """Fused attention has no second derivative; the plain form of it is what distillation takes."""
    ds = make(tmp_path / "a", settings={"network.name": "timm/test_vit", "network.width": 128, "distill.outer_steps": 1})
    assert ds.images.shape == (10, 1, 8, 8)


def stopped(out, steps=9):
    """A run that was interrupted while it distilled."""
    from distillkit.errors import Interrupted
    from distillkit.interrupt import StopRequest
    from tests.helpers import StopAfter

    stop = StopRequest()
    with pytest.raises(Interrupted):
        make(out, stop=stop, progress=StopAfter(stop, steps), settings={"distill.outer_steps": 8})
    return out / "run" / "checkpoint.safetensors"


def go_on(out, **more):
    from tests.helpers import Notes

    notes = Notes()
    return make(out, progress=notes, settings={"distill.outer_steps": 8}, **more), " ".join(notes.notes)


def test_checkpoint__a_damaged_one_is_kept_and_the_one_before_it_goes_on(tmp_path):
    whole = make(tmp_path / "whole", settings={"distill.outer_steps": 8})
    path = stopped(tmp_path / "a", 9)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    ds, notes = go_on(tmp_path / "a")
    assert "was kept as checkpoint.safetensors.damaged-1" in notes
    assert "continuing from step" in notes
    assert (tmp_path / "a" / "run" / "checkpoint.safetensors.damaged-1").read_bytes() == content[: len(content) // 2]
    assert torch.equal(ds.images, whole.images)


def test_checkpoint__what_cannot_be_read_now_stops_the_run_and_stays(tmp_path, monkeypatch):
    from distillkit.distill.state import OuterState
    from distillkit.errors import StorageError

    path = stopped(tmp_path / "a")
    content = path.read_bytes()

    def no_permission(path, device):
        raise StorageError(f"could not read {path}: permission denied")

    monkeypatch.setattr(OuterState, "load", staticmethod(no_permission))
    with pytest.raises(StorageError, match="permission denied"):
        go_on(tmp_path / "a")
    assert path.read_bytes() == content


def test_checkpoint__of_another_version_stops_the_run_and_stays(tmp_path):
    from distillkit import storage

    path = stopped(tmp_path / "a")
    tensors, numbers = storage.read_tensors(path)
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    storage.write_tensors(path, tensors, {**numbers, "of_the_future": 1})
    content = path.read_bytes()
    with pytest.raises(ConfigError, match="was written by another version of distillkit"):
        go_on(tmp_path / "a")
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", ["distilled.safetensors", "recipe.json", "results.json", "preprocess.safetensors"])
def test_artifact__wrong_bytes_of_the_right_size_are_refused(copy, name):
    from distillkit.errors import ArtifactError

    path = copy / name
    content = bytearray(path.read_bytes())
    if name == "recipe.json":
        content = bytearray(bytes(content).replace(b'"epochs": 3', b'"epochs": 9'))
    elif name == "results.json":
        content = bytearray(bytes(content).replace(b'"outer_steps": 4', b'"outer_steps": 9'))
    else:
        content[-5000 if name == "distilled.safetensors" else -1] ^= 1  # in the middle of the images
    assert bytes(content) != path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} is not the file that distill_config.json names"):
        load_distilled(copy)


def test_hub__a_damaged_cache_heals_itself(hub, made, tmp_path):
    hub.add("org/set", made)
    first = load_distilled("org/set")
    cached = (first.folder / "distilled.safetensors").resolve()
    content = bytearray(cached.read_bytes())
    content[-1] ^= 1
    cached.write_bytes(content)
    assert torch.equal(load_distilled("org/set").images, first.images)


def test_hup__ends_a_run_like_term(hangup):
    import os
    import signal

    from distillkit.interrupt import stop_on_signals

    with stop_on_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signal == signal.SIGHUP


def test_a_run_that_was_refused_at_its_beginning_does_not_stand_in_the_way(tmp_path):
    """It left nothing but its settings: the command is mended and given again, for the same folder."""
    bad = {"distill.init": "artifact", "distill.init_from": str(tmp_path / "nowhere")}
    with pytest.raises(DistillkitError):
        make(tmp_path / "a", settings=bad)
    assert (tmp_path / "a" / "run" / "config.json").is_file()
    assert make(tmp_path / "a").config["method"] == "mtt"
    with pytest.raises(ConfigError, match="holds another run"):  # one that has results still does
        make(tmp_path / "a", settings={"distill.outer_steps": 3})


def test_plan__of_a_run_that_could_not_begin_is_refused_as_the_run_is(tmp_path):
    settings = {**TINY, "distill.init": "artifact", "distill.init_from": str(tmp_path / "nowhere")}
    layers = [SettingsLayer("test", settings)]
    with pytest.raises(DistillkitError, match="nowhere is not a distillkit artifact"):
        make_plan(make_run(compose("digits", 1, "rat", "smoke", "cpu", layers), torch.device("cpu")))


def test_artifact__of_a_folder_holds_no_path_of_this_machine(tmp_path):
    photographs(tmp_path / "clients" / "acme")
    made = make(tmp_path / "out", dataset=str(tmp_path / "clients" / "acme"))
    assert made.config["settings"]["dataset"]["name"] == "acme"
    published = [path for path in (tmp_path / "out").rglob("*") if path.is_file() and "run" not in path.parts]
    assert [path.name for path in published if b"clients" in path.read_bytes()] == []
    assert made.load_source(tmp_path / "clients" / "acme").info.fingerprint == made.config["source"]["fingerprint"]


LONGER = {"distill.outer_steps": 8}


def told_while(make_it):
    """The notes of a run."""
    listener = Silent()
    notes = []
    listener.note = notes.append
    make_it(listener)
    return notes


@pytest.mark.parametrize("select_every", [2, 3])  # 4 steps: a look at the last of them, or one out of turn
def test_out__more_outer_steps_go_on_from_a_finished_run(tmp_path, select_every):
    """The set is that of a run which was asked for so many at once, its rows are measured anew."""
    often = {"distill.select_every": select_every, "distill.checkpoint_every": 1}
    whole = make(tmp_path / "whole", settings={**often, **LONGER})
    short = make(tmp_path / "a", settings=often)
    notes = told_while(lambda heard: make(tmp_path / "a", settings={**often, **LONGER}, progress=heard))
    assert "continuing from step 4" in notes
    assert any(note.endswith("the set of this run with other outer_steps; this run's will take its place") for note in notes)
    assert not any("damaged" in note for note in notes)
    long = load_distilled(tmp_path / "a")
    states = [OuterState.load(RunFolder(tmp_path / name).checkpoint, "cpu") for name in ("whole", "a")]
    assert states[0].step == 8 and torch.equal(states[0].images, states[1].images)
    assert long.results["selection"]["outer_steps"] == 8
    losses = [
        [row["loss"] for row in RunFolder(tmp_path / name).read_metrics() if "loss" in row] for name in ("whole", "a")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == 8
    if select_every == 2:
        assert torch.equal(long.images, whole.images)
        assert long.results["architectures"] == whole.results["architectures"]
    assert long.results["architectures"] != short.results["architectures"] or torch.equal(long.images, short.images)
    with pytest.raises(ConfigError, match=r"outer_steps \(8 there, 4 here\)"):
        make(tmp_path / "a", settings=often)


def test_out__more_outer_steps_go_on_from_a_run_that_was_stopped(tmp_path):
    whole, stop = make(tmp_path / "whole", settings=LONGER), StopRequest()

    class Stopping(Silent):
        def advance(self, steps=1, **shown):
            if steps and "loss" in shown:
                stop.signal = signal.SIGINT

    with pytest.raises(Interrupted):
        make(tmp_path / "a", stop=stop, progress=Stopping())
    long = make(tmp_path / "a", settings=LONGER)
    assert torch.equal(long.images, whole.images) and long.results == whole.results


def test_out__a_larger_budget_goes_on(tmp_path):
    make(tmp_path / "a", settings={"time_budget": 600})
    notes = told_while(lambda heard: make(tmp_path / "a", settings={**LONGER, "time_budget": 1200}, progress=heard))
    assert "in 1200 s: 2 experts (0 to train) and 8 outer steps" in notes and "continuing from step 4" in notes


def test_out__a_run_that_was_to_go_on_and_has_not_is_still_the_shorter_one(tmp_path, monkeypatch):
    short = make(tmp_path / "a")
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr("distillkit.pipeline.distilled", lambda *_: (_ for _ in ()).throw(RuntimeError()))
        make(tmp_path / "a", settings=LONGER)
    notes = told_while(lambda heard: make(tmp_path / "a", progress=heard))
    assert notes[-1].endswith("is finished already; nothing to do")
    assert torch.equal(load_distilled(tmp_path / "a").images, short.images)


def test_plan__of_a_run_that_goes_on_is_of_the_steps_that_are_left(tmp_path):
    make(tmp_path / "a")
    settings = {**TINY, **LONGER}
    run = make_run(compose("digits", 1, "mtt", "smoke", "cpu", [SettingsLayer("test", settings)]), torch.device("cpu"))
    done = make_plan(run, out=tmp_path / "a")["done"]
    assert done == {"outer_steps": 4, "distilled": False, "rows": [], "finished": False}


@pytest.mark.parametrize(
    "own", [{"distill.final_rate": 0.5}, {"distill.outer_steps": 3}, {"network.width": 8}, {"experts.count": 3}]
)
def test_out__a_run_that_cannot_go_on_as_it_was_is_another(tmp_path, own):
    """Rates that fall over all of a run's steps are others in a longer run."""
    always = {key: value for key, value in own.items() if key == "distill.final_rate"}
    make(tmp_path / "a", settings=always)
    before = contents(tmp_path / "a")
    with pytest.raises(ConfigError, match="holds another run"):
        make(tmp_path / "a", settings={**LONGER, **own})
    assert contents(tmp_path / "a") == before


def test_out__too_many_steps_asked_by_mistake_can_be_taken_back(tmp_path):
    """Until they are made: 8 for 6, say, and stopped after the fifth."""
    whole, stop = make(tmp_path / "whole", settings={"distill.outer_steps": 6}), StopRequest()
    make(tmp_path / "a")

    class Stopping(Silent):
        def advance(self, steps=1, **shown):
            if steps and "loss" in shown:
                stop.signal = signal.SIGINT

    with pytest.raises(Interrupted, match="after outer step 5"):
        make(tmp_path / "a", settings=LONGER, stop=stop, progress=Stopping())
    with pytest.raises(ConfigError, match=r"outer_steps \(8 there, 4 here\)"):
        make(tmp_path / "a")
    assert torch.equal(make(tmp_path / "a", settings={"distill.outer_steps": 6}).images, whole.images)


def test_out__sizes_of_a_budget_hold_from_the_moment_that_they_are_chosen(tmp_path, monkeypatch):
    """A kill before the first checkpoint of a run that goes on: its files are still those of the shorter one."""
    short = {"time_budget": 600}
    make(tmp_path / "a", settings=short)
    before = RunFolder(tmp_path / "a").stored_settings()
    with monkeypatch.context() as patched, pytest.raises(RuntimeError):
        patched.setattr("distillkit.pipeline.distilled", lambda *_: (_ for _ in ()).throw(RuntimeError()))
        make(tmp_path / "a", settings={**LONGER, "time_budget": 1200})
    after = RunFolder(tmp_path / "a").stored_settings()
    assert (before["distill"]["outer_steps"], after["distill"]["outer_steps"], after["time_budget"]) == (4, 8, 1200)


def test_out__of_other_experts_the_way_on_is_told(tmp_path):
    make(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"to go on with its experts, `experts\.count=2`"):
        make(tmp_path / "a", settings={**LONGER, "experts.count": 3})
    make(tmp_path / "a", settings=LONGER)


def test_out__files_that_do_not_say_whose_they_are_are_of_no_longer_run(tmp_path):
    """Those of old versions: the set of four steps was the result of eight."""
    make(tmp_path / "a")
    for path in (tmp_path / "a" / "run").glob("*.safetensors"):
        tensors, about = storage.read_tensors(path)
        about.pop("owner")
        storage.write_tensors(path, {name: tensor.clone() for name, tensor in tensors.items()}, about, sealed=True)
    assert make(tmp_path / "a").results["selection"]["outer_steps"] == 4
    with pytest.raises(ConfigError, match="holds another run"):
        make(tmp_path / "a", settings=LONGER)


def test_out__a_method_of_ones_own_does_not_go_on(tmp_path):
    """Its parts may depend on the number of steps."""
    own = dataclasses.replace(METHODS["mtt"], name="own")
    make(tmp_path / "a", method=own)
    with pytest.raises(ConfigError, match="holds another run"):
        make(tmp_path / "a", method=own, settings=LONGER)


def test_out__recipes_of_the_shorter_run_are_told_to_be_left_out(tmp_path):
    keep_recipe(tmp_path / "a", tune(make(tmp_path / "a"), "mlp", TuneOptions(0.1, 1, 1, 10)))
    assert (tmp_path / "a" / "recipes" / "mlp.json").is_file()
    notes = told_while(lambda heard: make(tmp_path / "a", settings=LONGER, progress=heard))
    assert "recipes and rows of the images that lay here, left out: mlp" in notes
    assert not (tmp_path / "a" / "recipes" / "mlp.json").exists()
    assert "recipes" not in load_distilled(tmp_path / "a").config


def test_out__a_papers_protocol_reads_no_checkpoint_out_of_turn(tmp_path):
    often = {"evaluate.paper_protocol": True, "distill.select_every": 3}
    whole = make(tmp_path / "whole", settings={**often, **LONGER})
    make(tmp_path / "a", settings=often)
    long = make(tmp_path / "a", settings={**often, **LONGER})
    assert long.results["paper_protocol"] == whole.results["paper_protocol"]
    assert list(whole.results["paper_protocol"]["checkpoints"]) == ["0", "3", "6", "8"]


def test_plan__of_fewer_steps_than_are_made_is_refused_as_the_run_is(tmp_path, monkeypatch):
    make(tmp_path / "a")
    settings = {**TINY, "distill.outer_steps": 100, "time_budget": 60.0}
    run = make_run(compose("digits", 1, "mtt", "smoke", "cpu", [SettingsLayer("test", settings)]), torch.device("cpu"))
    monkeypatch.setattr("distillkit.plan.measured_costs", lambda *_: Costs(0.1, 20.0, 0.1, {}))
    plan = make_plan(run, out=tmp_path / "a")
    assert plan["done"]["outer_steps"] == 0 and any("would be refused" in note for note in plan["notes"])
    assert all(stage["steps"] >= 0 for stage in plan["stages"])


def test_out__replace_begins_a_longer_run_anew(tmp_path):
    make(tmp_path / "a")
    notes = told_while(lambda heard: make(tmp_path / "a", settings=LONGER, replace=True, progress=heard))
    assert not any(note.startswith("continuing") for note in notes)


def test_out__a_longer_run_can_begin_with_the_images_of_one_it_cannot_go_on_from(tmp_path):
    made = make(tmp_path / "a", settings={"distill.final_rate": 0.5})
    longer = {"distill.outer_steps": 6}
    words = r"differs in settings\.distill\.outer_steps \(4 there, 6 here\); to go on from its images, `distill\.init"
    with pytest.raises(ConfigError, match=words):
        make(tmp_path / "a", settings={**longer, "distill.final_rate": 0.5})
    with pytest.raises(ConfigError) as refused:
        make(tmp_path / "a", settings={"network.width": 8, "distill.final_rate": 0.5})
    assert "go on from" not in str(refused.value)
    way = {"distill.init": "artifact", "distill.init_from": str(tmp_path / "a"), "distill.select_margin": 0.99}
    after = make(tmp_path / "b", settings={**longer, **way})
    assert after.results["selection"]["step"] == 0  # so these are the images that it began with
    assert torch.allclose(after.images, made.images, atol=1e-5)


def test_seconds__of_a_killed_process_are_lost_for_a_few_of_them_only(tmp_path, monkeypatch):
    now, kept = [0.0], {"distill": 10.0}
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    folder = RunFolder(tmp_path)
    monkeypatch.setattr(RunFolder, "_write_own", lambda self, name, content: kept.update(content))
    monkeypatch.setattr(RunFolder, "seconds", lambda self: dict(kept))
    with folder.timed("distill"):
        now[0] = 3.0
        folder.keep_time()
        assert kept == {"distill": 10.0}  # a file for every step would be too many
        now[0] = 8.0
        folder.keep_time()
        assert kept == {"distill": 18.0}  # what a kill now leaves
        now[0] = 9.0
    assert kept == {"distill": 19.0}
    folder.keep_time()
    assert kept == {"distill": 19.0}


def test_seconds__are_kept_while_a_run_goes_on(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(RunFolder, "keep_time", lambda self: kept.append(list(self._running)))
    make(tmp_path / "a")
    assert ["experts"] in kept
    assert ["distill"] in kept
    assert ["evaluate"] in kept


def from_artifact(folder, **more):
    return {"distill.init": "artifact", "distill.init_from": str(folder), **more}


def test_init__a_set_that_was_learned_from_another_split_is_refused(tmp_path):
    """Its images may be, or come of, those that this run tests with."""
    photographs(tmp_path / "own")
    make(tmp_path / "a", dataset=str(tmp_path / "own"))
    way = from_artifact(tmp_path / "a")
    words = r"was learned from other images, some of which this run may test or validate with; it had dataset\."
    for key, value, before in (
        ("split_seed", 1, "0"),
        ("test_fraction", 0.4, "0.2"),
        ("validation_fraction", 0, "0.1"),
    ):
        with pytest.raises(ConfigError, match=rf"{words}{key}={before}$"):
            make(tmp_path / "b", dataset=str(tmp_path / "own"), settings={**way, f"dataset.{key}": value})
    first = next((tmp_path / "own" / "a").iterdir())
    first.rename(first.with_name("zzz.png"))  # the same images in another order are split otherwise
    with pytest.raises(ConfigError, match=r"it must be of the same data set, unchanged since$"):
        make(tmp_path / "b", dataset=str(tmp_path / "own"), settings=way)


def test_init__a_run_whose_start_was_made_anew_since_is_another_run(tmp_path):
    make(tmp_path / "first")
    way = from_artifact(tmp_path / "first")
    made = make(tmp_path / "a", settings=way)
    make(tmp_path / "other", settings={"distill.lr_img": 5.0})
    shutil.rmtree(tmp_path / "first")
    assert torch.equal(make(tmp_path / "a", settings=way).images, made.images)  # it is finished, and needs it no more
    shutil.copytree(tmp_path / "other", tmp_path / "first")
    with pytest.raises(ConfigError, match=r"holds another run \(.*differs in contents\.distill\.init_from"):
        make(tmp_path / "a", settings=way)
    assert not torch.equal(make(tmp_path / "a", settings=way, replace=True).images, made.images)


@pytest.mark.parametrize(
    ("method", "init", "kind"), [("kmeans", {}, "real"), ("mtt", {"distill.init": "noise"}, "noise")]
)
def test_init__a_kept_start_that_nobody_learned_is_what_it_was(tmp_path, method, init, kind):
    still = {"distill.select_margin": 0.99, "dataset.preprocessing": "standardise"}  # no step is that much better
    first = make(tmp_path / "first", method=method, settings={**still, **init})
    kept = make(tmp_path / "kept", settings=from_artifact(tmp_path / "first", **still))
    assert kept.results["selection"]["step"] == 0
    assert torch.equal(kept.images, first.images)
    assert ArtifactConfig.model_validate(first.config).kind == kind
    assert ArtifactConfig.model_validate(kept.config).kind == kind
    card = (tmp_path / "kept" / "README.md").read_text()
    assert f"10 {kind} images" in card
    assert "Learned images carry no guarantee" not in card
