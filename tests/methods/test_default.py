"""The method where nobody chose one."""

import pytest
from typer.testing import CliRunner

from distillkit.cli.app import app
from distillkit.config import default_method
from distillkit.methods import SettingsLayer
from tests.helpers import TINY


@pytest.mark.parametrize(
    ("dataset", "ipc", "preset", "method"),
    [
        ("cifar10", 1, "quick", "rat"),
        ("cifar10", 10, "quick", "best"),
        ("photos", 4, "smoke", "rat"),
        ("org/photos", 5, "quick", "best"),
        ("digits", 1, "quick", "mtt"),
        ("digits", 10, "quick", "rat"),
        ("mnist", 1, "quick", "mtt"),
        ("cifar10", 10, "paper", "mtt"),
    ],
)
def test_default_method(dataset, ipc, preset, method):
    assert default_method(dataset, ipc, preset) == method


@pytest.mark.parametrize(("key", "method"), [("experts.count", "mtt"), ("trajectories.form", "mtt"), ("seed", "rat")])
def test_default_method__of_scripts_that_set_up_experts(key, method):
    layers = [SettingsLayer("argument", {"distill.lr_img": 1.0}), SettingsLayer("argument", {key: 1})]
    assert default_method("photos", 1, "quick", layers) == method


@pytest.mark.parametrize(
    ("dataset", "seconds", "method"), [("x", 1799, "best"), ("x", 1800.0, "rat"), ("mnist", 9e9, "mtt")]
)
def test_default_method__of_a_long_budget(dataset, seconds, method):
    assert default_method(dataset, 10, "quick", [SettingsLayer("flags", {"time_budget": seconds})]) == method


def test_compress__says_and_records_the_method_that_nobody_chose(tmp_path):
    settings = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    words = ["compress", "digits", "--ipc", "1", "--preset", "smoke", "--device", "cpu", "--out", str(tmp_path / "a")]
    result = CliRunner().invoke(app, [*words, *settings])
    assert result.exit_code == 0, result.output
    assert "by mtt, the default for such a set; --method chooses another" in result.stderr
    config = (tmp_path / "a" / "distill_config.json").read_text()
    assert '"method": "mtt"' in config
    assert "--method mtt" in config
