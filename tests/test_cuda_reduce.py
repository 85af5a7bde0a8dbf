"""Reductions on the GPU along packs of positions and of outputs, with several blocks per sum, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

FLOATS = ["float64", "float32", "float16", "bfloat16"]
INTEGERS = ["bool", "uint8", "int8", "int16", "int32", "int64"]
# (shape, axes): rows, columns, a channel of every sample, everything, a single output of many parts, odd sizes.
CASES = [
    ((5, 96), (1,)),
    ((5, 97), (1,)),
    ((3, 4096), (1,)),
    ((700, 64), (0,)),
    ((700, 520), (0,)),
    ((333, 72), (0,)),
    ((333, 71), (0,)),
    ((40, 128, 3), (0, 2)),
    ((6, 32, 8, 8), (0, 2, 3)),
    ((6, 8, 8, 32), (0, 1, 2)),
    ((2, 30, 48), (1,)),
    ((20000,), (0,)),
    ((9, 2500), (0, 1)),
    ((0, 64), (0,)),
    ((64, 0), (0,)),
]


def data(shape, dtype):
    x = np.random.default_rng(1).standard_normal(shape) * 5
    t = pydlx.tensor(x if dtype in FLOATS else np.rint(x)).to(getattr(pydlx, dtype)).cuda()
    return t, t.cpu().double().numpy()


@pytest.mark.parametrize(("shape", "axes"), CASES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_sums_and_counts(shape, axes, dtype):
    t, x = data(shape, dtype)
    bound = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype, 1e-6)
    np.testing.assert_allclose(
        t.sum(axes).cpu().double().numpy(),
        x.sum(axes),
        rtol=bound,
        atol=bound * np.abs(x).sum(axes).max(initial=0) * 1e-3,
    )
    assert (t.count_nonzero(axes).cpu().numpy() == np.count_nonzero(x, axes)).all()


@pytest.mark.parametrize(("shape", "axes"), [c for c in CASES if 0 not in c[0]], ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_moments_and_norms(shape, axes, dtype):
    t, x = data(shape, dtype)
    bound = {"float16": 1e-3, "bfloat16": 8e-3}.get(dtype, 1e-6)
    for got, want in [
        (t.var(axes), x.var(axes, ddof=1)),
        (t.norm(dim=axes), np.sqrt((x * x).sum(axes))),
        (t.logsumexp(axes), np.log(np.exp(x).sum(axes))),
    ]:
        np.testing.assert_allclose(got.cpu().double().numpy(), want, rtol=bound, atol=bound)


@pytest.mark.parametrize(("shape", "axes"), [c for c in CASES if 0 not in c[0]], ids=str)
@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
def test_extrema(shape, axes, dtype):
    t, x = data(shape, dtype)
    assert (t.amax(axes).cpu().double().numpy() == x.max(axes)).all()
    if len(axes) == 1 and dtype != "bool":
        assert (t.argmin(axes[0]).cpu().numpy() == x.argmin(axes[0])).all()


def test_columns_with_nan():
    x = np.ones((300, 64), np.float32)
    x[250, 5] = np.nan
    t = pydlx.tensor(x).cuda()
    assert np.flatnonzero(np.isnan(t.sum(0).cpu().numpy())).tolist() == [5]
    assert np.flatnonzero(np.isnan(t.amax(0).cpu().numpy())).tolist() == [5]


def test_columns_that_begin_between_packs():
    x = np.random.default_rng(0).standard_normal((301, 67)).astype(np.float32)
    t = pydlx.tensor(x).cuda()[1:, 3:]
    np.testing.assert_allclose(t.sum(0).cpu().numpy(), x[1:, 3:].sum(0, dtype=np.float64), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(t.sum(1).cpu().numpy(), x[1:, 3:].sum(1, dtype=np.float64), rtol=1e-5, atol=1e-5)
