import itertools

import pytest
import torch

from distillkit import storage
from distillkit.distill.segments import segment_sampler
from distillkit.errors import ConfigError, NotFoundError, TrajectoryError
from distillkit.experts.recipe import expert_recipe
from distillkit.experts.report import expert_report
from distillkit.experts.train import ExpertData, fit_experts
from distillkit.networks.build import build_network
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.settings import DistillSettings, ExpertSettings, NetworkSettings
from distillkit.trajectories.forms import FORMS
from distillkit.trajectories.store import RawTrajectories, TrajectoryStore

NETWORK = NetworkSettings(width=4, depth=2)


def expert_data(n=24):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(n, 1, 8, 8, generator=generator)
    labels = torch.arange(n) % 3
    return ExpertData(images, labels, images[:6], labels[:6], 3)


def run(settings, index=0, after_epoch=lambda loss, accuracy: None):
    """The snapshots [T, P] and the run."""
    snapshots, recipe = [], expert_recipe(settings, None)

    def keep(epoch, parameters):
        assert epoch == len(snapshots)
        snapshots.append(parameters)

    (found,) = fit_experts([index], expert_data(), NETWORK, recipe, 0, [keep], after_epoch)
    return torch.stack(snapshots), found


def test_train_expert__snapshots_are_sgd_written_by_hand():
    settings = ExpertSettings(epochs=3, batch_size=24, lr=0.1, momentum=0.5, weight_decay=0.01, lr_drop_epochs=(2,))
    snapshots, found = run(settings)
    data = expert_data()
    flat = FlatNetwork(build_network(NETWORK, (1, 8, 8), 3, 0, "expert", 0, "init"))
    theta, velocity, lr = snapshots[0], None, 0.1
    for epoch in range(3):
        if epoch == 2:
            velocity, lr = None, 0.1 * settings.lr_drop_factor

        def loss(t):
            return torch.nn.functional.cross_entropy(flat(t, data.images), data.labels)

        gradient = torch.func.grad(loss)(theta) + 0.01 * theta
        velocity = gradient if velocity is None else 0.5 * velocity + gradient
        theta = theta - lr * velocity
        moved = snapshots[epoch + 1] - snapshots[0]
        assert (moved - (theta - snapshots[0])).norm() < 1e-4 * moved.norm()
    assert found.curve["parameter_change"] == pytest.approx(
        [float((b - a).norm()) for a, b in itertools.pairwise(snapshots)]
    )


def test_train_expert__experts_differ_and_repeat():
    settings = ExpertSettings(epochs=1, batch_size=8)
    assert torch.equal(run(settings)[0], run(settings)[0])
    assert not torch.equal(run(settings)[0], run(settings, 1)[0])


def test_train_expert__divergence_is_an_error_with_advice():
    with pytest.raises(TrajectoryError, match=r"lower experts\.lr"):
        run(ExpertSettings(epochs=5, batch_size=4, lr=1e30))


def test_expert_recipe__unknown_part():
    with pytest.raises(ConfigError, match=r"experts.optimizer='adam' is unknown; known: sgd"):
        expert_recipe(ExpertSettings(optimizer="adam"), None)


def make_store(tmp_path, experts=2, epochs=3):
    store = TrajectoryStore.for_setup({"a": 1}, tmp_path)
    for expert in range(experts):
        snapshots = torch.arange((epochs + 1) * 5.0).view(epochs + 1, 5) + 100 * expert
        tensors = {f"epoch-{epoch:04d}": snapshot for epoch, snapshot in enumerate(snapshots)}
        store.write(expert, tensors, epochs, {"curve": {"loss": [1.0]}})
    return store


def test_store__a_point_is_read_back_and_state_is_known(tmp_path):
    store = make_store(tmp_path)
    source = RawTrajectories(store, 2)
    assert (source.count, source.final_epoch) == (2, 3)
    assert source.point(1, 2).tolist() == [110, 111, 112, 113, 114]
    assert [store.state(expert) for expert in range(3)] == ["good", "good", "absent"]
    for epoch in (0.5, 4, -1):
        with pytest.raises(TrajectoryError, match="0 to 3"):
            source.point(0, epoch)


