"""Train on a distilled set read by ``datasets`` (image, label, soft_label); nothing of distillkit is imported.

python examples/train_with_datasets.py org/digits-ipc10 --revision v1
python examples/train_with_datasets.py cards/digits-ipc10-mtt
"""

import argparse

import datasets
import timm
import torch
import torch.nn.functional as F
from torchvision.transforms.functional import pil_to_tensor

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("source", help="org/name, or an artifact folder")
parser.add_argument("--revision", help="tag or commit")
parser.add_argument("--model", default="test_resnet")
parser.add_argument("--epochs", type=int, default=100)
arguments = parser.parse_args()

table = datasets.load_dataset(arguments.source, revision=arguments.revision, split="train")
images = torch.stack([pil_to_tensor(image) for image in table["image"]]).float()
images = (images - images.mean()) / images.std()
soft_labels = torch.tensor(table["soft_label"])
classes = table.features["label"].names
torch.manual_seed(0)
model = timm.create_model(arguments.model, num_classes=len(classes), in_chans=images.shape[1])
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
for _ in range(arguments.epochs):
    loss = F.cross_entropy(model(images), soft_labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"{len(table)} images of {', '.join(classes[:5])}...; last training loss {loss.item():.3f}")
