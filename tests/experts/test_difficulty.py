import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distillkit import compress, rng, storage
from distillkit.errors import ConfigError
from distillkit.experts.difficulty import SCORES, easy_to_hard, el2n, score_images
from distillkit.experts.recipe import expert_recipe
from distillkit.experts.schedule import EasyToHard, Schedule, check_schedule
from distillkit.networks.convnet import ConvNet
from distillkit.settings import ExpertSettings


def test_el2n__by_hand():
    logits = torch.tensor([[0.0, 0, 0], [100, 0, 0], [100, 0, 0]])
    found = el2n(logits, torch.tensor([0, 0, 1]))
    assert found.tolist() == pytest.approx([(4 / 9 + 2 / 9) ** 0.5, 0, 2**0.5])


def test_grand__is_the_norm_of_the_last_layers_gradient_image_by_image():
    torch.manual_seed(0)
    model = ConvNet(1, (8, 8), 3, 4, 2, "instance").double()
    images, labels = torch.randn(5, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    found = score_images(SCORES["grand"].build, model, images, labels, batch_size=2)
    for index in range(5):
        loss = F.cross_entropy(model(images[index : index + 1]), labels[index : index + 1])
        gradients = torch.autograd.grad(loss, [model.classifier.weight, model.classifier.bias])
        assert float(found[index]) == pytest.approx(float(torch.cat([g.flatten() for g in gradients]).norm()), rel=1e-9)
    with pytest.raises(ConfigError, match="use el2n"):
        score_images(SCORES["grand"].build, nn.Flatten(), images, labels)


def test_easy_to_hard__by_class_and_stable():
    ranking = easy_to_hard(torch.tensor([3.0, 1, 1, 1, 0, 2]), torch.tensor([0, 0, 1, 1, 0, 1]), 2)
    assert [order.tolist() for order in ranking] == [[4, 1, 0], [2, 3, 5]]


def test_schedule__all_epochs_of_unequal_classes_by_hand():
    schedule = Schedule(0.5, 2, (3, 4), (0.1, 0.5))
    found = [[schedule.ranks(epoch, size) for size in (10, 4, 1)] for epoch in range(6)]
    assert found == [
        [(0, 5), (0, 2), (0, 0)],
        [(0, 7), (0, 3), (0, 0)],  # three quarters
        [(0, 10), (0, 4), (0, 1)],
        [(0, 10), (0, 4), (0, 1)],
        [(1, 10), (0, 4), (0, 1)],
        [(5, 10), (2, 4), (0, 1)],
    ]
    ranking = (torch.arange(10).flip(0), torch.arange(10, 14))
    assert schedule.used(4, ranking).tolist() == [8, 7, 6, 5, 4, 3, 2, 1, 0, 10, 11, 12, 13]


def test_schedule__a_class_with_nothing_left_is_an_error():
    with pytest.raises(ConfigError, match=r"leaves nothing of a class of 1 images in epoch 0"):
        check_schedule(Schedule(0.5, 2, (3, 4), (0.1, 0.5)), 6, 1)
    with pytest.raises(ConfigError, match="must ascend"):
        check_schedule(Schedule(0.5, 5, (4, 3), (0.1, 0.5)), 6, 100)
    with pytest.raises(ConfigError, match=r"remove_epochs=\[4, 3\] must ascend"):
        expert_recipe(ExpertSettings(order="easy-to-hard", add_end_epoch=5, remove_epochs=(4, 3)), None)


def test_schedule__all_images_from_the_start_and_fractions_in_range():
    assert Schedule(0.5, 0, (3, 4), (0.1, 0.5)).ranks(0, 10) == (0, 10)
    for wrong in ((-0.1, 0.2), (0.1, 1.0)):
        with pytest.raises(ValueError, match="remove_fractions"):
            ExpertSettings(remove_fractions=wrong)


def test_order__sees_the_schedules_images_shuffled():
    ranking = (torch.arange(0, 20), torch.arange(20, 40))
    part = EasyToHard(Schedule(0.5, 2, (3, 4), (0.1, 0.5)), ranking)
    first = part(40, 0, rng.generator(0, "a"))
    assert sorted(first.tolist()) == [*range(10), *range(20, 30)]
    assert first.tolist() != sorted(first.tolist())
    assert part(40, 0, rng.generator(0, "a")).tolist() == first.tolist()


def test_scores__are_cached_and_independent_of_the_method(tiny, tmp_path):
    tiny |= {"experts.difficulty_networks": 2, "experts.difficulty_epochs": 1, "experts.count": 1}
    for name, method in (("a", "pad"), ("b", "pad-released")):
        compress("digits", ipc=1, method=method, preset="smoke", settings=tiny, out=tmp_path / name, device="cpu")
    assert len(list((storage.cache_root() / "difficulty").glob("*.safetensors"))) == 1
