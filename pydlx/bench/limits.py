"""What this machine can do at most: peak arithmetic and bandwidth, measured by native loops."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .rows import Row

__all__ = ["better_of", "caches", "level_of", "measure", "measure_gpu", "multiply_add_peaks", "shortest_time"]

LEVELS = ("l2", "l3", "memory")
_SIZES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def caches() -> dict[str, int]:
    """Bytes of the second-level cache of one core and of the whole third-level cache, as the system tells."""
    found = {"l2": 1 << 20, "l3": 32 << 20}  # where the system does not tell
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, size = ((index / name).read_text().strip() for name in ("level", "size"))
        except OSError:
            continue
        if f"l{level}" in found:
            found[f"l{level}"] = int(size[:-1]) * _SIZES[size[-1]]
    return found


def _best_rate(run: Callable[[int], float], seconds: float) -> float:
    """Largest work per second of ``run(repeats)``, which returns the work it has done."""
    repeats, best = 1, 0.0

    def timed() -> float:
        start = time.perf_counter()
        run(repeats)
        return time.perf_counter() - start

    # Long enough that starting the threads does not count, short enough to fall between disturbances; the shortest of
    # three, because a disturbed call looks long enough.
    while min(timed(), timed(), timed()) < seconds / 80:
        repeats *= 2
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        start = time.perf_counter()
        work = run(repeats)
        best = max(best, work / (time.perf_counter() - start))
    return float(best)


def multiply_add_peaks(pydlx: Any, seconds: float = 0.25) -> tuple[float, float]:
    """Flop/s of fused multiply-adds on one thread and on as many as are set.

    Args:
        pydlx: the module, with its native probes. seconds: time spent on each number.
    """
    threads = pydlx.get_num_threads()
    pydlx.set_num_threads(1)
    one = _best_rate(pydlx._C._probe_fma, seconds)
    pydlx.set_num_threads(threads)
    return one, _best_rate(pydlx._C._probe_fma, seconds)


def measure(pydlx: Any, seconds: float = 0.25) -> dict[str, Any]:
    """Peak of one thread and of all threads (flop/s), and bytes per second of reading and copying at every level.

    Args:
        pydlx: the module, with its native probes. seconds: time spent on each number.
    """
    native, threads = pydlx._C, pydlx.get_num_threads()
    sizes = caches()
    # Half a cache, so that what else lives there does not push the data out. Memory: eight times the last cache, at
    # most 512 MB.
    footprint = {
        "l2": threads * sizes["l2"] // 2,
        "l3": max(sizes["l3"] // 2, threads * sizes["l2"] * 2),
        "memory": min(8 * sizes["l3"], 1 << 29),
    }
    result: dict[str, Any] = {"threads": threads, "caches": sizes}
    result["fma_one_thread"], result["fma"] = multiply_add_peaks(pydlx, seconds)
    for level in LEVELS:
        source = pydlx.zeros(footprint[level] // 4)
        half = source.numel() // 2
        low, high = source[:half], source[half:]

        def read(repeats: int, source: Any = source) -> float:
            native._probe_read(source, repeats)
            return 4.0 * int(source.numel()) * repeats

        def copy(repeats: int, low: Any = low, high: Any = high, count: int = half) -> float:
            native._probe_copy(low, high, repeats)
            return 8.0 * count * repeats

        result[level] = {"read": _best_rate(read, seconds), "copy": _best_rate(copy, seconds)}
    return result


def measure_gpu(pydlx: Any, seconds: float = 0.25) -> dict[str, Any]:
    """The same for the current GPU; its two caches are one number, and "l3" repeats it.

    Args:
        pydlx: the module, with its native probes. seconds: time spent on each number.
    """
    native, cuda = pydlx._C, pydlx.cuda
    device = pydlx.device("cuda", cuda.current_device())

    def timed(work: Callable[[int], float]) -> Callable[[int], float]:
        def run(repeats: int) -> float:
            done = work(repeats)
            cuda.synchronize()
            return done

        return run

    l2 = int(cuda.get_device_properties().l2_cache_size)
    result: dict[str, Any] = {"threads": 1, "caches": {"l2": l2, "l3": l2}}
    result["fma"] = result["fma_one_thread"] = _best_rate(
        timed(lambda repeats: float(native._probe_fma(16 * repeats, device))), seconds
    )
    free = cuda.mem_get_info()[0]
    for level, size in (("l2", l2 // 2), ("memory", min(1 << 32, free // 4))):
        source = pydlx.zeros(size // 32 * 8, device=device)
        half = source.numel() // 2
        low, high = source[:half], source[half:]

        def read(repeats: int, source: Any = source) -> float:
            native._probe_read(source, repeats)
            return 4.0 * int(source.numel()) * repeats

        def copy(repeats: int, low: Any = low, high: Any = high, count: int = half) -> float:
            native._probe_copy(low, high, repeats)
            return 8.0 * count * repeats

        result[level] = {"read": _best_rate(timed(read), seconds), "copy": _best_rate(timed(copy), seconds)}
    result["l3"] = result["l2"]
    return result


def better_of(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The larger rate of two measurements of the same machine: a disturbed one can only be too small."""
    return {
        name: better_of(value, other[name]) if isinstance(value, Mapping) else max(value, other[name])
        for name, value in one.items()
    }


def level_of(footprint: float, limits: Mapping[str, Any]) -> str:
    """Where ``footprint`` bytes live while a row is called again and again."""
    sizes = limits["caches"]
    if footprint <= 0.75 * limits["threads"] * sizes["l2"]:
        return "l2"
    return "l3" if footprint <= 0.75 * sizes["l3"] else "memory"


def shortest_time(row: Row, limits: Mapping[str, Any]) -> tuple[float, str]:
    """The least seconds that the machine's limits allow a row, and which limit that is ("fma", "l2", "l3", "memory").

    Reads and writes pair up at the speed of a copy; what is left over moves at the speed of reading, or, for writes, at
    that of a copy, half of whose traffic is writing.
    """
    compute = row.flops / limits["fma"]
    level = level_of(row.footprint, limits)
    rate = limits[level]
    pairs = min(row.reads, row.writes)
    moving = (
        2 * pairs / rate["copy"] + (row.reads - pairs) / rate["read"] + 2 * max(0.0, row.writes - pairs) / rate["copy"]
    )
    return (compute, "fma") if compute >= moving else (moving, level)
