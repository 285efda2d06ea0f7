import json
import math
from dataclasses import replace

import pytest
import torch

from distillkit import storage
from distillkit.distill.labels import HardLabels, SoftLabels, label_part
from distillkit.distill.loop import DistillTask, distill, outer_step, start_state
from distillkit.distill.matching import depth_masked, loss_masked, matching_part, normalised_parameter_distance
from distillkit.distill.outer_optimizers import outer_optimizer
from distillkit.distill.segments import PlannedTrajectories, segment_sampler, upper_bound
from distillkit.distill.start import Beginning
from distillkit.distill.state import OuterState
from distillkit.distill.synthetic_init import RealData, initial_images
from distillkit.distill.unroll import Hypergradient
from distillkit.distill.unrolled import UnrolledStudents
from distillkit.errors import ConfigError, DivergenceError, TrajectoryError
from distillkit.networks.build import build_network
from distillkit.networks.functional import FlatNetwork
from distillkit.records import Segment
from distillkit.settings import DistillSettings, NetworkSettings
from distillkit.stages.engine_trials import eager_engine
from tests.helpers import Watcher


class Trajectories:
    count, final_epoch = 1, 2

    def __init__(self, size, bad=False):
        generator = torch.Generator().manual_seed(0)
        self.points = torch.randn(3, size, generator=generator)
        self.bad = bad

    def point(self, expert, epoch):
        return self.points[int(epoch)] * (float("nan") if self.bad else 1)


def task(bad=False, **settings):
    network = FlatNetwork(build_network(NetworkSettings(width=3, depth=2), (1, 8, 8), 2, 0, "n"))
    chosen = DistillSettings(**{"outer_steps": 4, "inner_steps": 2, "lr_img": 1.0, "lr_lr": 1e-4, **settings})
    trajectories = Trajectories(network.size, bad)
    students = UnrolledStudents(
        settings=chosen,
        engine=eager_engine(network, HardLabels()),
        begin=lambda number: Beginning(trajectories.point(0, 0), segment=Segment(0, 0, 1)),
        matching=matching_part(chosen),
        labels=HardLabels(),
        augmentation=None,
        seed=0,
        trajectories=trajectories,
    )
    return DistillTask(chosen, students, outer_optimizer(chosen))


def state(**changes):
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    class_ids = torch.tensor([0, 0, 1, 1])
    made = start_state(images, class_ids, HardLabels().initial(class_ids, 2), "probabilities", 0.01)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def gradients(images, lr=0.0, labels=None):
    found = {"images": images, "lr": torch.tensor(lr, dtype=torch.float64)}
    return found if labels is None else {**found, "labels": labels}


def test_apply__sgd_with_momentum_by_hand():
    sgd = outer_optimizer(DistillSettings(lr_img=2.0, image_momentum=0.5, lr_lr=1e-3, lr_momentum=0.5))
    s = state()
    x0 = s.images.clone()
    g1, g2 = torch.ones_like(x0), 3 * torch.ones_like(x0)
    s.apply(gradients(g1, 0.4), sgd)
    assert s.lr == pytest.approx(0.01 - 1e-3 * 0.4, rel=1e-12)
    s.apply(gradients(g2, 0.2), sgd)
    assert torch.allclose(s.images, x0 - 2 * g1 - 2 * (0.5 * g1 + g2))
    assert s.lr == pytest.approx(0.01 - 1e-3 * 0.4 - 1e-3 * (0.5 * 0.4 + 0.2), rel=1e-12)


def test_apply__lr_lr_means_the_same_wherever_the_lr_is():
    """The papers' step is one of the lr itself: a tenth of the way in 0.001 to 0.02 as at the start."""
    sgd = outer_optimizer(DistillSettings(lr_lr=1e-5, lr_momentum=0.0))
    for lr in (0.001, 0.02, 0.5):
        s = state(lr=lr)
        s.apply(gradients(torch.zeros_like(s.images), -7.0), sgd)
        assert s.lr - lr == pytest.approx(7e-5, rel=1e-9)


