"""What a run says: the table of rows, family means, worst rows, the JSON file, and the comparison with a stored one."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .runner import SCHEMA

__all__ = [
    "FAMILY_BAND",
    "ROW_BAND",
    "check",
    "geometric_mean",
    "header",
    "line",
    "load",
    "save",
    "summary",
    "validate",
]

# How far a ratio may fall below the stored one before --check fails; a row's own spread widens its band. Two runs on a
# machine that compiled meanwhile: half of the ratios moved by less than 3 %, all steady ones by at most 7 %, the
# geometric mean, with one disturbed row in twelve, by 5 %.
ROW_BAND = 0.20
FAMILY_BAND = 0.07

_NAME = 50
_COLUMNS = (
    ("ours", 9),
    ("peer", 9),
    ("ratio", 6),
    ("rate", 13),
    ("limit", 12),
    ("error", 8),
    ("(peer)", 8),
    ("spread", 6),
)
_PREFIXES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def geometric_mean(values: Iterable[float]) -> float:
    """exp(mean(log v)) over the positive values; NaN when there is none."""
    logs = [math.log(value) for value in values if value > 0]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def _quantity(value: float, unit: str) -> str:
    if unit != "s":
        return f"{value:.4g} {unit}"
    for size, name in _PREFIXES:
        if value >= size:
            return f"{value / size:.{2 if value < 10 * size else 1 if value < 100 * size else 0}f} {name}"
    return f"{value:.1e} s"


def _rate(row: Mapping[str, Any]) -> str:
    """GFLOP/s when arithmetic is the row's limit, else GB/s."""
    if row.get("limit") == "fma":
        return f"{row['flops'] / row['ours'] * 1e-9:.1f} GFLOP/s"
    if row.get("bytes"):
        return f"{row['bytes'] / row['ours'] * 1e-9:.1f} GB/s"
    return ""


def header() -> str:
    """The first line of a table."""
    return f"{'row':<{_NAME}}" + "".join(f" {name:>{width}}" for name, width in _COLUMNS)


def line(row: Mapping[str, Any]) -> str:
    """One row of the table."""
    name = row["name"] if len(row["name"]) <= _NAME else row["name"][: _NAME - 1] + "…"
    if "failed" in row:
        return f"{name:<{_NAME}} failed: {row['failed']}"
    cells = {
        "ours": _quantity(row["ours"], row["unit"]),
        "peer": _quantity(row["peer"], row["unit"]) if "peer" in row else "",
        "ratio": f"{row['ratio']:.2f}" if "ratio" in row else "",
        "rate": _rate(row),
        "limit": f"{row['percent']:.0f} % {row['limit']}" if "percent" in row else "",
        "error": f"{row['error_ours']:.1e}" if row.get("error_ours") is not None else "",
        "(peer)": f"{row['error_peer']:.1e}" if row.get("error_peer") is not None else "",
        "spread": f"{100 * row.get('spread_ratio', row['spread_ours']):.0f} %",
    }
    return f"{name:<{_NAME}}" + "".join(f" {cells[column]:>{width}}" for column, width in _COLUMNS)


def _by_family(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["family"], []).append(row)
    return found


def summary(report: Mapping[str, Any], worst: int = 10) -> str:
    """Family means and the rows with the smallest ratios."""
    limits, lines = report["limits"], [""]
    lines.append(
        f"limits: {limits['fma'] * 1e-9:.0f} GFLOP/s on {limits['threads']} threads "
        f"({limits['fma_one_thread'] * 1e-9:.0f} on one); GB/s read/copy: "
        + ", ".join(
            f"{k} {limits[k]['read'] * 1e-9:.0f}/{limits[k]['copy'] * 1e-9:.0f}" for k in ("l2", "l3", "memory")
        )
    )
    rated = [row for row in report["rows"] if "ratio" in row]
    if rated:
        lines += ["", f"{'family':<12} {'rows':>5} {'geometric mean':>15} {'slower than peer':>17} {'worst':>6}"]
        groups = list(_by_family(rated).items())
        for name, rows in [*groups, ("all", rated)] if len(groups) > 1 else groups:
            ratios = [row["ratio"] for row in rows]
            slower = sum(ratio < 1 for ratio in ratios)
            lines.append(f"{name:<12} {len(rows):>5} {geometric_mean(ratios):>15.2f} {slower:>17} {min(ratios):>6.2f}")
        slow = sorted((row for row in rated if row["ratio"] < 1), key=lambda row: row["ratio"])[:worst]
        if slow:
            lines += ["", f"slower than {report['peer']}, worst first:"]
            lines += [f"  {row['ratio']:.2f}  {row['family']}/{row['name']}" for row in slow]
    failed = sum("failed" in row for row in report["rows"])
    if failed:
        lines += ["", f"{failed} rows failed on one side"]
    return "\n".join(lines)


