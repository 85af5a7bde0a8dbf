"""Whole-sequence recurrent kernels (float32) beside single steps in float64, at the edges of panels, tasks and rows."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx
from pydlx.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

ISAS = pydlx._C.build_info()["cpu_isas"]
KINDS = ["RNN", "RNN_relu", "LSTM", "GRU"]


@pytest.fixture(params=ISAS)
def isa(request):
    pydlx._C._set_cpu_isa(request.param)
    yield request.param
    pydlx._C._set_cpu_isa(ISAS[-1])


def layer(mode, inputs, hidden, **options):
    kind, _, variant = mode.partition("_")
    pydlx.manual_seed(3)
    extra = {"nonlinearity": "relu"} if variant else {}
    return getattr(pydlx.nn, kind)(inputs, hidden, **extra, **options)


def run(mode, dtype, steps, batch, hidden, lengths=None, grad=True, **options):
    """Outputs, last states and, with grad, every gradient."""
    m = layer(mode, 3, hidden, **options).to(dtype)
    rng = np.random.default_rng(steps * 1000 + batch * 100 + hidden)
    runs = 2 if options.get("bidirectional") else 1
    x = pydlx.tensor(rng.standard_normal((steps, batch, 3)), dtype=dtype, requires_grad=grad)
    state = [
        pydlx.tensor(rng.standard_normal((runs, batch, hidden)), dtype=dtype, requires_grad=grad)
        for _ in range(2 if mode == "LSTM" else 1)
    ]
    data = x if lengths is None else pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, last = m(data, tuple(state) if mode == "LSTM" else state[0])
    if lengths is not None:
        y = pad_packed_sequence(y)[0]
    results = [y, *(last if mode == "LSTM" else [last])]
    if not grad:
        return [r.detach().numpy() for r in results]
    loss = sum((r * pydlx.tensor(rng.standard_normal(tuple(r.shape)), dtype=dtype)).sum() for r in results)
    loss.backward()
    return [r.detach().numpy() for r in results] + [t.grad.numpy() for t in [x, *state, *m.parameters()]]


def compare(*args, **options):
    got, want = run(args[0], pydlx.float32, *args[1:], **options), run(args[0], pydlx.float64, *args[1:], **options)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=2e-4, atol=2e-5 * (1 + np.abs(w).max()))


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("hidden", [1, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130])
def test_units(isa, mode, hidden):
    compare(mode, 5, 2, hidden)


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("batch", [1, 3, 4, 5, 6, 7, 23, 24, 25, 47, 48, 49, 97])
def test_rows(isa, mode, batch):
    compare(mode, 4, batch, 20)


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("steps", [1, 3, 4, 5])
def test_steps_around_the_switch(mode, steps):
    compare(mode, steps, 3, 18, bidirectional=True)


@pytest.mark.parametrize("mode", KINDS)
def test_lengths_differ(isa, mode):
    compare(mode, 7, 4, 18, lengths=[2, 7, 1, 5], bidirectional=True)
    compare(mode, 6, 50, 9, lengths=[1 + i % 6 for i in range(50)])


@pytest.mark.parametrize("mode", KINDS)
def test_few_rows_of_different_lengths(isa, mode):
    compare(mode, 9, 3, 70, lengths=[9, 4, 1], bidirectional=True)
    compare(mode, 3, 2, 70, lengths=[1, 3])


@pytest.mark.parametrize("mode", KINDS)
def test_without_gradient_or_bias(mode):
    compare(mode, 6, 3, 33, grad=False, bias=False)
    compare(mode, 6, 3, 33, bias=False)


@pytest.mark.parametrize("mode", KINDS)
def test_thread_counts_agree(mode):
    before = pydlx.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            pydlx.set_num_threads(threads)
            rows = [r.tobytes() for r in run(mode, pydlx.float32, 5, 50, 150)]
            rows += [r.tobytes() for r in run(mode, pydlx.float32, 40, 1, 130)]
            rows += [r.tobytes() for r in run(mode, pydlx.float32, 6, 110, 70, [1 + i % 6 for i in range(110)])]
            results.append(rows)
        assert all(r == results[0] for r in results)
    finally:
        pydlx.set_num_threads(before)