def test_store__damage_is_detected(tmp_path):
    store = make_store(tmp_path)
    content = bytearray(store.tensors_path(1).read_bytes())
    content[-1] ^= 1
    store.tensors_path(1).write_bytes(content)
    assert [store.state(0), store.state(1)] == ["good", "damaged"]
    store.tensors_path(0).unlink()
    assert store.state(0) == "damaged"
    store.record_path(0).write_text("{")
    assert store.state(0) == "damaged"


def test_store__another_set_up_is_another_folder(tmp_path):
    assert TrajectoryStore.for_setup({"a": 1}, tmp_path).folder != TrajectoryStore.for_setup({"a": 2}, tmp_path).folder
    with pytest.raises(NotFoundError, match="no expert trajectories called nothing"):
        TrajectoryStore.open(tmp_path / "nothing")
    with pytest.raises(ConfigError, match=r"trajectories.form='curly' is unknown"):
        FORMS.named("curly")


def test_store__bytes_do_not_depend_on_when(tmp_path):
    first, second = make_store(tmp_path / "1"), make_store(tmp_path / "2")
    assert first.tensors_path(0).read_bytes() == second.tensors_path(0).read_bytes()
    assert first.record(0)["sha256"] == storage.sha256_file(second.tensors_path(0))


def test_segments__uniform_below_the_upper_bound_over_shuffled_experts(tmp_path):
    source = RawTrajectories(make_store(tmp_path, experts=3, epochs=6), 3)
    sample = segment_sampler(DistillSettings(min_start_epoch=1, max_start_epoch=4, expert_epochs=2), source, 0)
    segments = [sample(step) for step in range(300)]
    assert {segment.start for segment in segments} == {1, 2, 3}
    assert all(segment.target == segment.start + 2 for segment in segments)
    for begin in range(0, 300, 3):
        assert {segment.expert for segment in segments[begin : begin + 3]} == {0, 1, 2}
    assert len({tuple(s.expert for s in segments[b : b + 3]) for b in range(0, 300, 3)}) == 6
    assert segments == [sample(step) for step in range(300)]


def test_segments__trajectories_too_short(tmp_path):
    source = RawTrajectories(make_store(tmp_path), 2)
    with pytest.raises(ConfigError, match="needs experts of 5 epochs, they have 3"):
        segment_sampler(DistillSettings(max_start_epoch=4, expert_epochs=2), source, 0)
    with pytest.raises(ConfigError, match="must be below"):
        segment_sampler(DistillSettings(min_start_epoch=2, max_start_epoch=2), source, 0)


def test_flatten__order_of_the_store_is_that_of_named_parameters():
    model = build_network(NETWORK, (1, 8, 8), 3, 0, "x")
    names = [name for name, _ in model.named_parameters()]
    assert names[:4] == ["features.0.weight", "features.0.bias", "features.1.weight", "features.1.bias"]
    assert flatten_parameters(model)[: 4 * 9].tolist() == model.features[0].weight.flatten().tolist()


def test_report__is_the_curves_of_each_and_sample_deviations_by_hand():
    records = [
        {
            "test_accuracy": 0.5,
            "curve": {"loss": [1.0], "validation_accuracy": [0.2, 0.4], "parameter_change": [1.0, 2.0]},
        },
        {
            "test_accuracy": 0.7,
            "curve": {"loss": [2.0], "validation_accuracy": [0.1, 0.8], "parameter_change": [3.0, 1.0]},
        },
        {"curve": {"loss": [3.0]}},
    ]
    found = expert_report(records)
    assert [row["path_length"] for row in found["experts"]] == [3.0, 4.0, 0.0]
    assert [row["largest_change"] for row in found["experts"]] == [2.0, 3.0, 0.0]
    mean = found["mean"]
    assert mean["test_accuracy"] == pytest.approx(0.6)
    assert mean["test_accuracy_std"] == pytest.approx(0.02**0.5)  # n - 1, of the two that have one
    assert mean["last_validation_accuracy_std"] == pytest.approx(0.08**0.5)
    assert mean["path_length_std"] == pytest.approx((((3 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2 + (7 / 3) ** 2) / 2) ** 0.5)
