"""How this installation was built and what it found on this machine."""

from __future__ import annotations

from typing import Any

from . import _C

__all__ = ["info", "show"]


def info() -> dict[str, Any]:
    """Version, compiler and options of the build; CPU features, instruction set in use, threads, BLAS, CUDA."""
    return dict(_C.build_info())


def show() -> str:
    """The same as readable lines."""
    return "\n".join(f"{key}: {value}" for key, value in info().items())
