"""The numbers of the authors' released code, and how far ours are from them."""

from pathlib import Path

from safetensors.torch import load_file

GOLDEN = Path(__file__).parent / "golden"


def load(name):
    return {
        key: t.double() if t.is_floating_point() else t for key, t in load_file(GOLDEN / f"{name}.safetensors").items()
    }


def rel(found, expected):
    return float((found - expected).norm() / expected.norm())