def test_apply__lr_settles_at_its_optimum_from_a_start_far_below():
    """dL/dη = 2c (η - η*) / η*² as of a segment: MTT's lr_init 0.001 and lr_lr 1e-5, at the optimum 0.025."""
    sgd = outer_optimizer(DistillSettings(lr_lr=1e-5, lr_momentum=0.5))
    s, target, seen = state(lr=0.001), 0.025, []
    for _ in range(500):
        s.apply(gradients(torch.zeros_like(s.images), 2 * 0.7 * (s.lr - target) / target**2), sgd)
        seen.append(s.lr)
    assert max(seen) < 1.05 * target
    assert seen[-1] == pytest.approx(target, rel=1e-3)


def test_apply__lr_stays_positive_and_moves_at_most_by_a_factor():
    for gradient, factor in ((1e9, 1 / math.e), (-1e9, math.e)):
        s = state()
        s.apply(gradients(torch.zeros_like(s.images), gradient), outer_optimizer(DistillSettings(lr_lr=1.0)))
        assert s.lr == pytest.approx(0.01 * factor)


def test_distill__rates_fall_to_their_final_share():
    falling, s = task(outer_steps=2, final_rate=0.25, image_momentum=0.0, lr_lr=0.0, lr_img=1e4), state()
    before = [s.images.clone()]

    class Keeper(Watcher):
        def on_step(self, record, current):
            before.append(current.images.clone())

    distill(falling, s, Keeper())
    for step, share in ((0, 1.0), (1, 0.25)):
        at = state(images=before[step], step=step)
        moved = before[step + 1] - before[step]
        assert torch.allclose(moved, -1e4 * share * outer_step(falling, at).images, rtol=1e-3, atol=1e-5)


def test_apply__image_average_is_kept_beside_the_images():
    sgd = outer_optimizer(DistillSettings(lr_img=1.0, image_momentum=0.0))
    s = state()
    initial = s.images.clone()
    for _ in range(2):
        s.apply(gradients(torch.ones_like(s.images)), sgd, ema=0.9)
    assert torch.allclose(s.images, initial - 2)
    first = 0.9 * initial + 0.1 * (initial - 1)
    assert torch.allclose(s.synthetic().images, 0.9 * first + 0.1 * (initial - 2), atol=1e-6)


def test_distill__keeps_the_set_with_the_best_validation_accuracy():
    watcher = Watcher({0: 0.2, 2: 0.9, 4: 0.5})
    result = distill(task(select_every=2), state(), watcher)
    assert watcher.selected == [0, 2, 4]
    assert (result.best.step, result.best.accuracy) == (2, 0.9)
    assert [record.step for record in watcher.records] == [1, 2, 3, 4]
    fresh = state()
    for _ in range(2):
        hypergradient = outer_step(task(select_every=2), fresh)
        fresh.apply(gradients(hypergradient.images, float(hypergradient.lr)), task().optimizer)
        fresh.step += 1
    assert torch.equal(result.best.synthetic.images, fresh.images)


def test_distill__initial_images_give_way_to_a_clear_improvement_only():
    scores = {0: 0.5, 1: 0.54, 2: 0.55, 3: 0.53, 4: 0.55}
    kept = {}
    for margin in (0, 0.05, 0.1):
        kept[margin] = distill(task(select_every=1, select_margin=margin), state(), Watcher(scores))
    assert {margin: result.best.step for margin, result in kept.items()} == {0: 4, 0.05: 4, 0.1: 0}


def test_distill__steps_that_are_not_finite_are_skipped_and_ten_stop_the_run():
    watcher, s = Watcher(), state()
    before = s.images.clone()
    with pytest.raises(DivergenceError, match=r"10 outer steps in a row.*lower distill.lr_img"):
        distill(task(bad=True, outer_steps=50, max_start_epoch=1), s, watcher)
    assert (s.skipped, s.step) == (10, 10)
    assert torch.equal(s.images, before)
    assert [record.skipped for record in watcher.records] == list(range(1, 10))


