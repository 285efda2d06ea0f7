"""The plan: what it times is what will run."""

import errno
import json
import shutil
import signal

import pytest
import torch
from filelock import FileLock

from distillkit import plan
from distillkit.distill.state import OuterState
from distillkit.distill.unrolled import UnrolledStudents
from distillkit.errors import ArtifactError, Interrupted, StorageError
from distillkit.interrupt import StopRequest
from distillkit.plan import make_plan
from distillkit.progress import Silent
from distillkit.records import EvalReport
from distillkit.run_folder import RunFolder
from distillkit.stages import costs, step_times, time_budget
from distillkit.stages.context import prepare
from distillkit.stages.costs import Costs
from distillkit.stages.standing import Standing
from distillkit.stages.step_times import FreshNetwork
from tests.helpers import made, run


class StopAfterSteps(Silent):
    """Asks for a stop after so many outer steps."""

    def __init__(self, stop, steps):
        self.stop, self.left, self.distilling = stop, steps, False

    def stage(self, name, *sizes):
        self.distilling = name == "distilling"

    def advance(self, steps=1, **values):
        self.left -= self.distilling and steps
        if self.left <= 0:
            self.stop.signal = signal.SIGTERM


def stopped(out, settings, steps=3):
    stop = StopRequest()
    with pytest.raises(Interrupted):
        run(out, settings, stop=stop, progress=StopAfterSteps(stop, steps))


def test_plan__measures_the_form_that_runs(tiny, monkeypatch):
    kinds = []
    plain = step_times.outer_step
    monkeypatch.setattr(step_times, "outer_step", lambda task, state: kinds.append(task) or plain(task, state))
    asked = made(tiny, **{"distill.segments": 2, "distill.together": "always", "distill.compile": "never"})
    found = make_plan(asked, prepare(asked))
    assert {stage["name"] for stage in found["stages"]} >= {"outer steps", "validation networks", "evaluation networks"}
    assert all(stage["seconds_each"] > 0 for stage in found["stages"])
    assert all(task.objective.engine.together and task.settings.segments == 2 for task in kinds)
    assert all(task.objective.engine.kept > 0 for task in kinds)
    json.dumps(found)


def test_plan__times_evaluation_networks_in_the_precision_that_they_are_trained_in(tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(step_times, "in_precision", lambda model, precision: seen.append(precision) or model)
    asked = made(tiny)
    prepared = prepare(asked)
    prepared.decided["experts"] = "bf16"
    step_times.evaluation_seconds(asked, prepared, prepared.network)
    step_times.full_seconds(asked, prepared)
    assert set(seen) == {asked.steady_precision} == {"fp32"}
    step_times.expert_seconds(asked, prepared, {0: 2})
    assert seen[-1] == "bf16"


def test_plan__a_step_takes_what_most_of_them_take(monkeypatch):
    """One that compiles once more, or waits for other work, made a budget half as long."""
    clock = iter([0.0, 0.4, 1.0, 6.0, 7.0, 7.4])  # 0.4 s, 5 s and 0.4 s, from one end to the next begin nothing
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: next(clock))
    called = []
    assert step_times._time(lambda: called.append(1), torch.device("cpu")) == pytest.approx(0.4)
    assert len(called) == 4  # one warms up


@pytest.mark.parametrize(("seconds", "whole"), [(0.01, True), (9.0, False)])
def test_plan__a_short_outer_step_is_timed_as_a_whole(tiny, monkeypatch, seconds, whole):
    """What it does besides its inner steps was counted with each of them."""
    asked = made({**tiny, "distill.inner_steps": 6})
    taken, plain = [], UnrolledStudents.gradient

    def gradient(students, state, numbers):
        taken.append(students.settings.inner_steps)
        return plain(students, state, numbers)

    monkeypatch.setattr(UnrolledStudents, "gradient", gradient)
    monkeypatch.setattr(step_times, "_time", lambda action, device: action() or seconds)
    found = step_times.outer_seconds(asked, prepare(asked))
    assert (6 in taken) == whole
    assert 2 in taken
    assert found == pytest.approx(seconds if whole else 3 * seconds)


