"""A pushed artifact as other tools read it over HTTP, each in a process of its own: datasets, timm's hfds reader."""

import json
import os
import subprocess
import sys

import pytest

from distillkit.sharing.push import PushOptions, push

REPO = "org/digits-ipc2"


def run(tmp_path, hub, code):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {"HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture
def pushed(hub, copy):
    push(copy, REPO, PushOptions(tag="v1"))
    return hub


def test_datasets__load_dataset_by_name_and_revision(pushed, tmp_path):
    seen = run(
        tmp_path,
        pushed,
        f"""
import datasets, json
table = datasets.load_dataset({REPO!r}, revision="v1", split="train")
row = table[3]
print(json.dumps({{"names": table.features["label"].names, "label": row["label"], "soft": row["soft_label"],
                   "size": row["image"].size, "rows": len(table)}}))
""",
    )
    assert seen == {
        "names": [str(k) for k in range(10)],
        "label": 1,
        "soft": [0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        "size": [8, 8],
        "rows": 20,
    }


def test_timm__create_dataset_hfds_with_hard_and_with_soft_labels(pushed, tmp_path):
    seen = run(
        tmp_path,
        pushed,
        f"""
import json, timm, torch
from timm.data import create_dataset, create_loader
from timm.loss import SoftTargetCrossEntropy
shared = dict(name="hfds/{REPO}", root=None, split="train", input_img_mode="L")
hard = create_dataset(**shared)
soft = create_dataset(**shared, target_key="soft_label", target_transform=torch.tensor)
found = {{}}
for name, dataset in (("hard", hard), ("soft", soft)):
    loader = create_loader(dataset, (1, 8, 8), 20, is_training=False, use_prefetcher=False, num_workers=0,
                           mean=(0.5,), std=(0.5,), crop_pct=1.0)
    images, targets = next(iter(loader))
    model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    logits = model(images)
    criterion = SoftTargetCrossEntropy() if name == "soft" else torch.nn.CrossEntropyLoss()
    loss = criterion(logits, targets)
    loss.backward()
    found[name] = [list(images.shape), list(targets.shape), bool(loss > 0)]
print(json.dumps(found))
""",
    )
    assert seen == {"hard": [[20, 1, 8, 8], [20], True], "soft": [[20, 1, 8, 8], [20, 10], True]}
