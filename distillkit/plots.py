"""Pictures of a run, drawn with matplotlib without a display."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves_png(records: Sequence[dict[str, Any]], levels: dict[str, float], loss: str, mark: float | None) -> bytes:
    """The outer loss (left) and validation accuracy (right) against outer steps.

    Args:
        records: lines of metrics.jsonl.
        levels: test accuracies (fractions) drawn as horizontal lines, by name.
        loss: what the loss is, for its axis.
        mark: a value of it that is drawn as a line, if there is one that means something.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    finite = [(row["step"], row["loss"]) for row in records if row.get("loss") is not None]
    if finite:
        steps, losses = zip(*finite, strict=True)
        loss_axes.plot(steps, losses, color="tab:blue", alpha=0.25, linewidth=0.8)
        loss_axes.plot(steps, _smooth(losses), color="tab:blue", label="smoothed")
        loss_axes.legend(frameon=False)
    if mark is not None:
        loss_axes.axhline(mark, color="grey", linewidth=0.6, linestyle=":")
    loss_axes.set(xlabel="outer step", ylabel=loss)
    points = [
        (row["step"], 100 * row["validation_accuracy"]) for row in records if row.get("validation_accuracy") is not None
    ]
    if points:
        accuracy_axes.plot(*zip(*points, strict=True), marker="o", markersize=3, color="tab:orange", label="validation")
    for index, (name, level) in enumerate(levels.items()):
        accuracy_axes.axhline(100 * level, linestyle="--", linewidth=1, color=f"C{index + 2}", label=f"{name} (test)")
    accuracy_axes.set(xlabel="outer step", ylabel="accuracy (%)")
    if points or levels:
        accuracy_axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _png(figure)


def experts_png(groups: dict[str, Sequence[dict[str, Any]]]) -> bytes:
    """Validation accuracy (left) and parameter change per epoch (right) of experts, a colour for each group.

    Args:
        groups: rows of ``experts.report.expert_report`` by name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    accuracy_axes, change_axes = figure.subplots(1, 2)
    for index, (name, rows) in enumerate(groups.items()):
        for position, row in enumerate(rows):
            epochs = range(1, len(row["parameter_change"]) + 1)
            style = {"color": f"C{index}", "linewidth": 1.0, "alpha": 0.8, "label": None if position else name}
            held_out = range(1, len(row["validation_accuracy"]) + 1)
            accuracy_axes.plot(held_out, [100 * value for value in row["validation_accuracy"]], **style)
            change_axes.plot(epochs, row["parameter_change"], **style)
    accuracy_axes.set(xlabel="epoch", ylabel="validation accuracy (%)")
    change_axes.set(xlabel="epoch", ylabel="parameter change per epoch", ylim=(0, None))
    change_axes.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return _png(figure)


def schedule_png(shares: Sequence[tuple[float, float]]) -> bytes:
    """Which images an epoch sees (a bar over the ranks from easy to hard) and how many (the number in percent).

    Args:
        shares: of each epoch, where the ranks that it sees begin and end, 0 easiest, 1 hardest.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    epochs = range(1, len(shares) + 1)
    axes.bar(epochs, [end - first for first, end in shares], bottom=[first for first, _ in shares], width=1.0)
    count = axes.twinx()
    count.step(epochs, [100 * (end - first) for first, end in shares], where="mid", color="tab:orange")
    count.set(ylabel="images seen (% of each class)", ylim=(0, 105))
    axes.set(xlabel="epoch", ylabel="rank (0 easiest, 1 hardest)", ylim=(0, 1.05))
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": "distillkit"})
    return buffer.getvalue()


def _smooth(values: Sequence[float], decay: float = 0.9) -> list[float]:
    """Exponential moving average, corrected for its start at zero."""
    average, smoothed = 0.0, []
    for count, value in enumerate(values, start=1):
        average = decay * average + (1 - decay) * value
        smoothed.append(average / (1 - decay**count))
    return smoothed