def test_state__a_checkpoint_continues_as_if_nothing_had_happened(tmp_path):
    whole = distill(task(outer_steps=6, select_every=3, ema=0.9), state(), Watcher({3: 0.7}))

    class StopError(Exception):
        pass

    class Stopper(Watcher):
        def on_step(self, record, current):
            if record.step == 4:
                current.save(tmp_path / "checkpoint.safetensors")
                raise StopError

    with pytest.raises(StopError):
        distill(task(outer_steps=6, select_every=3, ema=0.9), state(), Stopper({3: 0.7}))
    loaded = OuterState.load(tmp_path / "checkpoint.safetensors", "cpu")
    rest = distill(task(outer_steps=6, select_every=3, ema=0.9), loaded, Watcher({3: 0.7}))
    whole.save(tmp_path / "whole")
    rest.save(tmp_path / "rest")
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "rest").read_bytes()


def test_distill__a_selection_that_was_stopped_is_made_again(tmp_path):
    class StopError(Exception):
        pass

    class Stopper(Watcher):
        def on_step(self, record, current):
            if current.selection_due:
                current.save(tmp_path / "checkpoint.safetensors")

        def select(self, synthetic, step):
            if step == 2:
                raise StopError
            return super().select(synthetic, step)

    with pytest.raises(StopError):
        distill(task(select_every=2), state(), Stopper())
    loaded, watcher = OuterState.load(tmp_path / "checkpoint.safetensors", "cpu"), Watcher({2: 0.8})
    result = distill(task(select_every=2), loaded, watcher)
    assert watcher.selected == [2, 4]
    assert result.best.step == 2


def test_outer_step__perturbed_start_scaled_loss_and_terms_of_a_part():
    plain, s = task(inner_steps=1), state()

    def changed(**changes):
        return outer_step(replace(plain, objective=replace(plain.objective, **changes)), s)

    def begin(number, **changes):
        return replace(plain.objective.begin(number), **changes)

    reference = outer_step(plain, s)
    shifted = begin(0).theta_P + 0.01
    assert float(changed(begin=lambda number: begin(number, theta_P=shifted)).loss) != float(reference.loss)
    # one plain SGD step: scaling the inner loss is scaling the lr
    scaled = changed(begin=lambda number: begin(number, scale=3.0))
    s.lr = 0.03
    assert float(scaled.loss) == pytest.approx(float(outer_step(plain, s).loss), rel=1e-5)
    s.lr = 0.01
    twice = changed(matching=lambda student: plain.objective.matching(student) * 2)
    assert float(twice.loss) == pytest.approx(2 * float(reference.loss))


def test_apply__learned_labels_move_by_sgd_with_momentum():
    sgd = outer_optimizer(DistillSettings(lr_label=2.0, label_momentum=0.9, lr_img=0.0))
    s = state()
    before, g = s.labels.clone(), torch.ones_like(s.labels)
    for _ in range(2):
        s.apply(gradients(torch.zeros_like(s.images), labels=g), sgd)
    assert torch.allclose(s.labels, before - 2 * g - 2 * 1.9 * g)


def test_initial_images__by_class_and_copied():
    images = torch.arange(12.0).view(12, 1, 1, 1).clone()
    data = RealData(images, torch.arange(12) % 3, 3)
    first = initial_images("real", data, 2, 0)
    assert first.class_ids.tolist() == [0, 0, 1, 1, 2, 2]
    assert (first.images.flatten() % 3).tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(first.images.flatten().long(), first.indices)
    first.images.add_(1)
    assert torch.equal(data.images, torch.arange(12.0).view(12, 1, 1, 1))
    with pytest.raises(ConfigError, match=r"distill.init='funny' is unknown; known: real, kmeans"):
        initial_images("funny", data, 2, 0)


