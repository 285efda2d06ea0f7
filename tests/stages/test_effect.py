"""A setting that was asked for has an effect, or the run does not begin."""

import pytest
import torch

from distillkit import compress
from distillkit.config import compose, known_keys
from distillkit.errors import ConfigError
from distillkit.lab import LABELS, Part
from distillkit.methods import METHODS, SettingsLayer
from distillkit.settings import DistillSettings, ExpertSettings, TrajectorySettings
from distillkit.stages.effect import check_effect, effective_keys

WITHOUT_EFFECT = {
    "distill.mask_ratio": (0.5, "mtt", "distill.mask=depth|loss, and this run has distill.mask=none"),
    "distill.lr_label": (3.0, "mtt", "distill.labels=soft|weights, and this run has distill.labels=hard"),
    "trajectories.waypoints": (9, "mtt", "trajectories.form=convex, and this run has trajectories.form=raw"),
    "experts.gap_weight": (0.1, "mtt", "experts.optimizer=gsam, and this run has experts.optimizer=sgd"),
    "experts.penalty": ("one-sided-loss", "mtt", "experts.loss=gradient-penalty|clipping-gradient-penalty"),
    "experts.easy_fraction": (0.5, "mtt", "experts.order=easy-to-hard"),
    "distill.horizon": (30, "mtt", "distill.start=fresh"),
    "distill.expansion_end_step": (9, "mtt", "distill.sampler=curriculum"),
    "distill.real_batch": (9, "mtt", "distill.matching=real-loss"),
    "distill.expert_epochs": (3, "rat", "distill.sampler is read with distill.start=expert, and this run has"),
    "experts.epochs": (3, "rat", "distill.real_order=easy-to-hard, and this run has distill.real_order=shuffle"),
    "experts.count": (3, "rat", "no part of method rat matches or asks experts"),
    "trajectories.dtype": ("float16", "dm", "no part of method dm matches or asks experts"),
    "distill.lr_img": (3.0, "random", "method random learns nothing"),
    "distill.inner_steps": (7, "dm", "distill.objective=unroll"),
    "distill.init_from": ("x", "rat", "distill.init=artifact, and this run has"),
    "dataset.zca_eps": (0.3, "mtt", "dataset.preprocessing=zca|unit-zca|unit-dct, and this run has standardise"),
    "experts.remove_epochs": ((2, 3), "dsa", "distill.real_order=easy-to-hard, and this run has"),
}


@pytest.mark.parametrize("key", WITHOUT_EFFECT)
def test_setting_without_effect__is_refused_with_the_part_that_would_read_it(key):
    value, method, words = WITHOUT_EFFECT[key]
    composed = compose("digits", 1, method, "smoke", "cpu", [SettingsLayer("--set", asked=True, values={key: value})])
    with pytest.raises(ConfigError) as error:
        check_effect(composed.settings, composed.asked)
    assert str(error.value).startswith(f"{key}={value} has no effect here: ")
    assert words in str(error.value)


def test_setting_without_effect__may_come_from_a_method_or_be_the_default():
    composed = compose(
        "digits", 1, "mtt", "smoke", "cpu", [SettingsLayer("--set", asked=True, values={"distill.mask_ratio": 0.0})]
    )
    check_effect(composed.settings, composed.asked)
    preset = compose("digits", 1, "mtt", "smoke", "cpu", [SettingsLayer("quick preset", {"distill.mask_ratio": 0.5})])
    check_effect(preset.settings, preset.asked)


@pytest.mark.parametrize(
    ("key", "value", "method", "words"),
    [
        ("evaluate.momentum", 0.5, "rat", "it is SGD's, and networks are trained by adam"),
        ("evaluate.weight_decay", 0.1, "rat", "it is SGD's, and networks are trained by adam"),
        ("evaluate.recipe", "common", "mtt", "papers differ in it, and preset quick has one recipe"),
    ],
)
def test_setting_of_another_optimizer_or_preset__is_refused(key, value, method, words):
    composed = compose("digits", 1, method, "quick", "cpu", [SettingsLayer("--set", asked=True, values={key: value})])
    with pytest.raises(ConfigError, match=words):
        check_effect(composed.settings, composed.asked)


