"""Elementwise results that are too large for caches leave past them: whole cache lines only, wherever they begin."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

ROWS, COLUMNS = 2100, 4099  # 34 MB, rows that begin anywhere in a cache line


@pytest.fixture(autouse=True)
def two_threads():
    before = pydlx.get_num_threads()
    pydlx.set_num_threads(2)
    yield
    pydlx.set_num_threads(before)


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    return [rng.standard_normal((ROWS, COLUMNS), dtype=np.float32) for _ in range(2)]


OPERANDS = {
    "two tensors": lambda b: b,
    "a number": lambda b: np.float32(0.7),
    "a row": lambda b: b[:1],
    "a column": lambda b: b[:, :1],
    "every other column": lambda b: np.concatenate([b, b], 1)[:, ::2],
}


@pytest.mark.parametrize("name", OPERANDS)
def test_frames_stay_untouched(isa, arrays, name):
    a, b = arrays[0], OPERANDS[name](arrays[1])
    frame = pydlx.full((ROWS + 2, COLUMNS + 3), 7.0)
    right = pydlx.tensor(b) if b.ndim == 0 else pydlx.from_numpy(b)
    pydlx.mul(pydlx.from_numpy(a), right, out=frame[1:-1, 2:-1])
    got = frame.numpy()
    np.testing.assert_array_equal(got[1:-1, 2:-1], a * b)
    got[1:-1, 2:-1] = 7
    assert (got == 7).all()


@pytest.mark.parametrize("offset", [0, 1, 15, 16])
def test_every_start(isa, arrays, offset):
    """A contiguous result that begins `offset` elements behind a cache line, beside operands that begin elsewhere."""
    a, b = (x.reshape(-1) for x in arrays)
    n = a.size - 20
    memory = pydlx.full((a.size,), 7.0)
    pydlx.add(pydlx.from_numpy(a)[3 : 3 + n], pydlx.from_numpy(b)[:n], out=memory[offset : offset + n])
    got = memory.numpy()
    np.testing.assert_array_equal(got[offset : offset + n], a[3 : 3 + n] + b[:n])
    assert (got[:offset] == 7).all() and (got[offset + n :] == 7).all()


def test_other_types_and_in_place(arrays):
    a, b = (pydlx.from_numpy(x) for x in arrays)
    ints = (a * 1000).to(pydlx.int32)
    np.testing.assert_array_equal((ints - 3).numpy(), (arrays[0] * np.float32(1000)).astype(np.int32) - 3)
    np.testing.assert_array_equal(pydlx.where(a > 0, a, b).numpy(), np.where(arrays[0] > 0, *arrays))
    wide = a.double()
    np.testing.assert_array_equal(wide.neg().numpy(), -arrays[0].astype(np.float64))
    wide.mul_(2.0)
    np.testing.assert_array_equal(wide.numpy(), arrays[0].astype(np.float64) * 2)


def test_one_and_more_threads_agree(arrays):
    a, b = (pydlx.from_numpy(x) for x in arrays)
    results = []
    for threads in (1, 2, 3):
        pydlx.set_num_threads(threads)
        results.append(pydlx.atan2(a, b).numpy())
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("source", ["contiguous", "reversed", "every other", "one number"])
def test_copies(isa, arrays, source):
    """Copies into one run of memory, and fills."""
    a = arrays[0].reshape(-1)
    memory = pydlx.full((a.size + 16,), 7.0)
    out = memory[16:]
    if source == "one number":
        out.fill_(2.5)
        want = np.full_like(a, 2.5)
    elif source == "contiguous":
        out.copy_(pydlx.from_numpy(a))
        want = a
    elif source == "reversed":
        out.copy_(pydlx.flip(pydlx.from_numpy(a), (0,)))
        want = a[::-1]
    else:
        out.copy_(pydlx.from_numpy(np.repeat(a, 2))[::2])
        want = a
    np.testing.assert_array_equal(out.numpy(), want)
    assert (memory.numpy()[:16] == 7).all()


def test_gradients_filled_with_zeros(isa):
    """Together larger than any cache: odd sizes, every start, other layouts and dtypes, and nothing beside them."""
    big = pydlx.full((9 << 20,), 7.0)
    spans = [(0, 3 << 20), ((3 << 20) + 5, (6 << 20) + 2), ((6 << 20) + 16, (9 << 20) - 3)]
    grads = [big[a:b] for a, b in spans]
    grads += [pydlx.ones(3, 5, 7, 2).to(memory_format=pydlx.channels_last), pydlx.ones(6, 4)[:, ::2], pydlx.ones(0)]
    grads += [pydlx.ones(33, dtype=pydlx.bfloat16), pydlx.ones(17, dtype=pydlx.float64), pydlx.tensor(3.0)]
    parameters = [pydlx.zeros(g.shape, dtype=g.dtype).requires_grad_() for g in grads]
    for p, g in zip(parameters, grads, strict=True):
        p.grad = g
    shared = parameters[0].grad
    versions = [g._version for g in grads]
    pydlx.optim.SGD(parameters, lr=0.1).zero_grad(set_to_none=False)
    assert parameters[0].grad is shared
    assert all(bool((p.grad == 0).all()) for p in parameters)
    assert all(g._version > v for g, v in zip(grads, versions, strict=True))
    kept = np.full(9 << 20, 7, np.float32)
    for a, b in spans:
        kept[a:b] = 0
    np.testing.assert_array_equal(big.numpy(), kept)
