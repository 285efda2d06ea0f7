"""How students compute is chosen once and returned as a value; whoever asked writes it into the state."""

import pytest
import torch

from distillkit.distill.state import EngineChoice, OuterState
from distillkit.distill.step_functions import CompiledFunctions
from distillkit.errors import DivergenceError
from distillkit.stages import distillation, engine_trials
from distillkit.stages.engine import choose_engine
from tests.helpers import Notes, run

COMPILED = {"distill.compile": "always", "distill.inner_steps": 3}


def test_choosing_an_engine_changes_no_state__and_the_choice_is_kept(tmp_path, tiny, monkeypatch):
    seen = []

    def watched(own, prepared, task, network, state, begun):
        before = vars(state).copy()
        task, choice = choose_engine(own, prepared, task, network, state, begun)
        assert all(vars(state)[name] is value for name, value in before.items())
        assert state.agreement == {}
        seen.append((begun, choice))
        return task, choice

    monkeypatch.setattr(distillation, "choose_engine", watched)
    run(tmp_path / "a", tiny)
    ((begun, choice),) = seen
    assert begun == EngineChoice()
    assert (choice.precision, choice.compiled, choice.together) == ("fp32", False, False)
    assert choice.kept > 0
    assert OuterState.load(tmp_path / "a" / "run" / "checkpoint.safetensors", "cpu").choice == choice


def chosen_where(tmp_path, tiny, monkeypatch, begun, **settings):
    """What a run of two students a step chooses, and what is said of it."""
    notes, found = Notes(), []

    def begun_so(own, prepared, task, network, state, undecided):
        found.append(choose_engine(own, prepared, task, network, state, begun))
        return found[-1]

    monkeypatch.setattr(distillation, "choose_engine", begun_so)
    settings = {"distill.segments": 2, "distill.outer_steps": 2, "evaluate.baselines": [], **settings}
    run(tmp_path / "a", tiny, settings=settings, progress=notes)
    return found[0][1], notes.notes


def hungry(kind):
    """Step functions that do not fit into memory, if they are of ``kind``."""

    def tried(functions, *trial):
        if isinstance(functions, kind):
            raise torch.OutOfMemoryError

    return tried


def test_students_that_do_not_fit_side_by_side_take_turns(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(engine_trials, "try_functions", hungry(object))
    begun = EngineChoice(compiled=False, precision="fp32", together=True, kept=1)
    choice, notes = chosen_where(tmp_path, tiny, monkeypatch, begun)
    assert (choice.together, choice.compiled) == (False, False)
    assert choice.kept == tiny["distill.inner_steps"] > 1  # chosen anew: what was kept was of both students at once
    assert "2 students at once do not fit into memory; taking them in turn" in notes


def test_a_compiled_step_that_does_not_fit_is_taken_operation_by_operation(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(
        engine_trials, "CompiledFunctions", lambda loss, **options: CompiledFunctions(loss, backend=None)
    )
    monkeypatch.setattr(engine_trials, "trace_bytes", lambda *arguments: 2**28)
    monkeypatch.setattr(engine_trials, "try_functions", hungry(CompiledFunctions))
    choice, notes = chosen_where(tmp_path, tiny, monkeypatch, EngineChoice(precision="fp32", kept=1), **COMPILED)
    assert (choice.together, choice.compiled) == (False, False)
    assert choice.kept == COMPILED["distill.inner_steps"]
    assert "the compiled step does not fit into memory; distilling operation by operation" in notes


def test_choices_of_a_pool__each_in_its_place_and_the_first_for_the_run():
    state = OuterState(None, None, None, "class", 0.1)
    assert state.choice_of(1) == EngineChoice()
    choices = [EngineChoice(True, "bf16", False, 2, {"bf16": 0.999}), EngineChoice(False, "fp32", False, 3)]
    state.decide_each(choices)
    assert [state.choice_of(place) for place in (0, 1)] == choices
    assert (state.precision, state.compiled, state.together, state.kept) == ("bf16", True, None, None)


@pytest.mark.parametrize("precision", ["bf16", "auto", "fp32"])
def test_no_step_with_a_finite_loss__is_a_failure_in_every_precision(tmp_path, tiny, precision):
    notes = Notes()
    settings = {"precision": precision, "distill.lr_init": 1e30, "distill.outer_steps": 2, "distill.lr_lr": 0.0}
    with pytest.raises(DivergenceError, match=r"none of the 2 outer steps had a finite loss .* lower distill.lr_init"):
        run(tmp_path / "a", tiny, settings=settings, progress=notes)
    said = "bf16 cannot be compared: the first step has no finite gradient"
    assert (said in notes.notes) == (precision == "bf16")
    state = OuterState.load(tmp_path / "a" / "run" / "checkpoint.safetensors", "cpu")
    assert state.agreement == {}
