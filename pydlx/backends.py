"""Switches that PyTorch programs set. All operations are deterministic whatever they say; ``allow_tf32`` lets GPUs round float32 operands."""

from __future__ import annotations

from typing import Any

from . import _C

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


_HIGH, _MEDIUM = 1, 2  # of set_float32_matmul_precision


class _Matmul(_Backend):
    @property
    def allow_tf32(self) -> bool:
        """Whether float32 products (and with them convolutions) may round their operands to TF32, the leading eleven bits, on
        GPUs: the same as ``set_float32_matmul_precision("medium")``; False there goes back to ``"high"``. Default: False."""
        return bool(_C._matmul_precision() == _MEDIUM)

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        if bool(allowed) != self.allow_tf32:
            _C._set_matmul_precision(_MEDIUM if allowed else _HIGH)


class _Convolution(_Backend):
    @property
    def allow_tf32(self) -> bool:
        """Whether float32 convolutions may round their operands to TF32 on GPUs, unless the precision of products is
        ``"highest"``. Default: False, where PyTorch's is True."""
        return _C._conv_tf32()

    @allow_tf32.setter
    def allow_tf32(self, allowed: bool) -> None:
        _C._set_conv_tf32(bool(allowed))


cudnn = _Convolution("cudnn", enabled=False, deterministic=True, benchmark=False)
cuda = _Backend("cuda", matmul=_Matmul("cuda.matmul"))
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
