"""A GPU whose memory runs out: something is halved, said, and the run goes on to the same numbers."""

from dataclasses import replace

import pytest
import torch

from distillkit.config import compose
from distillkit.data.inputs import LazyInputs, check_fits, inputs_of
from distillkit.data.preprocess import fit, to_inputs
from distillkit.distill.loop import _advance
from distillkit.distill.step_functions import Adjoint, CompiledFunctions
from distillkit.errors import ConfigError
from distillkit.evaluation.protocol import Examination, TrainingSet, evaluate_networks
from distillkit.experts import train as training_of_experts
from distillkit.experts.difficulty import SCORES, score_images
from distillkit.methods import SettingsLayer
from distillkit.records import Pixels
from distillkit.stages import backing_off as backing_off_module
from distillkit.stages import workshop
from distillkit.stages.backing_off import BackingOff
from distillkit.stages.context import make_run, prepare
from distillkit.stages.experts import train_experts
from distillkit.training.memory import in_pieces
from distillkit.training.stack import TrainingForm
from distillkit.trajectories.forms import open_trajectories
from tests.gpu.pretended import PretendedGpu
from tests.gpu.test_placement import (
    CPU,
    CUDA,
    FRESH,
    IDS,
    IMAGES,
    MANY,
    OF_REAL_IMAGES,
    RECIPES,
    build,
    equal,
    outer_task,
    stepped,
)
from tests.helpers import Notes


def test_in_pieces__until_one_is_too_much():
    seen = []

    def hungry(x, y):
        seen.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError
        return x + y

    x = torch.arange(7.0)
    assert torch.equal(in_pieces(hungry, 6, x, x), 2 * x)
    assert seen == [7, 3, 1, 1, 1, 1, 1, 1, 1]  # one left over joins the six
    with pytest.raises(torch.OutOfMemoryError):
        in_pieces(lambda x: hungry(torch.zeros(3), x), 4, x)


def uint8_images():
    generator = torch.Generator().manual_seed(0)
    return Pixels(torch.randint(0, 256, (len(IDS), *IMAGES.shape[1:]), dtype=torch.uint8, generator=generator))


def test_inputs__that_would_fill_a_gpu_stay_on_the_host():
    pixels, wanted = uint8_images(), torch.tensor([4, 0, 4])
    preprocess = fit("standardise", pixels, 0.1)
    expected = to_inputs(preprocess, pixels)
    size = pixels.numel()
    for free, on_host in ((2 * size, False), (2 * size - 1, True)):
        with PretendedGpu(free=free) as gpu:
            check_fits("standardise", pixels.shape, CUDA)
            inputs = inputs_of(preprocess, pixels, CUDA)
            assert inputs.stay_on_host is on_host
            assert (gpu.copies["to the GPU"] > 0) is not on_host
            for batch, rows in (
                (inputs[wanted.to(CUDA)], wanted),
                (inputs[2:5], slice(2, 5)),
                (torch.cat(list(inputs.split(3))), slice(None)),
            ):
                assert batch.device.type == "cuda"
                assert torch.allclose(batch.cpu(), expected[rows])
    assert not inputs_of(preprocess, pixels).stay_on_host


def test_outer_step__on_images_of_the_host_has_the_same_numbers():
    pixels = uint8_images()
    preprocess = fit("standardise", pixels, 0.1)
    expected = stepped(CPU, OF_REAL_IMAGES, images=to_inputs(preprocess, pixels))
    with PretendedGpu(free=0):
        told, state = stepped(CUDA, OF_REAL_IMAGES, images=LazyInputs(pixels, preprocess, CUDA))
        images = state.images.cpu()
    assert told == pytest.approx(expected[0], rel=1e-4)
    assert torch.allclose(images, expected[1].images, atol=1e-5)