@pytest.mark.parametrize(
    ("network", "key", "value", "words"),
    [
        ("alexnet", "norm", "batch", "network alexnet reads none of these settings"),
        ("resnet18", "width", 77, "network resnet18 reads norm"),
        ("resnet18", "depth", 2, "network resnet18 reads norm"),
        ("convnet", "replace_norm", "group", "network convnet reads width, depth, norm"),
        ("timm/resnet10t", "norm", "batch", "network timm/resnet10t reads replace_norm"),
    ],
)
def test_setting_of_another_network__is_refused(network, key, value, words):
    asked = SettingsLayer("--set", asked=True, values={"network.name": network, f"network.{key}": value})
    composed = compose("cifar10", 1, "mtt", "quick", "cpu", [asked])
    with pytest.raises(ConfigError, match=f"network.{key}={value} has no effect here: {words}"):
        check_effect(composed.settings, composed.asked)


@pytest.mark.parametrize("network", ["convnet", "resnet18", "mlp", "timm/resnet10t"])
def test_setting_of_the_network__is_taken(network):
    own = {
        "convnet": {"width": 4, "depth": 2, "norm": "batch"},
        "resnet18": {"norm": "batch"},
        "timm/resnet10t": {"replace_norm": "group"},
    }.get(network, {})
    values = {"network.name": network, **{f"network.{key}": value for key, value in own.items()}}
    composed = compose("cifar10", 1, "mtt", "quick", "cpu", [SettingsLayer("--set", asked=True, values=values)])
    check_effect(composed.settings, composed.asked)


def test_run__does_not_begin_with_a_setting_without_effect(tmp_path):
    with pytest.raises(ConfigError, match=r"distill.mask_ratio=0.5 has no effect"):
        compress("digits", ipc=1, preset="smoke", out=tmp_path / "out", settings={"distill.mask_ratio": 0.5})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", METHODS)
def test_effective_keys__are_those_that_the_methods_own_parts_set(method):
    """A method may only bring settings that its own parts read: else the table of reads, or the method, is wrong."""
    composed = compose("digits", 1, method, "quick", "cpu")
    read = effective_keys(composed.settings)
    assert read <= set(known_keys())
    for key in METHODS[method].parts:
        neutral = composed.settings.model_dump()[key.partition(".")[0]][key.partition(".")[2]] in ("none", "hard")
        assert key in read or neutral, key


# Looked up by name for any method: rates of what does not move, and what checks compare.
LOOKED_AT = {"mask_ratio", "lr_label", "lr_lr", "lr_init", "lr_momentum", "label_momentum"}


@pytest.mark.parametrize("method", ["mtt", "best", "pad", "rat", "dsa", "dm"])
def test_effective_keys__cover_all_that_a_run_looks_at(method, tiny, tmp_path, monkeypatch):
    """What outer steps and experts read of their settings, recorded on the way, is what the parts say they read."""
    looked = set()

    def watched(section, prefix):
        plain = section.__getattribute__

        def get(self, name):
            if name in section.model_fields:
                looked.add(f"{prefix}.{name}")
            return plain(self, name)

        return get

    settings = compose("digits", 1, method, "smoke", "cpu", [SettingsLayer("test", tiny)]).settings
    from distillkit.distill import loop

    step = loop.outer_step

    def recorded(*given, **named):
        with monkeypatch.context() as patch:
            for section, prefix in (
                (DistillSettings, "distill"),
                (ExpertSettings, "experts"),
                (TrajectorySettings, "trajectories"),
            ):
                patch.setattr(section, "__getattribute__", watched(section, prefix))
            return step(*given, **named)

    monkeypatch.setattr(loop, "outer_step", recorded)
    keys = {key: value for key, value in tiny.items() if key in effective_keys(settings)}
    compress("digits", ipc=1, method=method, preset="smoke", out=tmp_path, device="cpu", settings=keys)
    assert looked, "nothing was recorded"
    assert {key.partition(".")[2] for key in looked - effective_keys(settings)} <= LOOKED_AT
    assert torch.is_grad_enabled()


def test_part__that_says_wrongly_what_it_reads_is_found(monkeypatch):
    with pytest.raises(TypeError, match="is a tuple of keys"):
        Part(None, reads="distill.mask_ratio")
    monkeypatch.setitem(LABELS, "own", Part(None, reads=("distill.mask_ration",)))
    with pytest.raises(ConfigError, match="mask_ration, which is no setting"):
        effective_keys(compose("digits", 1, "mtt", "smoke", "cpu").settings)
