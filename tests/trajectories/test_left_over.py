"""What a kill leaves of experts in training: it goes once they are all stored, and not before."""

import pytest
import torch
from filelock import FileLock

from distillkit import storage
from distillkit.training.standing import Standing
from distillkit.trajectories.store import TrajectoryStore
from distillkit.trajectories.unfinished import Unfinished

EPOCHS = 3


def left_over(expert_numbers, *, reached):
    """A store of finished experts, and the folder of 0 and 1 in training, which stand at epoch ``reached``."""
    store = TrajectoryStore.for_setup({"epochs": EPOCHS})
    for expert in expert_numbers:
        store.write(expert, {f"epoch-{epoch:04d}": torch.rand(5) for epoch in range(EPOCHS + 1)}, EPOCHS, {"curve": {}})
    group = Unfinished(storage.make_folder(store.folder), (0, 1))
    group.keep(0, [[{"parameters": torch.rand(5)}] for _ in range(2)])
    (group.path / ".epoch-0001.safetensors.0123abcd.tmp").touch()
    if reached:
        standings = [Standing(reached, torch.rand(5), {}, {}, {}) for _ in range(2)]
        group.save(standings, [[{"parameters": torch.rand(5)}] for _ in range(2)])
    return store, group.path


@pytest.mark.parametrize(
    ("finished", "reached", "stays"),
    [
        ((0, 1), 0, False),  # killed in its first epoch
        ((0, 1, 2), EPOCHS, False),
        ((0, 1), EPOCHS + 2, True),  # on the way to more epochs than are stored
        ((0,), 2, True),
        ((), 0, True),
    ],
)
def test_forget_finished(finished, reached, stays):
    store, folder = left_over(finished, reached=reached)
    store.forget_finished()
    assert folder.exists() == stays
    assert [store.state(expert) for expert in finished] == ["good"] * len(finished)


def test_forget_finished__not_while_somebody_works_on_one():
    store, folder = left_over((0, 1), reached=2)
    with FileLock(store.folder / ".expert-0001.lock"):
        store.forget_finished()
        assert folder.exists()
    store.forget_finished()
    assert not folder.exists()
