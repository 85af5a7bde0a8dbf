"""One step of a recurrent network."""

from __future__ import annotations

import math
from typing import Any

from ..._C import Tensor, empty, gru_cell, lstm_cell, rnn_relu_cell, rnn_tanh_cell, zeros
from .. import init
from ..parameter import Parameter
from ._checks import require_integers
from .module import Module

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "RNNCellBase"]


class RNNCellBase(Module):
    """What the cells share.

    Args:
        input_size: features of the input. hidden_size: features H of the state.
        bias: use the two bias vectors. num_chunks: number of gates.

    Parameters ``weight_ih`` ``(gates * H, input_size)``, ``weight_hh`` ``(gates * H, H)``, ``bias_ih``, ``bias_hh``
    ``(gates * H,)`` start from ``U(-1/sqrt(H), 1/sqrt(H))``.
    """

    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor | None
    bias_hh: Tensor | None
    nonlinearity: str

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        require_integers(self, input_size=input_size, hidden_size=hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        rows = num_chunks * hidden_size
        self.weight_ih = Parameter(empty((rows, input_size), device=device, dtype=dtype))
        self.weight_hh = Parameter(empty((rows, hidden_size), device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            self.register_parameter(name, Parameter(empty(rows, device=device, dtype=dtype)) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws new values."""
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def _prepared(self, input: Tensor, states: list[Tensor | None]) -> tuple[Tensor, list[Tensor], bool]:
        """Checks shapes, adds the batch axis and zero states."""
        name = type(self).__name__
        batched = input.ndim == 2
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"[{name}] input: expected (N, {self.input_size}) or ({self.input_size},), got {tuple(input.shape)}"
            )
        expected = (*input.shape[:-1], self.hidden_size)
        ready = []
        for state in states:
            if state is None:
                state = zeros(expected, dtype=input.dtype, device=input.device)
            elif tuple(state.shape) != expected:
                raise ValueError(f"[{name}] hx: expected shape {expected}, got {tuple(state.shape)}")
            ready.append(state if batched else state.unsqueeze(0))
        return input if batched else input.unsqueeze(0), ready, batched

    def extra_repr(self) -> str:
        """Sizes, and whatever differs from its default."""
        text = f"{self.input_size}, {self.hidden_size}"
        if not self.bias:
            text += f", bias={self.bias}"
        nonlinearity = self.__dict__.get("nonlinearity", "tanh")
        return text if nonlinearity == "tanh" else text + f", nonlinearity={nonlinearity}"


class RNNCell(RNNCellBase):
    """``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or the rectifier with ``nonlinearity="relu"``."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"[RNNCell] nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """``(N, input_size)`` and ``(N, hidden_size)`` to ``(N, hidden_size)``; N may be missing."""
        x, (h,), batched = self._prepared(input, [hx])
        step = rnn_tanh_cell if self.nonlinearity == "tanh" else rnn_relu_cell
        out = step(x, h, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return out if batched else out.squeeze(0)


class LSTMCell(RNNCellBase):
    """``c' = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h' = sigmoid(o) tanh(c')``; gates i, f, g, o in this order."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """``(N, input_size)`` and the pair ``(h, c)`` to the next pair; N may be missing."""
        if hx is not None and len(hx) != 2:
            raise ValueError(f"[LSTMCell] hx: expected a pair (h, c), got {len(hx)} tensors")
        x, (h, c), batched = self._prepared(input, [None, None] if hx is None else list(hx))
        h, c = lstm_cell(x, [h, c], self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return (h, c) if batched else (h.squeeze(0), c.squeeze(0))


class GRUCell(RNNCellBase):
    """``n = tanh(W_in x + b_in + r (W_hn h + b_hn))``, ``h' = (1 - z) n + z h``; gates r, z, n in this order."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """``(N, input_size)`` and ``(N, hidden_size)`` to ``(N, hidden_size)``; N may be missing."""
        x, (h,), batched = self._prepared(input, [hx])
        out = gru_cell(x, h, self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return out if batched else out.squeeze(0)