def test_parts__unknown_names_and_a_still_expert():
    with pytest.raises(ConfigError, match="known: hard, soft"):
        label_part(DistillSettings(labels="funny"))
    with pytest.raises(ConfigError, match="known: parameter-distance"):
        matching_part(DistillSettings(matching="funny"))
    with pytest.raises(TrajectoryError, match="did not move"):
        normalised_parameter_distance(torch.ones(2), torch.ones(2), torch.ones(2))


def test_records__are_json(tmp_path):
    watcher = Watcher()
    distill(task(outer_steps=1), state(), watcher)
    assert json.loads(json.dumps(vars(watcher.records[0])))["step"] == 1


def expert_says(rows):
    """RealData of nine images of three classes whose experts put their largest logit at ``rows``."""
    table = torch.stack([torch.nn.functional.one_hot(torch.tensor(row), 3).float() for row in rows])

    def ask(expert, indices, wanted):
        return wanted(table[expert] if indices is None else table[expert][indices])

    return RealData(torch.arange(9.0).view(9, 1, 1, 1), torch.arange(9) % 3, 3, tuple(range(len(rows))), ask)


def test_init_correct__images_that_expert_0_gets_right_then_the_others_then_any():
    right, wrong = [0, 1, 2], [1, 2, 0]
    data = expert_says([[*right, *wrong, *wrong], [*wrong, *right, *wrong]])
    one = initial_images("correct", data, 1, 0)
    assert one.indices.tolist() == [0, 1, 2]
    two = initial_images("correct", data, 2, 0)
    assert two.indices.tolist() == [0, 3, 1, 4, 2, 5]
    three = initial_images("correct", data, 3, 0)
    assert three.indices.tolist() == [0, 3, 6, 1, 4, 7, 2, 5, 8]
    with pytest.raises(ConfigError, match="class 0 has 3 training images, fewer than `ipc=4`"):
        initial_images("correct", data, 4, 0)
    with pytest.raises(ConfigError, match=r"distill.init=correct needs an expert"):
        initial_images("correct", RealData(data.images, data.labels, 3), 1, 0)


def test_soft_labels__mean_logits_of_the_experts_that_are_right():
    logits = torch.tensor([[[5.0, 1, 0], [0, 1, 2]], [[3.0, 2, 1], [9, 0, 1]], [[0.0, 4, 0], [3, 1, 0]]])
    found = SoftLabels().initial(torch.tensor([0, 1]), 3, logits)
    assert found[0].tolist() == [4, 1.5, 0.5]  # experts 0 and 1 say class 0
    mean = logits[:, 1].mean(0)  # none says class 1: the largest logit changes places with its own
    assert found[1].tolist() == pytest.approx([float(mean[1]), float(mean[0]), float(mean[2])])
    with pytest.raises(ConfigError, match="this method trains none"):
        SoftLabels().initial(torch.tensor([0]), 3)


def test_curriculum__upper_bound_by_hand():
    settings = DistillSettings(
        sampler="curriculum", min_start_epoch=1, first_max_start_epoch=4, max_start_epoch=8, expansion_end_step=10
    )
    bounds = [upper_bound(settings, step) for step in (0, 2, 3, 5, 7, 8, 9, 10, 99)]
    assert bounds == [4, 4, 5, 6, 6, 7, 7, 8, 8]
    sample = segment_sampler(settings, PlannedTrajectories(2, 10), 0)
    for step in range(300):
        assert 1 <= sample(step).start < upper_bound(settings, step)
    assert {sample(step).start for step in range(10, 300)} == set(range(1, 8))
    assert upper_bound(DistillSettings(max_start_epoch=8), 0) == 8
    bad = settings.model_copy(update={"first_max_start_epoch": 1})
    with pytest.raises(ConfigError, match=r"first_max_start_epoch=1 must be above"):
        segment_sampler(bad, PlannedTrajectories(2, 10), 0)


