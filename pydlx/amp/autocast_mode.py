"""The region in which operations choose their precision."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from .. import _C

__all__ = [
    "autocast",
    "custom_bwd",
    "custom_fwd",
    "get_autocast_dtype",
    "is_autocast_available",
    "is_autocast_enabled",
    "set_autocast_dtype",
    "set_autocast_enabled",
]

F = TypeVar("F", bound=Callable[..., Any])


def is_autocast_available(device_type: str) -> bool:
    """Whether :class:`autocast` knows the device type: ``"cpu"`` and ``"cuda"``."""
    return device_type in ("cpu", "cuda")


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether the calling thread is inside an :class:`autocast` block for the device type."""
    return bool(_C._autocast_enabled(device_type))


def set_autocast_enabled(device_type: str, enabled: bool) -> None:
    """Switches casting for the device type; :class:`autocast` does it for a block."""
    _C._set_autocast_enabled(device_type, enabled)


def get_autocast_dtype(device_type: str) -> Any:
    """The 16-bit type of the device type's blocks."""
    return _C._autocast_dtype(device_type)


def set_autocast_dtype(device_type: str, dtype: Any) -> None:
    """Sets the 16-bit type of the device type's blocks."""
    _C._set_autocast_dtype(device_type, dtype)


class autocast:
    """Runs operations inside a ``with`` block, or a decorated function, in mixed precision.

    Matrix products, convolutions, recurrent layers and attention take float32 operands in ``dtype``; losses (and on GPUs
    softmax, normalisation, sums, powers and logarithms) take 16-bit operands in float32; everything else runs as its
    operands are. Parameters stay float32, and so do their gradients: the casts are part of the graph. Backward passes
    belong outside of the block.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``: tensors of that device are cast.
        dtype: ``float16`` or ``bfloat16``; default: bfloat16 on the CPU, float16 on GPUs.
        enabled: False makes a block of plain precision, also inside another block. Default: True.
        cache_enabled: Whether the casts of parameters are kept until the outermost block ends. Default: True.

    Raises:
        ValueError: unknown device type or a dtype that is not 16 bits wide.

    Source: Micikevicius et al. 2018, "Mixed Precision Training"; the lists of operations are PyTorch's.
    """

    def __init__(
        self, device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        if not isinstance(device_type, str):
            raise ValueError(f"[autocast] device_type: expected 'cpu' or 'cuda', got {type(device_type).__name__}")
        self.device = device_type
        self.fast_dtype = dtype if dtype is not None else _C._autocast_dtype(device_type)
        if self.fast_dtype not in (_C.float16, _C.bfloat16):
            raise ValueError(f"[autocast] dtype: expected float16 or bfloat16, got {self.fast_dtype}")
        _C._autocast_enabled(device_type)  # refuses unknown device types
        self._enabled = enabled
        self._cache = cache_enabled
        self._before: list[tuple[bool, Any, bool]] = []

    def __enter__(self) -> autocast:
        self._before.append((_C._autocast_enabled(self.device), _C._autocast_dtype(self.device), _C._autocast_cache()))
        _C._set_autocast_enabled(self.device, self._enabled)
        _C._set_autocast_dtype(self.device, self.fast_dtype)
        if self._cache is not None:
            _C._set_autocast_cache(self._cache)
        _C._enter_autocast()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _C._exit_autocast()
        enabled, dtype, cache = self._before.pop()
        _C._set_autocast_enabled(self.device, enabled)
        _C._set_autocast_dtype(self.device, dtype)
        _C._set_autocast_cache(cache)

    def __call__(self, func: F) -> F:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with autocast(self.device, self.fast_dtype, self._enabled, self._cache):
                return func(*args, **kwargs)

        return wrapper  # type: ignore[return-value]


def _cast(value: Any, device_type: str, dtype: Any) -> Any:
    if isinstance(value, _C.Tensor):
        wanted = value.is_floating_point() and value.device.type == device_type and value.dtype != _C.float64
        return value.to(dtype) if wanted else value
    if isinstance(value, dict):
        return {k: _cast(v, device_type, dtype) for k, v in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_cast(v, device_type, dtype) for v in value)
    return value


def custom_fwd(fwd: Any = None, *, device_type: str, cast_inputs: Any = None) -> Any:
    """Decorator for ``forward`` of an :class:`pydlx.autograd.Function` used under :class:`autocast`.

    Args:
        device_type: ``"cpu"`` or ``"cuda"``.
        cast_inputs: Run ``forward`` in plain precision on inputs cast to this dtype; default: the region as it is.
    """
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)

    @functools.wraps(fwd)
    def decorated(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        active = _C._autocast_enabled(device_type)
        ctx._autocast = (active and cast_inputs is None, _C._autocast_dtype(device_type))
        if cast_inputs is None or not active:
            return fwd(ctx, *args, **kwargs)
        with autocast(device_type, enabled=False):
            return fwd(ctx, *_cast(args, device_type, cast_inputs), **_cast(kwargs, device_type, cast_inputs))

    return decorated


def custom_bwd(bwd: Any = None, *, device_type: str) -> Any:
    """Decorator for ``backward``: it runs in the region that ``forward`` ran in (see :func:`custom_fwd`)."""
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)

    @functools.wraps(bwd)
    def decorated(ctx: Any, *args: Any) -> Any:
        enabled, dtype = ctx._autocast
        with autocast(device_type, dtype, enabled):
            return bwd(ctx, *args)

    return decorated
