"""Recurrent networks and cells: padded, packed, stacked, both directions, projections."""

import numpy as np
from cases import Case, ErrorCase, args, normal


def scaled(*shape):
    """Weights small enough that gates are not saturated."""
    return lambda rng: rng.standard_normal(shape) * 0.4


def weights(gates, inputs, hidden, layers=1, directions=1, biases=True, projection=0):
    out = projection or hidden
    rows = []
    for layer in range(layers):
        width = inputs if layer == 0 else out * directions
        for _ in range(directions):
            rows += [scaled(gates * hidden, width), scaled(gates * hidden, out)]
            if biases:
                rows += [scaled(gates * hidden), scaled(gates * hidden)]
            if projection:
                rows.append(scaled(projection, hidden))
    return rows


def network(name, gates, time, batch, inputs, hidden, *, layers=1, both=False, biases=True, projection=0, first=False):
    """A case over x, the initial states and all weights."""
    directions = 2 if both else 1
    states = [normal(layers * directions, batch, projection or hidden)]
    if name == "lstm":
        states.append(normal(layers * directions, batch, hidden))

    def fn(T, x, *rest):
        hx = list(rest[: len(states)]) if name == "lstm" else rest[0]
        return getattr(T, name)(x, hx, list(rest[len(states) :]), biases, layers, 0.0, False, both, first)

    shape = (batch, time, inputs) if first else (time, batch, inputs)
    return fn, args(normal(*shape), *states, *weights(gates, inputs, hidden, layers, directions, biases, projection))


def packed(name, gates, sizes, inputs, hidden, *, layers=1, both=False):
    directions = 2 if both else 1
    states = [normal(layers * directions, sizes[0], hidden) for _ in range(2 if name == "lstm" else 1)]

    def fn(T, x, *rest):
        hx = list(rest[: len(states)]) if name == "lstm" else rest[0]
        steps = T.from_numpy(np.array(sizes))
        return getattr(T, name)(x, steps, hx, list(rest[len(states) :]), True, layers, 0.0, False, both)

    return fn, args(normal(sum(sizes), inputs), *states, *weights(gates, inputs, hidden, layers, directions))


def cell(name, gates, batch, inputs, hidden, biases=True):
    lead = (batch,) if batch else ()
    states = [normal(*lead, hidden) for _ in range(2 if name == "lstm" else 1)]

    def fn(T, x, *rest):
        hx = list(rest[: len(states)]) if name == "lstm" else rest[0]
        return getattr(T, f"{name}_cell")(x, hx, *rest[len(states) :])

    return fn, args(normal(*lead, inputs), *states, *weights(gates, inputs, hidden, biases=biases))


# The recurrence repeats every rounding once per step; gradients sum over steps and gates.
CASES = [
    Case("lstm", *network("lstm", 4, 5, 3, 4, 6), tolerance=4),
    Case("lstm/wide", *network("lstm", 4, 7, 20, 9, 33), tolerance=4, second=False),
    Case("lstm/stacked", *network("lstm", 4, 4, 2, 3, 5, layers=2, both=True), tolerance=4),
    Case("lstm/no_bias", *network("lstm", 4, 4, 2, 3, 5, biases=False), tolerance=4),
    Case("lstm/projected", *network("lstm", 4, 4, 3, 3, 6, projection=2, layers=2, both=True), tolerance=4),
    Case("lstm/batch_first", *network("lstm", 4, 4, 2, 3, 5, first=True), tolerance=4),
    Case("lstm/packed", *packed("lstm", 4, [4, 3, 3, 1], 3, 5, layers=2, both=True), tolerance=4),
    Case("gru", *network("gru", 3, 5, 3, 4, 6), tolerance=4),
    Case("gru/wide", *network("gru", 3, 7, 20, 9, 33), tolerance=4, second=False),
    Case("gru/stacked", *network("gru", 3, 4, 2, 3, 5, layers=2, both=True), tolerance=4),
    Case("gru/no_bias", *network("gru", 3, 4, 2, 3, 5, biases=False), tolerance=4),
    Case("gru/packed", *packed("gru", 3, [4, 3, 1], 3, 5, both=True), tolerance=4),
    Case("rnn_tanh", *network("rnn_tanh", 1, 5, 3, 4, 6, layers=2, both=True), tolerance=4),
    Case("rnn_tanh/packed", *packed("rnn_tanh", 1, [3, 2, 2], 3, 5), tolerance=4),
    Case("rnn_relu", *network("rnn_relu", 1, 5, 3, 4, 6), tolerance=4),
    Case("rnn_relu/packed", *packed("rnn_relu", 1, [3, 2, 2], 3, 5, both=True), tolerance=4),
    Case("lstm_cell", *cell("lstm", 4, 3, 4, 5), tolerance=4),
    Case("lstm_cell/no_bias", *cell("lstm", 4, 3, 4, 5, biases=False), tolerance=4),
    Case("gru_cell", *cell("gru", 3, 3, 4, 5), tolerance=4),
    Case("rnn_tanh_cell", *cell("rnn_tanh", 1, 3, 4, 5), tolerance=4),
    Case("rnn_relu_cell", *cell("rnn_relu", 1, 3, 4, 5), tolerance=4),
]


def ones(T, *shape):
    return T.from_numpy(np.ones(shape))


def lstm_with(T, x=(4, 2, 3), h=(1, 2, 5), c=(1, 2, 5), w_ih=(20, 3), w_hh=(20, 5), drop=0):
    params = [ones(T, *w_ih), ones(T, *w_hh), ones(T, 20), ones(T, 20)]
    return T.lstm(ones(T, *x), [ones(T, *h), ones(T, *c)], params[: 4 - drop], True, 1, 0.0, False, False, False)


ERRORS = [
    ErrorCase("lstm/input", lambda T: lstm_with(T, x=(4, 3)), ValueError, r"\[lstm\] input: expected 3 dimensions"),
    ErrorCase(
        "lstm/features", lambda T: lstm_with(T, x=(4, 2, 9)), ValueError, r"\[lstm\] params \(w_ih\): .*\(20, 9\)"
    ),
    ErrorCase(
        "lstm/state", lambda T: lstm_with(T, h=(1, 3, 5)), ValueError, r"\[lstm\] hx: expected shape \(1, 2, 5\)"
    ),
    ErrorCase("lstm/cell", lambda T: lstm_with(T, c=(1, 2, 4)), ValueError, r"\[lstm\] hx: expected shape \(1, 2, 5\)"),
    ErrorCase("lstm/params", lambda T: lstm_with(T, drop=1), ValueError, r"\[lstm\] params: expected 4 tensors"),
    ErrorCase(
        "gru/batch_sizes",
        lambda T: T.gru(
            ones(T, 5, 3),
            T.from_numpy(np.array([2, 3])),
            ones(T, 1, 2, 4),
            [ones(T, 12, 3), ones(T, 12, 4), ones(T, 12), ones(T, 12)],
            True,
            1,
            0.0,
            False,
            False,
        ),
        ValueError,
        r"batch_sizes: expected positive sizes that never grow",
    ),
]
