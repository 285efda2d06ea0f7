"""What an expert says of an image does not hang on which others are asked about, as far as its layers allow."""

import pytest
import torch
from torch import nn

from distillkit.distill.synthetic_init import largest, whole
from distillkit.networks.convnet import ConvNet
from distillkit.networks.functional import FlatNetwork, flatten_parameters
from distillkit.stages.asking import answers


class BrighterThanMost(nn.Module):
    """Class 1 for what is brighter than the mean of the batch, class 0 for the rest."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def forward(self, images):
        value = self.norm(images).mean((1, 2, 3))
        return torch.stack([-value, value], 1)


def sorted_by_class(count):
    """Images [count, 1, 2, 2], dark ones of class 0 and then bright ones of class 1."""
    labels = torch.arange(count) * 2 // count
    generator = torch.Generator().manual_seed(0)
    return 10.0 * labels.view(-1, 1, 1, 1) + torch.randn(count, 1, 2, 2, generator=generator), labels


@pytest.mark.parametrize("count", [100, 1024, 1535, 2100])
def test_answers__batch_normalisation_is_asked_about_all_classes_at_a_time(count):
    module = BrighterThanMost()
    point, (images, labels) = flatten_parameters(module), sorted_by_class(count)
    network = FlatNetwork(module)
    assert torch.equal(answers(network, point, images, None, largest, 0), labels)
    dark = torch.arange(count // 2 - 1, -1, -7)  # of one class, in another order
    assert torch.equal(answers(network, point, images, dark, largest, 0), labels[dark])
    logits = answers(network, point, images, None, whole, 0)
    assert torch.allclose(answers(network, point, images, dark, whole, 0), logits[dark], atol=1e-6)
    if count == 100:  # one piece
        assert torch.allclose(logits, network(point, images), atol=1e-6)


def test_answers__of_a_network_that_sees_each_image_by_itself_in_order():
    module = ConvNet(1, (8, 8), 3, 4, 1, "instance")
    point, network = flatten_parameters(module), FlatNetwork(module)
    images = torch.randn(700, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    found = answers(network, point, images, None, whole, 0)
    assert torch.allclose(found, network(point, images), atol=1e-5)
    some = torch.tensor([600, 3, 42])
    assert torch.equal(answers(network, point, images, some, largest, 0), found[some].argmax(1))
