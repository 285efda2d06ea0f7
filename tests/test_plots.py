"""Figures as they are drawn: a PNG, with every line that it was given."""

import pytest
from PIL import Image

from distillkit import plots

RECORDS = [
    {"step": 0, "validation_accuracy": 0.2},
    {"step": 1, "loss": 0.9},
    {"step": 2, "loss": 0.7, "validation_accuracy": 0.5},
]
EXPERTS = [{"parameter_change": [2.0, 1.0], "validation_accuracy": [0.3, 0.6]} for _ in range(2)]


@pytest.mark.drawn
@pytest.mark.parametrize(
    ("draw", "lines"),
    [
        (lambda: plots.curves_png(RECORDS, {"random": 0.1, "full": 0.9}, "loss", 1.0), 2 + 1 + 1 + 2),
        (lambda: plots.curves_png([], {}, "loss", None), 0),
        (lambda: plots.experts_png({"easy": EXPERTS, "hard": EXPERTS}), 2 * 2 * 2),
        (lambda: plots.schedule_png([(0.0, 0.5), (0.5, 1.0)]), 1),
    ],
    ids=["curves", "of nothing", "experts", "schedule"],
)
def test_figures__are_drawn_with_their_lines(tmp_path, monkeypatch, draw, lines):
    drawn, plain = [], plots._png
    monkeypatch.setattr(plots, "_png", lambda figure: drawn.append(figure) or plain(figure))
    (tmp_path / "figure.png").write_bytes(draw())
    with Image.open(tmp_path / "figure.png") as image:
        image.load()
        assert image.format == "PNG"
        assert image.width > 600
        assert len(image.convert("L").getcolors()) > 2  # not an empty page
    assert sum(len(axes.lines) for axes in drawn[0].axes) == lines


@pytest.mark.drawn
def test_figures__are_the_same_bytes_again():
    assert plots.curves_png(RECORDS, {"random": 0.1}, "loss", None) == plots.curves_png(
        RECORDS, {"random": 0.1}, "loss", None
    )
