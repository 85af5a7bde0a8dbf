"""Layer norm, softmax and cross-entropy on the GPU for rows that are kept in registers and rows that are not, with and without packs, against float64."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx
from pydlx.nn import functional as F

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")

DTYPES = {"float64": 1e-12, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
SIZES = [1, 3, 8, 96, 770, 1000, 1023, 1030, 4096, 4100, 8200, 9001]


def rows(n, dtype, seed=0, skew=0):
    """Three rows on the device, `skew` elements behind where an allocation begins."""
    x = np.random.default_rng(seed).standard_normal(3 * n + skew) * 3
    return pydlx.tensor(x).to(getattr(pydlx, dtype)).cuda()[skew:].reshape(3, n)


def compare(fn, inputs, bound):
    """fn's value and the gradients of all inputs, relative to the largest of each."""
    gpu = [t.detach().requires_grad_() for t in inputs]
    cpu = [t.detach().cpu().double().requires_grad_() for t in inputs]
    y, want = fn(*gpu), fn(*cpu)
    g = pydlx.tensor(np.random.default_rng(9).standard_normal(want.shape)).to(y.dtype).cuda()
    y.backward(g)
    want.backward(g.cpu().double())
    pairs = [(y.detach(), want.detach())] + [(a.grad, b.grad) for a, b in zip(gpu, cpu, strict=True)]
    for got, ref in pairs:
        a, b = got.cpu().double().numpy(), ref.numpy()
        assert (np.abs(a - b) <= bound * (np.abs(b).max() + 1e-3)).all(), np.abs(a - b).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_layer_norm(n, dtype):
    if n > 1:
        w, b = rows(n, dtype, 1)[0], rows(n, dtype, 2)[0]
        compare(lambda x, w, b: F.layer_norm(x, (n,), w, b), [rows(n, dtype), w, b], 4 * DTYPES[dtype])
        compare(lambda x, w: F.rms_norm(x, (n,), w, 1e-5), [rows(n, dtype), w], 4 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
def test_softmax(n, dtype):
    for fn in (F.softmax, F.log_softmax):
        compare(lambda x, f=fn: f(x, -1), [rows(n, dtype)], 2 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_that_begin_between_packs(dtype):
    for n in (16, 1000, 4104):
        compare(lambda x: F.softmax(x, -1), [rows(n, dtype, skew=3)], 2 * DTYPES[dtype])
        compare(lambda x, n=n: F.layer_norm(x, (n,)), [rows(n, dtype, skew=3)], 4 * DTYPES[dtype])


@pytest.mark.parametrize("rows_", [1, 7, 700])
def test_weights_of_many_rows(rows_):
    x = pydlx.randn(rows_, 48, device="cuda")
    compare(lambda x, w, b: F.layer_norm(x, (48,), w, b), [x, pydlx.randn(48).cuda(), pydlx.randn(48).cuda()], 1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 96, 1000, 1023, 4100, 9001])
def test_cross_entropy(n, dtype):
    target = pydlx.tensor([0, n - 1, n // 2])
    weight = pydlx.rand(n, dtype=pydlx.float64) + 0.5
    for options in ({}, {"label_smoothing": 0.1}, {"weight": weight}, {"label_smoothing": 0.1, "weight": weight}):

        def loss(x, options=options):
            o = dict(options)
            if "weight" in o:
                o["weight"] = o["weight"].to(pydlx.float64 if x.dtype == pydlx.float64 else pydlx.float32).to(x.device)
            return F.cross_entropy(x, target.to(x.device), reduction="none", **o)

        compare(loss, [rows(n, dtype)], 2 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [24, 1023, 1030, 9000])
def test_rows_with_infinities(n, dtype):
    x = rows(n, dtype).cpu().double().numpy()
    x[0, : n // 2] = -np.inf  # masked
    x[1, -1] = np.inf
    x[2] = -np.inf
    gpu = pydlx.tensor(x).to(getattr(pydlx, dtype)).cuda()
    y, z = (f(gpu, -1).cpu().double().numpy() for f in (F.softmax, F.log_softmax))
    lse = F.cross_entropy(gpu, pydlx.tensor([n - 1, 0, 0]).cuda(), reduction="none").cpu().double().numpy()
    assert (y[0, : n // 2] == 0).all() and (z[0, : n // 2] == -np.inf).all() and np.isfinite(lse[0])
    np.testing.assert_allclose(y[0].sum(), 1, atol=20 * DTYPES[dtype])
    assert np.isnan(y[1:]).all() and np.isnan(z[1:]).all() and np.isnan(lse[1:]).all()
    x[:] = 1
    x[1, n // 3] = np.nan
    y = F.softmax(pydlx.tensor(x).to(getattr(pydlx, dtype)).cuda(), -1).cpu().double().numpy()
    assert np.isnan(y[1]).all() and np.isfinite(y[::2]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_huge_logits(dtype):
    for n in (40, 9000):
        x = np.full((2, n), -1e30)
        x[:, 1] = 3e30
        gpu = pydlx.tensor(x).to(getattr(pydlx, dtype)).cuda()
        assert F.softmax(gpu, -1).cpu().float().numpy()[:, :3].tolist() == [[0, 1, 0]] * 2
        assert F.cross_entropy(gpu, pydlx.tensor([1, 1]).cuda()).item() == 0


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cols", [5, 16, 600])
def test_rows_of_a_table_that_are_used_often(cols, dtype):
    rng = np.random.default_rng(4)
    index = rng.integers(0, 40, 3000)
    index[rng.random(3000) < 0.5] = 7
    index[:900] = 11
    index[2000:2600] = 39
    index[1500:1900] = 0
    w, i = rows(cols, dtype, 1)[:1].expand(40, cols).contiguous(), pydlx.tensor(index)
    g = rng.standard_normal((3000, cols))
    for options in ({}, {"padding_idx": 7}, {"scale_grad_by_freq": True}):
        table = w.detach().requires_grad_()
        dy = pydlx.tensor(g).to(w.dtype).cuda()
        F.embedding(i.cuda(), table, **options).backward(dy)
        want = np.zeros((40, cols))
        np.add.at(want, index, dy.cpu().double().numpy())
        if "padding_idx" in options:
            want[7] = 0
        if "scale_grad_by_freq" in options:
            want /= np.maximum(np.bincount(index, minlength=40), 1)[:, None]
        got = table.grad.cpu().double().numpy()
        np.testing.assert_allclose(got, want, rtol=2 * DTYPES[dtype], atol=20 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows_", "cols"),
    [(1, 64), (700, 8), (900, 64), (3000, 3), (530, 40), (90, 96), (61, 1030), (40, 8192), (5, 10300), (3, 13000)],
)
def test_sums_over_rows_on_the_way(rows_, cols, dtype):
    """Rows side by side in a block, parts that do not come out even, rows that are not kept, and those too long for the sums."""
    rng = np.random.default_rng(5)
    x, w, b = (
        pydlx.tensor(rng.standard_normal(s)).to(getattr(pydlx, dtype)).cuda() for s in ((rows_, cols), cols, cols)
    )
    bound = DTYPES[dtype] * (10 if dtype in ("float32", "float64") else 4)
    compare(lambda x, w, b: F.layer_norm(x, (cols,), w, b), [x, w, b], bound)
    compare(lambda x, w: F.rms_norm(x, (cols,), w, 1e-5), [x, w], bound)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_layer_norm_that_are_not_wanted(dtype):
    t = [rows(200, dtype), rows(200, dtype, 1)[0], rows(200, dtype, 2)[0]]
    want = None
    for wanted in ((1, 1, 1), (1, 0, 0), (0, 1, 1), (1, 1, 0), (1, 0, 1), (0, 0, 1)):
        leaves = [v.detach().requires_grad_(bool(a)) for v, a in zip(t, wanted, strict=True)]
        F.layer_norm(leaves[0], (200,), *leaves[1:]).backward(rows(200, dtype, 7))
        got = [None if v.grad is None else v.grad.double().cpu().numpy() for v in leaves]
        want = want or got
        for a, g, ref in zip(wanted, got, want, strict=True):
            assert (g is not None) == bool(a)
            if a:
                np.testing.assert_allclose(g, ref, rtol=1e-2 if dtype == "bfloat16" else 1e-5, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_in_its_row_and_column(bad):
    x, g = np.ones((300, 72)) * np.arange(72), np.ones((300, 72))
    g[100, 5] = bad
    leaf, w, b = (pydlx.tensor(a, dtype=pydlx.float32).cuda().requires_grad_() for a in (x, np.ones(72), np.ones(72)))
    F.layer_norm(leaf, (72,), w, b).backward(pydlx.tensor(g, dtype=pydlx.float32).cuda())
    for grad in (w.grad, b.grad):
        assert np.isfinite(grad.cpu().numpy()).tolist() == [c != 5 for c in range(72)]
    assert np.isfinite(leaf.grad.cpu().numpy()).all(1).tolist() == [r != 100 for r in range(300)]


COLUMNS = [
    (2, 3, 5),
    (1, 21, 64),
    (3, 4, 8),
    (2, 130, 24),
    (1, 1030, 3),
    (2, 700, 40),
    (1, 9, 2100),
    (5, 1, 16),
    (600, 7, 12),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", COLUMNS, ids=str)
def test_softmax_of_columns(sizes, dtype):
    """With and without packs of neighbouring columns, in registers or read again."""
    rng = np.random.default_rng(3)
    x = pydlx.tensor(rng.standard_normal(sizes) * 3).to(getattr(pydlx, dtype)).cuda()
    for fn in (F.softmax, F.log_softmax):
        compare(lambda x, f=fn: f(x, 1), [x], 2 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [s for s in COLUMNS if s[1] > 1], ids=str)
def test_cross_entropy_of_columns(sizes, dtype):
    rng = np.random.default_rng(3)
    outer, n, inner = sizes
    x = pydlx.tensor(rng.standard_normal(sizes) * 3).to(getattr(pydlx, dtype)).cuda()
    target = pydlx.tensor(rng.integers(0, n, (outer, inner)))
    target[0, 0] = -100
    weight = pydlx.tensor(rng.random(n) + 0.5)
    for options in ({}, {"label_smoothing": 0.1}, {"weight": weight}, {"label_smoothing": 0.1, "weight": weight}):
        for reduction in ("none", "mean"):

            def loss(x, options=options, reduction=reduction):
                o = dict(options)
                if "weight" in o:
                    o["weight"] = (
                        o["weight"].to(pydlx.float64 if x.dtype == pydlx.float64 else pydlx.float32).to(x.device)
                    )
                return F.cross_entropy(x, target.to(x.device), reduction=reduction, **o)

            compare(loss, [x], 4 * DTYPES[dtype])
    compare(lambda x: F.nll_loss(x, target.to(x.device), reduction="sum"), [x], 20 * DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_columns_with_infinities(dtype):
    x = np.random.default_rng(1).standard_normal((2, 40, 16))
    x[:, :30, 3] = -np.inf
    x[0, 5, 4], x[1, :, 5], x[0, 7, 6] = np.inf, -np.inf, np.nan
    gpu = pydlx.tensor(x).to(getattr(pydlx, dtype)).cuda()
    bad = np.zeros((2, 16), bool)
    bad[0, 4] = bad[1, 5] = bad[0, 6] = True
    for fn in (F.softmax, F.log_softmax):
        y = fn(gpu, 1).cpu().double().numpy()
        assert (np.isnan(y).any(1) == bad).all()
        assert (y[:, :30, 3] == (0 if fn is F.softmax else -np.inf)).all()
    leaf = gpu.requires_grad_()
    target = np.full((2, 16), 35)
    target[bad] = -100
    loss = F.cross_entropy(leaf, pydlx.tensor(target).cuda(), reduction="none")
    assert np.isfinite(loss.detach().cpu().double().numpy()).all()
    loss.sum().backward()
    grad = leaf.grad.cpu().double().numpy().transpose(0, 2, 1)
    assert np.isfinite(grad).all() and (grad[bad] == 0).all() and (grad[~bad][:, 35] < 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [40, 1030])
def test_ignored_rows_have_no_gradient(n, dtype):
    x = np.random.default_rng(1).standard_normal((4, n))
    x[1] = np.nan
    x[2, 3] = np.inf
    leaf = pydlx.tensor(x).to(getattr(pydlx, dtype)).cuda().requires_grad_()
    F.cross_entropy(leaf, pydlx.tensor([n - 1, -100, -100, 0]).cuda()).backward()
    grad = leaf.grad.cpu().double().numpy()
    assert np.isfinite(grad).all() and (grad[1:3] == 0).all() and grad[0, -1] < 0 and grad[3, 0] < 0
