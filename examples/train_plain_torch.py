"""Train on distilled digits with torch, safetensors and JSON alone: train_plain_torch.py cards/digits-ipc1-mtt."""

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn import datasets, model_selection
from torch import nn

folder, files = Path(sys.argv[1]), ("distill_config.json", "recipe.json", "results.json")
config, recipe, results = (json.loads((folder / file).read_text()) for file in files)
stored, space = load_file(folder / "distilled.safetensors"), load_file(folder / "preprocess.safetensors")
X, Y, sgd = stored["images"].float(), stored["labels"].float(), recipe["optimizer"]
Y = Y.softmax(1) if config["label_kind"] == "logits" else Y
assert config["dtype"] != "uint8" and "mean" in space and sgd["name"] == "sgd", "a set for load_distilled"  # noqa: PT018
pixels, labels = datasets.load_digits(return_X_y=True)  # the test images: in [0, 1], then as the distilled ones are
_, pixels, _, labels = model_selection.train_test_split(pixels, labels, test_size=0.25, stratify=labels, random_state=0)
test = torch.tensor(pixels / 16).float().view(-1, 1, 8, 8)
test = (test - space["mean"].view(-1, 1, 1)) / space["std"].view(-1, 1, 1)
(C, H, W), operations, plan = X.shape[1:], recipe["augmentation"].get("strategy", "none").split("_"), recipe["schedule"]
width, depth, pad, scores = recipe["architecture"]["width"], recipe["architecture"]["depth"], H // 8, []
for seed in range(5):
    torch.manual_seed(seed)
    layers, lr = [], recipe["lr"]
    for c in [C, *[width] * (depth - 1)]:
        layers += [nn.Conv2d(c, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * (H >> depth) * (W >> depth), Y.shape[1]))
    for epoch in range(plan["epochs"]):
        if epoch in (0, *plan["lr_drop_epochs"]):  # a lower lr comes with a new optimiser
            lr *= plan["lr_drop_factor"] if epoch else 1
            optimizer = torch.optim.SGD(model.parameters(), lr, sgd["momentum"], weight_decay=sgd["weight_decay"])
        for batch in torch.randperm(len(X)).split(recipe["batch_size"]):
            x, r, warp = X[batch], torch.rand(3, len(batch)), torch.eye(2, 3).repeat(len(batch), 1, 1)
            operation = operations[torch.randint(len(operations), ())]  # DSA: one for the batch, r for each image
            if operation == "color":  # brightness, saturation, contrast
                b, s, k = r.view(3, -1, 1, 1, 1)
                x = (x - x.mean(1, True)) * 2 * s + x.mean(1, True) + b - 0.5
                x = (x - x.mean((1, 2, 3), True)) * (k + 0.5) + x.mean((1, 2, 3), True)
            elif operation == "crop":
                corners = (r * (2 * pad + 1)).long().T.tolist()
                x = torch.stack([F.pad(v, [pad] * 4)[:, i:, j:][:, :H, :W] for v, (i, j, _) in zip(x, corners)])  # noqa: B905
            elif operation == "cutout":  # a hole of half the side around a random pixel
                i, j = ((torch.arange(H) - (q * (H + 1)).long()[:, None] + H // 4) // (H // 2) == 0 for q in r[:2])
                x = x * ~(i[:, None, :, None] & j[:, None, None, :])
            elif operation == "scale":
                warp[:, 0, 0], warp[:, 1, 1] = 1 / 1.2 + r[:2] * (1.2 - 1 / 1.2)
            elif operation == "rotate":  # up to 15 degrees
                cos, sin = ((2 * r[0] - 1) * torch.pi / 12).cos(), ((2 * r[0] - 1) * torch.pi / 12).sin()
                warp[:, :, :2] = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
            x = F.grid_sample(x, F.affine_grid(warp, list(x.shape), align_corners=True), align_corners=True)
            optimizer.zero_grad()
            F.cross_entropy(model(x), Y[batch]).backward()
            optimizer.step()
    scores += [100 * (model(test).argmax(1) == torch.tensor(labels)).float().mean().item()]
mean, std, card = torch.tensor(scores).mean(), torch.tensor(scores).std(), results["architectures"]["convnet"]
print(f"{mean:.1f} ± {std:.1f}; the card says {100 * card['mean']:.1f} ± {100 * card['std']:.1f}")