def test_plan__networks_that_select_are_asked_about_the_images_that_are_held_out(tiny, monkeypatch):
    asked = made({**tiny, "dataset.max_train": None})
    prepared = prepare(asked)
    monkeypatch.setattr(costs, "evaluation_seconds", lambda *given: FreshNetwork(2.0, 0.01))
    found = costs.measured_costs(asked, prepared)
    assert found.fresh_network == pytest.approx(2 + 0.01 * len(prepared.data.test))
    assert found.selecting == pytest.approx((2 + 0.01 * len(prepared.data.validation),))
    assert len(prepared.data.test) != len(prepared.data.validation)


def test_plan__takes_the_length_of_given_experts(tmp_path, tiny):
    """``experts.epochs`` may be less than what the experts of ``experts.source`` have."""
    run(tmp_path / "a", {**tiny, "experts.epochs": 6, "experts.train_to": "end"})
    fingerprint = next((tmp_path / "cache" / "experts").iterdir()).name
    given = {"experts.source": fingerprint, "distill.max_start_epoch": 4, "experts.epochs": 2}
    asked = made(tiny, **given, **{"distill.expert_epochs": 2})
    assert "outer steps" in {stage["name"] for stage in make_plan(asked)["stages"]}


def left(found):
    return {stage["name"]: stage["steps"] for stage in found["stages"]}


def test_plan__of_a_run_that_was_stopped_is_of_what_is_left(tmp_path, tiny):
    more = {**tiny, "distill.outer_steps": 6, "distill.select_every": 2, "distill.checkpoint_every": 1}
    more |= {"distill.select_networks": 3, "evaluate.networks": 2, "evaluate.baselines": ["random", "kmeans"]}
    out, asked = tmp_path / "a", made(more)
    whole = left(make_plan(asked, prepare(asked)))
    assert whole == left(make_plan(asked, prepare(asked), out=out))  # nothing is there
    longer = (whole["validation networks"] - 4 * 3) // 3  # at the length of real images, at most once
    stopped(out, more)
    found = make_plan(asked, prepare(asked), out=out)
    assert found["done"] == {"outer_steps": 3, "distilled": False, "rows": [], "finished": False}
    steps = left(found)
    assert "expert epochs" not in steps  # they are in the cache
    assert steps["outer steps"] == 3
    assert steps["validation networks"] == (2 + longer) * 3  # steps 4 and 6
    assert steps["evaluation networks"] == whole["evaluation networks"]
    assert any(f"{out} holds this run: 3 outer steps made, 0 rows measured" in note for note in found["notes"])
    json.dumps(found)


def test_plan__counts_rows_that_are_measured_and_nothing_of_a_finished_run(tmp_path, tiny):
    more = {**tiny, "evaluate.baselines": ["random", "kmeans"], "evaluate.networks": 2}
    out, asked = tmp_path / "a", made(more)
    whole = left(make_plan(asked, prepare(asked)))
    run(out, more)
    found = make_plan(asked, prepare(asked), out=out)
    assert (found["stages"], found["seconds"], found["done"]["finished"]) == ([], 0, True)
    assert any("finished: nothing is left to do" in note for note in found["notes"])
    (out / "distill_config.json").unlink()  # as if it had been stopped before it was packed, with two rows fewer
    (out / "run" / "evaluation.json").unlink()
    for name in ("set", "random"):
        RunFolder(out).add_row(name, EvalReport((0.5, 0.5)))
    found = left(make_plan(asked, prepare(asked), out=out))
    assert set(found) == {"evaluation networks", "baselines' validation networks"}
    assert found["evaluation networks"] == whole["evaluation networks"] - 2 * 2
    assert found["baselines' validation networks"] == whole["baselines' validation networks"] / 2
    (out / "run" / "synthetic.safetensors").unlink()  # the checkpoint of the last step, looked at, gives it again
    again = left(make_plan(asked, prepare(asked), out=out))
    assert again.pop("networks that choose the length", 0) == whole.get("networks that choose the length", 0)
    assert again.pop("validation networks", 0) in (0, tiny["distill.select_networks"])  # at the length of real images
    assert again == found


@pytest.mark.parametrize("replace", [False, True])
def test_plan__says_that_a_run_would_be_refused(tmp_path, tiny, replace):
    out = tmp_path / "a"
    run(out, tiny)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    other = made({**tiny, "distill.lr_img": 3.0})
    found = make_plan(other, prepare(other), out=out, replace=replace)
    assert left(found) == left(make_plan(other, prepare(other)))
    told = [note for note in found["notes"] if "as it is, this run would be refused" in note]
    assert bool(told) != replace
    assert all("differs in settings.distill.lr_img" in note for note in told)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before  # a plan writes nothing