def test_scores__in_smaller_pieces_are_the_same():
    model = build()
    expected = score_images(SCORES["el2n"].build, model, IMAGES, IDS)
    with PretendedGpu() as gpu:
        arguments = (SCORES["el2n"].build, model.to(CUDA), IMAGES.to(CUDA), IDS.to(CUDA))
        gpu.largest = 4 * 3 * 8 * 8 * 4  # the activations of four images
        assert torch.allclose(score_images(*arguments), expected, atol=1e-6)


@pytest.mark.parametrize("form", ["kept", "together"])
def test_outer_step__backs_off_to_the_same_numbers(form):
    told, expected = stepped(CPU, MANY)
    notes = []
    with PretendedGpu():
        task, state = outer_task(CUDA, MANY, form)
        whole = task.objective

        class Hungry(type(whole)):  # what it takes of memory is not in single tensors
            def gradient(self, *arguments):
                if self.engine.kept or self.engine.together:
                    raise torch.OutOfMemoryError
                return super().gradient(*arguments)

        hungry = Hungry(**vars(whole)).run_by(replace(whole.engine, kept=3 if form == "kept" else 0))
        found = _advance(replace(task, objective=BackingOff(hungry, CUDA, notes.append)), state)
        equal(state.images, expected.images, 1e-4)
    assert found == pytest.approx(told, rel=1e-4)
    said = {
        "kept": ["keeping the graphs of 1 steps", "keeping the graphs of 0 steps"],
        "together": ["taking the students in turn"],
    }
    assert notes == [f"an outer step does not fit into memory; {what}" for what in said[form]]
    assert state.kept == (0 if form == "kept" else None)


def test_outer_step__real_images_in_smaller_pieces__then_a_sentence():
    notes = []
    with PretendedGpu() as gpu:
        task, state = outer_task(CUDA, FRESH)
        backing = BackingOff(task.objective, CUDA, notes.append)
        gpu.largest = 3 * 3 * 8 * 8 * 4 - 1  # activations of three real images are too much, of two not
        with pytest.raises(
            ConfigError, match=r"does not hold an outer step .*CUDA out of memory.*lower distill.batch_size"
        ):
            _advance(replace(task, objective=backing), state)  # the set's own batch is of three
        assert notes == ["an outer step does not fit into memory; taking 1 real images at a time"]


@pytest.mark.parametrize("largest", [None, 0])
def test_evaluation__one_by_one__then_a_sentence(largest):
    with PretendedGpu() as gpu:
        training, exam = TrainingSet(IMAGES.to(CUDA), IDS.to(CUDA)), Examination(IMAGES.to(CUDA), IDS.to(CUDA))
        notes = []
        gpu.largest = 4 * 3 * 8 * 8 * 4 if largest is None else 100  # of a batch of one network
        arguments = (build, training, exam, RECIPES["sgd"], 0, 2)
        if largest is None:
            assert len(evaluate_networks(*arguments, form=TrainingForm(2, note=notes.append)).accuracies) == 2
            assert notes == ["2 networks at once do not fit into memory; taking 1"]
        else:
            with pytest.raises(ConfigError, match=r"training of a fresh network .* lower evaluate.batch_size"):
                evaluate_networks(*arguments, form=TrainingForm(2, note=notes.append))


def test_experts__halved_in_the_middle_of_their_training__go_on_from_there(tmp_path, tiny, monkeypatch):
    """Two of four fit; the memory runs out after the first epoch: all go on after it."""
    sizes = []
    real = training_of_experts.fit_experts

    def hungry(indices, data, network, recipe, seed, keep, after_epoch, form, change, standings, save, advice):
        sizes.append((len(indices), standings[0].epoch if standings else 0))

        def saved(now):
            save(now)
            if len(indices) == 4 and now[0].epoch == 1:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

        return real(indices, data, network, recipe, seed, keep, after_epoch, form, change, standings, saved)

    notes = Notes()
    layer = SettingsLayer("test", {**tiny, "experts.count": 4, "experts.together": 4})
    made = make_run(compose("digits", 1, "mtt", "smoke", "cpu", [layer]), CPU, notes)
    prepared = prepare(made)

    def points(name):
        monkeypatch.setenv("DISTILLKIT_CACHE", str(tmp_path / name))
        store = train_experts(made, prepared)
        trajectories = open_trajectories(store, 4, None)
        return torch.stack([trajectories.point(index, 2) for index in range(4)])

    whole = points("whole")
    monkeypatch.setattr(workshop, "fit_experts", hungry)
    found = points("halved")
    assert notes.notes.count("4 experts at once do not fit into memory; taking 2") == 1
    assert sizes == [(4, 0), (2, 1), (2, 1)]
    assert torch.allclose(found, whole, atol=1e-5)
    assert not list((tmp_path / "halved").rglob("training-*"))