def test_gate__steps_above_the_threshold_change_nothing_and_are_counted():
    watcher, s = Watcher(), state()
    before = s.images.clone()
    distill(task(gate=1e-6), s, watcher)
    assert torch.equal(s.images, before)
    assert (s.gated, s.skipped, s.lr) == (4, 0, pytest.approx(0.01))
    assert [record.gated for record in watcher.records] == [1, 2, 3, 4]
    open_state = state()
    distill(task(gate=1e6), open_state, Watcher())
    assert open_state.gated == 0
    assert not torch.equal(open_state.images, before)


class Scripted:
    """An objective whose image gradient is a unit one times the next of ``norms``, and whose loss is the next of
    ``losses``, 0.5 by default.
    """

    labels = HardLabels()

    def __init__(self, norms, losses=()):
        self.norms, self.losses, self.unit = norms, losses, torch.full((4, 1, 8, 8), 1 / 16)

    def gradient(self, state, numbers):
        step = numbers[0]
        norm, loss = self.norms[step], self.losses[step] if self.losses else 0.5
        return Hypergradient(
            loss=torch.tensor(loss), images=norm * self.unit, labels=None, lr=torch.tensor(norm, dtype=torch.float32)
        )


def travelled(norms):
    """Way by SGD of momentum a half."""
    velocity, way = 0.0, 0.0
    for norm in norms:
        velocity = 0.5 * velocity + norm
        way += velocity
    return way


def test_gate_norm__a_wild_gradient_changes_nothing_and_raises_the_bound_no_further_than_it():
    """Three times the mean, and norms of 1, 40, 3.5, 4, 1 with means of 1, 1.2, 1.43, 1.69 before: one is wild."""
    settings = DistillSettings(outer_steps=5, gate_norm=3.0, lr_img=1.0, image_momentum=0.5, lr_lr=1e-4)
    scripted, s, watcher = Scripted([1.0, 40.0, 3.5, 4.0, 1.0]), state(), Watcher()
    before = s.images.clone()
    distill(DistillTask(settings, scripted, outer_optimizer(settings)), s, watcher)
    assert torch.allclose(s.images, before - travelled([1.0, 3.5, 4.0, 1.0]) * scripted.unit, atol=1e-5)
    assert (s.wild, s.gated, s.skipped, s.step) == (1, 0, 0, 5)
    assert [record.wild for record in watcher.records] == [0, 1, 1, 1, 1]
    mean = 1.0
    for norm in (3.0, 3.5, 4.0, 1.0):
        mean = 0.9 * mean + 0.1 * norm
    assert s.usual_norm == pytest.approx(mean)
    none, again = settings.model_copy(update={"gate_norm": None}), state()
    distill(DistillTask(none, scripted, outer_optimizer(none)), again, watcher)
    assert (again.wild, again.usual_norm) == (0, None)
    assert torch.allclose(again.images, before - travelled([1.0, 40.0, 3.5, 4.0, 1.0]) * scripted.unit, atol=1e-4)


def test_gate_norm__begins_at_the_first_gradient_that_is_not_nought_and_goes_on_in_a_checkpoint(tmp_path):
    settings = DistillSettings(outer_steps=3, gate_norm=2.0, lr_lr=1e-4)
    s = state()
    distill(DistillTask(settings, Scripted([0.0, 5.0, 20.0]), outer_optimizer(settings)), s, Watcher())
    assert (s.wild, s.usual_norm) == (1, pytest.approx(0.9 * 5 + 0.1 * 10))
    s.save(tmp_path / "checkpoint.safetensors")
    loaded = OuterState.load(tmp_path / "checkpoint.safetensors", "cpu")
    assert (loaded.wild, loaded.usual_norm) == (s.wild, s.usual_norm)


def test_gate_norm__steps_that_were_skipped_for_another_reason_do_not_move_the_mean():
    settings = DistillSettings(outer_steps=4, gate=1.0, gate_norm=2.0, lr_lr=1e-4)
    scripted = Scripted([1.0, 1.9, math.inf, 1.5], losses=[0.5, 3.0, 0.5, 0.5])
    s = state()
    distill(DistillTask(settings, scripted, outer_optimizer(settings)), s, Watcher())
    assert (s.gated, s.skipped, s.wild) == (1, 1, 0)
    assert s.usual_norm == pytest.approx(0.9 + 0.15)


