"""Recording numbers during training."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import Tensor, int64, ones_like, zeros

__all__ = ["Mean", "MetricsWriter", "confusion_matrix", "read_metrics"]


class MetricsWriter:
    """Appends one JSON object per line to a file; every line is on its way to the disk when ``write`` returns.

    Args:
        path: the file, such as ``runs/digits/metrics.jsonl``; its folder is made. append: keep what is there, to
            resume.

    NaN and infinities, which JSON lacks, are written as the strings ``"nan"``, ``"inf"`` and ``"-inf"``.
    """

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a" if append else "w", encoding="utf-8")

    def write(self, **values: Any) -> None:
        """Add a line; tensors with one element become numbers."""
        self._file.write(json.dumps({k: _plain(v) for k, v in values.items()}, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut off by a crash is left out."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Mean:
    """A running mean of numbers with weights, such as a loss over batches of different size."""

    def __init__(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        """Take in one number."""
        self.total += float(value) * weight
        self.weight += weight

    @property
    def value(self) -> float:
        """The mean so far; NaN before the first number."""
        return self.total / self.weight if self.weight else math.nan


def confusion_matrix(target: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """Counts of (true class, predicted class).

    Args:
        target, predicted: int64 tensors of one shape with classes in [0, ``classes``).

    Returns:
        int64 tensor of shape (classes, classes).
    """
    if target.shape != predicted.shape:
        raise ValueError(
            f"[confusion_matrix] predicted: expected shape {tuple(target.shape)}, got {tuple(predicted.shape)}"
        )
    flat = target.reshape(-1) * classes + predicted.reshape(-1)
    counts = zeros(classes * classes, dtype=int64, device=target.device)
    return counts.scatter_add_(0, flat, ones_like(flat)).reshape(classes, classes)
