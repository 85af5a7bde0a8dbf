"""Switches that PyTorch programs set. All operations are deterministic and in full precision whatever they say."""

from __future__ import annotations

from typing import Any

__all__ = ["cuda", "cudnn", "mkl", "mkldnn", "mps", "openmp"]


class _Backend:
    """A named set of switches: any attribute may be set and is remembered."""

    def __init__(self, name: str, available: bool = False, **switches: Any) -> None:
        self._name = name
        self._available = available
        self.__dict__.update(switches)

    def is_available(self) -> bool:
        """Whether this build contains the backend."""
        return self._available

    def is_built(self) -> bool:
        """The same as ``is_available``."""
        return self._available

    def version(self) -> int | None:
        """None: there is no such library."""
        return None

    def __repr__(self) -> str:
        return f"<pydlx.backends.{self._name}>"


cudnn = _Backend("cudnn", enabled=False, deterministic=True, benchmark=False, allow_tf32=False)
cuda = _Backend("cuda", matmul=_Backend("cuda.matmul", allow_tf32=False))
mps = _Backend("mps")
mkl = _Backend("mkl")
mkldnn = _Backend("mkldnn", enabled=False)
openmp = _Backend("openmp", available=True)

_deterministic = False


def use_deterministic_algorithms(mode: bool, *, warn_only: bool = False) -> None:
    """Accepted for compatibility: every operation of this library is deterministic already."""
    global _deterministic
    _deterministic = bool(mode)


def are_deterministic_algorithms_enabled() -> bool:
    """What ``use_deterministic_algorithms`` was last told."""
    return _deterministic
