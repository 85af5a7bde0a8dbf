"""Which aims a stored run of the suite reaches; writes the tables of docs/performance.md.

    python bench/aims.py                       # print what bench/results/cpu.json reaches
    python bench/aims.py --write               # and put it into docs/performance.md, between its markers

An aim is a ratio (the peer's time divided by ours) or a share of the machine's limit, for all rows that a pattern
matches and no later pattern in the list does.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from pydlx.bench.report import geometric_mean

ROOT = Path(__file__).resolve().parents[1]
FORWARD, TRAINING = r"(?!.*fwd\+bwd)", r"(?=.*fwd\+bwd)"
SINGLE = r"(?!.*bfloat16)"

# (pattern of family/name, "percent" or "ratio", aim); the last one that matches counts
AIMS = [
    (r"gemm/matmul 64$", "percent", 45),
    (r"gemm/matmul 128$", "percent", 80),
    (r"gemm/matmul 256$", "percent", 93),
    (r"gemm/matmul (512|768|1024|2048|4096)$", "percent", 95),
    (r"gemm/linear 128x1024->4096$", "percent", 88),
    (r"gemm/linear 4096x64->4096$", "percent", 60),
    (rf"conv/{SINGLE}{FORWARD}(AlexNet|VGG|ResNet|U-Net|channels-last) 3x3 (?!3->)", "ratio", 1.7),
    (rf"conv/{SINGLE}{TRAINING}(AlexNet|VGG|ResNet|U-Net|channels-last) 3x3 (?!3->)", "ratio", 1.6),
    (rf"conv/{SINGLE}{FORWARD}.* 1x1", "ratio", 1.6),
    (rf"conv/{SINGLE}{TRAINING}.* 1x1", "ratio", 3.0),
    (rf"conv/{SINGLE}(?!.*norm).*(stem|11x11)", "ratio", 2.5),
    (rf"conv/{SINGLE}.*(depthwise|grouped)", "ratio", 1.5),
    (rf"conv/{SINGLE}.* 3x3/2 128->", "ratio", 1.5),
    (rf"attention/{SINGLE}", "ratio", 1.15),
    (rf"attention/{SINGLE}.*(causal|short|tiny)", "ratio", 1.4),
    (rf"attention/{SINGLE}{FORWARD}(BERT 2|long|decode 8).*d64$", "percent", 78),
    (rf"attention/{SINGLE}{FORWARD}(GPT-2 1|long).*d64 causal$", "percent", 68),
    (rf"attention/{SINGLE}{TRAINING}(GPT-2 1|BERT 2|long).*d64", "percent", 70),
    (r"rnn/LSTM b1 ", "ratio", 1.7),
    (r"rnn/(GRU|RNN) b1 ", "ratio", 4.0),
    (r"rnn/LSTM b(32|64) ", "ratio", 1.1),
    (r"rnn/(GRU|RNN) b(32|64) ", "ratio", 1.5),
    (r"norm/", "ratio", 1.5),
    (r"loss/.*cross_entropy", "ratio", 1.5),
    (r"steps/(?!peak)", "ratio", 1.6),
]

# (pattern of family/name, what keeps the row from its aim); the first one that matches counts
REASONS = [
    (r"gemm/matmul (64|128)$", "2 and 13 us: starting the second thread and waiting for it takes 1 to 3 of them"),
    (r"gemm/", "tiles alone reach 96 to 98 %; packing B, edges of blocks and waiting at the end take the rest"),
    (r"conv/.*(stem|11x11)", "bound by multiply-adds, of which PyTorch has a large share already"),
    (r"conv/.* 1x1", "no product to save: bound by multiply-adds, of which PyTorch has a large share already"),
    (r"conv/.*depthwise", "bound by the bandwidth of the third level and of memory"),
    (
        r"conv/channels-last 3x3",
        "Winograd's products are the same as for rows; PyTorch's direct kernel is faster in this layout",
    ),
    (r"conv/", "bound by multiply-adds"),
    (r"attention/decode", "one query: bound by the bandwidth of memory"),
    (r"attention/", "softmax takes 15 to 27 %, and blocks at the diagonal are partly filled"),
    (r"rnn/\w+ b1 ", "one row: weights pass from the second or third level in every step"),
    (r"rnn/", "85 % are register tiles at 93 to 98 % of the peak; PyTorch's are, too"),
    (r"norm/.*(8192x768|32x64x56x56)", "bound by the bandwidth of memory"),
    (r"norm/", "bound by the bandwidth of the third level"),
]


def aim_of(row: dict[str, Any]) -> tuple[str, float] | None:
    """What is wanted of a row, if anything."""
    key = f"{row['family']}/{row['name']}"
    return next(((kind, aim) for pattern, kind, aim in reversed(AIMS) if re.match(pattern, key)), None)


def reason_of(row: dict[str, Any]) -> str:
    """Why a row that misses its aim does; empty if nobody has looked."""
    key = f"{row['family']}/{row['name']}"
    return next((reason for pattern, reason in REASONS if re.match(pattern, key)), "")


def _paragraph(text: str) -> str:
    return textwrap.fill(text, 145, break_long_words=False, break_on_hyphens=False)


def _titles(rows: list[dict[str, Any]]) -> str:
    return ", ".join(f"{row['family']} {row['name']} {row['ratio']:.2f}" for row in rows)


def suite_text(report: dict[str, Any]) -> str:
    """Families and the rows behind the peer."""
    rated = [row for row in report["rows"] if row.get("ratio", 0) > 0]  # not those near zero
    behind = sorted((row for row in rated if row["ratio"] < 1), key=lambda row: row["ratio"])
    far = [row for row in behind if row["ratio"] < 0.95]
    near = [row for row in behind if row["ratio"] >= 0.95]
    lines = [
        _paragraph(
            f"All families of `pydlx bench --threads {report['threads']} --seconds {report['seconds']:g}` in one run: "
            f"{len(rated)} rows, geometric mean {geometric_mean(row['ratio'] for row in rated):.2f}, {len(behind)} behind PyTorch, "
            f"{len(far)} of them by more than 5 %."
        ),
        "",
        "| family | rows | geometric mean | behind |",
        "|---|---|---|---|",
    ]
    for family in dict.fromkeys(row["family"] for row in rated):
        rows = [row for row in rated if row["family"] == family]
        mean = geometric_mean(row["ratio"] for row in rows)
        lines.append(f"| {family} | {len(rows)} | {mean:.2f} | {sum(row['ratio'] < 1 for row in rows)} |")
    if far:
        lines += ["", _paragraph(f"Behind by more than 5 %, worst first: {_titles(far)}.")]
    if near:
        lines += ["", _paragraph(f"Within 5 %: {_titles(near)}.")]
    return "\n".join(lines)


def aims_text(report: dict[str, Any]) -> str:
    """The rows that miss their aim, with the share of the limit that it would need."""
    wanted = [(row, *aim) for row in report["rows"] if (aim := aim_of(row)) and aim[0] in row]
    missed = [(row, kind, aim) for row, kind, aim in wanted if row[kind] < aim]
    lines = [
        _paragraph(
            f"Of the aims that were set for single rows of the suite {len(wanted) - len(missed)} of {len(wanted)} are reached. The others, "
            "with the share of the limit that the aim would need (PyTorch's share times the aimed ratio):"
        ),
        "",
        "| row | aim | reached | share of the limit | PyTorch's | needed | what limits it |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, kind, aim in missed:
        peer = row.get("percent_peer", 0.0)
        needed = f"{aim * peer:.0f} %" if kind == "ratio" and peer else ""
        target, reached = (f"{aim} %", f"{row[kind]:.0f} %") if kind == "percent" else (f"{aim}", f"{row[kind]:.2f}")
        share = f"{row['percent']:.0f} % | {peer:.0f} %" if "percent" in row else " | "
        lines.append(f"| {row['name']} | {target} | {reached} | {share} | {needed} | {reason_of(row)} |")
    return "\n".join(lines)


def replace(page: str, name: str, text: str) -> str:
    """What stands between the page's markers ``name``."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    if begin not in page or end not in page:
        raise ValueError(f"[aims] --write: expected the lines {begin!r} and {end!r} in the page")
    return page[: page.index(begin) + len(begin)] + text + page[page.index(end) :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stored", nargs="?", type=Path, default=ROOT / "bench/results/cpu.json", help="a stored run")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md instead of printing")
    args = parser.parse_args()
    report = json.loads(args.stored.read_text())
    texts = {"suite": suite_text(report), "aims": aims_text(report)}
    if not args.write:
        print("\n\n".join(texts.values()))
        return
    target = ROOT / "docs/performance.md"
    page = target.read_text()
    for name, text in texts.items():
        page = replace(page, name, text)
    target.write_text(page)


if __name__ == "__main__":
    main()
