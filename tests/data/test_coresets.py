import numpy as np
import pytest
import torch

from distillkit.data.coresets import kmeans_representatives, nearest_distinct, select_coreset
from distillkit.errors import ConfigError


def test_nearest_distinct__no_point_twice():
    points = np.array([[0.0], [1.0], [5.0]])
    assert nearest_distinct(points, np.array([[0.1], [0.2], [0.0]])) == [0, 1, 2]


def test_kmeans__one_representative_of_each_separated_cluster():
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], dtype=np.float32)
    points = (centres[:, None] + np.random.default_rng(0).normal(0, 0.1, (4, 20, 2))).reshape(-1, 2).astype(np.float32)
    chosen = kmeans_representatives(points, 4, seed=3)
    assert sorted(index // 20 for index in chosen) == [0, 1, 2, 3]
    assert chosen == kmeans_representatives(points, 4, seed=3)


@pytest.mark.parametrize("kind", ["random", "kmeans"])
def test_select_coreset__right_classes_distinct_and_seeded(kind):
    labels = torch.arange(30) % 3
    inputs = torch.randn(30, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    chosen = select_coreset(kind, inputs, labels, 3, 10, 0)
    assert sorted(chosen.tolist()) == list(range(30))
    few = select_coreset(kind, inputs, labels, 3, 2, 0)
    assert labels[few].tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(few, select_coreset(kind, inputs, labels, 3, 2, 0))
    with pytest.raises(ConfigError, match="fewer than --ipc 11"):
        select_coreset(kind, inputs, labels, 3, 11, 0)
