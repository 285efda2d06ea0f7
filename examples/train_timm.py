"""Train timm networks on a distilled set, from a folder or from the Hub, and test them.

python examples/train_timm.py cards/digits-ipc1-mtt
python examples/train_timm.py org/cifar10-ipc10 --model resnet18 --model vit_tiny_patch16_224 --data-root DIR
"""

import argparse
import time

import torch

from distillkit import load_distilled, prepare_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("source", help="artifact folder, org/name or org/name@revision")
parser.add_argument("--model", action="append", help="a timm network; repeatable; default resnet18 and a small ViT")
parser.add_argument("--lr", type=float, help="instead of the learned one, which was learned for a ConvNet")
parser.add_argument("--epochs", type=int, help="instead of the recipe's")
parser.add_argument("--data-root", help="where local copies of registered data sets lie")
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
arguments = parser.parse_args()

ds = load_distilled(arguments.source)
channels, size, _ = ds.image_shape
print(f"{len(ds)} images of {ds.num_classes} classes, learned lr {ds.lr:.4g}")
test = ds.load_source(data_root=arguments.data_root).test
for name in arguments.model or ["resnet18", "vit_tiny_patch16_224"]:
    torch.manual_seed(0)
    model, notes = prepare_model(name, num_classes=ds.num_classes, image_size=size, channels=channels)
    begin = time.perf_counter()
    ds.train(model, device=arguments.device, lr=arguments.lr, epochs=arguments.epochs)
    seconds = time.perf_counter() - begin
    print(f"{name}: {100 * ds.evaluate(model, test):.1f} % after {seconds:.0f} s  ({'; '.join(notes) or 'as it is'})")
