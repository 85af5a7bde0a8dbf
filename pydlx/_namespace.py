"""Names that PyTorch has at top level and that are not operations: constants, dtype facts, predicates, conversion of data."""

from __future__ import annotations

import math
from typing import Any, Final

from . import _C
from ._C import Tensor

__all__ = [
    "as_tensor",
    "asarray",
    "broadcast_shapes",
    "channels_last",
    "channels_last_3d",
    "contiguous_format",
    "e",
    "finfo",
    "get_float32_matmul_precision",
    "iinfo",
    "inf",
    "is_floating_point",
    "is_nonzero",
    "is_tensor",
    "layout",
    "memory_format",
    "nan",
    "newaxis",
    "numel",
    "pi",
    "preserve_format",
    "promote_types",
    "set_float32_matmul_precision",
    "strided",
    "tensor",
]

pi: Final = math.pi
e: Final = math.e
inf: Final = math.inf
nan: Final = math.nan
newaxis: Final = None


class _Named:
    """A constant that prints as its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"pydlx.{self._name}"

    def __reduce__(self) -> str:
        return self._name


class layout(_Named):
    """How a tensor is stored; only ``strided`` exists."""


class memory_format(_Named):
    """The order in which the elements of a tensor lie in memory; see ``Tensor.to`` and ``Tensor.is_contiguous``."""


strided = layout("strided")
contiguous_format = memory_format("contiguous_format")
preserve_format = memory_format("preserve_format")
channels_last = memory_format("channels_last")
channels_last_3d = memory_format("channels_last_3d")


class finfo:
    """Limits of a floating dtype: ``bits eps max min tiny smallest_normal resolution``."""

    _FACTS: Final = {
        # bits, mantissa bits, largest exponent, smallest normal exponent, decimal digits
        "float16": (16, 10, 15, -14, 3),
        "bfloat16": (16, 7, 127, -126, 2),
        "float32": (32, 23, 127, -126, 6),
        "float64": (64, 52, 1023, -1022, 15),
    }

    def __init__(self, type: Any = None) -> None:
        dtype = _C.get_default_dtype() if type is None else type.dtype if isinstance(type, Tensor) else type
        name = str(dtype).removeprefix("pydlx.")
        if name not in self._FACTS:
            raise TypeError(f"[finfo] type: expected a floating point dtype, got {dtype}; use iinfo for integers")
        self.bits, mantissa, high, low, digits = self._FACTS[name]
        self.dtype = name
        self.eps = 2.0**-mantissa
        self.max = (2.0 - self.eps) * 2.0**high
        self.min = -self.max
        self.tiny = self.smallest_normal = 2.0**low
        self.resolution = 10.0**-digits

    def __repr__(self) -> str:
        return f"finfo(resolution={self.resolution}, min={self.min}, max={self.max}, eps={self.eps}, tiny={self.tiny}, dtype={self.dtype})"


class iinfo:
    """Limits of an integer dtype: ``bits max min``."""

    def __init__(self, type: Any) -> None:
        name = str(type).removeprefix("pydlx.")
        if not name.startswith(("int", "uint")):
            raise TypeError(f"[iinfo] type: expected an integer dtype, got {type}; use finfo for floats")
        self.dtype = name
        self.bits = type.itemsize * 8
        signed = name.startswith("int")
        self.max = 2 ** (self.bits - signed) - 1
        self.min = -(2 ** (self.bits - 1)) if signed else 0

    def __repr__(self) -> str:
        return f"iinfo(min={self.min}, max={self.max}, dtype={self.dtype})"


def is_tensor(obj: Any) -> bool:
    """Whether ``obj`` is a Tensor."""
    return isinstance(obj, Tensor)


def is_floating_point(input: Tensor) -> bool:
    """Whether the dtype is a float."""
    return input.dtype.is_floating_point


def is_nonzero(input: Tensor) -> bool:
    """Whether a one-element tensor is not zero."""
    return bool(input)


def numel(input: Tensor) -> int:
    """Number of elements."""
    return input.numel()


def tensor(
    data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False, pin_memory: bool = False
) -> Tensor:
    """Copies ``data`` (numbers, nested lists, a NumPy array, another tensor) into a new leaf tensor.

    The dtype is inferred when not given: Python floats give the default dtype, integers int64, bools bool. Without
    ``device`` it goes to the default device; a tensor stays where it is if that is the CPU.

    Raises:
        ValueError: nested lists of different lengths.
        TypeError: data that is not numeric.
    """
    if isinstance(data, Tensor):
        made = data.detach().to(device=_place(device), dtype=dtype, copy=True)
    elif hasattr(data, "__array_interface__") or hasattr(data, "__array_struct__"):
        made = _from_array(data).to(device=_place(device), dtype=dtype, copy=True)
    else:
        made = _C._tensor_from_data(data, dtype, device)
    return made.requires_grad_(True) if requires_grad else made


def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """Like ``tensor``, but shares memory with tensors and NumPy arrays when no conversion is needed."""
    if isinstance(data, Tensor):
        return data.to(device=_place(device), dtype=dtype)
    if hasattr(data, "__array_interface__") or hasattr(data, "__array_struct__"):
        return _from_array(data).to(device=_place(device), dtype=dtype)
    return tensor(data, dtype=dtype, device=device)


def asarray(
    obj: Any, *, dtype: Any = None, device: Any = None, copy: bool | None = None, requires_grad: bool = False
) -> Tensor:
    """Converts to a tensor; ``copy=True`` always copies, ``copy=False`` raises when a copy is needed."""
    if hasattr(obj, "__dlpack__") and not isinstance(obj, Tensor) and not hasattr(obj, "__array_interface__"):
        shared = _C.from_dlpack(obj).to(device=_place(device), dtype=dtype)
    elif copy is False and not (isinstance(obj, Tensor) or hasattr(obj, "__array_interface__")):
        raise ValueError(f"[asarray] copy: expected an object whose memory can be shared, got {type(obj).__name__}")
    else:
        shared = as_tensor(obj, dtype=dtype, device=device)
    if copy:
        shared = shared.detach().clone()
    return shared.requires_grad_(True) if requires_grad else shared


def _place(device: Any) -> Any:
    """Where data goes that lies somewhere already: to the default device unless that is the CPU, which nobody may have chosen."""
    if device is None and (chosen := _C.get_default_device()).type != "cpu":
        return chosen
    return device


def _from_array(data: Any) -> Tensor:
    import numpy as np

    array = np.asarray(data)
    strided = all(s >= 0 and s % (array.itemsize or 1) == 0 for s in array.strides)
    if not (strided and array.flags.aligned and array.dtype.isnative):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        raise TypeError(f"[tensor] data: expected a dtype pydlx has, got {array.dtype}; convert with astype('int64')")
    return _C.from_numpy(array)


def broadcast_shapes(*shapes: Any) -> Any:
    """The shape that tensors of the given shapes broadcast to."""
    from ._C import Size

    result: list[int] = []
    for shape in shapes:
        sizes = [shape] if isinstance(shape, int) else list(shape)
        if len(sizes) > len(result):
            result = [1] * (len(sizes) - len(result)) + result
        for i in range(1, len(sizes) + 1):
            if sizes[-i] != 1:
                if result[-i] not in (1, sizes[-i]):
                    raise _C.ShapeError(
                        f"[broadcast_shapes] shapes: expected shapes that broadcast together, got {shapes}"
                    )
                result[-i] = sizes[-i]
    return Size(result)


def promote_types(type1: Any, type2: Any) -> Any:
    """The smallest dtype both can be converted to by the promotion rules."""
    return _C.add(_C.empty((1,), dtype=type1, device="cpu"), _C.empty((1,), dtype=type2, device="cpu")).dtype


_PRECISIONS = ("highest", "high", "medium")


def set_float32_matmul_precision(precision: str) -> None:
    """``"highest"``: only algorithms that round no worse than the plain float32 sum; ``"high"`` (default): also Winograd
    convolution of larger tiles, within three times its error, and on GPUs products of numbers in two parts, within 1.5 times it; ``"medium"``:
    also operands rounded to TF32, on GPUs."""
    if precision not in _PRECISIONS:
        raise ValueError(
            f"[set_float32_matmul_precision] precision: expected 'highest', 'high' or 'medium', got {precision!r}"
        )
    _C._set_matmul_precision(_PRECISIONS.index(precision))


def get_float32_matmul_precision() -> str:
    """The current setting of ``set_float32_matmul_precision``."""
    return _PRECISIONS[_C._matmul_precision()]
