import pytest
import torch
from safetensors.torch import load_file

from distillkit.errors import ConfigError, TrajectoryError
from distillkit.settings import TrajectorySettings
from distillkit.trajectories.compact import decode, encode, storage_error
from distillkit.trajectories.convex import PathRecorder, check_waypoint_epochs, waypoint_epochs
from distillkit.trajectories.forms import FORMS, open_trajectories
from distillkit.trajectories.store import TrajectoryStore

# two tensors, of two and one parameters; the second stands still from epoch 2 on
PATH = torch.tensor([[0.0, 0, 1], [3, 4, 2], [3, 4, 4], [3, 8, 4], [9, 16, 4]])
SIZES = (2, 1)


def recorded(epochs, whole=False, path=PATH):
    recorder = PathRecorder(epochs, SIZES, whole)
    for epoch, point in enumerate(path):
        recorder.keep(epoch, point)
    return recorder


def test_convex__hand_worked_trajectory_of_two_segments():
    found = recorded((0, 2, 4)).trajectory("path-length", smooth=False)
    assert found.waypoints.tolist() == [PATH[0].tolist(), PATH[2].tolist(), PATH[4].tolist()]
    # tensor 0 walks 5 and 0, then 4 and 10; tensor 1 walks 1 and 2, then not at all
    assert found.betas[0].tolist() == [[0, 0], [1, 1 / 3], [1, 1]]
    assert found.betas[1].tolist() == [[0, 0], [4 / 14, 0], [1, 0]]
    assert found.point(1).tolist() == pytest.approx([3, 4, 2])
    assert found.point(0.5).tolist() == pytest.approx([1.5, 2, 1 + 3 / 6])
    assert found.point(3).tolist() == pytest.approx([3 + 6 * 4 / 14, 4 + 12 * 4 / 14, 4])
    # half an epoch behind epoch 3, β is half way from 4/14 to 1
    assert found.point(3.5).tolist() == pytest.approx([3 + 6 * 9 / 14, 4 + 12 * 9 / 14, 4])
    for epoch in (0, 2, 4):
        assert torch.equal(found.point(epoch), PATH[epoch])


def test_convex__smoothed_waypoints_by_hand():
    found = recorded((0, 2, 4)).trajectory("path-length", smooth=True)
    assert torch.equal(found.waypoints[0], PATH[0])
    assert torch.equal(found.waypoints[1], (PATH[1] + PATH[3]) / 2)
    assert torch.equal(found.waypoints[2], (PATH[3] + PATH[4]) / 2)
    two = recorded((0, 4)).trajectory("path-length", smooth=True)
    assert torch.equal(two.waypoints, PATH[[0, 4]])


def test_convex__progress_along_a_segment_is_monotone():
    generator = torch.Generator().manual_seed(0)
    path = torch.randn(9, 3, generator=generator).cumsum(0)
    found = recorded((0, 4, 8), path=path).trajectory("path-length", smooth=False)
    for begin, end in ((0, 4), (4, 8)):
        direction = found.point(end) - found.point(begin)
        times = torch.linspace(begin, end, 33).tolist()
        for size in (slice(0, 2), slice(2, 3)):
            progress = [float((found.point(t) - found.point(begin))[size] @ direction[size]) for t in times]
            assert progress == sorted(progress)


def test_convex__ablation_betas_by_hand():
    uniform = recorded((0, 4)).trajectory("uniform", smooth=False)
    assert uniform.point(1).tolist() == pytest.approx((PATH[0] + 0.25 * (PATH[4] - PATH[0])).tolist())
    projected = recorded((0, 4), whole=True).trajectory("projection", smooth=False)
    moved = PATH - PATH[0]
    beta = float(moved[1] @ moved[4] / (moved[4] @ moved[4]))
    assert projected.point(1).tolist() == pytest.approx((PATH[0] + beta * moved[4]).tolist())
    decreasing = recorded((0, 4)).trajectory("decreasing", smooth=False)  # steps of 4, 3, 2 and 1 tenths
    assert decreasing.point(1).tolist() == pytest.approx((PATH[0] + 0.4 * moved[4]).tolist())
    assert decreasing.point(3).tolist() == pytest.approx((PATH[0] + 0.9 * moved[4]).tolist())
    with pytest.raises(ConfigError, match="known: path-length, uniform, decreasing, projection"):
        recorded((0, 4)).betas("curved")


def test_convex__no_point_outside():
    found = recorded((0, 4)).trajectory("path-length", smooth=False)
    for epoch in (-0.1, 4.01, float("nan")):
        with pytest.raises(TrajectoryError, match="from epoch 0 to 4"):
            found.point(epoch)


def test_waypoint_epochs__as_released_and_refused():
    assert waypoint_epochs(50, 4) == (0, 17, 34, 50)
    assert waypoint_epochs(12, 4) == (0, 4, 8, 12)
    assert waypoint_epochs(3, 4) == (0, 1, 2, 3)
    for count in (1, 5):
        with pytest.raises(ConfigError, match="must be 2 to 4 for experts of 3 epochs"):
            waypoint_epochs(3, count)
    assert check_waypoint_epochs([0, 6, 25, 50], 50) == (0, 6, 25, 50)
    for chosen in ([0], [0, 50, 25], [1, 50], [0, 49], [0, 0, 50]):
        with pytest.raises(ConfigError, match="must ascend from 0 to the last epoch, 50"):
            check_waypoint_epochs(chosen, 50)


