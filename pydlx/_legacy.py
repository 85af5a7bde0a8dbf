"""``FloatTensor``, ``LongTensor`` and the like: PyTorch's older names of dtypes, as classes and as strings."""

from __future__ import annotations

from typing import Any

from . import _C
from ._C import Tensor
from ._namespace import tensor

__all__ = [
    "BFloat16Tensor",
    "BoolTensor",
    "ByteTensor",
    "CharTensor",
    "DoubleTensor",
    "FloatTensor",
    "HalfTensor",
    "IntTensor",
    "LongTensor",
    "ShortTensor",
]


class _TypedTensor(type):
    """The class of these names. An instance is no class of tensors but a dtype: calling it makes a Tensor."""

    dtype: Any

    def __call__(cls, *args: Any) -> Tensor:
        """Uninitialised with sizes as arguments, else a copy of the data."""
        if not args:
            return _C.empty((0,), dtype=cls.dtype)
        if isinstance(args[0], int) or type(args[0]).__name__ == "Size":
            return _C.empty(*args, dtype=cls.dtype)
        return tensor(args[0], dtype=cls.dtype)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, Tensor) and instance.dtype == cls.dtype


def _named(name: str, dtype: Any) -> Any:
    made = _TypedTensor(name, (), {"dtype": dtype, "__module__": "pydlx", "__doc__": f"Tensors of {dtype}."})
    BY_NAME[name] = made
    return made


BY_NAME: dict[str, Any] = {}
FloatTensor = _named("FloatTensor", _C.float32)
DoubleTensor = _named("DoubleTensor", _C.float64)
HalfTensor = _named("HalfTensor", _C.float16)
BFloat16Tensor = _named("BFloat16Tensor", _C.bfloat16)
ByteTensor = _named("ByteTensor", _C.uint8)
CharTensor = _named("CharTensor", _C.int8)
ShortTensor = _named("ShortTensor", _C.int16)
IntTensor = _named("IntTensor", _C.int32)
LongTensor = _named("LongTensor", _C.int64)
BoolTensor = _named("BoolTensor", _C.bool)


def type_name(dtype: Any) -> str:
    """``pydlx.FloatTensor`` for float32."""
    return next(f"pydlx.{name}" for name, made in BY_NAME.items() if made.dtype == dtype)


def dtype_of(name: Any) -> Any:
    """The dtype meant by a dtype, one of the classes above, or its name with or without a module."""
    if isinstance(name, str):
        short = name.rpartition(".")[2]
        if short not in BY_NAME:
            raise ValueError(f"[type] dtype: expected one of {', '.join(BY_NAME)}, got {name!r}")
        return BY_NAME[short].dtype
    return name.dtype if isinstance(name, _TypedTensor) else name
