"""Recurrent networks over whole sequences."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable
from typing import Any

from ..._C import Tensor, empty, zeros
from ..._C import gru as _gru
from ..._C import lstm as _lstm
from ..._C import rnn_relu as _rnn_relu
from ..._C import rnn_tanh as _rnn_tanh
from .. import init
from ..parameter import Parameter
from ..utils.rnn import PackedSequence
from ._checks import require_integers
from .module import Module

__all__ = ["GRU", "LSTM", "RNN", "RNNBase"]

_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"RNN_TANH": _rnn_tanh, "RNN_RELU": _rnn_relu, "GRU": _gru, "LSTM": _lstm}


class RNNBase(Module):
    """What RNN, LSTM and GRU share.

    Args:
        mode: ``"RNN_TANH"``, ``"RNN_RELU"``, ``"LSTM"`` or ``"GRU"``.
        input_size: features of the input. hidden_size: features H of the state.
        num_layers: layers, each reading the outputs of the one before. Default: 1.
        bias: use the two bias vectors. Default: ``True``.
        batch_first: ``(N, L, ...)`` instead of ``(L, N, ...)``. Default: ``False``.
        dropout: probability of dropping an output between layers, in training. Default: 0.
        bidirectional: read the sequence in both directions and join the outputs. Default: ``False``.
        proj_size: LSTM only: project the hidden state to this size (Sak et al., 2014). Default: 0, no projection.

    Parameters per layer k (and direction, ``_reverse``): ``weight_ih_lk`` ``(gates * H, inputs)``, ``weight_hh_lk``
    ``(gates * H, proj_size or H)``, ``bias_ih_lk``, ``bias_hh_lk`` ``(gates * H,)``, and ``weight_hr_lk``
    ``(proj_size, H)`` with a projection. All start from ``U(-1/sqrt(H), 1/sqrt(H))``.

    A 2-d input is one sequence without a batch axis. A :class:`PackedSequence` gives one back.
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if mode not in _GATES:
            raise ValueError(f"[{name}] mode: expected one of {tuple(_GATES)}, got {mode!r}")
        require_integers(self, input_size=input_size, num_layers=num_layers, proj_size=proj_size)
        if isinstance(dropout, bool) or not isinstance(dropout, numbers.Number) or not 0 <= dropout <= 1:
            raise ValueError(f"[{name}] dropout: expected a probability between 0 and 1, got {dropout!r}")
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"[{name}] dropout: acts between layers only, so {dropout} does nothing with num_layers=1", stacklevel=3
            )
        if not isinstance(hidden_size, int):
            raise TypeError(f"[{name}] hidden_size: expected int, got {type(hidden_size).__name__}")
        if hidden_size <= 0:
            raise ValueError(f"[{name}] hidden_size: expected a positive number, got {hidden_size}")
        if num_layers <= 0:
            raise ValueError(f"[{name}] num_layers: expected a positive number, got {num_layers}")
        if not 0 <= proj_size < hidden_size:
            raise ValueError(f"[{name}] proj_size: expected 0 to {hidden_size - 1}, got {proj_size}")
        if proj_size and mode != "LSTM":
            raise ValueError(f"[{name}] proj_size: expected 0 (only LSTM projects), got {proj_size}")
        self.mode = mode
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._all_weights: list[list[str]] = []
        rows = _GATES[mode] * hidden_size
        state = proj_size or hidden_size
        directions = 2 if bidirectional else 1
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else state * directions
            for suffix in [f"_l{layer}", f"_l{layer}_reverse"][:directions]:
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs), "weight_hh": (rows, state)}
                if bias:
                    shapes.update({"bias_ih": (rows,), "bias_hh": (rows,)})
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                names = []
                for what, shape in shapes.items():
                    setattr(self, what + suffix, Parameter(empty(shape, device=device, dtype=dtype)))
                    names.append(what + suffix)
                self._all_weights.append(names)
        self.reset_parameters()

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[Parameter]:
        return [getattr(self, name) for names in self._all_weights for name in names]

    def flatten_parameters(self) -> None:
        """Nothing to do: the kernels read the parameters where they are. PyTorch programs call it."""

    def reset_parameters(self) -> None:
        """Draws new values."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def _check_state(self, name: str, state: Tensor, features: int, batch: int, batched: bool) -> None:
        layers = self.num_layers * (2 if self.bidirectional else 1)
        expected = (layers, batch, features) if batched else (layers, features)
        if tuple(state.shape) != expected:
            raise ValueError(f"[{type(self).__name__}] {name}: expected shape {expected}, got {tuple(state.shape)}")

    def _zero_state(self, like: Tensor, batch: int, features: int) -> Tensor:
        layers = self.num_layers * (2 if self.bidirectional else 1)
        return zeros(layers, batch, features, dtype=like.dtype, device=like.device)

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """Runs the network over a sequence.

        Args:
            input: ``(L, N, input_size)``, ``(N, L, input_size)`` with ``batch_first``, ``(L, input_size)``, or packed.
            hx: first state ``(num_layers * directions, N, state)``, for LSTM a pair ``(h, c)``. Default: zeros.

        Returns:
            The last layer's outputs ``(L, N, directions * state)``, and the final state, shaped as ``hx``.
        """
        packed = input if isinstance(input, PackedSequence) else None
        data: Tensor = input if packed is None else packed.data
        batched = packed is not None or data.ndim == 3
        if packed is None and data.ndim not in (2, 3):
            raise ValueError(f"[{type(self).__name__}] input: expected 2 or 3 axes, got shape {tuple(data.shape)}")
        if data.shape[-1] != self.input_size:
            raise ValueError(
                f"[{type(self).__name__}] input: expected {self.input_size} features, got {data.shape[-1]}"
            )
        batch_axis = 0 if self.batch_first else 1
        if packed is not None:
            batch = int(packed.batch_sizes[0])
        else:
            batch = data.shape[batch_axis] if batched else 1
        states = self._initial_states(data, hx, batch, batched)
        if packed is not None and hx is not None:
            states = [_reorder(state, packed.sorted_indices) for state in states]
        if packed is None and not batched:
            data = data.unsqueeze(batch_axis)
            states = [state.unsqueeze(1) if hx is not None else state for state in states]
        first: Any = tuple(states) if self.mode == "LSTM" else states[0]
        settings = (self._flat_weights, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        function = _FUNCTIONS[self.mode]
        if packed is not None:
            out, *final = function(data, packed.batch_sizes, first, *settings)
            final = [_reorder(state, packed.unsorted_indices) for state in final]
            result: Any = PackedSequence(out, packed.batch_sizes, packed.sorted_indices, packed.unsorted_indices)
        else:
            result, *final = function(data, first, *settings, self.batch_first)
            if not batched:
                result = result.squeeze(batch_axis)
                final = [state.squeeze(1) for state in final]
        return result, (tuple(final) if self.mode == "LSTM" else final[0])

    def _initial_states(self, data: Tensor, hx: Any, batch: int, batched: bool) -> list[Tensor]:
        features = [self.proj_size or self.hidden_size] + ([self.hidden_size] if self.mode == "LSTM" else [])
        if hx is None:
            return [self._zero_state(data, batch, size) for size in features]
        given = list(hx) if isinstance(hx, (tuple, list)) else [hx]
        if len(given) != len(features):
            told = "a pair (h, c)" if self.mode == "LSTM" else "one tensor"
            raise ValueError(f"[{type(self).__name__}] hx: expected {told}, got {len(given)} tensors")
        for name, state, size in zip(("h_0", "c_0"), given, features, strict=False):
            self._check_state(name, state, size, batch, batched)
        return given

    def extra_repr(self) -> str:
        """Sizes, and whatever differs from its default."""
        text = f"{self.input_size}, {self.hidden_size}"
        if self.proj_size:
            text += f", proj_size={self.proj_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        if not self.bias:
            text += f", bias={self.bias}"
        if self.batch_first:
            text += f", batch_first={self.batch_first}"
        if self.dropout:
            text += f", dropout={self.dropout}"
        return text + (f", bidirectional={self.bidirectional}" if self.bidirectional else "")


def _reorder(state: Tensor, order: Tensor | None) -> Tensor:
    return state if order is None else state.index_select(1, order)


class RNN(RNNBase):
    """``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, with ``nonlinearity="relu"`` the rectifier (Elman, 1990).

    Takes :class:`RNNBase`'s arguments without ``mode``, with ``nonlinearity`` after ``num_layers``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("[RNN] proj_size: expected none (only LSTM projects), got " + str(kwargs["proj_size"]))
        rest = list(args)
        if len(rest) > 3:
            kwargs.setdefault("nonlinearity", rest.pop(3))
        nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"[RNN] nonlinearity: expected 'tanh' or 'relu', got {nonlinearity!r}")
        super().__init__(f"RNN_{nonlinearity.upper()}", *rest, **kwargs)
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997; gates i, f, g, o in this order).

    ``c' = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h' = sigmoid(o) tanh(c')`` with
    ``(i, f, g, o) = W_ih x + b_ih + W_hh h + b_hh``. Takes :class:`RNNBase`'s arguments without ``mode``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(RNNBase):
    """Gated recurrent unit (Cho et al., 2014; gates r, z, n in this order).

    ``n = tanh(W_in x + b_in + r (W_hn h + b_hn))``, ``h' = (1 - z) n + z h``; r and z are sigmoids of their affine
    maps. Takes :class:`RNNBase`'s arguments without ``mode`` and ``proj_size``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "proj_size" in kwargs:
            raise ValueError("[GRU] proj_size: expected none (only LSTM projects), got " + str(kwargs["proj_size"]))
        super().__init__("GRU", *args, **kwargs)
