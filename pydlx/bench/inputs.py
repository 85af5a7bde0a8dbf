"""Inputs of benchmark rows: the same numbers for every library, and the same again in float64 for the reference."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["Inputs"]


class Inputs:
    """Makes tensors of one library from a random stream that depends only on the row's name.

    Args:
        T: the library, a module with PyTorch's names.
        key: the row's key, seed of the stream.
        double: make float64 tensors holding the same numbers (the reference run).
        device: where the tensors go.
    """

    def __init__(self, T: Any, key: str, *, double: bool = False, device: str = "cpu") -> None:
        self.T = T
        self.double = double
        self._random = np.random.default_rng(zlib.crc32(key.encode()))
        self._tensor: Callable[[Any], Any] = T.from_numpy
        if device != "cpu":
            self._tensor = lambda values: T.from_numpy(values).to(device)

    def _floating(self, values: Any, dtype: str | None) -> Any:
        tensor = self._tensor(values)
        if dtype is not None:  # rounded first, so that the reference sees the numbers that the row sees
            tensor = tensor.to(getattr(self.T, dtype))
        return tensor.to(self.T.float64) if self.double else tensor

    def normal(self, *shape: int, scale: float = 1.0, dtype: str | None = None) -> Any:
        """Normal numbers of standard deviation ``scale``; float32 unless ``dtype`` names another type."""
        values = self._random.standard_normal(shape, dtype=np.float32)
        if scale != 1.0:
            values *= np.float32(scale)
        return self._floating(np.asarray(values), dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0, dtype: str | None = None) -> Any:
        """Numbers evenly spread over [low, high)."""
        values = self._random.random(shape, dtype=np.float32) * np.float32(high - low) + np.float32(low)
        return self._floating(np.asarray(values, dtype=np.float32), dtype)

    def integers(self, high: int, *shape: int) -> Any:
        """int64 numbers from 0 to ``high`` - 1."""
        return self._tensor(self._random.integers(high, size=shape))

    def permutation(self, n: int) -> Any:
        """The numbers 0 to n - 1 in random order, int64."""
        return self._tensor(self._random.permutation(n).astype(np.int64))

    def mask(self, *shape: int, share: float = 0.5) -> Any:
        """Booleans, true with probability ``share``."""
        return self._tensor(self._random.random(shape) < share)

    def load(self, module: Any) -> Any:
        """Fills a module's parameters in order: weights of unit gain, scales near one, biases near zero."""
        with self.T.no_grad():
            for name, parameter in module.named_parameters():
                shape = tuple(parameter.shape)
                values = self._random.standard_normal(shape, dtype=np.float32)
                if len(shape) > 1:
                    values /= np.float32(math.sqrt(math.prod(shape[1:])))
                else:
                    values = np.float32(0.1) * values + np.float32(name.endswith("weight"))
                parameter.copy_(self._tensor(np.asarray(values, dtype=np.float32)))
        return module.double() if self.double else module
