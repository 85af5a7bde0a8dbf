"""torch's names over an array library (NumPy, jax.numpy, mlx.core), as far as the benchmark's forward rows go.

An :class:`Array` wraps one array of the library and offers the methods that rows call. Nothing here records gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

__all__ = ["Array", "namespace"]


class Array:
    """An array with the torch methods that rows use; ``xp`` is the library it belongs to."""

    xp: Any = None

    def __init__(self, data: Any) -> None:
        self.data = data

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    def _with(self, data: Any) -> Any:
        return type(self)(data)

    def t(self) -> Any:
        return self.transpose(0, 1)

    def transpose(self, a: int, b: int) -> Any:
        return self._with(self.xp.swapaxes(self.data, a, b))

    def permute(self, *axes: int) -> Any:
        return self._with(self.xp.transpose(self.data, axes))

    def contiguous(self) -> Any:
        make = getattr(self.xp, "ascontiguousarray", None) or self.xp.contiguous
        return self._with(make(self.data))

    def to(self, dtype: Any) -> Any:
        return self._with(self.data.astype(dtype))

    def sum(self, dim: Any = None) -> Any:
        return self._with(self.xp.sum(self.data, axis=dim))

    def mean(self, dim: Any = None) -> Any:
        return self._with(self.xp.mean(self.data, axis=dim))

    def amax(self, dim: Any = None) -> Any:
        return self._with(self.xp.max(self.data, axis=dim))

    def argmax(self, dim: Any = None) -> Any:
        return self._with(self.xp.argmax(self.data, axis=dim))

    def cumsum(self, dim: int) -> Any:
        return self._with(self.xp.cumsum(self.data, axis=dim))

    def max(self) -> Any:
        return self._with(self.xp.max(self.data))

    def sort(self, dim: int = -1) -> tuple[Any]:
        return (self._with(self.xp.sort(self.data, axis=dim)),)

    def __getitem__(self, index: Any) -> Any:
        return self._with(self.data[_raw(index)])

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        import numpy as np

        return np.asarray(self.data, dtype=dtype)


def _raw(value: Any) -> Any:
    return value.data if isinstance(value, Array) else value


def _operator(name: str) -> Callable[..., Any]:
    def apply(self: Array, other: Any) -> Any:
        return self._with(getattr(self.data, name)(_raw(other)))

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow", "matmul", "gt", "lt", "ge", "le", "radd", "rmul"):
    setattr(Array, f"__{_name}__", _operator(f"__{_name}__"))


def namespace(array: type[Array], version: str, functional: dict[str, Callable[..., Any]]) -> dict[str, Any]:
    """The names a peer module exports.

    Args:
        array: the peer's class of arrays, with ``xp`` set. version: of the peer. functional: raw functions of
            ``nn.functional`` that the peer has in its own way.
    """
    xp = array.xp

    def lifted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            return array(function(*map(_raw, arguments), **{key: _raw(value) for key, value in options.items()}))

        return call

    def softmax(x: Any, dim: int) -> Any:
        e = xp.exp(x - xp.max(x, axis=dim, keepdims=True))
        return e / xp.sum(e, axis=dim, keepdims=True)

    def log_softmax(x: Any, dim: int) -> Any:
        shifted = x - xp.max(x, axis=dim, keepdims=True)
        return shifted - xp.log(xp.sum(xp.exp(shifted), axis=dim, keepdims=True))

    def layer_norm(x: Any, shape: tuple[int, ...], w: Any, b: Any, eps: float = 1e-5) -> Any:
        centred = x - xp.mean(x, axis=-1, keepdims=True)
        return centred / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + eps) * w + b

    def rms_norm(x: Any, shape: tuple[int, ...], w: Any, eps: float) -> Any:
        return x / xp.sqrt(xp.mean(x * x, axis=-1, keepdims=True) + eps) * w

    def linear(x: Any, w: Any, b: Any = None) -> Any:
        y = x @ w.T
        return y if b is None else y + b

    def gelu(x: Any) -> Any:
        # Without an error function of its own the peer computes the usual approximation.
        return 0.5 * x * (1 + xp.tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))

    plain: dict[str, Callable[..., Any]] = {
        "softmax": softmax,
        "log_softmax": log_softmax,
        "layer_norm": layer_norm,
        "rms_norm": rms_norm,
        "linear": linear,
        "gelu": gelu,
        "silu": lambda x: x / (1 + xp.exp(-x)),
        "relu": lambda x: xp.maximum(x, 0),
        **functional,
    }
    top = ("exp", "log", "tanh", "sin", "sqrt", "abs", "matmul", "where", "reciprocal", "erf", "tril", "roll")
    found = {name: lifted(getattr(xp, name)) for name in top if hasattr(xp, name)}
    return {
        **found,
        "__version__": version,
        **{name: getattr(xp, name) for name in ("float32", "float16", "bfloat16") if hasattr(xp, name)},
        "sigmoid": lifted(lambda x: 1 / (1 + xp.exp(-x))),
        "mv": lifted(lambda a, v: a @ v),
        "clamp": lifted(lambda x, low, high: xp.clip(x, low, high)),
        "addcmul": lifted(lambda a, b, c: a + b * c),
        "cat": lambda parts, dim=0: array(xp.concatenate([_raw(part) for part in parts], axis=dim)),
        "stack": lambda parts, dim=0: array(xp.stack([_raw(part) for part in parts], axis=dim)),
        "nn": SimpleNamespace(functional=SimpleNamespace(**{name: lifted(f) for name, f in plain.items()})),
    }
