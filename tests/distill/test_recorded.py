"""Recorded functions: arguments by copy, results in place that live until the next call, and what is not trusted."""

import gc
import weakref

import pytest
import torch

from distillkit import rng
from distillkit.data.augment import OPERATIONS, Augmentation
from distillkit.distill import recorded
from distillkit.distill.inner_optimizers import Adam, Sgd
from distillkit.distill.inner_steps import plan_inner_steps
from distillkit.distill.joined_students import Student, side_by_side
from distillkit.distill.labels import SoftLabels
from distillkit.distill.recorded import Recorded, RecordingError
from distillkit.distill.step_functions import CompiledFunctions, EagerFunctions, InnerLoss, TogetherLoss, Wanted
from distillkit.distill.unroll import MatchingTerm, Unroll
from distillkit.networks.build import build_network
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.settings import NetworkSettings

SIZE, PIXELS, COUNT, BATCH, CLASSES = 7, 8, 5, 3, 4


class Pool:
    """A recorder of a GPU that is not there: a replay calls the function again, writes into the same results, and
    spoils those of every other recording, as kernels that share its memory would.
    """

    def __init__(self):
        self.results, self.launches = [], 0

    def record(self, launch, device):
        results = [torch.full_like(value, torch.nan) for value in recorded._tensors(launch())]
        self.results.append(results)
        structure = torch.utils._pytree.tree_flatten(launch())[1]

        def replay():
            self.launches += 1
            for others in self.results:
                for value in others:
                    value.fill_(torch.nan)
            for value, new in zip(results, recorded._tensors(launch()), strict=True):
                value.copy_(new)

        return torch.utils._pytree.tree_unflatten(results, structure), replay


def test_recorded__is_the_function_from_the_first_call_on():
    pool, seen = Pool(), []

    def function(x, y):
        seen.append((x.clone(), y.clone()))
        return x * y, (x + y).sum()

    own = Recorded(function, pool.record)
    for number in range(4):
        x, y = torch.randn(2, 3, generator=torch.Generator().manual_seed(number))
        product, total = own(x, y)
        assert torch.equal(product, x * y)
        assert torch.equal(total, (x + y).sum())
        assert pool.launches == (0, 2, 3, 4)[number]  # the second call replays twice: once to compare
    assert own(x, y)[0].data_ptr() == own(y, x)[0].data_ptr()


def test_recorded__each_shape_by_itself_and_no_more_than_some(monkeypatch):
    monkeypatch.setattr(recorded, "MOST_SHAPES", 2)
    pool = Pool()
    own = Recorded(lambda x: 2 * x, pool.record)
    for _ in range(3):
        for size in (1, 2, 3):
            assert torch.equal(own(torch.arange(float(size))), 2 * torch.arange(float(size)))
    assert len(pool.results) == 2


def test_recorded__transposed_arguments_are_copied_by_value():
    own = Recorded(lambda x: x + 0, Pool().record)
    for _ in range(3):
        x = torch.randn(4, 2).T
        assert torch.equal(own(x), x)


@pytest.mark.parametrize("wrong", ["other numbers", "stale", "an error", "not finite"])
def test_recorded__a_recording_that_computes_something_else_is_not_used(wrong):
    def record(launch, device):
        if wrong == "an error":
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        results = launch() * {"other numbers": 1.1, "stale": 0, "not finite": torch.nan}[wrong]
        return results, lambda: None

    own = Recorded(lambda x: 3 * x, record)
    own(torch.ones(5))
    for _ in range(2):  # and it never will be
        with pytest.raises(RecordingError, match="not permitted" if wrong == "an error" else "a replay differs from"):
            own(torch.ones(5))


def test_recorded__memory_that_runs_out_is_told_as_that():
    def record(launch, device):
        raise torch.OutOfMemoryError("no")

    own = Recorded(lambda x: x, record)
    own(torch.ones(2))
    with pytest.raises(torch.OutOfMemoryError):
        own(torch.ones(2))


def test_shared_pool__is_that_of_a_graph_that_lives(monkeypatch):
    class Graph:
        def __init__(self, pool):
            self.pool = lambda: pool

    one, other = Graph("first"), Graph("second")
    living = weakref.WeakKeyDictionary({one: torch.device("cuda:0"), other: torch.device("cuda:1")})
    monkeypatch.setattr(recorded, "_living", living)
    assert recorded.shared_pool(torch.device("cuda:0")) == "first"
    assert recorded.shared_pool(torch.device("cuda:1")) == "second"
    del one
    gc.collect()
    assert recorded.shared_pool(torch.device("cuda:0")) is None  # to use a pool again that was given back is an error


def students():
    images = torch.randn(SIZE, 3, PIXELS, PIXELS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.randn(SIZE, CLASSES, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = []
    for number in range(2):
        module = build_network(NetworkSettings(width=4, depth=1), (3, PIXELS, PIXELS), CLASSES, 0, "t", number)
        start = flatten_parameters(module.double()).detach()
        augmentation = Augmentation.parse("_".join(OPERATIONS))
        steps = plan_inner_steps(COUNT, SIZE, BATCH, (3, PIXELS, PIXELS), augmentation, rng.generator(number, "t"))
        term = MatchingTerm(COUNT, lambda theta, start=start: (theta - start - 1).square().sum())
        found.append(Student(start, steps, [term]))
    return module, images, labels, found


@pytest.mark.parametrize("optimizer", [Sgd(0.5), Adam()])
@pytest.mark.parametrize("together", [False, True])
def test_hypergradient__by_recordings_is_that_of_autograd(optimizer, together):
    module, images, labels, (one, other) = students()
    loss = InnerLoss(FlatNetwork(module), SoftLabels())
    student = side_by_side([one, other]) if together else one
    pool = Pool()
    functions = CompiledFunctions(
        TogetherLoss(loss, 2) if together else loss, backend=None, cuda_graphs=True, record=pool.record
    )
    lr = torch.tensor(0.02, dtype=torch.float64)

    def hypergradient(functions, own):
        unroll = Unroll(functions, own.steps, optimizer)
        return unroll.hypergradient(own.start_P, images, labels, lr, own.terms, learn_labels=True)

    expected = [hypergradient(EagerFunctions(loss), own) for own in ((one, other) if together else (one,))]
    for _ in range(3):  # called, recorded, replayed
        found = hypergradient(functions, student)
        for name in ("loss", "images", "labels", "lr"):
            wanted = torch.stack([getattr(result, name) for result in expected]).mean(0)
            assert (getattr(found, name) - wanted).abs().max() <= 1e-9 * wanted.abs().max(), name
    assert pool.launches > 4 * COUNT


def test_functions__a_trace_is_never_of_a_recording():
    module, images, labels, (one, _) = students()
    functions = CompiledFunctions(
        InnerLoss(FlatNetwork(module), SoftLabels()), backend=None, cuda_graphs=True, record=Pool().record
    )
    for _ in range(3):
        functions.gradient(one.start_P, images, labels)
    trace = functions.trace(one.start_P, images, labels, Wanted(labels=True))
    w = torch.ones_like(one.start_P)
    assert torch.allclose(
        trace.adjoint(w, Wanted(labels=True)).images, functions.adjoint(one.start_P, images, labels, w, Wanted()).images
    )
