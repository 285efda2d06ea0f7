"""Train on distilled digits without distillkit: torch, safetensors and JSON alone.

    python examples/train_plain_torch.py cards/digits-ipc1-mtt

What the files mean is in docs/artifact.md. The network, the schedule and DSA (one operation a batch, its parameters a
number an image) are written out here; scikit-learn gives the test images. The result is the card's, within its noise.
"""

import json
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn import datasets, model_selection
from torch import nn

NETWORKS = 5


def read(folder):
    """Images [S, C, H, W], label probabilities [S, K], the recipe, mean and std, and the card's own row."""
    config, recipe, results = (
        json.loads((folder / name).read_text()) for name in ("distill_config.json", "recipe.json", "results.json")
    )
    stored = load_file(folder / "distilled.safetensors")
    space = load_file(folder / "preprocess.safetensors")
    known = set(recipe["augmentation"].get("strategy", "none").split("_")) <= set(DSA)
    standard = config["dtype"] != "uint8" and "mean" in space and config["image_shape"] == [1, 8, 8]
    if not (known and standard and recipe["optimizer"]["name"] in ("sgd", "adam")):
        raise SystemExit(
            "this example is for sets of digits, standardised floats, SGD or Adam; load_distilled takes them all"
        )
    labels = stored["labels"].float()
    if config["label_kind"] == "logits":
        labels = labels.softmax(1)
    return stored["images"].float(), labels, recipe, space, results["architectures"]["convnet"]


def test_digits(space):
    """The test split that distillkit makes of scikit-learn's digits, as network inputs."""
    pixels, labels = datasets.load_digits(return_X_y=True)
    split = model_selection.train_test_split(pixels, labels, test_size=0.25, stratify=labels, random_state=0)
    images = torch.tensor(split[1] / 16).float().view(-1, 1, 8, 8)
    return (images - space["mean"].view(-1, 1, 1)) / space["std"].view(-1, 1, 1), torch.tensor(split[3])


def convnet(images, classes, width, depth):
    """The field's ConvNet: blocks of convolution, instance normalisation, ReLU and pooling, then a linear layer."""
    _, channels, height, breadth = images.shape
    layers = []
    for index in range(depth):
        layers += [
            nn.Conv2d(width if index else channels, width, 3, padding=1),
            nn.GroupNorm(width, width),
            nn.ReLU(),
            nn.AvgPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (height >> depth) * (breadth >> depth), classes))


def color(x, r):
    """Brightness, saturation and contrast."""
    b, s, c = r.view(3, -1, 1, 1, 1)
    x = x + b - 0.5
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * 2 * s + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * (c + 0.5) + mean


def crop(x, r):
    """Moved by up to an eighth, zeros around it."""
    size = x.shape[-1]
    pad = size // 8
    corners = (r[:2] * (2 * pad + 1)).long().T.tolist()
    padded = F.pad(x, [pad] * 4)
    return torch.stack([image[:, i : i + size, j : j + size] for image, (i, j) in zip(padded, corners, strict=True)])


def cutout(x, r):
    """A hole of half the side around a random pixel."""
    size = x.shape[-1]
    rows, columns = (
        (torch.arange(size) - (place * (size + 1)).long()[:, None] + size // 4) // (size // 2) == 0 for place in r[:2]
    )
    return x * ~(rows[:, None, :, None] & columns[:, None, None, :])


def warp(x, matrices):
    """Each image [C, H, W] by its own affine map [2, 3]."""
    grid = F.affine_grid(matrices, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, align_corners=True)


def scale(x, r):
    """Height and width by up to 1.2."""
    factors = 1 / 1.2 + r[:2] * (1.2 - 1 / 1.2)
    zero = torch.zeros_like(factors[0])
    return warp(x, torch.stack([factors[0], zero, zero, zero, factors[1], zero], 1).view(-1, 2, 3))


def rotate(x, r):
    """By up to 15 degrees."""
    angle = (2 * r[0] - 1) * math.radians(15)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return warp(x, torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3))


DSA = {"color": color, "crop": crop, "cutout": cutout, "scale": scale, "rotate": rotate, "none": lambda x, r: x}


def train(model, images, labels, recipe):
    """SGD or Adam as the recipe says; each lower learning rate comes with a fresh optimiser."""
    operations = recipe["augmentation"].get("strategy", "none").split("_")
    how, schedule, lr = recipe["optimizer"], recipe["schedule"], recipe["lr"]
    for epoch in range(schedule["epochs"]):
        if epoch in schedule["lr_drop_epochs"]:
            lr *= schedule["lr_drop_factor"]
        if epoch == 0 or epoch in schedule["lr_drop_epochs"]:
            optimizer = torch.optim.Adam(model.parameters(), lr)
            if how["name"] == "sgd":
                optimizer = torch.optim.SGD(model.parameters(), lr, how["momentum"], weight_decay=how["weight_decay"])
        for batch in torch.randperm(len(images)).split(recipe["batch_size"]):
            operation = DSA[operations[torch.randint(len(operations), ())]]
            x = operation(images[batch], torch.rand(3, len(batch)))
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels[batch]).backward()
            optimizer.step()


def main():
    if len(sys.argv) != 2:
        sys.exit("which set? python examples/train_plain_torch.py cards/digits-ipc1-mtt")
    images, labels, recipe, space, card = read(Path(sys.argv[1]))
    test_images, test_labels = test_digits(space)
    scores = []
    for seed in range(NETWORKS):
        torch.manual_seed(seed)
        network = recipe["architecture"]
        model = convnet(images, labels.shape[1], network["width"], network["depth"])
        train(model, images, labels, recipe)
        scores.append(100 * (model(test_images).argmax(1) == test_labels).float().mean())
    found = torch.stack(scores)
    said = f"{100 * card['mean']:.1f} ± {100 * card['std']:.1f}"
    print(f"{found.mean():.1f} ± {found.std():.1f}; the card says {said}")


if __name__ == "__main__":
    main()
