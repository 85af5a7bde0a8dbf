"""Initialisers: each fills a tensor in place, without recording gradients, and returns it."""

from __future__ import annotations

import math
import warnings
from typing import Any

from .._C import Tensor, empty, empty_like, eye, float32, float64, from_numpy, ones_like, randperm, where
from .._C import bool as bool_
from ..autograd import no_grad

__all__ = [
    "calculate_gain",
    "constant_",
    "dirac_",
    "eye_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "sparse_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

_LINEAR = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "sigmoid",
)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance through a nonlinearity.

    1 for linear maps and sigmoid, 5/3 for tanh, sqrt(2) for ReLU, ``sqrt(2 / (1 + slope ** 2))`` for leaky ReLU with
    ``param`` the slope (default 0.01), 3/4 for SELU.
    """
    if nonlinearity in _LINEAR:
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        if param is not None and (isinstance(param, bool) or not isinstance(param, (int, float))):
            raise ValueError(f"[calculate_gain] param: expected a number, got {param!r}")
        slope = 0.01 if param is None else param
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(
        f"[calculate_gain] nonlinearity: expected one of {(*_LINEAR, 'tanh', 'relu', 'leaky_relu', 'selu')}, "
        f"got {nonlinearity!r}"
    )


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Any = None) -> Tensor:
    """Fills with ``U(a, b)``."""
    with no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Tensor:
    """Fills with ``N(mean, std ** 2)``."""
    with no_grad():
        return tensor.normal_(mean, std, generator=generator)


def _normal_cdf(x: float) -> float:
    return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, generator: Any = None
) -> Tensor:
    """Fills with ``N(mean, std ** 2)`` cut to ``[a, b]``, by rejection: exact however far the interval lies out.

    Normal draws are repeated until they fall inside when that is likely enough; otherwise uniform draws on the interval
    are accepted with the ratio of their density to the largest one there.
    """
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            f"[trunc_normal_] mean: expected within two standard deviations of [{a}, {b}], got {mean}; the values may "
            "be distributed wrongly",
            stacklevel=2,
        )
    with no_grad():
        if _normal_cdf((b - mean) / std) - _normal_cdf((a - mean) / std) > 0.3:
            tensor.normal_(mean, std, generator=generator)
            outside = (tensor < a) | (tensor > b)
            while bool(outside.any()):
                fresh = empty_like(tensor).normal_(mean, std, generator=generator)
                tensor.copy_(where(outside, fresh, tensor))
                outside = (tensor < a) | (tensor > b)
            return tensor
        largest = -0.5 * ((max(a, min(mean, b)) - mean) / std) ** 2
        candidates, chance = empty_like(tensor), empty_like(tensor)
        pending = ones_like(tensor, dtype=bool_)
        while bool(pending.any()):
            candidates.uniform_(a, b, generator=generator)
            tensor.copy_(where(pending, candidates, tensor))
            density = ((candidates - mean) / std) ** 2 * -0.5 - largest
            pending = pending & (chance.uniform_(generator=generator).log() > density)
        return tensor


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fills with ``val``."""
    with no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Fills with 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fills with 0."""
    with no_grad():
        return tensor.zero_()


def eye_(tensor: Tensor) -> Tensor:
    """Fills a matrix with the identity."""
    if tensor.ndim != 2:
        raise ValueError(f"[eye_] tensor: expected 2 axes, got shape {tuple(tensor.shape)}")
    with no_grad():
        return tensor.copy_(eye(*tensor.shape, dtype=tensor.dtype, device=tensor.device))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fills a convolution's ``(out, in, ...)`` weight so that it passes its channels through, group by group."""
    if tensor.ndim not in (3, 4, 5):
        raise ValueError(f"[dirac_] tensor: expected 3, 4 or 5 axes, got shape {tuple(tensor.shape)}")
    if tensor.shape[0] % groups:
        raise ValueError(f"[dirac_] groups: expected a divisor of {tensor.shape[0]}, got {groups}")
    out = tensor.shape[0] // groups
    middle = tuple(size // 2 for size in tensor.shape[2:])
    with no_grad():
        tensor.zero_()
        for group in range(groups):
            for d in range(min(out, tensor.shape[1])):
                position = (group * out + d, d, *middle)
                tensor[position] = 1
    return tensor


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    if tensor.ndim < 2:
        raise ValueError(f"[init] tensor: expected at least 2 axes to count fans, got shape {tuple(tensor.shape)}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def _calculate_correct_fan(tensor: Tensor, mode: str) -> int:
    mode = mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"[init] mode: expected 'fan_in' or 'fan_out', got {mode!r}")
    return _calculate_fan_in_and_fan_out(tensor)[mode == "fan_out"]


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """``U(-a, a)`` with ``a = gain * sqrt(6 / (fan_in + fan_out))`` (Glorot and Bengio, 2010)."""
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    bound = math.sqrt(3.0) * gain * math.sqrt(2.0 / float(fan_in + fan_out))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Any = None) -> Tensor:
    """``N(0, gain ** 2 * 2 / (fan_in + fan_out))`` (Glorot and Bengio, 2010)."""
    fan_in, fan_out = _calculate_fan_in_and_fan_out(tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / float(fan_in + fan_out)), generator)


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float | None:
    if 0 in tensor.shape:
        warnings.warn("[init] tensor: expected elements to initialise, got an empty tensor", stacklevel=3)
        return None
    return calculate_gain(nonlinearity, a) / math.sqrt(_calculate_correct_fan(tensor, mode))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """``U(-b, b)`` with ``b = gain * sqrt(3 / fan)`` (He et al., 2015); ``a`` is the slope of the leaky ReLU."""
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    if std is None:
        return tensor
    bound = math.sqrt(3.0) * std
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", generator: Any = None
) -> Tensor:
    """``N(0, gain ** 2 / fan)`` (He et al., 2015); ``a`` is the slope of the leaky ReLU."""
    std = _kaiming_std(tensor, a, mode, nonlinearity)
    return tensor if std is None else normal_(tensor, 0.0, std, generator)


