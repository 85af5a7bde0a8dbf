"""How this installation was built and what it found on this machine."""

from __future__ import annotations

import platform
from typing import Any

from . import _C

__all__ = ["cpu", "info", "show"]


def info() -> dict[str, Any]:
    """Version, compiler and options of the build; CPU features, instruction set in use, threads, BLAS, CUDA."""
    return dict(_C.build_info())


def cpu() -> dict[str, Any]:
    """Name of the processor and the vector extensions it offers, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            facts = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
    except OSError:
        return {"cpu": platform.processor() or platform.machine()}
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    flags = facts.get("flags", facts.get("Features", "")).split()
    wanted = ("sse4_2", "avx", "avx2", "fma", "f16c", "avx512", "avx_vnni", "amx", "neon", "asimd", "sve")
    return {
        "cpu": facts.get("model name", platform.machine()),
        "cpu_features": [flag for flag in flags if flag.startswith(wanted)],
    }


def show() -> str:
    """The same as readable lines."""
    return "\n".join(f"{key}: {value}" for key, value in info().items())
