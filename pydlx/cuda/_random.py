"""The generators of the GPUs. The same seed gives the same numbers as on the CPU."""

from __future__ import annotations

from .. import _C
from ._device import device_count, index_of, is_available


def manual_seed(seed: int) -> None:
    """Seeds the current GPU's generator; without a GPU this does nothing, as in PyTorch."""
    if is_available():
        _C._cuda.generator(index_of(None, "manual_seed")).manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Seeds the generators of all GPUs; without a GPU this does nothing."""
    for i in range(device_count()):
        _C._cuda.generator(i).manual_seed(seed)


def initial_seed() -> int:
    """The seed of the current GPU's generator."""
    return int(_C._cuda.generator(index_of(None, "initial_seed")).initial_seed())


def seed() -> None:
    """Seeds the current GPU's generator from the operating system; without a GPU this does nothing."""
    if is_available():
        _C._cuda.generator(index_of(None, "seed")).seed()
