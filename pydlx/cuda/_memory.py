"""Statistics of the caching allocator."""

from __future__ import annotations

from typing import Any

from .. import _C
from ._device import index_of, is_available

_cuda = _C._cuda


def memory_stats(device: Any = None) -> dict[str, int]:
    """Bytes ``in_use`` and ``reserved`` from the driver with their peaks, ``allocations``, and ``cache_hits`` among them."""
    return dict(_cuda.memory_stats(index_of(device, "memory_stats")))


def memory_allocated(device: Any = None) -> int:
    """Bytes that tensors occupy."""
    return memory_stats(device)["in_use"]


def max_memory_allocated(device: Any = None) -> int:
    """Largest number of bytes that tensors occupied since the start or :func:`reset_peak_memory_stats`."""
    return memory_stats(device)["peak_in_use"]


def memory_reserved(device: Any = None) -> int:
    """Bytes held from the driver, cached ones included."""
    return memory_stats(device)["reserved"]


def max_memory_reserved(device: Any = None) -> int:
    """Largest number of bytes held from the driver."""
    return memory_stats(device)["peak_reserved"]


def reset_peak_memory_stats(device: Any = None) -> None:
    """Lets the peaks start again from what is in use now."""
    _cuda.reset_peak_memory_stats(index_of(device, "reset_peak_memory_stats"))


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Free and total bytes of the device's memory, by the driver."""
    free, total = _cuda.memory_info(index_of(device, "mem_get_info"))
    return free, total


def empty_cache() -> None:
    """Gives cached memory that nobody uses back to the driver; without a GPU there is none."""
    if is_available():
        _cuda.empty_cache()


def memory_summary(device: Any = None, abbreviated: bool = False) -> str:
    """A table of what tensors occupy, what is held from the driver and what that is of the device's memory, to be printed.

    Args:
        abbreviated: leave out how often memory was asked for and found in the cache. Default: ``False``.
    """
    index = index_of(device, "memory_summary")
    stats, (free, total) = memory_stats(index), mem_get_info(index)
    mib = 1 << 20
    lines = [
        f"cuda:{index}, memory in MiB        now       peak",
        f"tensors            {stats['in_use'] / mib:15.1f} {stats['peak_in_use'] / mib:10.1f}",
        f"held               {stats['reserved'] / mib:15.1f} {stats['peak_reserved'] / mib:10.1f}",
        f"free on the device {free / mib:15.1f} of {total / mib:.1f}",
    ]
    if not abbreviated:
        lines.append(f"allocations        {stats['allocations']:15d}, {stats['cache_hits']} of them from the cache")
    return "\n".join(lines)
