"""Convexified trajectories against numbers computed with the authors' released code."""

import pytest

from distillkit.trajectories.convex import PathRecorder, projection_beta, uniform_beta, waypoint_epochs
from tests.oracle.golden_numbers import load, rel

WAYPOINTS = [2, 3, 4]


@pytest.fixture(scope="module")
def golden():
    return load("mct")


def convexified(golden, count, beta="path-length"):
    path = golden["trajectory"]
    recorder = PathRecorder(waypoint_epochs(len(path) - 1, count), tuple(golden["tensor_numel"].tolist()))
    for epoch, point in enumerate(path):
        recorder.keep(epoch, point)
    return recorder.trajectory(beta, smooth=True)


@pytest.mark.parametrize("count", WAYPOINTS)
def test_waypoints_and_beta(golden, count):
    found = convexified(golden, count)
    assert list(found.epochs) == golden[f"ip{count}.waypoint_epochs"].tolist()
    assert rel(found.waypoints, golden[f"ip{count}.waypoints"]) < 1e-12
    for segment, beta in enumerate(found.betas):
        assert rel(beta, golden[f"ip{count}.beta.seg{segment}"]) < 1e-12
        assert (beta[:, 2] == 0).all()  # the tensor that never moves
        assert (beta[-1, [0, 1, 3, 4]] == 1).all()


@pytest.mark.parametrize("count", WAYPOINTS)
def test_points_between_and_at_the_epochs(golden, count):
    found = convexified(golden, count)
    times = golden["t"].tolist()
    assert any(t != int(t) for t in times)
    assert 50.0 in times
    for t, expected in zip(times, golden[f"ip{count}.points"], strict=True):
        assert rel(found.point(t), expected) < 1e-12, t
    pairs = zip(golden["pair_start_t"].tolist(), golden["pair_target_t"].tolist(), strict=True)
    for row, (start, target) in enumerate(pairs):
        moved = found.point(target) - found.point(start)
        expected = golden[f"ip{count}.pair_target"][row] - golden[f"ip{count}.pair_start"][row]
        assert rel(moved, expected) < 1e-10


def test_ablation_betas(golden):
    assert rel(uniform_beta(50, 1)[:, 0], golden["ablation.uniform"]) < 1e-14
    assert rel(projection_beta(golden["trajectory"], 1)[:, 0], golden["ablation.projected"]) < 1e-12


def test_recorder__keeps_only_what_waypoints_need(golden):
    path = golden["trajectory"]
    recorder = PathRecorder((0, 17, 34, 50), tuple(golden["tensor_numel"].tolist()))
    for epoch, point in enumerate(path):
        recorder.keep(epoch, point)
    assert sorted(recorder.kept) == [0, 1, 16, 17, 18, 33, 34, 35, 49, 50]
