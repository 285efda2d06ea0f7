"""Several students of one outer step: in turn, side by side, and each by itself give the same hypergradient."""

from dataclasses import replace

import pytest
import torch

from distillkit.data.augment import Augmentation
from distillkit.data.transfer import packed, unpacked
from distillkit.distill.inner_steps import plan_inner_steps
from distillkit.distill.labels import SoftLabels
from distillkit.distill.loop import DistillTask, outer_step, start_state
from distillkit.distill.matching import matching_part
from distillkit.distill.outer_optimizers import outer_optimizer
from distillkit.distill.segments import segment_sampler
from distillkit.distill.start import at_an_expert
from distillkit.distill.step_functions import CompiledFunctions, InnerLoss, TogetherLoss
from distillkit.distill.unrolled import UnrolledStudents
from distillkit.networks.build import build_network
from distillkit.networks.functional import FlatNetwork
from distillkit.settings import DistillSettings, NetworkSettings
from distillkit.stages.engine_trials import eager_engine

NETWORK = FlatNetwork(build_network(NetworkSettings(width=3, depth=2), (1, 8, 8), 2, 0, "n").double())


class Walks:
    """Three experts that wander about."""

    count, final_epoch, continuous = 3, 6, False

    def point(self, expert, epoch):
        generator = torch.Generator().manual_seed(expert)
        walk = torch.randn(7, NETWORK.size, generator=generator, dtype=torch.float64).mul(0.1).cumsum(0)
        return walk[int(epoch)]


def task(count, **settings):
    chosen = DistillSettings(
        **{
            "segments": count,
            "inner_steps": 4,
            "expert_epochs": 2,
            "max_start_epoch": 4,
            "batch_size": 4,
            "inner_momentum": 0.5,
            "matching": "intermediate",
            "perturbation": "conv-relative",
            "inner_scale": "log-balanced",
            **settings,
        }
    )
    return DistillTask(chosen, students(chosen), outer_optimizer(chosen))


def students(chosen):
    return UnrolledStudents(
        settings=chosen,
        engine=eager_engine(NETWORK, SoftLabels()),
        begin=at_an_expert(chosen, Walks(), NETWORK, 0),
        matching=matching_part(chosen),
        labels=SoftLabels(),
        augmentation=Augmentation.parse("color_crop_cutout_flip_scale_rotate"),
        seed=0,
        trajectories=Walks(),
    )


def by(task, **changes):
    """The task with another engine."""
    return replace(task, objective=task.objective.run_by(replace(task.objective.engine, **changes)))


def state(step=0):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 1, 8, 8, generator=generator, dtype=torch.float64)
    labels = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    made = start_state(images, torch.tensor([0, 0, 0, 1, 1, 1]), labels, "logits", 0.03)
    made.step = step
    return made


def close(found, expected):
    pairs = [(found.loss, expected.loss), (found.images, expected.images)]
    pairs += [(found.labels, expected.labels), (found.lr, expected.lr)]
    return all(float((a - b).norm() / b.norm()) <= 1e-9 for a, b in pairs)


@pytest.mark.parametrize("step", [0, 2])
def test_outer_step__of_several_segments_is_the_mean_of_single_ones(step):
    singles = [outer_step(task(1), state(number)) for number in range(3 * step, 3 * step + 3)]
    assert len({float(single.loss) for single in singles}) == 3
    found = outer_step(task(3), state(step))
    for name in ("loss", "images", "labels", "lr"):
        mean = sum(getattr(single, name) for single in singles) / 3
        assert torch.allclose(getattr(found, name), mean, rtol=1e-12, atol=0)


@pytest.mark.parametrize("hypergradient", ["exact", "truncated"])
def test_outer_step__side_by_side_equals_in_turn(hypergradient):
    in_turn = task(3, hypergradient=hypergradient)
    functions = CompiledFunctions(TogetherLoss(InnerLoss(NETWORK, SoftLabels()), 3), backend=None)
    assert close(outer_step(by(in_turn, inner=functions, together=True), state(1)), outer_step(in_turn, state(1)))


@pytest.mark.parametrize("together", [False, True])
def test_outer_step__kept_graphs_carry_the_scale_of_the_inner_loss(together):
    plain = task(3)
    assert all(plain.objective.begin(number).scale != 1 for number in range(3, 6))
    if together:
        functions = CompiledFunctions(TogetherLoss(InnerLoss(NETWORK, SoftLabels()), 3), backend=None)
        plain = by(plain, inner=functions, together=True)
    assert close(outer_step(by(plain, kept=3), state(1)), outer_step(plain, state(1)))


def test_curriculum__the_bound_grows_with_the_step_not_with_the_segment():
    settings = DistillSettings(
        segments=40, sampler="curriculum", first_max_start_epoch=1, max_start_epoch=4, expansion_end_step=3
    )
    sample = segment_sampler(settings, Walks(), 0)
    starts = [{sample(step * 40 + k).start for k in range(40)} for step in range(4)]
    assert starts == [{0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}]


def test_packed__one_vector_and_back():
    strategy = Augmentation.parse("color_crop_cutout_flip_scale_rotate")
    steps = plan_inner_steps(12, 6, 4, (1, 8, 8), strategy, torch.Generator().manual_seed(0))
    assert len({step.draw.values.dtype for step in steps}) == 2
    numbers = [tensor for step in steps for tensor in (step.indices, step.draw.values)]
    vector = packed(numbers)
    assert (vector.ndim, vector.dtype) == (1, torch.float64)
    for found, expected in zip(unpacked(vector, numbers), numbers, strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
