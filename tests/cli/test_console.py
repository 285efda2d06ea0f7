import io

import pytest
from rich.console import Console

from distillkit.cli import console


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def screen(request, monkeypatch):
    made = Console(file=io.StringIO(), force_terminal=request.param, width=140, highlight=False)
    monkeypatch.setattr(console, "errors", made)
    return made.file


def test_progress__figures_stages_and_notes_on_a_terminal_and_in_a_pipe(screen):
    with console.progress(quiet=False) as progress:
        progress.stage("distilling", 3)
        progress.advance(0, validation=0.25)  # a validation before the first step
        progress.advance(2, loss=0.5, lr=0.01)
        progress.note("a [note] with brackets")
        progress.advance(1, loss=0.25)
        progress.stage("evaluating", 0)
    text = screen.getvalue()
    for words in ("distilling", "3/3", "loss 0.250", "validation 25.0%", "a [note] with brackets"):
        assert words in text


def test_progress__quiet_says_nothing(screen):
    with console.progress(quiet=True) as progress:
        progress.stage("distilling", 3)
        progress.advance(3)
        progress.note("x")
    assert screen.getvalue() == ""
