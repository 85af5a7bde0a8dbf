"""Runs measure.py for pydlx and PyTorch in alternating processes and prints the medians and ratios.

Usage: python bench/overhead/compare.py [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(library: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, str(HERE / "measure.py"), library], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    samples: dict[str, list[dict[str, float]]] = {"pydlx": [], "torch": []}
    for _ in range(options.rounds):
        for library in samples:
            samples[library].append(run(library))
    rows = {}
    print(f"{'row':54} {'pydlx':>10} {'torch':>10} {'torch/pydlx':>12}")
    for name in samples["pydlx"][0]:
        ours, theirs = (statistics.median(s[name] for s in samples[k]) for k in ("pydlx", "torch"))
        rows[name] = {"pydlx": ours, "torch": theirs}
        ratio = f"{theirs / ours:12.1f}" if ours > 0.01 and "%" not in name and "faults" not in name else ""
        print(f"{name:54} {ours:10.2f} {theirs:10.2f} {ratio}")
    print(
        "microseconds per call unless the row says otherwise; median over rounds, one library per process, alternating"
    )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
