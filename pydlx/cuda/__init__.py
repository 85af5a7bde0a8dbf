"""The CUDA device, as far as this build has one. These functions never raise on machines without a GPU."""

from __future__ import annotations

from typing import Any

from .. import _C


def is_available() -> bool:
    """Whether this build has a CUDA backend and the machine a GPU it can use."""
    return device_count() > 0


def device_count() -> int:
    """Number of usable GPUs."""
    return 0  # no CUDA backend in this version


def is_initialized() -> bool:
    """Whether a GPU has been used by this process."""
    return False


def synchronize(device: Any = None) -> None:
    """Waits for the GPU; nothing to wait for without one."""
    _require("synchronize")


def manual_seed(seed: int) -> None:
    """Seeds the GPU generator; without a GPU this does nothing, as in PyTorch."""


def manual_seed_all(seed: int) -> None:
    """Seeds the generators of all GPUs; without a GPU this does nothing."""


def _require(name: str) -> None:
    if not is_available():
        raise _C.DeviceError(
            f"[cuda.{name}] expected a CUDA device, but this build of pydlx has no CUDA backend or finds no GPU"
        )
