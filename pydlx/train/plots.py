"""Pictures of a training run, drawn with matplotlib without a screen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ._optional import require

__all__ = ["plot_confusion_matrix", "plot_images", "plot_learning_curves"]

_BLUE, _ORANGE, _GREY, _RED = "#2563eb", "#ea580c", "#6b7280", "#dc2626"


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """A figure and its axes on the file-only backend, whatever backend the program has chosen."""
    require("matplotlib", "drawing a picture")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _tidy(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)


def plot_learning_curves(rows: Sequence[dict[str, Any]], path: str | os.PathLike[str], title: str = "") -> None:
    """Loss, error rate and learning rate over the epochs.

    Args:
        rows: one dict per epoch with ``epoch``, ``train_loss``, ``val_loss``, ``train_accuracy``, ``val_accuracy``,
            ``lr``.
        path: where the PNG goes. title: heading.
    """
    figure, grid = _figure(12, 3.8, 1, 3)
    loss, error, rate = grid[0]
    epochs = [row["epoch"] for row in rows]
    best = min(rows, key=lambda row: row["val_loss"])
    for name, colour, label in (("train", _BLUE, "training (augmented)"), ("val", _ORANGE, "validation")):
        loss.plot(epochs, [row[f"{name}_loss"] for row in rows], color=colour, label=label, linewidth=1.8)
        # Zero errors have no place on a logarithmic axis; they are drawn at its lower edge.
        errors = [max(100 * (1 - row[f"{name}_accuracy"]), 0.1) for row in rows]
        error.plot(epochs, errors, color=colour, label=label, linewidth=1.8)
    late = best["epoch"] > (epochs[0] + epochs[-1]) / 2
    for axes in (loss, error):
        axes.axvline(best["epoch"], color=_GREY, linestyle=":", linewidth=1.4)
    error.annotate(
        f"kept: epoch {best['epoch']},\n{100 * best['val_accuracy']:.2f} % correct",
        (best["epoch"], 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(-6 if late else 6, 0),
        textcoords="offset points",
        ha="right" if late else "left",
        va="top",
        color=_GREY,
        fontsize=9,
    )
    loss.set(title="Loss (cross-entropy)", xlabel="epoch", yscale="log")
    error.set(title="Errors in %", xlabel="epoch", yscale="log")
    for axis, digits in ((loss.yaxis, "23468"), (error.yaxis, "25")):
        axis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.set_minor_formatter(lambda value, _, digits=digits: f"{value:g}" if f"{value:e}"[0] in digits else "")
    loss.legend(frameon=False)
    rate.plot(epochs, [row["lr"] for row in rows], color=_RED, linewidth=1.8)
    rate.set(title="Learning rate", xlabel="epoch", ylim=(0, None))
    for axes in (loss, error, rate):
        _tidy(axes)
        span = max(epochs[-1] - epochs[0], 1)
        axes.set_xlim(epochs[0] - 0.02 * span, epochs[0] + 1.02 * span)
    if title:
        figure.suptitle(title, fontsize=12)
    figure.savefig(path)


def plot_confusion_matrix(
    counts: Sequence[Sequence[int]], labels: Sequence[str], path: str | os.PathLike[str], title: str = ""
) -> None:
    """A table of true against predicted classes: the diagonal in blue, the mistakes in red.

    Args:
        counts: rows of true classes, columns of predicted ones. labels: names. path: where the PNG goes. title:
            heading.
    """
    size = len(labels)
    figure, grid = _figure(0.52 * size + 1.4, 0.52 * size + 1.2)
    axes = grid[0][0]
    totals = [max(sum(row), 1) for row in counts]
    right = max(max(counts[i][i] for i in range(size)), 1)
    for i in range(size):
        for j in range(size):
            count = counts[i][j]
            if i == j:
                colour, alpha = _BLUE, 0.15 + 0.75 * count / right
            else:
                colour, alpha = (_RED, 0.25 + 0.65 * min(1.0, 5 * count / totals[i])) if count else ("#f3f4f6", 1.0)
            axes.add_patch(_rectangle(j, i, colour, alpha))
            ink = "#9ca3af" if not count else "white" if alpha > 0.5 else "black"
            axes.text(j, i, str(count) if count else "·", ha="center", va="center", color=ink, fontsize=10)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal", xlabel="predicted", ylabel="true")
    axes.set_xticks(range(size), labels)
    axes.set_yticks(range(size), labels)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title, fontsize=12, pad=10)
    figure.savefig(path)


def _rectangle(x: int, y: int, colour: str, alpha: float) -> Any:
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (x - 0.44, y - 0.44),
        0.88,
        0.88,
        boxstyle="round,pad=0,rounding_size=0.08",
        color=colour,
        alpha=alpha,
        linewidth=0,
    )


def plot_images(
    images: Sequence[Any],
    captions: Sequence[str],
    path: str | os.PathLike[str],
    title: str = "",
    columns: int = 6,
    wrong: int = 0,
) -> None:
    """A grid of grey images with captions, for instance the misclassified ones.

    Args:
        images: nested lists or arrays of shape (height, width), dark on light. captions: one each, may have two lines.
        path: where the PNG goes. title: heading. columns: images per row. wrong: the first so many captions are red.
    """
    count = max(len(images), 1)
    columns = min(columns, count)
    rows = -(-count // columns)
    figure, grid = _figure(max(1.75 * columns, 4.5), 2.15 * rows + (0.5 if title else 0), rows, columns)
    for place, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if place < len(images):
            axes.imshow(images[place], cmap="gray_r", interpolation="nearest")
            axes.set_title(captions[place], fontsize=9, color=_RED if place < wrong else "black")
    if not images:
        grid[0][0].text(0.5, 0.5, "none", ha="center", va="center", color=_GREY, fontsize=14)
    if title:
        figure.suptitle(title, fontsize=12)
    figure.savefig(path)