def save(report: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes a report as JSON, through a temporary file."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    part.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    part.replace(target)


def validate(report: Any, source: str = "report") -> None:
    """Checks that ``report`` is what :func:`pydlx.bench.runner.run` returns.

    Raises:
        ValueError: it is not, with what is wrong.
    """

    def wrong(expected: str, got: object) -> ValueError:
        return ValueError(f"[bench] {source}: expected {expected}, got {got!r}; write one with `pydlx bench --json F`")

    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise wrong(f"schema {SCHEMA}", report.get("schema") if isinstance(report, dict) else type(report).__name__)
    for key, kind in (("rows", list), ("limits", dict), ("machine", dict), ("versions", dict), ("threads", int)):
        if not isinstance(report.get(key), kind):
            raise wrong(f"a {kind.__name__} under {key!r}", report.get(key))
    for row in report["rows"]:
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("family", "name", "unit")):
            raise wrong("rows with family, name and unit", row)
        if "failed" not in row and not isinstance(row.get("ours"), (int, float)):
            raise wrong("a number under 'ours' in every row that did not fail", row)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a stored report.

    Raises:
        ValueError: not a report. OSError: not readable.
    """
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"[bench] {path}: expected JSON, got {error}") from None
    validate(report, str(path))
    stored: dict[str, Any] = report
    return stored


def check(report: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """What became slower than in ``stored``, beyond the noise; an empty list when nothing did.

    Ratios to the peer are compared, not times, because the peer shares the machine's mood. A row fails when its ratio
    fell by more than ``ROW_BAND`` plus the spreads of both runs, a family when its geometric mean over the rows that
    both runs hold fell by more than ``FAMILY_BAND``. Rows without a ratio compare their own numbers.
    """
    old = {(row["family"], row["name"]): row for row in stored["rows"] if "failed" not in row}
    problems = []
    pairs: dict[str, list[tuple[float, float]]] = {}
    for row in report["rows"]:
        before = old.get((row["family"], row["name"]))
        if before is None:
            continue
        title = f"{row['family']}/{row['name']}"
        if "failed" in row:
            problems.append(f"{title}: failed: {row['failed']}")
            continue
        if "ratio" in row and "ratio" in before:
            was, now, what = before["ratio"], row["ratio"], "ratio"
            spread = row.get("spread_ratio", 0.0) + before.get("spread_ratio", 0.0)
        else:  # smaller is better: compare speeds
            was, now, what = 1 / max(before["ours"], 1e-30), 1 / max(row["ours"], 1e-30), "speed"
            spread = row.get("spread_ours", 0.0) + before.get("spread_ours", 0.0)
        if was <= 0 or now != now:
            continue
        pairs.setdefault(row["family"], []).append((was, now))
        band = ROW_BAND + spread
        if now < was * (1 - band):
            problems.append(
                f"{title}: {what} fell by {100 * (1 - now / was):.0f} %, from {was:.3g} to {now:.3g}; allowed {100 * band:.0f} %"
            )
    for family, values in pairs.items():
        change = geometric_mean(now / was for was, now in values)
        if len(values) > 1 and change < 1 - FAMILY_BAND:
            problems.append(
                f"{family}: geometric mean over {len(values)} rows fell by {100 * (1 - change):.0f} %; "
                f"allowed {100 * FAMILY_BAND:.0f} %"
            )
    if not pairs and not problems:
        problems.append("no row of this run is in the stored result")
    return problems
