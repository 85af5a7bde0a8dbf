"""Activation functions as modules."""

from __future__ import annotations

from typing import Any

from ..._C import Tensor, empty
from .. import functional as F
from .. import init
from ..parameter import Parameter
from ._checks import require_numbers
from .module import Module

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "LogSoftmax",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
]


class _InPlace(Module):
    """An activation whose only setting is ``inplace``, overwriting the input. Default: ``False``."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        """``inplace=True`` if set."""
        return "inplace=True" if self.inplace else ""


class ReLU(_InPlace):
    """``max(0, x)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.relu(input, self.inplace)


class SiLU(_InPlace):
    """``x * sigmoid(x)``, also called swish (Elfwing et al., 2017)."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.silu(input, self.inplace)


class Mish(_InPlace):
    """``x * tanh(softplus(x))`` (Misra, 2019)."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.mish(input, self.inplace)


class SELU(_InPlace):
    """ELU with the scale and alpha that keep mean 0 and variance 1 (Klambauer et al., 2017)."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.selu(input, self.inplace)


class Hardsigmoid(Module):
    """``clip(x / 6 + 1/2, 0, 1)``. ``inplace`` overwrites the input. Default: ``False``."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.hardsigmoid(input, self.inplace)


class Hardswish(Module):
    """``x * clip(x / 6 + 1/2, 0, 1)`` (Howard et al., 2019). ``inplace`` overwrites the input. Default: ``False``."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.hardswish(input, self.inplace)


class Hardtanh(Module):
    """``x`` clipped to ``[min_val, max_val]``.

    Args:
        min_val: Default: -1. max_val: Default: 1. inplace: overwrite the input. Default: ``False``.
        min_value, max_value: older names of the bounds.
    """

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        super().__init__()
        self.min_val = min_val if min_value is None else min_value
        self.max_val = max_val if max_value is None else max_value
        self.inplace = inplace
        require_numbers(self, min_val=self.min_val, max_val=self.max_val)
        if self.max_val <= self.min_val:
            raise ValueError(
                f"[{type(self).__name__}] max_val: expected more than min_val = {self.min_val}, got {self.max_val}"
            )

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.hardtanh(input, self.min_val, self.max_val, self.inplace)

    def extra_repr(self) -> str:
        """The bounds."""
        return f"min_val={self.min_val}, max_val={self.max_val}" + (", inplace=True" if self.inplace else "")


class ReLU6(Hardtanh):
    """``min(max(0, x), 6)``. ``inplace`` overwrites the input. Default: ``False``."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        """``inplace=True`` if set."""
        return "inplace=True" if self.inplace else ""


class Threshold(Module):
    """``x`` where it exceeds ``threshold``, else ``value``. ``inplace`` overwrites the input. Default: ``False``."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        super().__init__()
        self.threshold = threshold
        self.value = value
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.threshold(input, self.threshold, self.value, self.inplace)

    def extra_repr(self) -> str:
        """Settings."""
        return f"threshold={self.threshold}, value={self.value}" + (", inplace=True" if self.inplace else "")


class RReLU(Module):
    """Leaky ReLU with a slope drawn from ``U(lower, upper)`` per element in training (Xu et al., 2015).

    Args:
        lower: Default: 1/8. upper: Default: 1/3. inplace: overwrite the input. Default: ``False``.
    """

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False) -> None:
        super().__init__()
        self.lower = lower
        self.upper = upper
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.rrelu(input, self.lower, self.upper, self.training, self.inplace)

    def extra_repr(self) -> str:
        """Settings."""
        return f"lower={self.lower}, upper={self.upper}" + (", inplace=True" if self.inplace else "")


class _WithAlpha(Module):
    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.inplace = inplace

    def extra_repr(self) -> str:
        """Settings."""
        return f"alpha={self.alpha}" + (", inplace=True" if self.inplace else "")


class ELU(_WithAlpha):
    """``x`` where positive, else ``alpha * (exp(x) - 1)`` (Clevert et al., 2015). ``alpha`` defaults to 1."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.elu(input, self.alpha, self.inplace)


class CELU(_WithAlpha):
    """``max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`` (Barron, 2017). ``alpha`` defaults to 1."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.celu(input, self.alpha, self.inplace)


