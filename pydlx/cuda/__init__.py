"""GPUs, by the names of ``torch.cuda``.

Asking (``is_available``, ``device_count``) never raises, with or without a GPU. Everything else needs one and raises a
:class:`pydlx.DeviceError` that says what is missing. Work is queued on streams and runs asynchronously; an index outside
its range is reported by the next operation or synchronisation of the device, as the ``IndexError`` that the CPU raises.
"""

from __future__ import annotations

from typing import Any

from .. import _C
from ..random import gpu_generators
from . import _memory, _streams
from ._device import (
    current_device,
    device,
    device_count,
    get_device_capability,
    get_device_name,
    get_device_properties,
    init,
    is_available,
    is_bf16_supported,
    is_initialized,
    is_tf32_supported,
    set_device,
    synchronize,
)
from ._graphs import CUDAGraph, graph, is_current_stream_capturing
from ._memory import (
    empty_cache,
    max_memory_allocated,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    memory_stats,
    memory_summary,
    reset_peak_memory_stats,
)
from ._random import (
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)
from ._streams import Event, Stream, current_stream, default_stream, set_stream, stream

OutOfMemoryError = _C.OutOfMemoryError

__all__ = [
    "CUDAGraph",
    "Event",
    "OutOfMemoryError",
    "Stream",
    "current_device",
    "current_stream",
    "default_stream",
    "device",
    "device_count",
    "empty_cache",
    "get_device_capability",
    "get_device_name",
    "get_device_properties",
    "get_rng_state",
    "get_rng_state_all",
    "graph",
    "init",
    "initial_seed",
    "is_available",
    "is_bf16_supported",
    "is_current_stream_capturing",
    "is_initialized",
    "is_tf32_supported",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "memory_summary",
    "reset_peak_memory_stats",
    "seed",
    "seed_all",
    "set_device",
    "set_rng_state",
    "set_rng_state_all",
    "set_stream",
    "stream",
    "synchronize",
]


def __getattr__(name: str) -> Any:
    if name == "amp":  # rests on pydlx.amp, which rests on this module
        import importlib

        return importlib.import_module(".amp", __name__)
    if name == "default_generators":
        return gpu_generators()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
