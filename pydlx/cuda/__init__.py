"""GPUs, by the names of ``torch.cuda``.

Asking (``is_available``, ``device_count``) never raises, with or without a GPU. Everything else needs one and raises a
:class:`pydlx.DeviceError` that says what is missing. Work is queued on streams and runs asynchronously; an index outside
its range is reported by the next operation or synchronisation of the device, as the ``IndexError`` that the CPU raises.
"""

from __future__ import annotations

from .. import _C
from . import _memory, _streams
from ._device import (
    current_device,
    device,
    device_count,
    get_device_capability,
    get_device_name,
    get_device_properties,
    is_available,
    is_initialized,
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
    reset_peak_memory_stats,
)
from ._random import initial_seed, manual_seed, manual_seed_all, seed
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
    "graph",
    "initial_seed",
    "is_available",
    "is_current_stream_capturing",
    "is_initialized",
    "manual_seed",
    "manual_seed_all",
    "max_memory_allocated",
    "max_memory_reserved",
    "mem_get_info",
    "memory_allocated",
    "memory_reserved",
    "memory_stats",
    "reset_peak_memory_stats",
    "seed",
    "set_device",
    "set_stream",
    "stream",
    "synchronize",
]
