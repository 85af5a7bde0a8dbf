"""Which devices there are, and which one is current."""

from __future__ import annotations

from types import SimpleNamespace, TracebackType
from typing import Any

from .. import _C

_cuda = _C._cuda
_used = False


def is_available() -> bool:
    """Whether this build has a CUDA backend and the machine a GPU it can use."""
    return device_count() > 0


def device_count() -> int:
    """Number of usable GPUs; 0 without a driver."""
    return int(_cuda.device_count())


def is_initialized() -> bool:
    """Whether this process has a usable GPU. Nothing is initialised before it is needed."""
    return is_available()


def require(name: str) -> None:
    """Raises :class:`pydlx.DeviceError` for a function that cannot work without a GPU."""
    if not is_available():
        raise _C.DeviceError(f"[cuda.{name}] expected a CUDA device: {_cuda.why_unavailable()}")


def index_of(device: Any, name: str) -> int:
    """The number of a device given as None (the current one), a number, a string, or a ``pydlx.device``.

    Raises:
        DeviceError: there is no GPU, or not so many.
        ValueError: the device is a CPU.
        TypeError: it is no device at all.
    """
    require(name)
    if device is None:
        return int(_cuda.current_device())
    if isinstance(device, bool) or not isinstance(device, int | str | _C.device):
        raise TypeError(f"[cuda.{name}] device: expected a number, a name or a device, got {type(device).__name__}")
    if isinstance(device, str):
        device = _C.device(device)
    if isinstance(device, _C.device):
        if device.type != "cuda":
            raise ValueError(f"[cuda.{name}] device: expected a CUDA device, got {device}")
        device = device.index
    count = device_count()
    if not 0 <= device < count:
        raise _C.DeviceError(f"[cuda.{name}] device: expected a number below {count}, got {device}")
    return int(device)


def current_device() -> int:
    """Number of the calling thread's device."""
    require("current_device")
    return int(_cuda.current_device())


def set_device(device: Any) -> None:
    """Makes a device the calling thread's current one."""
    _cuda.set_device(index_of(device, "set_device"))


def synchronize(device: Any = None) -> None:
    """Waits until everything queued on the device has run, and raises what its kernels reported."""
    _cuda.synchronize(index_of(device, "synchronize"))


def get_device_properties(device: Any = None) -> SimpleNamespace:
    """Name, compute capability (``major``, ``minor``), ``total_memory`` in bytes, ``multi_processor_count``, and more."""
    return SimpleNamespace(**_cuda.properties(index_of(device, "get_device_properties")))


def get_device_name(device: Any = None) -> str:
    """The device's product name."""
    return str(get_device_properties(device).name)


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """Compute capability, ``(9, 0)`` for Hopper."""
    p = get_device_properties(device)
    return p.major, p.minor


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """Whether bfloat16 can be used: every GPU computes with it, those of compute capability 8 and newer on tensor cores."""
    return is_tf32_supported() or (including_emulation and is_available())


def is_tf32_supported() -> bool:
    """Whether the current GPU multiplies TF32 on tensor cores (compute capability 8 and newer)."""
    return is_available() and get_device_capability() >= (8, 0)


def init() -> None:
    """Raises :class:`pydlx.DeviceError` without a GPU; nothing has to be initialised."""
    require("init")


class device:
    """Makes a device current inside a ``with`` block."""

    def __init__(self, device: Any) -> None:
        self.idx = index_of(device, "device")
        self._before = self.idx

    def __enter__(self) -> device:
        self._before = current_device()
        _cuda.set_device(self.idx)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _cuda.set_device(self._before)
