"""The field's networks against forward passes written out by hand, in float64, from the parameters in their order.

No released outputs are at hand; the layout is that of DC's ``networks.py``, the arithmetic that of the definitions:
convolution as sums over shifted images, GroupNorm by its formula, max pooling by its four corners.
"""

import pytest
import torch

from distillkit.networks.field import build_field

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def conv(x, weight, bias=None, padding=0, stride=1):
    """sum over c, i, j of W[o, c, i, j] x[b, c, y s + i - p, x s + j - p]."""
    batch, channels, height, width = x.shape
    padded = x.new_zeros(batch, channels, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding : padding + height, padding : padding + width] = x
    size = weight.shape[2]
    rows, columns = ((side + 2 * padding - size) // stride + 1 for side in (height, width))
    out = x.new_zeros(batch, len(weight), rows, columns)
    for i in range(size):
        for j in range(size):
            seen = padded[:, :, i : i + stride * (rows - 1) + 1 : stride, j : j + stride * (columns - 1) + 1 : stride]
            out += torch.einsum("oc,bcyx->boyx", weight[:, :, i, j], seen)
    return out if bias is None else out + bias.view(1, -1, 1, 1)


def instance(x, weight, bias, single=False):
    """One channel a group; all channels together where that is a single pixel."""
    axes = (1, 2, 3) if single else (2, 3)
    mean = x.mean(axes, keepdim=True)
    variance = (x - mean).square().mean(axes, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


def pool(x):
    corners = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    return torch.stack(corners).amax(0)


def relu(x):
    return x.clamp_min(0)


class Parameters:
    """Tensors in the order of ``named_parameters``, handed out one after the other."""

    def __init__(self, model):
        self.left = [parameter.detach() for parameter in model.parameters()]

    def take(self, count):
        taken, self.left = self.left[:count], self.left[count:]
        return taken


def block(p, x, stride, shortcut):
    first, w1, b1, second, w2, b2 = p.take(6)
    inner = relu(instance(conv(x, first, padding=1, stride=stride), w1, b1))
    inner = instance(conv(inner, second, padding=1), w2, b2)
    if shortcut:
        weight, w3, b3 = p.take(3)
        x = instance(conv(x, weight, stride=stride), w3, b3)
    return relu(inner + x)


def resnet18(p, x):
    weight, w, b = p.take(3)
    x = relu(instance(conv(x, weight, padding=1), w, b))
    for stride in (1, 2, 2, 2):
        x = block(p, block(p, x, stride, stride == 2), 1, False)
    weight, bias = p.take(2)
    return x.mean((2, 3)) @ weight.T + bias


def vgg11(p, x):
    for item in (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M"):
        if item == "M":
            x = pool(x)
            continue
        weight, bias, w, b = p.take(4)
        x = relu(instance(conv(x, weight, bias, 1), w, b))
    weight, bias = p.take(2)
    return x.flatten(1) @ weight.T + bias


def alexnet(p, x):
    for padding, pooled in ((2, True), (2, True), (1, False), (1, False), (1, True)):
        x = relu(conv(x, *p.take(2), padding))
        x = pool(x) if pooled else x
    weight, bias = p.take(2)
    return x.flatten(1) @ weight.T + bias


def lenet(p, x):
    for _ in range(2):
        x = pool(relu(conv(x, *p.take(2))))
    return dense(p, x.flatten(1))


def dense(p, x):
    while p.left:
        weight, bias = p.take(2)
        x = x @ weight.T + bias
        x = relu(x) if p.left else x
    return x


def mlp(p, x):
    return dense(p, x.flatten(1))


@pytest.mark.parametrize("by_hand", [resnet18, vgg11, alexnet, lenet, mlp], ids=lambda one: one.__name__)
def test_field__outputs_by_hand(by_hand):
    torch.manual_seed(0)
    model = build_field(by_hand.__name__, (3, 32, 32), 10, "instance").double().eval()
    for parameter in model.parameters():  # affine terms that are not 1 and 0
        parameter.data += 0.05 * torch.randn_like(parameter)
    p = Parameters(model)
    with torch.no_grad():
        found = model(IMAGES)
        expected = by_hand(p, IMAGES)
    assert not p.left
    assert float((found - expected).norm() / expected.norm()) < 1e-12