def noisy_path(epochs=8, scale=0.1):
    generator = torch.Generator().manual_seed(1)
    start = torch.cat([torch.ones(2), torch.randn(1, generator=generator)])
    return start + scale * torch.randn(epochs + 1, 3, generator=generator).cumsum(0)


@pytest.mark.parametrize(("dtype", "unit"), [("float32", 0), ("float16", 2**-11), ("bfloat16", 2**-8)])
def test_compact__the_rounding_is_relative_to_the_segment(dtype, unit):
    path = noisy_path(scale=1e-3)  # far smaller than the parameters: rounded by themselves they would all be equal
    exact = recorded((0, 4, 8), path=path).trajectory("path-length", smooth=True)
    stored = decode(encode(exact, dtype))
    error = storage_error(exact, stored)
    for a, b in ((0, 4), (4, 8), (0, 8)):
        true, found = exact.point(b) - exact.point(a), stored.point(b) - stored.point(a)
        assert (found - true).norm() <= (2 * unit + 1e-3) * true.norm()
    assert error["segment"] <= 2 * unit + 2e-3
    assert error["position"] >= error["segment"]


def build(settings, path, tmp_path, sizes=SIZES):
    form = FORMS["convex"]
    builder = form.builder(settings, sizes, len(path) - 1, len(path) - 1)
    for epoch, point in enumerate(path):
        builder.keep(epoch, point)
    kept = builder.finish()
    store = TrajectoryStore.for_setup({"a": 1, **form.setup(settings, len(path) - 1)}, tmp_path)
    store.write(0, kept.tensors, len(path) - 1, {"curve": {}, **kept.facts})
    return store


def test_form__ends_are_the_stored_parameters_exactly(tmp_path):
    path = noisy_path()
    store = build(TrajectorySettings(form="convex", waypoints=2), path, tmp_path)
    source = open_trajectories(store, 1)
    assert (source.count, source.final_epoch, source.continuous) == (1, 8, True)
    assert torch.equal(source.point(0, 0), path[0])
    stored = load_file(store.tensors_path(0))
    assert torch.equal(source.point(0, 8), stored["start"] + stored["step-01"])
    assert torch.allclose(source.point(0, 8), path[8], atol=1e-6)
    assert store.record(0)["storage_error"]["segment"] < 1e-5


def test_form__refuses_a_dtype_that_moves_the_path(tmp_path):
    path = noisy_path(scale=1e-3) * 1e6  # half precision ends at 65504
    settings = TrajectorySettings(form="convex", dtype="float16")
    with pytest.raises(TrajectoryError, match=r"too large to be stored as float16; use trajectories\.dtype=float32"):
        build(settings, path, tmp_path)
    path = 1e-9 * torch.arange(27.0).view(9, 3)  # below the smallest float16: no step is left
    with pytest.raises(TrajectoryError, match=r"off by 100\.0% of their length, more than 2%; use"):
        build(settings, path, tmp_path)


def test_form__size_is_what_lies_on_the_disk(tmp_path):
    parameters, epochs = 20_000, 50
    path = torch.randn(epochs + 1, parameters, generator=torch.Generator().manual_seed(0)).cumsum(0)
    for count, dtype in ((4, "float32"), (4, "bfloat16"), (2, "bfloat16")):
        settings = TrajectorySettings(form="convex", waypoints=count, dtype=dtype)
        store = build(settings, path, tmp_path / f"{count}{dtype}", (19_000, 1_000))
        expected = FORMS["convex"].size(settings, epochs, epochs, parameters)
        assert expected == count * parameters * (4 if dtype == "float32" else 2)
        assert 0 <= store.tensors_path(0).stat().st_size - expected < 4000
    assert FORMS["raw"].size(TrajectorySettings(), epochs, epochs, parameters) == 51 * parameters * 4


@pytest.mark.parametrize("damage", ["missing", "shape", "wide", "beta", "nan", "inf", "sizes", "complex"])
def test_decode__damaged_files_are_refused(damage):
    tensors = encode(recorded((0, 2, 4)).trajectory("path-length", smooth=True), "float32")
    if damage == "missing":
        del tensors["step-02"]
    elif damage == "shape":
        tensors["step-01"] = tensors["step-01"][:2]
    elif damage == "wide":
        tensors["step-01"] = tensors["step-01"][:, None]  # would broadcast to [P, P]
    elif damage == "inf":
        tensors["waypoint-epochs"] = torch.tensor([0, float("inf"), 4])
    elif damage == "complex":
        tensors["start"] = tensors["start"].to(torch.complex64)
    elif damage == "beta":
        tensors["beta-02"] = tensors["beta-02"][:2]
    elif damage == "nan":
        tensors["start"][0] = float("nan")
    else:
        tensors["sizes"] = torch.tensor([2, 2])
    with pytest.raises(TrajectoryError, match=r"damaged|no file of a convexified"):
        decode(tensors)
