"""LSTM, GRU and tanh RNN layers at batch 1, 32 and 64, forward and forward + backward."""

from __future__ import annotations

from typing import Any

from ..inputs import Inputs
from ..rows import Row, Step

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _recurrent(
    kind: str, batch: int, steps: int, features: int, hidden: int, *, layers: int = 1, bidirectional: bool = False
) -> list[Row]:
    """Input (steps, batch, features), as PyTorch's default order."""
    directions = 2 if bidirectional else 1

    def prepare(T: Any, x: Inputs) -> tuple[Any, Any]:
        module = getattr(T.nn, kind)(features, hidden, layers, bidirectional=bidirectional)
        return x.load(module), x.normal(steps, batch, features)

    def inference(T: Any, x: Inputs) -> Step:
        module, sequence = prepare(T, x)
        module.requires_grad_(False)
        return lambda: module(sequence)[0]

    def train(T: Any, x: Inputs) -> Step:
        module, sequence = prepare(T, x)
        sequence.requires_grad_()
        cotangent = x.normal(steps, batch, directions * hidden)
        leaves = [sequence, *module.parameters()]

        def step() -> Any:
            for leaf in leaves:
                leaf.grad = None
            y = module(sequence)[0]
            y.backward(cotangent)
            return (y.detach(), *(leaf.grad for leaf in leaves))

        return step

    weights, widths = 0, features
    for _ in range(layers):
        weights += directions * _GATES[kind] * hidden * (widths + hidden)
        widths = directions * hidden
    flops = 2.0 * weights * batch * steps
    # The recurrent weights pass by once per step; they stay in the second-level cache when they fit.
    recurrent = 4.0 * layers * directions * _GATES[kind] * hidden * hidden
    name = f"{kind} b{batch} t{steps} {features}->{hidden}"
    name += (f" {layers} layers" if layers > 1 else "") + (" bidirectional" if bidirectional else "")
    sequence_bytes = 4.0 * steps * batch * (features + directions * hidden)
    return [
        Row(name, inference, flops, recurrent * steps, sequence_bytes, resident=4.0 * weights + sequence_bytes),
        Row(
            f"{name} fwd+bwd",
            train,
            3 * flops,
            2 * recurrent * steps,
            2 * sequence_bytes,
            resident=8.0 * weights + 2 * sequence_bytes,
        ),
    ]


def _cell(kind: str, batch: int, width: int) -> Row:
    """One step, as hand-written loops take it."""

    def inference(T: Any, x: Inputs) -> Step:
        module = x.load(getattr(T.nn, kind)(width, width))
        module.requires_grad_(False)
        inputs = x.normal(batch, width)
        return lambda: module(inputs)

    weights = 2 * _GATES[kind.removesuffix("Cell")] * width * width
    return Row(
        f"{kind} b{batch} {width}->{width}", inference, 2.0 * weights * batch, 4.0 * weights, 8.0 * batch * width
    )


def rows() -> list[Row]:
    found = []
    for kind in _GATES:
        for batch in (1, 32, 64):
            found += _recurrent(kind, batch, 64, 256, 256)
        found += _recurrent(kind, 1, 64, 512, 512)
        found += _recurrent(kind, 32, 32, 512, 512)
        found += _recurrent(kind, 7, 19, 37, 53)
    found += [_cell("LSTMCell", 32, 64), _cell("GRUCell", 32, 256)]
    found += _recurrent("LSTM", 20, 35, 200, 200, layers=2)
    found += _recurrent("LSTM", 16, 50, 128, 128, bidirectional=True)
    found += _recurrent("GRU", 16, 50, 128, 128, bidirectional=True)
    return found
