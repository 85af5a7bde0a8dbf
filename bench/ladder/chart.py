"""The picture of a run: one bar per step, its length the share of the multiply-add peak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydlx.train.plots import _figure, _tidy

_STEP, _THREADS, _OURS = "#56b4e9", "#0072b2", "#d55e00"


def draw(report: dict[str, Any], path: Path) -> None:
    """Draws all problems of ``report`` below each other."""
    results = [problem for family in report["families"].values() for problem in family["problems"]]
    heights = [len(result["rows"]) + 1.5 for result in results]
    figure, _ = _figure(9, 0.27 * sum(heights) + 0.6)
    figure.clear()
    for axes, result in zip(figure.subplots(len(results), 1, squeeze=False, height_ratios=heights)[:, 0], results):
        rows = result["rows"]
        colours = [_OURS if r["step"] == "pydlx" else _STEP if r["threads"] == 1 else _THREADS for r in rows]
        axes.barh(range(len(rows)), [100 * r["peak"] for r in rows], color=colours, height=0.72)
        for y, row in enumerate(rows):
            text = f"{100 * row['peak']:.1f} %   {1e3 * row['seconds']:.3g} ms"
            if row.get("factor"):
                text += f"   {row['factor']:.2f}x"
            axes.annotate(
                text,
                (100 * row["peak"], y),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            )
        labels = [f"{r['step']}: {r['idea']}" + (f", {r['threads']} threads" if r["threads"] > 1 else "") for r in rows]
        axes.set_yticks(range(len(rows)), labels, fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.4 * max(100.0, *(100 * r["peak"] for r in rows)))
        axes.axvline(100, color="#6b7280", linewidth=1, linestyle=":")
        axes.set_title(result["title"], loc="left", fontsize=10)
        _tidy(axes)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)
    axes.set_xlabel(
        "percent of the multiply-add peak of as many threads; time; factor over the step before\n"
        f"(pydlx: over the best step); {report['machine'].get('cpu', 'CPU')}, {report['date'][:10]}",
        fontsize=8,
    )
    figure.savefig(path, dpi=100)
