"""The default random number generator: seeding, saving and restoring its state.

Every random function draws from one Philox 4x32-10 stream (Salmon et al. 2011) that is fixed by a 64-bit seed and a 64-bit offset. Equal seeds
give equal numbers for any number of threads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from . import _C
from ._C import Generator, Tensor, default_generator

__all__ = ["fork_rng", "get_rng_state", "initial_seed", "manual_seed", "seed", "set_rng_state"]


def manual_seed(seed: int) -> Generator:
    """Restarts the default streams of the CPU and of all GPUs.

    Args:
        seed: integer in [-2**63, 2**64); negative values stand for 2**64 + seed.

    Returns:
        The default generator.

    Raises:
        ValueError: the seed does not fit 64 bits.
    """
    seed = int(seed)
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"[manual_seed] seed: expected an integer in [-2**63, 2**64), got {seed}")
    default_generator.manual_seed(seed)
    for generator in gpu_generators():  # their streams start over with it, as in PyTorch
        generator.manual_seed(seed)
    return default_generator


def seed() -> int:
    """Seeds the default stream from the operating system and returns the seed."""
    value = int.from_bytes(os.urandom(8), "little") >> 1
    default_generator.manual_seed(value)
    return value


def initial_seed() -> int:
    """The seed the default stream was last started with."""
    return int(default_generator.initial_seed())


def get_rng_state() -> Tensor:
    """The state of the default stream as a uint8 tensor, for `set_rng_state`."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Restores a state that `get_rng_state` returned.

    Raises:
        ValueError: the tensor is not such a state.
    """
    default_generator.set_state(new_state)


def gpu_generators() -> tuple[Generator, ...]:
    """The generators of the default streams of all GPUs; none without a GPU."""
    return tuple(_C._cuda.generator(i) for i in range(_C._cuda.device_count()))


def get_rng_states() -> list[Tensor]:
    """The states of the default streams of the CPU and of all GPUs, for `set_rng_states`."""
    return [generator.get_state() for generator in (default_generator, *gpu_generators())]


def set_rng_states(states: list[Tensor]) -> None:
    """Restores what `get_rng_states` returned."""
    for generator, state in zip((default_generator, *gpu_generators()), states, strict=True):
        generator.set_state(state)


@contextlib.contextmanager
def fork_rng(devices: Any = None, enabled: bool = True, **_: Any) -> Iterator[None]:
    """Restores the random state when the block ends, so that draws inside do not change what follows.

    Args:
        devices: accepted for compatibility; the streams of the CPU and of all GPUs are covered.
        enabled: False makes the block an ordinary one.
    """
    if not enabled:
        yield
        return
    states = get_rng_states()
    try:
        yield
    finally:
        set_rng_states(states)