def orthogonal_(tensor: Tensor, gain: float = 1, generator: Any = None) -> Tensor:
    """Fills with ``gain`` times a random (semi-)orthogonal matrix, axes after the first merged (Saxe et al., 2013)."""
    if tensor.ndim < 2:
        raise ValueError(f"[orthogonal_] tensor: expected at least 2 axes, got shape {tuple(tensor.shape)}")
    if tensor.numel() == 0:
        return tensor
    rows = tensor.shape[0]
    cols = tensor.numel() // rows
    import numpy as np  # here, because importing it would double the time to import pydlx

    with no_grad():
        working = float64 if tensor.dtype == float64 else float32
        drawn = empty((rows, cols), dtype=working, device=tensor.device).normal_(0, 1, generator=generator).cpu()
        q, r = (from_numpy(part) for part in np.linalg.qr((drawn.t() if rows < cols else drawn).numpy()))
        q = q * r.diagonal().sign()  # makes the distribution uniform (Mezzadri, 2007)
        tensor.copy_((q.t() if rows < cols else q).reshape(tensor.shape)).mul_(gain)
    return tensor


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, generator: Any = None) -> Tensor:
    """Fills a matrix with ``N(0, std ** 2)`` and sets the fraction ``sparsity`` of each column to 0 (Martens, 2010)."""
    if tensor.ndim != 2:
        raise ValueError(f"[sparse_] tensor: expected 2 axes, got shape {tuple(tensor.shape)}")
    rows, cols = tensor.shape
    zeros = math.ceil(sparsity * rows)
    with no_grad():
        tensor.normal_(0, std, generator=generator)
        for col in range(cols):
            tensor[randperm(rows, generator=generator, device=tensor.device)[:zeros], col] = 0
    return tensor
