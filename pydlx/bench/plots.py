"""The two charts of a benchmark run: where rows stand under the roofline, and how far they are ahead of the peer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..train._optional import require
from ..train.plots import _figure, _tidy
from .report import geometric_mean

__all__ = ["draw", "draw_ratios", "draw_roofline", "require_matplotlib"]

_INK, _GREY, _LIGHT, _RED = "#1f2937", "#6b7280", "#e5e7eb", "#dc2626"
# One colour per family (Okabe and Ito's palette, told apart by colour-blind readers) and one marker each.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d31", "#7f7f7f")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def require_matplotlib() -> None:
    """Raises ImportError, with the remedy, when charts cannot be drawn."""
    require("matplotlib", "drawing benchmark charts")


def _subtitle(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    versions = ", ".join(report["versions"].values())
    return f"{machine.get('cpu', 'CPU')}, {report['threads']} threads; {versions}; {report['date'][:10]}"


def _families(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["family"] for row in rows))


def draw_roofline(report: Mapping[str, Any], path: Path) -> None:
    """GFLOP/s over arithmetic intensity (flop per byte that must move), under the measured limits.

    Rows without arithmetic of their own (copies, softmax) have no place on it; the ratio chart shows them.
    """
    limits = report["limits"]
    rows = [row for row in report["rows"] if row.get("flops") and row.get("bytes") and "ours" in row]
    figure, grid = _figure(10, 6)
    axes = grid[0][0]
    peak = limits["fma"] * 1e-9
    intensities = [row["flops"] / row["bytes"] for row in rows] or [1.0]
    low, high = min(0.1, *intensities) / 1.5, max(100.0, *intensities) * 1.5
    lowest = min([row["flops"] / row["ours"] * 1e-9 for row in rows] or [1.0])
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(lowest / 2, peak * 2.2))
    least = min(peak / (limits[level]["read"] * 1e-9) for level in ("l2", "l3", "memory"))
    axes.plot([least, high], [peak, peak], color=_INK, linewidth=1.6, zorder=1)
    axes.annotate(
        f"multiply-add peak {peak:.0f} GFLOP/s", (high, peak), xytext=(-4, 5), textcoords="offset points", ha="right",
        color=_INK, fontsize=9,
    )  # fmt: skip
    for index, family in enumerate(_families(rows)):
        mine = [row for row in rows if row["family"] == family]
        axes.scatter(
            [row["flops"] / row["bytes"] for row in mine],
            [row["flops"] / row["ours"] * 1e-9 for row in mine],
            s=34,
            marker=_MARKERS[index % len(_MARKERS)],
            color=_COLOURS[index % len(_COLOURS)],
            edgecolor="white",
            linewidth=0.5,
            alpha=0.9,
            label=family,
            zorder=3,
        )
    axes.set_xlabel("arithmetic intensity: flop per byte that must move")
    axes.set_ylabel("GFLOP/s")
    axes.set_title(f"Roofline of pydlx\n{_subtitle(report)}", loc="left", fontsize=11, color=_INK)
    _tidy(axes)
    if rows:
        axes.legend(loc="lower right", frameon=True, framealpha=0.9, edgecolor=_LIGHT)
    figure.draw_without_rendering()  # the angle of the sloping lines is known once the layout is
    for level, label, style in (("l2", "L2", "-"), ("l3", "L3", "--"), ("memory", "memory", ":")):
        rate = limits[level]["read"] * 1e-9
        ends = ((low, low * rate), (peak / rate, peak))
        axes.plot(*zip(*ends), style, color=_GREY, linewidth=1.3, zorder=1)
        (left, bottom), (right, top) = axes.transData.transform(ends)
        axes.annotate(
            f"{label} {rate:.0f} GB/s",
            (max(low, lowest / 2 / rate) * 1.2, max(low * rate, lowest / 2) * 1.2),
            rotation=math.degrees(math.atan2(top - bottom, right - left)),
            rotation_mode="anchor",
            xytext=(-3, 4),
            textcoords="offset points",
            color=_GREY,
            fontsize=9,
        )
    figure.savefig(path)


def draw_ratios(report: Mapping[str, Any], path: Path) -> None:
    """One dot per row, one line per family: the peer's time divided by ours, with the geometric mean marked."""
    rows = [row for row in report["rows"] if row.get("ratio", 0) > 0]
    families = _families(rows)
    figure, grid = _figure(10, 1.6 + 0.46 * max(1, len(families)))
    axes = grid[0][0]
    for index, family in enumerate(families):
        ratios = sorted(row["ratio"] for row in rows if row["family"] == family)
        colour = _COLOURS[index % len(_COLOURS)]
        place = len(families) - 1 - index
        # Neighbours are moved up and down by turns, so that dots of one family do not hide each other.
        heights = [place + (0.0, 0.16, -0.16, 0.08, -0.08)[i % 5] for i in range(len(ratios))]
        slow = [(x, y) for x, y in zip(ratios, heights) if x < 1]
        axes.scatter(ratios, heights, s=22, color=colour, alpha=0.65, edgecolor="white", linewidth=0.4, zorder=2)
        if slow:
            axes.scatter(*zip(*slow), s=30, facecolor="none", edgecolor=_RED, linewidth=1.1, zorder=3)
        mean = geometric_mean(ratios)
        axes.plot([mean, mean], [place - 0.33, place + 0.33], color=_INK, linewidth=2.4, zorder=4)
        axes.annotate(
            f"{mean:.2f}x", (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=10, color=_INK
        )
    axes.axvline(1.0, color=_RED, linewidth=1.2, zorder=1)
    axes.set_xscale("log")
    bounds = [row["ratio"] for row in rows] or [1.0]
    low, high = min(0.8, *bounds) / 1.15, max(2.0, *bounds) * 1.15
    ticks = [t for t in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= t <= high]
    axes.set_xlim(low, high)
    axes.set_xticks(ticks, [f"{t:g}x" for t in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(families)), families[::-1])
    axes.set_ylim(-0.6, len(families) - 0.4)
    axes.set_xlabel(
        f"times as fast as {report['versions'].get('peer', 'the peer')} (logarithmic); bar: geometric mean; red ring: slower"
    )
    everything = geometric_mean([row["ratio"] for row in rows])
    axes.set_title(
        f"pydlx is {everything:.2f}x as fast over {len(rows)} rows\n{_subtitle(report)}",
        loc="left",
        fontsize=11,
        color=_INK,
    )
    _tidy(axes)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(False, axis="y")
    figure.savefig(path)


def draw(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws ``roofline.png`` and, when there was a peer, ``ratios.png`` into ``folder``; returns what was written."""
    require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "roofline.png"]
    draw_roofline(report, written[0])
    if any("ratio" in row for row in report["rows"]):
        written.append(folder / "ratios.png")
        draw_ratios(report, written[-1])
    return written
