"""The generators of the GPUs. The same seed gives the same numbers as on the CPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .. import _C
from ..random import gpu_generators
from ._device import index_of, is_available


def manual_seed(seed: int) -> None:
    """Seeds the current GPU's generator; without a GPU this does nothing, as in PyTorch."""
    if is_available():
        _C._cuda.generator(index_of(None, "manual_seed")).manual_seed(seed)


def manual_seed_all(seed: int) -> None:
    """Seeds the generators of all GPUs; without a GPU this does nothing."""
    for generator in gpu_generators():
        generator.manual_seed(seed)


def initial_seed() -> int:
    """The seed of the current GPU's generator."""
    return int(_C._cuda.generator(index_of(None, "initial_seed")).initial_seed())


def get_rng_state(device: Any = None) -> _C.Tensor:
    """The state of a GPU's generator (the current one's by default) as a uint8 tensor on the CPU, for :func:`set_rng_state`."""
    state: _C.Tensor = _C._cuda.generator(index_of(device, "get_rng_state")).get_state()
    return state


def set_rng_state(new_state: _C.Tensor, device: Any = None) -> None:
    """Restores a state that :func:`get_rng_state` returned.

    Raises:
        ValueError: the tensor is not such a state.
    """
    _C._cuda.generator(index_of(device, "set_rng_state")).set_state(new_state)


def get_rng_state_all() -> list[_C.Tensor]:
    """The states of all GPUs' generators; none without a GPU."""
    return [generator.get_state() for generator in gpu_generators()]


def set_rng_state_all(new_states: Iterable[_C.Tensor]) -> None:
    """Restores what :func:`get_rng_state_all` returned."""
    for i, state in enumerate(new_states):
        set_rng_state(state, i)


def seed() -> None:
    """Seeds the current GPU's generator from the operating system; without a GPU this does nothing."""
    if is_available():
        _C._cuda.generator(index_of(None, "seed")).seed()


def seed_all() -> None:
    """Seeds the generators of all GPUs with one seed from the operating system; without a GPU this does nothing."""
    if is_available():
        seed()
        manual_seed_all(initial_seed())
