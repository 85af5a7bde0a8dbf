"""Kernels that work on several rows at a time: every count of rows around a group, a chunk or a block."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx
import pydlx.nn.functional as F


def both_thread_counts(f):
    """f() with one thread and with three."""
    before = pydlx.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            pydlx.set_num_threads(threads)
            results.append(f())
        return results
    finally:
        pydlx.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("n", [1, 2, 63, 65, 256, 515])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 7, 8, 9])
def test_scans_along_rows_equal_scans_along_columns(rows, n, dtype):
    x = pydlx.from_numpy(np.random.default_rng(0).normal(size=(rows, n))).to(getattr(pydlx, dtype))
    columns = x.t().contiguous()
    for name in ("cumsum", "cumprod", "logcumsumexp"):
        got, want = getattr(x, name)(1), getattr(columns, name)(0).t()
        assert pydlx.equal(got, want.contiguous()), name
    for name in ("cummax", "cummin"):
        for got, want in zip(getattr(x, name)(1), getattr(columns, name)(0), strict=True):
            assert pydlx.equal(got, want.t().contiguous()), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("n", [255, 256, 257, 600])
def test_long_scans_of_16_bits_from_the_end(n, dtype, isa):
    """The gradient of a sum is the sum of the gradients behind it, which blocks of the row hand on to each other."""
    g = pydlx.from_numpy(np.random.default_rng(5).normal(size=(5, n))).to(getattr(pydlx, dtype))
    t = pydlx.zeros(5, n, dtype=getattr(pydlx, dtype)).requires_grad_()
    t.cumsum(1).backward(g)
    assert pydlx.equal(t.grad, g.flip(1).cumsum(1).flip(1))
    wide = g.double().numpy()[:, ::-1].cumsum(1)[:, ::-1].copy()
    np.testing.assert_array_equal(t.grad.float().numpy(), pydlx.from_numpy(wide).float().to(t.dtype).float().numpy())


@pytest.mark.parametrize("dtype", ["bool", "int64"])
@pytest.mark.parametrize("shape", [(1, 7), (9, 131), (3, 8192), (3, 8193), (8, 8201), (1, 12291), (1, 262155)])
def test_sums_of_integers_in_pieces(shape, dtype, isa):
    generator = np.random.default_rng(3)
    high = 2 if dtype == "bool" else 2**62  # sums wrap around
    x = generator.integers(0, high, size=shape).astype(dtype)
    want = np.cumsum(x, 1, dtype="int64")
    for got in both_thread_counts(lambda: pydlx.from_numpy(x).cumsum(1)):
        np.testing.assert_array_equal(got.numpy(), want)
    wide = np.repeat(x, 2, 1)
    np.testing.assert_array_equal(pydlx.from_numpy(wide)[:, ::2].cumsum(1).numpy(), want)
    if shape[0] == 1:
        values, groups = pydlx.unique_consecutive(pydlx.from_numpy(x), return_inverse=True)
        np.testing.assert_array_equal(values[groups].numpy(), x)
        assert groups[0, 0].item() == 0 and groups[0, -1].item() == values.numel() - 1


def test_bytes_viewed_as_flags_count_once(isa):
    x = np.random.default_rng(4).integers(0, 4, size=20003).astype("uint8") * 85
    flags = pydlx.from_numpy(x).view(pydlx.bool)
    for n in (5, 64, 77, 1100, 20003):
        np.testing.assert_array_equal(flags[:n].nonzero()[:, 0].numpy(), np.nonzero(x[:n])[0])
        np.testing.assert_array_equal(flags[:n].cumsum(0).numpy(), np.cumsum(x[:n] != 0))
        assert flags[:n].sum().item() == np.count_nonzero(x[:n])
        assert flags[:n].prod().item() == np.all(x[:n])
    table, wide = flags[:20000].reshape(100, 200), x[:20000].reshape(100, 200) != 0
    for axis in (0, 1):
        np.testing.assert_array_equal(table.sum(axis).numpy(), wide.sum(axis))
        np.testing.assert_array_equal(table[:, 1:].T.sum(axis).numpy(), wide[:, 1:].T.sum(axis))
    ones = pydlx.full((3, 70), 7, dtype=pydlx.uint8).view(pydlx.bool)
    assert ones.prod(1).tolist() == ones[:, :0].prod(1).tolist() == [1, 1, 1]
    assert ones.prod().dtype == pydlx.int64


@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 1023, 1024, 1089, 16384, 50001])
def test_places_of_flags(n, density, isa):
    x = np.random.default_rng(n).random(n + 3) < density
    for got in both_thread_counts(lambda: pydlx.from_numpy(x)[3:].nonzero()):
        np.testing.assert_array_equal(got.numpy(), np.argwhere(x[3:]))


@pytest.mark.parametrize("rows", [1, 3, 4, 6])
def test_scan_gradients_run_backwards(rows):
    x = np.random.default_rng(1).normal(size=(rows, 33))
    g = np.random.default_rng(2).normal(size=(rows, 33))
    for name, want in (("cumsum", g[:, ::-1].cumsum(1)[:, ::-1]),):
        t = pydlx.from_numpy(x).requires_grad_()
        getattr(t, name)(1).backward(pydlx.from_numpy(g))
        np.testing.assert_allclose(t.grad.numpy(), want, rtol=1e-12, atol=1e-12)
    # A zero in the row makes the gradient of the product go through exclusive scans.
    x[:, 5] = 0
    t = pydlx.from_numpy(x).requires_grad_()
    t.cumprod(1).backward(pydlx.from_numpy(g))
    want = np.zeros_like(x)
    for k in range(33):
        others = np.delete(x, k, axis=1)
        before = np.prod(x[:, :k], axis=1, keepdims=True)
        after = np.concatenate([np.ones((rows, 1)), np.cumprod(others[:, k:], axis=1)], axis=1)
        want[:, k] = (g[:, k:] * before * after).sum(1)
    np.testing.assert_allclose(t.grad.numpy(), want, rtol=1e-9, atol=1e-12)


def layer_norm_gradients(x, g, w, eps):
    mean = x.mean(1, keepdims=True)
    rstd = 1 / np.sqrt(x.var(1, keepdims=True) + eps)
    xhat, h = (x - mean) * rstd, g * w
    dx = rstd * (h - h.mean(1, keepdims=True) - xhat * (h * xhat).mean(1, keepdims=True))
    return dx, (g * xhat).sum(0), g.sum(0)


# 16 rows are a chunk, 1024 rows 64 of them; above 16384 rows a chunk's sums are made in blocks of 256 rows.
@pytest.mark.parametrize(
    ("rows", "cols"),
    [(1, 5), (15, 64), (16, 65), (17, 63), (31, 1), (1023, 33), (1024, 3), (1025, 31), (16385, 3), (33000, 2)],
)
def test_layer_norm_backward_in_chunks(rows, cols, isa):
    rng = np.random.default_rng(3)
    x, g, w = (rng.normal(size=shape).astype(np.float32) for shape in ((rows, cols), (rows, cols), (cols,)))

    def run():
        tensors = [pydlx.from_numpy(a).requires_grad_() for a in (x, w, np.zeros_like(w))]
        F.layer_norm(tensors[0], (cols,), tensors[1], tensors[2], 1e-2).backward(pydlx.from_numpy(g))
        return [t.grad.numpy() for t in tensors]

    one, three = both_thread_counts(run)
    for a, b, want in zip(
        one, three, layer_norm_gradients(*(v.astype(np.float64) for v in (x, g, w)), 1e-2), strict=True
    ):
        assert np.array_equal(a, b)
        np.testing.assert_allclose(a, want, rtol=2e-5, atol=2e-5 * max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "add_layer_norm"])
@pytest.mark.parametrize("cols", [1, 16, 31, 32, 33, 47, 65, 768, 4097])
def test_rows_are_normalised_the_same_alone_and_together(cols, name, isa):
    """Groups of rows share loads; with weights or without, a row's result and gradient keep every bit."""
    rng = np.random.default_rng(cols)
    x, r, g = (rng.normal(size=(9, cols)).astype(np.float32) for _ in range(3))
    w, b = (pydlx.from_numpy(rng.normal(size=cols).astype(np.float32)) for _ in range(2))

    def results(rows, weight, bias):
        leaf = pydlx.from_numpy(x[rows]).requires_grad_()
        if name == "rms_norm":
            y = F.rms_norm(leaf, (cols,), weight, 1e-2)
        elif name == "layer_norm":
            y = F.layer_norm(leaf, (cols,), weight, bias, 1e-2)
        else:
            total, y = F.add_layer_norm(leaf, pydlx.from_numpy(r[rows]), (cols,), weight, bias, 1e-2)
            y = y + 0 * total  # a gradient for the sum, too
        y.backward(pydlx.from_numpy(g[rows]))
        return y.detach().numpy(), leaf.grad.numpy()

    for weight, bias in ((None, None), (w, None), (w, b), (None, b)):
        whole = results(slice(None), weight, bias)
        for count in (1, 2, 3, 5):
            pieces = [results(slice(i, i + count), weight, bias) for i in range(0, 9, count)]
            for got, want in zip(zip(*pieces, strict=True), whole, strict=True):
                assert np.array_equal(np.concatenate(got), want)


