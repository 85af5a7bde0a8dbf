"""Recurrent layers on ``device="cuda"`` whose weights stay on chip: against float64 on the CPU, the same bits however the layer is laid
over the multiprocessors, and (compiled apart, cuda_recurrent.cpp) plans and the emulator's cooperative launches."""

from __future__ import annotations

import numpy as np
import pytest
from cuda_program import EMULATED, choices, compiled, python, run_part

import pydlx
from pydlx import nn

needs_device = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")
CELLS = ["lstm", "gru", "tanh", "relu"]
# Largest difference, relative to the largest value: float32 carries sums of some hundred terms through the steps, 16-bit floats round the
# state in every step and the result.
LIMITS = {pydlx.float32: 2e-6, pydlx.float16: 3e-3, pydlx.bfloat16: 2e-2}

# time, batch, input, hidden, both directions, lengths
SHAPES = {
    "one sequence": (6, 1, 3, 7, False, None),
    "whole vectors": (5, 3, 4, 64, True, None),
    "several tiles of rows": (4, 21, 5, 40, False, None),
    "several groups": (4, 40, 2, 24, False, None),
    "several panels": (4, 2, 3, 272, False, None),
    "lengths": (7, 5, 3, 33, True, [7, 5, 5, 2, 1]),
    "lengths over groups": (6, 20, 3, 16, True, [6] * 3 + [5] * 6 + [2] * 10 + [1]),
}


def build(cell, inputs, hidden, both, bias=True):
    pydlx.manual_seed(0)
    if cell in ("lstm", "gru"):
        return getattr(nn, cell.upper())(inputs, hidden, bias=bias, bidirectional=both)
    return nn.RNN(inputs, hidden, bias=bias, nonlinearity=cell, bidirectional=both)


def train(cell, shape, device, dtype, rounded):
    """Outputs, last states and all gradients, of values that were rounded to ``rounded`` and are computed in ``dtype``."""
    time, batch, inputs, hidden, both, lengths = shape
    rng = np.random.default_rng(time * batch + hidden)

    def make(*size):
        return pydlx.from_numpy(rng.standard_normal(size).astype(np.float32)).to(rounded).to(dtype).to(device)

    layer = build(cell, inputs, hidden, both).to(rounded).to(dtype).to(device)
    x = make(time, batch, inputs).requires_grad_()
    states = [make(2 if both else 1, batch, hidden).requires_grad_() for _ in range(2 if cell == "lstm" else 1)]
    data = x if lengths is None else nn.utils.rnn.pack_padded_sequence(x, pydlx.tensor(lengths))
    y, last = layer(data, tuple(states) if cell == "lstm" else states[0])
    outputs = [y if lengths is None else y.data, *(last if cell == "lstm" else [last])]
    for t in outputs:
        assert t.dtype == dtype
    factors = [make(*t.shape) for t in outputs]
    pydlx.autograd.backward(outputs, factors)
    return [t.detach() for t in outputs] + [t.grad for t in (x, *states, *layer.parameters())]


@needs_device
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_against_float64(dtype, cell, name):
    got = train(cell, SHAPES[name], "cuda", dtype, dtype)
    want = train(cell, SHAPES[name], "cpu", pydlx.float64, dtype)
    # A rounded sum can lie on the other side of relu's kink, where the gradient is another.
    compared = len(got) if cell != "relu" or dtype == pydlx.float32 else 2
    for a, b in zip(got[:compared], want):
        a, b = a.cpu().double().numpy(), b.numpy()
        assert np.abs(a - b).max() <= LIMITS[dtype] * max(np.abs(b).max(), 1.0)