class LeakyReLU(Module):
    """``x`` where positive, else ``negative_slope * x``.

    Args:
        negative_slope: Default: 0.01. inplace: overwrite the input. Default: ``False``.
    """

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        super().__init__()
        self.negative_slope = negative_slope
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.leaky_relu(input, self.negative_slope, self.inplace)

    def extra_repr(self) -> str:
        """Settings."""
        return f"negative_slope={self.negative_slope}" + (", inplace=True" if self.inplace else "")


class PReLU(Module):
    """Leaky ReLU with learned slopes (He et al., 2015).

    Args:
        num_parameters: 1, or the number of channels (axis 1 of the input). Default: 1.
        init: first value of the slopes. Default: 0.25.
    """

    weight: Tensor

    def __init__(self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = num_parameters
        self.init = init
        self.weight = Parameter(empty(num_parameters, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets all slopes to their first value."""
        init.constant_(self.weight, self.init)

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """The number of slopes."""
        return f"num_parameters={self.num_parameters}"


class GELU(Module):
    """``x * Phi(x)``, Phi the standard normal distribution function (Hendrycks and Gimpel, 2016).

    Args:
        approximate: ``"none"`` (by erf) or ``"tanh"``. Default: ``"none"``.
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        """The approximation."""
        return f"approximate={self.approximate!r}"


class GLU(Module):
    """``a * sigmoid(b)``, a and b the halves of the input along ``dim`` (default: the last; Dauphin et al., 2016)."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Half the input's size along ``dim``."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        """The axis."""
        return f"dim={self.dim}"


class Sigmoid(Module):
    """``1 / (1 + exp(-x))``."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return input.sigmoid()


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return input.tanh()


class LogSigmoid(Module):
    """``log(sigmoid(x))`` without overflow."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.logsigmoid(input)


class Softsign(Module):
    """``x / (1 + |x|)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.softsign(input)


class Tanhshrink(Module):
    """``x - tanh(x)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.tanhshrink(input)


class Softplus(Module):
    """``log(1 + exp(beta * x)) / beta``, and x itself where ``beta * x > threshold``.

    Args:
        beta: Default: 1. threshold: Default: 20.
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """Settings."""
        return f"beta={self.beta}, threshold={self.threshold}"


class _Shrink(Module):
    def __init__(self, lambd: float = 0.5) -> None:
        super().__init__()
        self.lambd = lambd

    def extra_repr(self) -> str:
        """The threshold."""
        return str(self.lambd)


class Hardshrink(_Shrink):
    """``x`` where ``|x| > lambd`` (default 0.5), else 0."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.hardshrink(input, self.lambd)


class Softshrink(_Shrink):
    """``x`` moved towards zero by ``lambd`` (default 0.5), and 0 where it would cross."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.softshrink(input, self.lambd)


class _AlongDim(Module):
    """A normalised exponential along ``dim``.

    Args:
        dim: the axis that sums to one. Default: None, chosen by the number of axes as PyTorch once did; give it.
    """

    dim: int | None

    def __init__(self, dim: int | None = None) -> None:
        super().__init__()
        self.dim = dim

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("dim", None)

    def extra_repr(self) -> str:
        """The axis."""
        return f"dim={self.dim}"


class Softmax(_AlongDim):
    __doc__ = f"``exp(x) / sum(exp(x))``.\n{_AlongDim.__doc__}"

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.softmax(input, self.dim)


class LogSoftmax(_AlongDim):
    __doc__ = f"``x - log(sum(exp(x)))``.\n{_AlongDim.__doc__}"

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.log_softmax(input, self.dim)


class Softmin(_AlongDim):
    __doc__ = f"``softmax(-x)``.\n{_AlongDim.__doc__}"

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        return F.softmin(input, self.dim)


class Softmax2d(Module):
    """Softmax over the channels of ``(N, C, H, W)`` or ``(C, H, W)``."""

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        if input.ndim not in (3, 4):
            raise ValueError(f"[Softmax2d] input: expected 3 or 4 axes, got shape {tuple(input.shape)}")
        return F.softmax(input, -3)
