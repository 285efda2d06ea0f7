"""Train with timm's own loaders on a distilled set of the Hub, hard or soft labels; nothing of distillkit is imported.

python examples/train_timm_hfds.py org/digits-ipc10 --soft

timm reads the 8-bit view, in which a value v of 0..255 is the pixel low + v / 255 * (high - low);
distill_config.json and preprocess.safetensors say what undoes that, and the mean and std below put both into one
normalisation.
"""

import argparse
import json

import timm
import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from timm.data import create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("repo", help="org/name")
parser.add_argument("--soft", action="store_true", help="train on the soft labels")
parser.add_argument("--model", default="resnet18")
parser.add_argument("--epochs", type=int, default=300)
arguments = parser.parse_args()

files = ("distill_config.json", "recipe.json", "preprocess.safetensors")
config_file, recipe_file, space_file = (hf_hub_download(arguments.repo, name, repo_type="dataset") for name in files)
with open(config_file) as config_text, open(recipe_file) as recipe_text:  # noqa: PTH123
    config, recipe, space = json.load(config_text), json.load(recipe_text), load_file(space_file)
if "mean" not in space:
    raise SystemExit("this set is whitened, which timm's loaders cannot; load_distilled(NAME).train(model) can")
(channels, size, _), view = config["image_shape"], config["uint8_range"]
low, reach = view["low"], view["high"] - view["low"]
mean, std = ((space["mean"] - low) / reach).tolist(), (space["std"] / reach).tolist()

shared = {"name": f"hfds/{arguments.repo}", "root": None, "split": "train"}
target = {"target_key": "soft_label", "target_transform": torch.tensor} if arguments.soft else {}
dataset = create_dataset(**shared, **target, input_img_mode="RGB" if channels == 3 else "L")
shape = (channels, size, size)
batch = min(len(dataset), recipe["batch_size"])
loader = create_loader(
    dataset,
    shape,
    batch,
    is_training=True,
    no_aug=True,  # or timm's own augmentation: hflip=, color_jitter=, scale=
    use_prefetcher=False,
    num_workers=0,
    mean=tuple(mean),
    std=tuple(std),
)
torch.manual_seed(0)
model = timm.create_model(arguments.model, num_classes=len(config["classes"]), in_chans=channels)
criterion = SoftTargetCrossEntropy() if arguments.soft else torch.nn.CrossEntropyLoss()
optimizer = torch.optim.SGD(model.parameters(), recipe["lr"], recipe["optimizer"]["momentum"])
for epoch in range(arguments.epochs):
    for images, targets in loader:
        optimizer.zero_grad()
        loss = criterion(model(images), targets)
        loss.backward()
        optimizer.step()
    if epoch in (0, arguments.epochs - 1):
        print(f"epoch {epoch}: loss {loss.item():.3f}")