@needs_device
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("biases", [False, True])
def test_without_states_and_gradients(cell, biases):
    rng = np.random.default_rng(4)
    x = pydlx.from_numpy(rng.standard_normal((6, 3, 5)).astype(np.float32))
    layer = build(cell, 5, 12, False, bias=biases)
    with pydlx.no_grad():
        want = layer.double()(x.double())[0].numpy()
        got = layer.float().cuda()(x.cuda())[0].cpu().double().numpy()
        assert np.abs(got - want).max() < 1e-6
        half = layer.half()(x.cuda().half())[0].cpu().double().numpy()
        assert np.abs(half - want).max() < 4e-3


@needs_device
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_same_bits_every_time(dtype):
    shape = SHAPES["lengths over groups"]
    first = train("lstm", shape, "cuda", dtype, dtype)
    for _ in range(2):
        for a, b in zip(train("lstm", shape, "cuda", dtype, dtype), first):
            assert (a == b).all().item()


@needs_device
@pytest.mark.parametrize("dtype", LIMITS, ids=str)
def test_recorded(dtype):
    """Counters start anew and lengths are there in every replay."""
    rng = np.random.default_rng(2)
    layer = build("gru", 4, 24, True).to(dtype).cuda()
    x = pydlx.from_numpy(rng.standard_normal((5, 6, 4)).astype(np.float32)).to(dtype).cuda()
    packed = nn.utils.rnn.pack_padded_sequence(x, pydlx.tensor([5, 5, 4, 2, 2, 1]))
    with pydlx.no_grad():
        layer(packed)
        graph = pydlx.cuda.CUDAGraph()
        with pydlx.cuda.graph(graph):
            y = layer(packed)[0].data
        for factor in (1.0, -0.5):
            packed.data.mul_(factor)
            graph.replay()
            assert (y == layer(packed)[0].data).all().item()


PROGRAM = """
import sys, numpy as np, pydlx
from test_cuda_rnn import SHAPES, train
digest = 0
for cell, dtype in [("lstm", "float32"), ("gru", "float32"), ("tanh", "float32"), ("lstm", "bfloat16"), ("gru", "float16")]:
    for name in ("several tiles of rows", "lengths"):
        t = getattr(pydlx, dtype)
        for out in train(cell, SHAPES[name], "cuda", t, t):
            digest = hash((digest, out.cpu().float().numpy().tobytes()))
print(digest)
"""
SIZES = """
import pydlx
for dtype, hidden in ((pydlx.float32, 40), (pydlx.float32, 4096), (pydlx.bfloat16, 40), (pydlx.float16, 4096)):
    with pydlx.no_grad():
        pydlx.nn.LSTM(2, hidden, device="cuda", dtype=dtype)(pydlx.ones(4, 1, 2, device="cuda", dtype=dtype))
"""


@pytest.mark.skipif(not EMULATED, reason="needs the emulator, whose number of multiprocessors can be chosen")
def test_same_bits_on_any_number_of_multiprocessors():
    digests = set()
    for multiprocessors in ("2", "4", "9"):
        done = python(PROGRAM, PYTHONHASHSEED="1", PYDLX_EMULATED_MULTIPROCESSORS=multiprocessors)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1


@needs_device
def test_choice():
    """PYDLX_VERBOSE says how a layer is laid out; PYDLX_CUDA_PERSISTENT=0 goes step by step."""

    def lines(**environment):
        said = choices(SIZES, "pydlx: lstm", **environment)
        return [line for line in said if "chip" in line or "step by step" in line]

    assert ["chip" in line for line in lines()] == [True, False, True, False]
    assert ["chip" in line for line in lines(PYDLX_CUDA_PERSISTENT="0")] == [False] * 4


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("recurrent") / "cuda_recurrent", "tests/cuda_recurrent.cpp")


@pytest.mark.parametrize("part", ["plans", "together"])
def test_parts(program, part):
    done = run_part(program, part)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mistake", ["missing_arrival", "alone"])
def test_blocks_that_wait_in_vain_end_the_process(program, mistake):
    done = run_part(program, mistake)
    assert done.returncode < 0
    assert "waits for others that never arrive" in done.stderr
