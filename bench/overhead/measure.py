"""Cost of the machinery: microseconds per tiny operation and per small training step, for one library in this process.

Usage: python measure.py pydlx|torch   prints one JSON object. ``compare.py`` runs both in turn.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

ROUNDS = 15


def microseconds(step: Callable[[], Any], seconds: float = 0.04) -> float:
    """Median over rounds of the mean time of a call."""
    for _ in range(20):
        step()
    start = time.perf_counter()
    step()
    calls = max(5, int(seconds / max(time.perf_counter() - start, 1e-7)))
    samples = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(calls):
            step()
        samples.append((time.perf_counter() - start) / calls)
    return statistics.median(samples) * 1e6


def page_faults() -> int:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def resident_bytes() -> int:
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * resource.getpagesize()


def main(library: str) -> dict[str, float]:
    T: Any = __import__(library)
    rows: dict[str, float] = {}
    a, b = T.ones(4), T.ones(4)
    w = T.ones(4, requires_grad=True)
    rows["a + b"] = microseconds(lambda: a + b)
    rows["a * 2.5"] = microseconds(lambda: a * 2.5)
    rows["a + b, recorded"] = microseconds(lambda: w + b)
    rows["a.sum()"] = microseconds(lambda: a.sum())
    rows["a[1:3]"] = microseconds(lambda: a[1:3])
    rows["a.shape"] = microseconds(lambda: a.shape)

    def small_graph() -> None:
        w.grad = None
        (w * w + w).sum().backward()

    rows["(a*a + a).sum().backward()"] = microseconds(small_graph)

    nn, F = T.nn, T.nn.functional
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = T.optim.Adam(model.parameters(), lr=1e-3)
    x, y = T.randn(32, 64), T.randint(0, 10, (32,))

    def train_step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    rows["MLP 64-128-10 Adam step, batch 32"] = microseconds(train_step)
    before = page_faults()
    for _ in range(200):
        train_step()
    rows["page faults per step"] = (page_faults() - before) / 200

    # Memory after warm-up with steps of random shapes.
    generator = T.Generator().manual_seed(0)
    sizes = T.randint(1, 512, (10_000,), generator=generator).tolist()
    resident = 0
    for i, n in enumerate(sizes):
        (T.randn(n, 64) @ T.randn(64, n)).relu().sum()
        if i == 2000:
            resident = resident_bytes()
    rows["resident memory growth over 8,000 random shapes (%)"] = 100 * (resident_bytes() / resident - 1)
    return rows


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