def test_gate_norm__a_wild_step_leaves_the_average_too():
    settings = DistillSettings(outer_steps=2, gate_norm=2.0, ema=0.5, lr_img=1.0, lr_lr=1e-4)
    scripted, s = Scripted([1.0, 9.0]), state()
    before = s.images.clone()
    distill(DistillTask(settings, scripted, outer_optimizer(settings)), s, Watcher())
    assert s.wild == 1
    assert torch.allclose(s.average, before - 0.5 * scripted.unit, atol=1e-6)  # as after the first step


@pytest.mark.parametrize("stopped", [1, 2, 3])
def test_gate_norm__a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path, stopped):
    norms, settings = [1.0, 9.0, 2.1, 2.0, 1.0], DistillSettings(outer_steps=5, gate_norm=2.0, lr_img=1.0, lr_lr=1e-4)
    whole = state()
    distill(DistillTask(settings, Scripted(norms), outer_optimizer(settings)), whole, Watcher())
    first = state()
    short = settings.model_copy(update={"outer_steps": stopped})
    distill(DistillTask(short, Scripted(norms), outer_optimizer(short)), first, Watcher())
    first.save(tmp_path / "checkpoint.safetensors")
    rest = OuterState.load(tmp_path / "checkpoint.safetensors", "cpu")
    distill(DistillTask(settings, Scripted(norms), outer_optimizer(settings)), rest, Watcher())
    assert (rest.wild, rest.usual_norm, rest.lr) == (whole.wild, whole.usual_norm, whole.lr)
    assert torch.equal(rest.images, whole.images)
    assert whole.wild == 1


def test_state__of_a_checkpoint_from_before_there_was_a_gate_of_gradients(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    state().save(path)
    tensors, numbers = storage.read_tensors(path)
    older = {key: value for key, value in numbers.items() if key not in ("wild", "usual_norm")}
    storage.write_tensors(path, tensors, older, sealed=True)
    loaded = OuterState.load(path, "cpu")
    assert (loaded.wild, loaded.usual_norm) == (0, None)


def test_masks__by_hand():
    student, start, target = torch.tensor([1.0, 2, 3, 5]), torch.zeros(4), torch.tensor([1.0, 1, 1, 1])
    # squared errors 0, 1, 4, 16; progress 1 each
    assert float(depth_masked(0.5)(student, start, target)) == pytest.approx(20 / 2)
    assert float(loss_masked(0.5)(student, start, target)) == pytest.approx(20 / 2)
    turned = student.flip(0)
    assert float(depth_masked(0.5)(turned, start, target)) == pytest.approx(1 / 2)
    assert float(loss_masked(0.5)(turned, start, target)) == pytest.approx(20 / 2)
    assert float(depth_masked(0.2)(student, start, target)) == pytest.approx(21 / 4)  # floor(0.8) = 0
    with pytest.raises(ConfigError, match="known: none, depth, loss"):
        matching_part(DistillSettings(mask="funny"))


def test_continuous__any_time_and_no_segment_cut_to_nothing():
    settings = DistillSettings(sampler="continuous", min_start_epoch=1, max_start_epoch=10, expert_epochs=3)
    sample = segment_sampler(settings, PlannedTrajectories(2, 10, continuous=True), 0)
    segments = [sample(step) for step in range(500)]
    assert all(1 <= segment.start < 8.5 for segment in segments)
    assert all(segment.target == min(segment.start + 3, 10) for segment in segments)
    assert min(segment.target - segment.start for segment in segments) >= 1.5
    assert any(segment.target == 10 for segment in segments)
    assert len({segment.start for segment in segments}) == 500
    with pytest.raises(ConfigError, match="needs trajectories between the epochs"):
        segment_sampler(settings, PlannedTrajectories(2, 10), 0)
