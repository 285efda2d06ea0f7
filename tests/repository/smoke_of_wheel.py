"""Run by ``make package`` in an environment that holds the wheel alone: a committed set loads, trains, and is measured.

python smoke_of_wheel.py ARTIFACT
"""

import importlib.util
import sys

import torch

import distillkit

for extra in ("timm", "torchvision", "sklearn", "matplotlib", "datasets", "pyarrow", "huggingface_hub"):
    assert importlib.util.find_spec(extra) is None, f"{extra} is here: this is no environment without extras"
ds = distillkit.load_distilled(sys.argv[1])
model = ds.network()
ds.train(model, epochs=60)
model.eval()
with torch.no_grad():
    right = (model(ds.images).argmax(1) == ds.class_ids).float().mean().item()
print(f"distillkit {distillkit.__version__}: {right:.0%} of its own {len(ds)} images after 60 epochs")
assert right >= 0.9, "the set was not learned"
