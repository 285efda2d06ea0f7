"""Data sets of the Hub, by the real clients over HTTP against a stand-in; each run in a process of its own."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers import TINY
from tests.hub_stand_in import StandIn

SETTINGS = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def repository(tmp_path):
    """Sixty grey images of two classes, with train and test splits and named classes."""
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    features = {"picture": {"_type": "Image"}, "kind": {"names": ["dark", "bright"], "_type": "ClassLabel"}}
    generator = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        cells = []
        for index in range(count):
            pixels = generator.integers(0, 100, (8, 8)) + 120 * (index % 2)
            buffer = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(buffer, format="PNG")
            cells.append({"bytes": buffer.getvalue(), "path": f"{index}.png"})
        table = pa.table({"picture": cells, "kind": [index % 2 for index in range(count)]})
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A data set\n")
    return folder


def run(tmp_path, url, *arguments, offline="0"):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": offline}
    environment |= {"DISTILLKIT_CACHE": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", "from distillkit.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def compress(tmp_path, url, name, out, **more):
    shared = ("--ipc", 1, "--preset", "smoke", "--device", "cpu", "--quiet", "--json", "--out", tmp_path / out)
    return run(tmp_path, url, "compress", name, *shared, *SETTINGS, **more)


@pytest.mark.slow
def test_hub__a_data_set_is_found_pinned_and_decoded_once(repository, tmp_path):
    with StandIn("org/shades", repository) as hub:
        commit = hub.repos["org/shades"].branches["main"]
        first = compress(tmp_path, hub.url, "org/shades", "a")
        assert first.returncode == 0, first.stderr
        asked = len(hub.requests)
        assert any("resolve" in request for request in hub.requests)
        second = compress(tmp_path, hub.url, "org/shades", "b")
        assert second.returncode == 0, second.stderr
        assert len(hub.requests) - asked <= 2  # the revision, nothing else
    config = json.loads((tmp_path / "a" / "distill_config.json").read_text())
    assert config["source"]["source"] == "org/shades"
    assert config["source"]["revision"] == commit
    assert config["source"]["license"] == "mit"
    assert config["classes"] == ["dark", "bright"]
    assert config["image_shape"] == [1, 8, 8]
    assert config["source"]["test_images"] == 20
    assert "source_datasets:\n- org/shades" in (tmp_path / "a" / "README.md").read_text()
    gone = compress(tmp_path, "http://127.0.0.1:9", "org/shades", "c")  # nobody there: the last revision seen is used
    assert gone.returncode == 0, gone.stderr


@pytest.mark.parametrize(
    ("name", "options", "status", "message"),
    [
        ("org/absent", [], 4, "the Hub has no data set org/absent"),
        ("org/shades", ["--set", "dataset.revision=nope"], 4, "org/shades@nope: the Hub has no such revision"),
        ("org/shades", ["--label-column", "nope"], 2, "there is no column 'nope'"),
    ],
)
def test_hub__errors(repository, tmp_path, name, options, status, message):
    with StandIn("org/shades", repository) as hub:
        result = run(tmp_path, hub.url, "compress", name, "--ipc", 1, "--preset", "smoke", *options)
    assert (result.returncode, message in result.stderr) == (status, True), result.stderr


def test_hub__unreachable_is_a_network_error(tmp_path):
    result = run(tmp_path, "http://127.0.0.1:9", "compress", "cifar10", "--ipc", 1)
    assert (result.returncode, "--data-root" in result.stderr) == (5, True), result.stderr