def test_layer_norm_past_the_caches(isa):
    """Two threads write results of 24 MB or more past the caches; one does not, and every bit is the same."""
    rows, cols = 6200, 1040
    rng = np.random.default_rng(6)
    memory = pydlx.from_numpy(rng.standard_normal((rows * cols + 1,), dtype=np.float32))
    w = pydlx.from_numpy(rng.standard_normal(cols, dtype=np.float32)).requires_grad_()
    for start in (0, 1):
        x = memory[start : start + rows * cols].reshape(rows, cols)

        def run(x=x):
            leaf = x.detach().requires_grad_()
            w.grad = None
            y = F.layer_norm(leaf, (cols,), w, None, 1e-2)
            y.backward(x)
            return y.detach().numpy(), leaf.grad.numpy(), w.grad.numpy()

        one, three = both_thread_counts(run)
        for a, b in zip(one, three, strict=True):
            assert np.array_equal(a, b)
        some = slice(0, rows, 500)
        wide = x.numpy()[some].astype(np.float64)
        hat = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-2)
        np.testing.assert_allclose(one[0][some], hat * w.detach().numpy(), rtol=1e-5, atol=1e-5)
        want = layer_norm_gradients(wide, wide, w.detach().numpy().astype(np.float64), 1e-2)[0]
        np.testing.assert_allclose(one[1][some], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("needed", ["weight", "bias"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_layer_norm_gradient_of_one_parameter(needed, dtype):
    rng = np.random.default_rng(4)
    x, g, w = (rng.normal(size=shape) for shape in ((40, 48), (40, 48), (48,)))
    kind = getattr(pydlx, dtype)
    tensors = {"x": x, "weight": w, "bias": 0 * w}
    tensors = {k: pydlx.from_numpy(v).to(kind) for k, v in tensors.items()}
    tensors[needed].requires_grad_()
    F.layer_norm(tensors["x"], (48,), tensors["weight"], tensors["bias"], 1e-2).backward(pydlx.from_numpy(g).to(kind))
    want = layer_norm_gradients(x, g, w, 1e-2)[1 if needed == "weight" else 2]
    tolerance = 0.05 if dtype == "bfloat16" else 1e-4
    np.testing.assert_allclose(tensors[needed].grad.to(pydlx.float64).numpy(), want, rtol=tolerance, atol=8 * tolerance)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", [1, 31, 32, 33, 64, 65])
def test_smoothed_cross_entropy_around_the_lanes(classes, weighted):
    rng = np.random.default_rng(5)
    x, target = rng.normal(size=(6, classes)), rng.integers(0, classes, 6)
    w = rng.uniform(0.5, 2, classes) if weighted else np.ones(classes)
    t = pydlx.from_numpy(x.astype(np.float32)).requires_grad_()
    weight = pydlx.from_numpy(w.astype(np.float32)) if weighted else None
    loss = F.cross_entropy(t, pydlx.from_numpy(target), weight, label_smoothing=0.3, reduction="none")
    loss.sum().backward()
    log_p = x - x.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    share = 0.3 / classes + 0.7 * (np.arange(classes) == target[:, None])
    np.testing.assert_allclose(loss.detach().numpy(), -(share * w * log_p).sum(1), rtol=1e-5, atol=1e-5)
    total = (share * w).sum(1, keepdims=True)
    np.testing.assert_allclose(t.grad.numpy(), total * np.exp(log_p) - share * w, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("inner", [2, 15, 16, 63, 64, 65, 144])
@pytest.mark.parametrize("classes", [1, 2, 21, 96, 97])
def test_cross_entropy_of_maps(classes, inner, smoothing, isa):
    """Blocks of 64 positions, the last vector partial; up to 96 classes wait in a buffer. Ignored positions may hold
    anything."""
    rng = np.random.default_rng(inner)
    x, target = rng.normal(0, 3, (3, classes, inner)), rng.integers(0, classes, (3, inner))
    x = x.astype(np.float32).astype(np.float64)
    w = rng.uniform(0.5, 2, classes).astype(np.float32)
    target[1, ::3] = -100
    given = x.copy()
    given[1, :, 0], given[1, 0, -3:] = np.inf, np.where(target[1, -3:] < 0, np.nan, given[1, 0, -3:])

    def run():
        t = pydlx.from_numpy(given.astype(np.float32)).requires_grad_()
        loss = F.cross_entropy(
            t, pydlx.from_numpy(target), pydlx.from_numpy(w), label_smoothing=smoothing, reduction="none"
        )
        loss.backward(pydlx.from_numpy(scale))
        return loss.detach().numpy(), t.grad.numpy()

    scale = rng.normal(size=(3, inner)).astype(np.float32)
    one, three = both_thread_counts(run)
    for got, again in zip(one, three, strict=True):
        np.testing.assert_array_equal(got, again)
    log_p = x - x.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    onehot = np.arange(classes)[:, None] == target[:, None]
    share = (smoothing / classes + (1 - smoothing) * onehot) * w[:, None] * (target >= 0)[:, None]
    np.testing.assert_allclose(one[0], -(share * log_p).sum(1), rtol=1e-5, atol=1e-5)
    want = (share.sum(1, keepdims=True) * np.exp(log_p) - share) * scale[:, None]
    np.testing.assert_allclose(one[1], want, rtol=1e-4, atol=2e-5)
    assert not one[1][1, :, 0].any()


def test_cross_entropy_of_maps_past_the_caches(isa):
    """The same bits where the gradient leaves past the caches, with two threads, as where it does not."""
    shape = (1, 25, 512, 512)
    rng = np.random.default_rng(8)
    memory = pydlx.from_numpy(rng.standard_normal((25 * 512 * 512,), dtype=np.float32))
    target = pydlx.from_numpy(rng.integers(0, 25, (1, 512, 512)))

    def run():
        x = memory.reshape(shape).detach().requires_grad_()
        F.cross_entropy(x, target).backward()
        return x.grad.numpy()

    one, three = both_thread_counts(run)
    assert np.array_equal(one, three)
    x = memory.reshape(shape).numpy()[:, :, 300].astype(np.float64)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    p -= np.arange(25)[:, None] == target.numpy()[:, None, 300]
    np.testing.assert_allclose(one[:, :, 300], p / 512**2, rtol=1e-4, atol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 63, 64, 65, 200, 512, 513])
def test_batch_norm_of_few_channels_in_segments_of_rows(channels, dtype):
    """Threads share rows where channels are few: edges of blocks of 64 channels and of segments, any number of threads."""
    threads = pydlx.get_num_threads()
    rng = np.random.default_rng(channels)
    for rows in (513, 1023, 1024, 1025, 1541, 8203):
        x = (rng.standard_normal((rows, channels)) * 3 + 2).astype(dtype)
        g, w, b = (rng.standard_normal(s).astype(dtype) for s in ((rows, channels), (channels,), (channels,)))
        mean, var = x.mean(0, dtype=np.float64), x.var(0, dtype=np.float64)
        rstd = 1 / np.sqrt(var + 1e-5)
        xhat = (x - mean) * rstd
        wants = [
            xhat * w + b,
            w * rstd * (g - g.mean(0, dtype=np.float64) - xhat * (g * xhat).mean(0)),
            (g * xhat).sum(0),
            g.sum(0, dtype=np.float64),
        ]
        seen = []
        try:
            for count in (1, 2, 3):
                pydlx.set_num_threads(count)
                leaves = [pydlx.from_numpy(v.copy()).requires_grad_(True) for v in (x, w, b)]
                y = pydlx.nn.functional.batch_norm(leaves[0], None, None, *leaves[1:], training=True)
                y.backward(pydlx.from_numpy(g))
                seen.append([y.detach().numpy()] + [leaf.grad.numpy() for leaf in leaves])
        finally:
            pydlx.set_num_threads(threads)
        scale = np.finfo(dtype).eps * np.sqrt(rows)
        for first, *others, want in zip(*seen, wants, strict=True):
            np.testing.assert_allclose(first, want, rtol=0, atol=(16 if dtype == np.float32 else 400) * scale)
            for other in others:
                np.testing.assert_array_equal(first, other)


def test_batch_norm_of_long_planes(isa):
    """Sums have few terms: a plane of 2^23 elements far from 0 keeps float's precision."""
    x = np.random.default_rng(0).uniform(99.5, 100.5, (1, 1, 1 << 23)).astype(np.float32)
    mean, var = pydlx.zeros(1), pydlx.zeros(1)
    F.batch_norm(pydlx.from_numpy(x), mean, var, training=True, momentum=1.0)
    np.testing.assert_allclose(mean.item(), x.mean(dtype=np.float64), rtol=3e-7)
    np.testing.assert_allclose(var.item(), x.var(dtype=np.float64), rtol=3e-6)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 2), (3, 15, 3), (65, 17, 7), (130, 33, 49), (5, 300, 49), (4, 257, 63), (2, 64, 65), (7, 16, 16),
        (129, 3, 130), (2, 5, 4097), (35, 16, 112 * 112),
    ],
)  # fmt: skip
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_planes(shape, training, isa):
    """Short planes of up to 16 channels pass together, 64 samples at a time; large results leave past the caches."""
    rng = np.random.default_rng(shape[0])
    x, g = (rng.standard_normal(shape, dtype=np.float32) * 3 + 2 for _ in range(2))
    w, b, mean = (rng.standard_normal(shape[1], dtype=np.float32) for _ in range(3))
    var = rng.uniform(0.5, 2, shape[1]).astype(np.float32)

    def run():
        leaves = [pydlx.from_numpy(v).requires_grad_() for v in (x, w, b)]
        stored = [pydlx.from_numpy(v.copy()) for v in (mean, var)]
        y = F.batch_norm(leaves[0], *stored, *leaves[1:], training=training, momentum=1.0, eps=1e-2)
        y.backward(pydlx.from_numpy(g))
        return [t.detach().numpy() for t in (y, *(leaf.grad for leaf in leaves), *stored)]

    one, three = both_thread_counts(run)
    wide, wide_g, count = x.astype(np.float64), g.astype(np.float64), shape[0] * shape[2]
    over = (0, 2)
    m = wide.mean(over) if training else mean.astype(np.float64)
    v = wide.var(over) if training else var.astype(np.float64)
    scale, xhat = (w / np.sqrt(v + 1e-2))[:, None], (wide - m[:, None]) / np.sqrt(v + 1e-2)[:, None]
    dw, db = (wide_g * xhat).sum(over), wide_g.sum(over)
    dx = scale * (wide_g - (db[:, None] + xhat * dw[:, None]) / count if training else wide_g)
    stored = [m, v * count / max(count - 1, 1)] if training else [mean, var]
    for got, again, want in zip(one, three, [xhat * w[:, None] + b[:, None], dx, dw, db, *stored], strict=True):
        assert np.array_equal(got, again)
        size = max(1.0, np.abs(want).max())
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5 * size)


@pytest.mark.parametrize("columns", [1, 7, 15, 16, 17, 33, 63, 64, 65, 131])
@pytest.mark.parametrize("n", [1, 2, 21, 96, 97, 200])
def test_softmax_of_columns(n, columns, isa):
    """Up to 96 rows are kept in a buffer; one vector or four of them, the last one partial."""
    x = np.random.default_rng(n).normal(0, 5, (3, n, columns)).astype(np.float32)
    x[1, n // 2, 0] = np.nan
    x[2, :, -1] = -np.inf
    x[2, n - 1, 0] = -np.inf
    one, three = both_thread_counts(
        lambda: [f(pydlx.from_numpy(x), 1).numpy() for f in (pydlx.softmax, pydlx.log_softmax)]
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        wide = x.astype(np.float64) - x.max(1, keepdims=True)
        log_p = wide - np.log(np.exp(wide).sum(1, keepdims=True))
        wants = [np.exp(log_p), log_p]
    for got, again, want in zip(one, three, wants, strict=True):
        np.testing.assert_array_equal(got, again)
        np.testing.assert_allclose(got, want, rtol=3e-6, atol=3e-6 * max(1, np.abs(want[0]).max()))
