"""Memory of the running process, as the system counts it."""

from __future__ import annotations

import resource
from collections.abc import Callable

__all__ = ["page_faults", "peak_growth", "resident_bytes"]


def resident_bytes() -> int:
    """Resident memory of this process now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def page_faults() -> int:
    """Page faults of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt + usage.ru_majflt


def peak_growth(run: Callable[[], object]) -> int:
    """Bytes by which resident memory at its highest during ``run()`` exceeds what it was before."""
    before = resident_bytes()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # the peak starts again from here (Linux, proc(5))
    run()
    with open("/proc/self/status", encoding="ascii") as file:
        peak = next(line for line in file if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 - before
