"""Whole-sequence recurrent kernels beside single steps in float64, at the edges of panels, tasks and rows."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx
from pydlx.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

KINDS = ["RNN", "RNN_relu", "LSTM", "GRU"]


def layer(mode, inputs, hidden, **options):
    kind, _, variant = mode.partition("_")
    pydlx.manual_seed(3)
    extra = {"nonlinearity": "relu"} if variant else {}
    return getattr(pydlx.nn, kind)(inputs, hidden, **extra, **options)


def run(mode, dtype, steps, batch, hidden, lengths=None, grad=True, inputs=3, rounded=None, **options):
    """Outputs, last states and, with grad, every gradient. All operands are numbers of type `rounded`."""
    rounded = rounded or dtype
    m = layer(mode, inputs, hidden, **options).to(rounded).to(dtype)
    rng = np.random.default_rng(steps * 1000 + batch * 100 + hidden)

    def random(*shape, grad=False):
        return pydlx.tensor(rng.standard_normal(shape), dtype=rounded).to(dtype).requires_grad_(grad)

    runs = (2 if options.get("bidirectional") else 1) * options.get("num_layers", 1)
    x = random(steps, batch, inputs, grad=grad)
    state = [random(runs, batch, hidden, grad=grad) for _ in range(2 if mode == "LSTM" else 1)]
    data = x if lengths is None else pack_padded_sequence(x, lengths, enforce_sorted=False)
    y, last = m(data, tuple(state) if mode == "LSTM" else state[0])
    if lengths is not None:
        y = pad_packed_sequence(y)[0]
    results = [y, *(last if mode == "LSTM" else [last])]
    if not grad:
        return [r.detach().to(wide(dtype)).numpy() for r in results]
    pydlx.autograd.backward(results, [random(*r.shape) for r in results])
    return [r.detach().to(wide(dtype)).numpy() for r in [*results, *[t.grad for t in [x, *state, *m.parameters()]]]]


def wide(dtype):
    return pydlx.float32 if dtype == pydlx.bfloat16 else dtype


def compare(*args, **options):
    got, want = run(args[0], pydlx.float32, *args[1:], **options), run(args[0], pydlx.float64, *args[1:], **options)
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=2e-4, atol=2e-5 * (1 + np.abs(w).max()))


def compare_bfloat16(*args, **options):
    """Every result within four roundings, of 2^-9 each. Where ReLU cuts, they decide whether a gradient passes."""
    got = run(args[0], pydlx.bfloat16, *args[1:], **options)
    want = run(args[0], pydlx.float64, *args[1:], rounded=pydlx.bfloat16, **options)
    size = [np.sqrt(np.mean(w**2)) for w in want]
    for i, (g, w, s) in enumerate(zip(got, want, size, strict=True)):
        share = 2**-3 if args[0] == "RNN_relu" and i >= 2 else 2**-7
        assert g.shape == w.shape
        assert np.sqrt(np.mean((g - w) ** 2)) <= share * max(s, max(size) / 8)


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
@pytest.mark.parametrize("batch", [4, 5, 6, 47, 64, 97, 130])
def test_rows_without_gradient(isa, mode, batch):
    """Nothing is kept, and the kernel multiplies the input itself, several steps at a time."""
    compare(mode, 7, batch, 20, grad=False)
    compare(mode, 5, batch, 17, grad=False, inputs=401, bias=False)
    compare(mode, 6, batch, 9, lengths=[1 + i % 6 for i in range(batch)], grad=False, inputs=33, bidirectional=True)
    compare(mode, 70, batch, 5, grad=False, inputs=1, bidirectional=True)


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("inputs", [1, 40, 900])
def test_gradients_do_not_change_values(mode, inputs):
    m = layer(mode, inputs, 33)
    x = pydlx.randn(9, 11, inputs)
    with pydlx.no_grad():
        want = m(x)[0].numpy()
    assert m(x)[0].detach().numpy().tobytes() == want.tobytes()


def test_infinite_input_without_gradient(isa):
    m = pydlx.nn.LSTM(3, 5)
    x = pydlx.randn(6, 9, 3)
    x[2, 4, 1] = float("nan")
    x[3, 7, 0] = 3e38
    with pydlx.no_grad():
        y = m(x)[0].numpy()
    assert np.isnan(y[2:, 4]).all() and np.isfinite(np.delete(y, 4, axis=1)).all()


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("hidden", [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130])
def test_units_in_bfloat16(isa, mode, hidden):
    compare_bfloat16(mode, 5, 2, hidden)
    compare_bfloat16(mode, 4, 7, hidden, inputs=hidden)


@pytest.mark.parametrize("mode", KINDS)
@pytest.mark.parametrize("batch", [1, 3, 4, 5, 6, 7, 12, 13, 47, 48, 49, 97])
def test_rows_in_bfloat16(isa, mode, batch):
    compare_bfloat16(mode, 4, batch, 20, inputs=33)
    compare_bfloat16(mode, 1, batch, 33, inputs=32)


@pytest.mark.parametrize("mode", KINDS)
def test_lengths_differ_in_bfloat16(isa, mode):
    compare_bfloat16(mode, 7, 4, 18, lengths=[2, 7, 1, 5], bidirectional=True)
    compare_bfloat16(mode, 6, 50, 9, lengths=[1 + i % 6 for i in range(50)], bidirectional=True)
    compare_bfloat16(mode, 9, 3, 70, lengths=[9, 4, 1], grad=False, bias=False)


@pytest.mark.parametrize("mode", KINDS)
def test_layers_in_bfloat16(isa, mode):
    compare_bfloat16(mode, 5, 6, 24, num_layers=2, bidirectional=True)
    compare_bfloat16(mode, 5, 6, 24, num_layers=2, bias=False)


@pytest.mark.parametrize("mode", KINDS)
def test_bfloat16_is_no_further_from_float64_than_pytorch(mode):
    torch = pytest.importorskip("torch")
    args = ("bfloat16", 30, 8, 65)
    want = run(mode, pydlx.float64, *args[1:], rounded=pydlx.bfloat16, inputs=48)
    got = run(mode, pydlx.bfloat16, *args[1:], inputs=48)
    m = layer(mode, 48, 65).to(pydlx.bfloat16)
    kind, _, variant = mode.partition("_")
    peer = getattr(torch.nn, kind)(48, 65, **({"nonlinearity": "relu"} if variant else {}))
    for p, q in zip(peer.parameters(), m.parameters(), strict=True):
        p.data = torch.tensor(q.detach().float().numpy())
    peer.to(torch.bfloat16)
    rng = np.random.default_rng(30 * 1000 + 8 * 100 + 65)

    def random(*shape, grad=False):
        return torch.tensor(rng.standard_normal(shape), dtype=torch.float64).to(torch.bfloat16).requires_grad_(grad)

    x = random(30, 8, 48, grad=True)
    state = [random(1, 8, 65, grad=True) for _ in range(2 if mode == "LSTM" else 1)]
    y, last = peer(x, tuple(state) if mode == "LSTM" else state[0])
    results = [y, *(last if mode == "LSTM" else [last])]
    torch.autograd.backward(results, [random(*r.shape) for r in results])
    theirs = [r.detach().float().numpy() for r in [*results, *[t.grad for t in [x, *state, *peer.parameters()]]]]

    def distance(values):
        return np.mean([np.sqrt(np.mean((v - w) ** 2) / np.mean(w**2)) for v, w in zip(values, want, strict=True)])

    assert distance(got) <= 1.05 * distance(theirs)


def test_second_derivatives_of_a_bfloat16_layer(isa):
    pydlx.manual_seed(0)
    m = pydlx.nn.GRU(3, 4).to(pydlx.bfloat16)
    x = pydlx.randn(5, 2, 3).to(pydlx.bfloat16).requires_grad_(True)
    grads = []
    for dtype in (pydlx.bfloat16, pydlx.float64):
        z, n = x.detach().to(dtype).requires_grad_(True), m.to(dtype)
        (g,) = pydlx.autograd.grad(n(z)[0].sum(), z, create_graph=True)
        grads.append(pydlx.autograd.grad((g * g).sum(), z)[0].to(pydlx.float64).numpy())
    np.testing.assert_allclose(grads[0], grads[1], rtol=0.05, atol=0.02 * np.abs(grads[1]).max())


def test_bfloat16_states_that_are_not_finite(isa):
    m = pydlx.nn.LSTM(3, 5).to(pydlx.bfloat16)
    h = pydlx.zeros(1, 6, 5, dtype=pydlx.bfloat16)
    h[0, 2, 3] = float("nan")
    huge = pydlx.full((4, 6, 3), 3e38, dtype=pydlx.bfloat16)
    with pydlx.no_grad():
        y = m(pydlx.randn(4, 6, 3).to(pydlx.bfloat16), (h, h))[0].float().numpy()
        assert not np.isinf(m(huge)[0].float().numpy()).any()
    assert np.isnan(y[-1, 2]).any() and np.isfinite(np.delete(y, 2, axis=1)).all()


@pytest.mark.parametrize("mode", KINDS)
def test_thread_counts_agree(mode):
    before = pydlx.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 7):
            pydlx.set_num_threads(threads)
            rows = [r.tobytes() for r in run(mode, pydlx.float32, 5, 50, 150)]
            rows += [r.tobytes() for r in run(mode, pydlx.float32, 40, 1, 130)]
            rows += [r.tobytes() for r in run(mode, pydlx.float32, 9, 50, 150, grad=False, inputs=500)]
            rows += [r.tobytes() for r in run(mode, pydlx.float32, 6, 110, 70, [1 + i % 6 for i in range(110)])]
            rows += [r.tobytes() for r in run(mode, pydlx.bfloat16, 5, 110, 150, [1 + i % 5 for i in range(110)])]
            rows += [r.tobytes() for r in run(mode, pydlx.bfloat16, 40, 1, 130, inputs=130)]
            results.append(rows)
        assert all(r == results[0] for r in results)
    finally:
        pydlx.set_num_threads(before)
