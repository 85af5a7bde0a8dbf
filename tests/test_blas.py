"""Large float64 products A^T B on the AVX2 path, where the optional BLAS serves: the same results as ever.

Without a BLAS the same tests run on the library's own kernels.
"""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

ISAS = pydlx._C.build_info()["cpu_isas"]


@pytest.fixture(autouse=True)
def avx2():
    if "avx2" not in ISAS:
        pytest.skip("this machine or build has no AVX2 path")
    pydlx._C._set_cpu_isa("avx2")
    yield
    pydlx._C._set_cpu_isa(ISAS[-1])


@pytest.fixture
def matrices():
    rng = np.random.default_rng(0)
    return rng.standard_normal((1100, 520)), rng.standard_normal((520, 1030))  # not multiples of a tile


def tensor(x, transposed):
    return pydlx.from_numpy(np.ascontiguousarray(x.T)).T if transposed else pydlx.from_numpy(x)


@pytest.mark.parametrize("layout", ["tn", "tt", "nn"])
def test_layouts(matrices, layout):
    a, b = matrices
    got = tensor(a, layout[0] == "t") @ tensor(b, layout[1] == "t")
    np.testing.assert_allclose(got.numpy(), a @ b, rtol=0, atol=1e-11)


def test_strides_scaling_bias_and_specials(matrices):
    a, b = matrices
    wide = np.zeros((a.shape[1], a.shape[0] + 8))
    wide[:, :-8] = a.T
    view, tb = pydlx.from_numpy(wide)[:, :-8].T, pydlx.from_numpy(b)
    base = np.random.default_rng(1).standard_normal((a.shape[0], b.shape[1]))
    got = pydlx.addmm(pydlx.from_numpy(base), view, tb, beta=0.5, alpha=-2.0)
    np.testing.assert_allclose(got.numpy(), 0.5 * base - 2 * (a @ b), rtol=0, atol=1e-11)
    # beta 0: what the destination held is not read, NaN or not.
    got = pydlx.addmm(pydlx.full(base.shape, float("nan"), dtype=pydlx.float64), view, tb, beta=0)
    np.testing.assert_allclose(got.numpy(), a @ b, rtol=0, atol=1e-11)
    bias = np.arange(b.shape[1], dtype=np.float64)
    got = pydlx.nn.functional.linear(view, pydlx.from_numpy(np.ascontiguousarray(b.T)), pydlx.from_numpy(bias))
    np.testing.assert_allclose(got.numpy(), a @ b + bias, rtol=0, atol=1e-11)
    # alpha 0: operands that are not finite still count.
    b[3, 5] = float("inf")
    got = pydlx.addmm(pydlx.from_numpy(base), view, pydlx.from_numpy(b), beta=1, alpha=0)
    assert pydlx.isnan(got[:, 5]).all()
    assert not pydlx.isnan(got[:, 6]).any()


def test_batches_and_threads(matrices):
    a, b = tensor(matrices[0], True), tensor(matrices[1], False)
    stack = pydlx.stack([a.T, -a.T, 2 * a.T]).transpose(1, 2)
    threads = pydlx.get_num_threads()
    try:
        results = []
        for n in (1, 2, 3):
            pydlx.set_num_threads(n)
            results.append(pydlx.bmm(stack, b.expand(3, -1, -1)).numpy())
    finally:
        pydlx.set_num_threads(threads)
    assert (results[0] == results[1]).all() and (results[0] == results[2]).all()
    np.testing.assert_allclose(results[0][2], 2 * (matrices[0] @ matrices[1]), rtol=0, atol=2e-11)
