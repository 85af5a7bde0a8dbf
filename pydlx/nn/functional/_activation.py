"""Activation functions that take more than the engine's own: ``inplace``, ``training``, a dtype, a missing ``dim``."""

from __future__ import annotations

from ..._C import Tensor, celu_, elu_, empty_like, hardtanh_, leaky_relu_, relu_, selu_, threshold_, where, zeros_like
from ..._C import celu as _celu
from ..._C import dtype as DType
from ..._C import elu as _elu
from ..._C import hardsigmoid as _hardsigmoid
from ..._C import hardsigmoid_ as _hardsigmoid_
from ..._C import hardswish as _hardswish
from ..._C import hardswish_ as _hardswish_
from ..._C import hardtanh as _hardtanh
from ..._C import leaky_relu as _leaky_relu
from ..._C import log_softmax as _log_softmax
from ..._C import mish as _mish
from ..._C import mish_ as _mish_
from ..._C import relu as _relu
from ..._C import relu6 as _relu6
from ..._C import relu6_ as _relu6_
from ..._C import selu as _selu
from ..._C import silu as _silu
from ..._C import silu_ as _silu_
from ..._C import softmax as _softmax
from ..._C import threshold as _threshold

__all__ = [
    "celu",
    "elu",
    "gumbel_softmax",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "rrelu",
    "rrelu_",
    "selu",
    "silu",
    "softmax",
    "softmin",
    "threshold",
]


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """``max(0, x)``."""
    return relu_(input) if inplace else _relu(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """``min(max(0, x), 6)``."""
    return _relu6_(input) if inplace else _relu6(input)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` where positive, else ``alpha * (exp(x) - 1)`` (Clevert et al., 2015)."""
    return elu_(input, alpha) if inplace else _elu(input, alpha)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """``max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`` (Barron, 2017)."""
    return celu_(input, alpha) if inplace else _celu(input, alpha)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """ELU with the scale and alpha that keep mean 0 and variance 1 (Klambauer et al., 2017)."""
    return selu_(input) if inplace else _selu(input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * sigmoid(x)``, also called swish."""
    return _silu_(input) if inplace else _silu(input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * tanh(softplus(x))`` (Misra, 2019)."""
    return _mish_(input) if inplace else _mish(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """``x`` where positive, else ``negative_slope * x``."""
    return leaky_relu_(input, negative_slope) if inplace else _leaky_relu(input, negative_slope)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """``x`` clipped to ``[min_val, max_val]``."""
    if min_val > max_val:
        raise ValueError(f"[hardtanh] min_val: expected at most max_val = {max_val}, got {min_val}")
    return hardtanh_(input, min_val, max_val) if inplace else _hardtanh(input, min_val, max_val)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """``clip(x / 6 + 1/2, 0, 1)``."""
    return _hardsigmoid_(input) if inplace else _hardsigmoid(input)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """``x * clip(x / 6 + 1/2, 0, 1)`` (Howard et al., 2019)."""
    return _hardswish_(input) if inplace else _hardswish(input)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """``x`` where it exceeds ``threshold``, else ``value``."""
    return threshold_(input, threshold, value) if inplace else _threshold(input, threshold, value)


def rrelu(
    input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """Leaky ReLU whose slope is drawn from ``U(lower, upper)`` per element in training, their mean otherwise."""
    if lower > upper:
        raise ValueError(f"[rrelu] lower: expected at most upper = {upper}, got {lower}")
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    slope = empty_like(input.detach()).uniform_(lower, upper)
    out = where(input > 0, input, input * slope)
    return input.copy_(out) if inplace else out


def rrelu_(input: Tensor, lower: float = 1.0 / 8, upper: float = 1.0 / 3, training: bool = False) -> Tensor:
    """:func:`rrelu` in place."""
    return rrelu(input, lower, upper, training, True)


def _implicit_dim(op: str, ndim: int, dim: int | None) -> int:
    """Without ``dim``, the first axis for 0, 1 and 3 axes, else the second: PyTorch's old rule."""
    return (0 if ndim in (0, 1, 3) else 1) if dim is None else dim


def softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """``exp(x) / sum(exp(x))`` along ``dim``; ``dtype`` converts the input first."""
    return _softmax(input, _implicit_dim("softmax", input.ndim, dim), dtype=dtype)


def log_softmax(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """``x - log(sum(exp(x)))`` along ``dim``; ``dtype`` converts the input first."""
    return _log_softmax(input, _implicit_dim("log_softmax", input.ndim, dim), dtype=dtype)


def softmin(input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: DType | None = None) -> Tensor:
    """``softmax(-x)``."""
    return softmax(-input, dim, dtype=dtype)


def gumbel_softmax(logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """A sample from the Gumbel-softmax distribution (Jang et al., 2016): ``softmax((logits + g) / tau)``.

    Args:
        logits: unnormalised log-probabilities, shape ``(..., classes)``.
        tau: temperature. Default: 1.
        hard: return one-hot samples whose gradient is that of the soft ones. Default: ``False``.
        dim: the axis of the classes. Default: -1.
    """
    noise = -empty_like(logits.detach()).exponential_().log()
    soft = _softmax((logits + noise) / tau, dim)
    if not hard:
        return soft
    one = zeros_like(logits.detach()).scatter_(dim, soft.detach().argmax(dim, keepdim=True), 1.0)
    return one - soft.detach() + soft