@pytest.mark.parametrize("graphs", [True, False])
def test_outer_step__without_graphs_where_one_cannot_be_recorded(graphs, monkeypatch):
    """A recording that fails falls back with one line; any other error of the GPU is not hidden."""
    told, expected = stepped(CPU, MANY)
    task, state = outer_task(CPU, MANY, "functional")
    engine, notes, forgotten = task.objective.engine, [], []
    monkeypatch.setattr(backing_off_module, "give_back", lambda device, compiled: forgotten.append(compiled))

    class Invalidated(CompiledFunctions):
        def gradient(self, *arguments):
            if self.recorded or not graphs:
                raise torch.AcceleratorError(
                    "CUDA error: operation failed due to a previous error during capture\nmore"
                )
            return super().gradient(*arguments)

    inner = Invalidated(engine.inner._loss, backend=None, cuda_graphs=graphs)
    failing = task.objective.run_by(replace(engine, inner=inner, compiled=True))
    backing = BackingOff(failing, CPU, notes.append)
    if not graphs:
        with pytest.raises(torch.AcceleratorError):
            _advance(replace(task, objective=backing), state)
        return
    assert _advance(replace(task, objective=backing), state) == pytest.approx(told, rel=1e-4)
    assert torch.allclose(state.images, expected.images, atol=1e-4)
    assert forgotten == [True]
    assert notes == [
        "a step could not be recorded as a CUDA graph (CUDA error: operation failed due to a previous error during "
        "capture); going on without (distill.cuda_graphs=false)"
    ]


class Replayed:
    """Step functions whose results are overwritten at the next call, as those of a recording are; which read theirs
    before they write.
    """

    def __init__(self, inner):
        self.inner, self.last = inner, []

    def _given(self, *results):
        for old in self.last:
            old.fill_(float("nan"))
        self.last = [own for own in results if own is not None]

    def gradient(self, *arguments):
        found = self.inner.gradient(*(own.clone() for own in arguments)).clone()
        self._given(found)
        return found

    def adjoint(self, theta, seen, labels, w, wanted):
        found = self.inner.adjoint(theta.clone(), seen.clone(), labels.clone(), w.clone(), wanted)
        parts = [own if own is None else own.clone() for own in (found.value, found.images, found.labels, found.theta)]
        self._given(*parts)
        return Adjoint(*parts)


REPLAYED = {
    "plain": {},
    "intermediate": {**MANY, "segments": 1},
    "adam": {"inner_optimizer": "adam", "labels": "soft"},
    "truncated, scaled": {"hypergradient": "truncated", "inner_scale": "log-balanced", "inner_momentum": 0.5},
    "together": MANY,
    "fresh": FRESH,
    "gradients": OF_REAL_IMAGES,
}


@pytest.mark.parametrize("name", REPLAYED)
def test_replays__nothing_is_held_across_them(name):
    chosen = {**REPLAYED[name], "inner_steps": 4, "horizon": 6 if "horizon" in REPLAYED[name] else None}
    form = "together" if name == "together" else "functional"
    task, state = outer_task(CPU, chosen, form)
    told = _advance(task, state)
    again, found = outer_task(CPU, chosen, form)
    engine = again.objective.engine
    replayed = replace(engine, inner=Replayed(engine.inner))
    assert _advance(replace(again, objective=again.objective.run_by(replayed)), found) == told
    assert torch.equal(found.images, state.images)
    assert torch.equal(found.labels, state.labels)
