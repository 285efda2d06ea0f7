import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from distillkit.data.coresets import _distances, kmeans_representatives, nearest_distinct, select_coreset
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
    with pytest.raises(ConfigError, match="fewer than `ipc=11`"):
        select_coreset(kind, inputs, labels, 3, 11, 0)


@pytest.mark.parametrize("ipc", [1, 5, 10, 50])
def test_kmeans__distinct_and_nearest_to_the_centroids(ipc):
    """Against scikit-learn run here: each centroid's nearest point, unless an earlier centroid took it."""
    points = np.random.default_rng(ipc).normal(0, 1, (60, 10)).astype(np.float32)
    chosen = kmeans_representatives(points, ipc, seed=1)
    assert len(set(chosen)) == ipc
    with threadpool_limits(limits=1):
        centres = KMeans(n_clusters=ipc, n_init=4, random_state=1).fit(points).cluster_centers_
    for position, centre in enumerate(centres):
        distances = np.linalg.norm(points - centre, axis=1)
        free = np.delete(distances, chosen[:position])  # a cluster of two is as near to one as to the other
        assert distances[chosen[position]] <= free.min() + 1e-6


def test_kmeans__a_class_with_fewer_images_than_clusters():
    labels = torch.tensor([0] * 9 + [1] * 4)
    with pytest.raises(ConfigError, match="class 1 has 4 training images, fewer than `ipc=5`"):
        select_coreset("kmeans", torch.randn(13, 10), labels, 2, 5, 0)


def test_distances__of_many_points_are_the_plain_sums():
    drawn = np.random.default_rng(0)
    points, centres = drawn.normal(size=(50, 7)), drawn.normal(size=(4, 7))
    plain = ((centres[:, None] - points[None]) ** 2).sum(2)
    assert np.allclose(_distances(points, centres), plain)
