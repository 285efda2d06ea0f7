"""What a person sees while a network trains on a set."""

import io

import pytest
import torch
from rich.console import Console

from distillkit.distilled import bar


def drawn(monkeypatch, *, terminal, seconds):
    """What four epochs that take so long each draw."""
    now = iter(seconds * step for step in range(100))
    monkeypatch.setattr(bar.time, "monotonic", lambda: next(now))
    out = io.StringIO()
    with bar.epoch_bar(4, Console(file=out, force_terminal=terminal, width=120)) as told:
        for epoch in range(4):
            told(epoch, torch.tensor(0.5 + epoch))
    return out.getvalue()


def test_epoch_bar__shows_epochs_and_loss_on_a_terminal(monkeypatch):
    text = drawn(monkeypatch, terminal=True, seconds=1.0)
    assert "training" in text
    assert "3/4" in text
    assert "loss 2.500" in text


def test_epoch_bar__looks_at_the_loss_twice_a_second_at_most(monkeypatch):
    assert "loss" not in drawn(monkeypatch, terminal=True, seconds=0.1)


def test_epoch_bar__says_nothing_elsewhere(monkeypatch):
    assert drawn(monkeypatch, terminal=False, seconds=1.0) == ""


def test_told_to__a_listener_of_ones_own_hears_every_epoch_as_numbers():
    heard = []
    with bar.told_to(lambda *told: heard.append(told), 2) as told:
        told(0, torch.tensor(0.25))
        told(1, torch.tensor(0.125))
    assert heard == [(0, 0.25), (1, 0.125)]


def test_told_to__an_error_inside_is_the_callers():
    with pytest.raises(RuntimeError, match="mine"), bar.told_to(None, 2):
        raise RuntimeError("mine")
