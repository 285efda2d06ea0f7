"""The script that a GPU machine is given works at its first time: in small on a CPU, and its parcels arrive whole."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

GPU = Path(__file__).parents[2] / "examples" / "gpu"


def acceptance(out, *words):
    line = [sys.executable, GPU / "acceptance.py", "--out", out, "--device", "cpu", "--miniature", *words]
    return subprocess.run([*map(str, line)], capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_acceptance__in_small__goes_on_after_a_slice_that_fails_and_resumes(tmp_path):
    nothing = tmp_path / "nothing"
    first = acceptance(tmp_path, "--only", "cifar10-ipc1-rat,methods,deterministic", "--data-root", nothing)
    assert first.returncode == 1, first.stdout + first.stderr
    found = json.loads((tmp_path / "acceptance.json").read_text())["slices"]
    assert "has no folder" in found["cifar10-ipc1-rat"]["error"]
    assert found["deterministic"]["good"]
    second = acceptance(tmp_path, "--only", "methods,agreement,experts,outer-step,cifar10-ipc1-rat")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "methods" not in second.stdout  # done before
    found = json.loads((tmp_path / "acceptance.json").read_text())["slices"]
    assert {name: slice_["good"] for name, slice_ in found.items()} == {
        "methods": True,
        "agreement": True,
        "deterministic": True,
        "experts": True,
        "outer-step": True,
        "cifar10-ipc1-rat": None,  # no data
    }
    assert all(row[0] in ("rat", "mtt") and row[2] for row in found["methods"]["rows"])
    assert "relative difference" in found["agreement"]["printed"]
    assert "| methods | passed |" in (tmp_path / "acceptance.md").read_text()


def test_parcels__hold_everything_and_unpack(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(GPU))
    import pack

    work = tmp_path / "work"
    (work / "data").mkdir(parents=True)
    files = []
    for index in range(7):
        wheel = work / f"w{index}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"module{index}.py", "x" * (100 + 300 * index))
        files.append((wheel, wheel.name))
    (work / "data" / "train.parquet").write_bytes(b"p" * 2000)
    files.append((work / "data" / "train.parquet", "data/cifar10/train.parquet"))
    sizes = pack.parts(files, tmp_path / ".gpu", 2500)
    assert len(sizes) > 1
    assert max(sizes) <= 2500
    subprocess.run([sys.executable, tmp_path / ".gpu" / "part-0" / "unpack.py", tmp_path / "there"], check=True)
    assert sorted(path.name for path in (tmp_path / "there" / "site").iterdir()) == [f"module{i}.py" for i in range(7)]
    assert (tmp_path / "there" / "data" / "cifar10" / "train.parquet").read_bytes() == b"p" * 2000
