import io

import pytest
from rich.console import Console

from distillkit.cli import console
from distillkit.cli.listeners import progress


@pytest.fixture(params=[True, False], ids=["terminal", "pipe"])
def screen(request, monkeypatch):
    made = Console(file=io.StringIO(), force_terminal=request.param, width=140, highlight=False)
    monkeypatch.setattr(console, "errors", made)
    return made.file


def test_progress__figures_stages_and_notes_on_a_terminal_and_in_a_pipe(screen):
    with progress(quiet=False) as told:
        told.stage("distilling", 3)
        told.advance(0, validation=0.25)  # a validation before the first step
        told.advance(2, loss=0.5, lr=0.01)
        told.note("a [note] with brackets")
        told.advance(1, loss=0.25)
        told.stage("evaluating", 0)
    text = screen.getvalue()
    for words in ("distilling", "3/3", "loss 0.250", "validation 25.0%", "a [note] with brackets"):
        assert words in text


def test_progress__quiet_says_nothing(screen):
    with progress(quiet=True) as told:
        told.stage("distilling", 3)
        told.advance(3)
        told.note("x")
    assert screen.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_progress__what_cannot_be_written_ends_nothing(monkeypatch, terminal):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(console, "errors", Console(file=Full(), force_terminal=terminal, width=140))
    with progress(quiet=False) as told:
        told.stage("distilling", 1)
        told.advance(1, loss=0.5)
        told.note("x")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
)
def test_errors__no_memory_is_a_sentence_with_what_to_lower(error):
    assert console._sentence(error).startswith("out of memory; --set distill.batch_size=100")