def test_plan__of_a_budget_goes_on_with_the_sizes_of_the_run_that_was_begun(tmp_path, tiny, monkeypatch):
    budget = {**tiny, "time_budget": 600.0}
    monkeypatch.setattr(time_budget, "measured_costs", lambda *given: Costs(0.001, 0.1, 0.01, {}))
    run(tmp_path / "a", budget)
    sizes = RunFolder(tmp_path / "a").stored_settings()["distill"]["outer_steps"]
    monkeypatch.setattr(plan, "measured_costs", lambda *given: Costs(0.001, 200.0, 0.01, {}))
    asked = made(budget)
    assert make_plan(asked, prepare(asked))["settings"]["distill"]["outer_steps"] < sizes
    found = make_plan(asked, prepare(asked), out=tmp_path / "a")
    assert (found["settings"]["distill"]["outer_steps"], found["done"]["finished"]) == (sizes, True)


def test_plan__of_a_budget_counts_the_experts_that_fit(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(plan, "measured_costs", lambda *given: Costs(10.0, 0.1, 0.01, dict.fromkeys(range(4), 2)))
    asked = made({**tiny, "experts.count": 4, "time_budget": 100.0})
    found = make_plan(asked, prepare(asked))
    assert found["settings"]["experts"]["count"] == 2  # of 20 s each, in half of 90
    assert left(found)["expert epochs"] == 2 * 2
    assert any("experts to train (2)" in note for note in found["notes"])


def test_plan__tells_validation_from_the_papers_protocol(tmp_path, tiny):
    """Tests on the way are of the run's own network, whatever selects; each is counted as far as it is made."""
    more = {**tiny, "dataset.augmentation": "flip", "evaluate.paper_protocol": True, "evaluate.baselines": []}
    more |= {"distill.outer_steps": 6, "distill.checkpoint_every": 1}
    for changes in ({}, {"dataset.validation_fraction": 0.0}):
        out, asked = tmp_path / str(len(changes)), made({**more, **changes})
        names = ("validation networks", "networks of the paper's protocol")
        whole = left(make_plan(asked, prepare(asked)))
        assert [whole.get(name, 0) for name in names] == [0 if changes else 8, 8]  # two at steps 0, 2, 4, 6
        stopped(out, {**more, **changes})
        found = left(make_plan(asked, prepare(asked), out=out))
        assert [found.get(name, 0) for name in names] == [0 if changes else 4, 4]


def test_plan__does_not_count_what_the_run_would_throw_away(tmp_path, tiny):
    asked, out = made(tiny), tmp_path / "a"
    stopped(out, tiny)
    (out / "run" / "config.json").write_text("{")  # the run writes it anew, and goes on
    found = make_plan(asked, prepare(asked), out=out)
    assert (found["done"]["outer_steps"], left(found)["outer steps"]) == (3, 1)
    for name in ("checkpoint", "checkpoint-before"):
        path = out / "run" / f"{name}.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    found = make_plan(asked, prepare(asked), out=out)
    whole = make_plan(asked, prepare(asked))
    assert found["done"] == whole["done"]
    assert left(found) == {name: steps for name, steps in left(whole).items() if name != "expert epochs"}


def test_plan__of_a_finished_run_is_of_what_packing_it_again_takes(tmp_path, tiny):
    out, more = tmp_path / "a", {**tiny, "evaluate.baselines": [], "evaluate.uint8": False}
    run(out, more)
    (out / "run" / "synthetic.safetensors").unlink()  # not needed any more
    asked = made(more)
    assert make_plan(asked, prepare(asked), out=out)["done"]["finished"]
    (out / "distilled.safetensors").unlink()
    found = make_plan(asked, prepare(asked), out=out)
    assert not found["done"]["finished"]
    assert any("packing it again" in note for note in found["notes"])
    run(out, more)
    smaller = made({**more, "artifact.dtype": "float16"})
    found = make_plan(smaller, prepare(smaller), out=out)
    assert left(found) == {"evaluation networks": more["evaluate.networks"]}
    assert any("holds float32 images; packing it again as float16" in note for note in found["notes"])


def test_plan__of_a_run_that_was_begun_needs_no_start_artifact(tmp_path, tiny):
    run(tmp_path / "first", tiny)
    more = {**tiny, "distill.init": "artifact", "distill.init_from": str(tmp_path / "first")}
    stopped(tmp_path / "a", more)
    shutil.rmtree(tmp_path / "first")
    asked = made(more)
    assert left(make_plan(asked, prepare(asked), out=tmp_path / "a"))["outer steps"] == 1
    with pytest.raises(ArtifactError):
        make_plan(asked, prepare(asked), out=tmp_path / "b")


def timed_states(monkeypatch):
    """The state of each outer step that a plan times, filled as it goes."""
    states, plain = [], step_times.outer_step
    monkeypatch.setattr(step_times, "outer_step", lambda task, state: states.append(state) or plain(task, state))
    return states


def test_plan__of_a_run_from_an_artifact_times_a_step_of_its_set(tmp_path, tiny, monkeypatch):
    """Whether a lower precision agrees depends on images, labels and learning rate."""
    first = run(tmp_path / "first", tiny)
    asked = made({**tiny, "distill.init": "artifact", "distill.init_from": str(tmp_path / "first")})
    states = timed_states(monkeypatch)
    make_plan(asked, prepare(asked))
    length = first.results["selection"]["image_length"]
    assert torch.equal(states[0].images, first.images * (length["learned"] / length["real"]))
    assert states[0].lr == first.lr


def test_plan__of_a_run_that_was_begun_times_a_step_as_it_was_decided(tmp_path, tiny, monkeypatch):
    stopped(tmp_path / "a", tiny)
    folder = RunFolder(tmp_path / "a")
    state = OuterState.load(folder.checkpoint, "cpu")
    state.precision = "tf32"  # as if it had been decided so
    state.save(folder.checkpoint, folder.identity())
    states = timed_states(monkeypatch)
    asked = made(tiny)
    assert make_plan(asked, prepare(asked), out=tmp_path / "a")["done"]["outer_steps"] == state.step > 0
    assert {one.precision for one in states} == {"tf32"}
    assert torch.equal(states[0].images, state.images)


def test_plan__of_a_selected_set_times_no_outer_step(tmp_path, tiny, monkeypatch):
    stopped(tmp_path / "a", tiny)
    monkeypatch.setattr(plan, "found_in", lambda *given: (Standing(distilled=True), []))
    states, asked = timed_states(monkeypatch), made(tiny)
    assert "outer steps" not in left(make_plan(asked, prepare(asked), out=tmp_path / "a"))
    assert not states


def test_plan__of_an_output_that_is_a_file_says_so(tmp_path, tiny):
    (tmp_path / "a").write_text("x")
    asked = made(tiny)
    found = make_plan(asked, prepare(asked), out=tmp_path / "a")
    assert any("is a file; expected a folder" in note for note in found["notes"])
    assert left(found)["outer steps"] == tiny["distill.outer_steps"]


def test_plan__of_a_folder_that_cannot_be_made_says_so_and_a_run_is_refused_at_once(tmp_path, tiny, monkeypatch):
    (tmp_path / "a").write_text("x")
    asked, out = made(tiny), tmp_path / "a" / "b" / "set"
    found = make_plan(asked, prepare(asked), out=out)
    assert any("would be refused: could not create the folder" in note for note in found["notes"])
    monkeypatch.setattr("distillkit.pipeline.prepare", lambda _: pytest.fail("the data were prepared before"))
    with pytest.raises(StorageError, match=r"could not create the folder .*set: not a directory"):
        run(out, tiny)


def test_plan__of_a_folder_where_nothing_may_be_written_says_so(tmp_path, tiny, monkeypatch):
    asked = made(tiny)
    prepared = prepare(asked)

    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    monkeypatch.setattr("pathlib.Path.touch", refused)
    for out, verb in ((tmp_path / "a", "create the folder"), (tmp_path, "write into")):
        found = make_plan(asked, prepared, out=out)
        words = f"would be refused: could not {verb} {out}: permission denied"
        assert any(words in note for note in found["notes"])


def test_plan__of_a_folder_in_which_another_process_works_says_so(tmp_path, tiny):
    out = tmp_path / "a"
    stopped(out, tiny)
    asked = made(tiny)
    with FileLock(out / "run" / ".lock"):
        found = make_plan(asked, prepare(asked), out=out)
    assert any("would be refused: another process is working in" in note for note in found["notes"])
    assert left(make_plan(asked, prepare(asked), out=out)) != left(found)
