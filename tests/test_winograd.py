"""Winograd's algorithm against the same convolution in float64: every pass, around every tile edge, on all instruction sets, at both precisions,
and with weights that are kept between calls."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conv_operands import EDGES, FAST, STRIDED, STRIDED_HIGHEST, errors, guarded, operands, operands_of, passes

import pydlx

F = pydlx.nn.functional


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_winograd(isa, row):
    n, c, k, h, w, pad, groups = row
    for rms, largest in errors(operands(n, c, k, h, w, groups=groups), padding=pad, groups=groups):
        assert rms < 4e-6 and largest < 6e-5


@pytest.mark.parametrize("row", FAST, ids=str)
def test_winograd_of_other_kernels(isa, row):
    n, c, k, size, kernel, groups, geometry = row
    for rms, largest in errors(operands_of(n, c, k, size, kernel, groups), groups=groups, **geometry):
        assert rms < 4e-6 and largest < 6e-5


@pytest.mark.parametrize("row", STRIDED, ids=str)
def test_strided(isa, row):
    n, c, k, h, w, pad, groups = row
    for rms, largest in errors(operands(n, c, k, h, w, groups=groups), padding=pad, groups=groups, stride=2):
        assert rms < 1.5e-6 and largest < 3e-5


@pytest.mark.parametrize("row", STRIDED, ids=str)
def test_strided_channels_last(row):
    """The bits of the layout with the planes one after the other."""
    n, c, k, h, w, pad, groups = row
    arrays, how = operands(n, c, k, h, w, groups=groups), {"padding": pad, "groups": groups, "stride": 2}
    x, weight, bias = map(guarded, arrays)
    last = passes(*(t.to(memory_format=pydlx.channels_last) for t in (x, weight)), bias, **how)
    for a, b in zip(last, passes(x.detach(), weight.detach(), bias.detach(), **how), strict=True):
        assert np.array_equal(a, b) or np.abs(a - b).max() < 1e-6 * np.abs(b).max()


def test_strided_volumes(isa):
    arrays = operands_of(2, 32, 40, (4, 14, 15), (3, 3, 3))
    for rms, largest in errors(arrays, padding=1, stride=(1, 2, 2)):
        assert rms < 1.5e-6 and largest < 3e-5


@pytest.mark.parametrize(("size", "padding", "extra"), [(8, 1, 1), (9, 0, (1, 0)), (7, 2, 0), (8, (0, 1), (0, 1))])
def test_strided_transposed(isa, size, padding, extra):
    """The input gradient as a forward pass, with pixels that no tap sees."""
    x, weight, _ = operands(6, 40, 36, size, size + 1)
    weight, bias = np.ascontiguousarray(weight.transpose(1, 0, 2, 3)), np.linspace(-1, 1, 36, dtype=np.float32)
    options = {"padding": padding, "output_padding": extra, "stride": 2}
    got = F.conv_transpose2d(*map(guarded, (x, weight, bias)), **options).numpy()
    want = F.conv_transpose2d(*(pydlx.from_numpy(a.astype(np.float64)) for a in (x, weight, bias)), **options).numpy()
    assert got.shape == want.shape and np.abs(got - want).max() < 3e-5 * np.sqrt(np.mean(want**2))


def test_dilated_gradient_beyond_the_kernel():
    """Pixels that no output sees get nothing, or the bias of a transposed convolution."""
    x, weight, _ = operands(3, 20, 24, 16, 17)
    bias = np.linspace(-1, 1, 20, dtype=np.float32)
    y = np.random.default_rng(1).standard_normal((3, 24, 12, 13)).astype(np.float32)
    options = {"padding": 1, "dilation": 2, "stride": 1}
    got = F.conv_transpose2d(guarded(y), guarded(weight), guarded(bias), **options).numpy()
    want = F.conv_transpose2d(*(pydlx.from_numpy(a.astype(np.float64)) for a in (y, weight, bias)), **options).numpy()
    assert got.shape == want.shape and np.abs(got - want).max() < 6e-5 * np.sqrt(np.mean(want**2))


def plain_error(x, weight, dilation, stride=1):
    """Root mean square error, relative, of a 3x3 convolution, padded with the dilation, whose float32 products are added one after the other."""
    t = [pydlx.from_numpy(np.ascontiguousarray(a, dtype=np.float64)) for a in (x, weight)]
    how = {"padding": dilation, "dilation": dilation, "stride": stride}
    want = F.conv2d(*t, **how).numpy().reshape(len(x), len(weight), -1)
    columns = F.unfold(t[0], 3, **how).numpy().astype(np.float32)
    rows = weight.reshape(len(weight), -1)
    got, product = np.zeros((2, *want.shape), np.float32)
    for i in range(rows.shape[1]):
        got += np.multiply(rows[None, :, i, None], columns[:, None, i], out=product)
    return np.sqrt(np.mean((got - want) ** 2) / np.mean(want * want))


@pytest.mark.parametrize(("c", "k", "dilation"), [(64, 64, 1), (256, 64, 1), (64, 256, 1), (64, 64, 2)])
def test_highest_precision_rounds_no_worse_than_the_plain_sum(isa, highest, c, k, dilation):
    """F(2x2, 3x3) in the forward pass and the input gradient."""
    x, weight, bias = operands(2, c, k, 28, 28)
    forward, gradient = errors((x, weight, 0 * bias), padding=dilation, dilation=dilation)[:2]
    assert forward[0] < plain_error(x, weight, dilation)
    g = np.random.default_rng(7).standard_normal((2, k, 28, 28)).astype(np.float32)
    assert gradient[0] < plain_error(g, np.ascontiguousarray(weight.transpose(1, 0, 2, 3)[..., ::-1, ::-1]), dilation)


@pytest.mark.parametrize("precision", ["high", "highest"])
@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize(("c", "k"), [(64, 128), (256, 64), (64, 256), (512, 130)])
def test_strided_error(isa, precision, c, k, size):
    """About that of the plain sum, whose input gradient is a sum of fewer terms; or below it."""
    x, weight, bias = operands(2, c, k, size, size)
    pydlx.set_float32_matmul_precision(precision)
    try:
        forward, gradient, kernel, _ = errors((x, weight, 0 * bias), padding=1, stride=2)
    finally:
        pydlx.set_float32_matmul_precision("high")
    most = 3 if precision == "high" else 1
    assert forward[0] < most * plain_error(x, weight, 1, 2)
    g = np.random.default_rng(7).standard_normal((2, k, size // 2, size // 2)).astype(np.float32)
    spread = np.zeros((2, k, size, size), np.float32)
    spread[:, :, ::2, ::2] = g
    turned = np.ascontiguousarray(weight.transpose(1, 0, 2, 3)[..., ::-1, ::-1])
    assert gradient[0] < most * plain_error(spread, turned, 1)
    assert kernel[0] < 1e-6


@pytest.mark.parametrize("row", STRIDED_HIGHEST, ids=str)
def test_strided_highest_precision_around_tile_edges(isa, highest, row):
    n, c, k, h, w, pad, groups = row
    for rms, largest in errors(operands(n, c, k, h, w, groups=groups), padding=pad, groups=groups, stride=2):
        assert rms < 1.5e-6 and largest < 2e-5


@pytest.mark.parametrize("precision", ["high", "highest"])
def test_strided_any_number_of_threads(precision):
    before = pydlx.get_num_threads()
    pydlx.set_float32_matmul_precision(precision)
    try:
        for n, c, k, h, w, pad, groups in (STRIDED[0], STRIDED[-1], STRIDED[-5], (3, 64, 130, 57, 58, 0, 1)):
            results = set()
            for threads in (1, 2, 3, 7):
                pydlx.set_num_threads(threads)
                arrays = map(guarded, operands(n, c, k, h, w, groups=groups))
                results.add(tuple(a.tobytes() for a in passes(*arrays, padding=pad, groups=groups, stride=2)))
            assert len(results) == 1, (n, c, k)
    finally:
        pydlx.set_num_threads(before)
        pydlx.set_float32_matmul_precision("high")


@pytest.mark.parametrize("row", EDGES, ids=str)
def test_highest_precision_around_tile_edges(isa, highest, row):
    n, c, k, h, w, pad, groups = row
    for rms, largest in errors(operands(n, 2 * c, 2 * k, h, w, groups=groups), padding=pad, groups=groups):
        assert rms < 2e-6 and largest < 2e-5


def test_highest_precision_any_number_of_threads(highest):
    before = pydlx.get_num_threads()
    try:
        for n, c, k, h, w, groups in ((3, 33, 40, 13, 14, 1), (2, 64, 96, 57, 57, 1), (2, 64, 64, 9, 10, 2)):
            results = set()
            for threads in (1, 2, 3, 7):
                pydlx.set_num_threads(threads)
                got = passes(*map(guarded, operands(n, c, k, h, w, groups=groups)), padding=1, groups=groups)
                results.add(tuple(a.tobytes() for a in got))
            assert len(results) == 1, (n, c, k)
    finally:
        pydlx.set_num_threads(before)


@pytest.mark.parametrize(
    ("c", "k", "kernel", "dilation"),
    [(64, 64, 3, 1), (256, 64, 3, 1), (64, 64, 5, 1), (64, 64, (1, 3), 1), (64, 64, 3, 2)],
)
def test_winograd_error_is_within_three_times_the_plain_sum(c, k, kernel, dilation):
    """The bound of ``set_float32_matmul_precision("high")``, on normal inputs."""
    arrays = operands(2, c, k, 28, 28, kernel)
    options = {"padding": "same", "dilation": dilation}
    fast = errors(arrays, **options)
    pydlx.set_float32_matmul_precision("highest")
    try:
        assert pydlx.get_float32_matmul_precision() == "highest"
        plain = errors(arrays, **options)
    finally:
        pydlx.set_float32_matmul_precision("high")
    x, weight, _ = arrays
    sums = [rms for rms, _ in plain[:3]]
    if kernel == 3:  # "highest" rounds better than the plain sum
        g = np.random.default_rng(7).standard_normal((2, k, 28, 28)).astype(np.float32)
        turned = np.ascontiguousarray(weight.transpose(1, 0, 2, 3)[..., ::-1, ::-1])
        sums[:2] = plain_error(x, weight, dilation), plain_error(g, turned, dilation)
    for (a, _), (b, _), plain_sum in zip(fast[:3], plain[:3], sums, strict=True):
        assert b < a < 3 * max(plain_sum, 5e-7)


def test_many_rounds_of_the_weight_gradient():
    for rms, largest in errors(operands(5, 64, 64, 61, 62), padding=1):
        assert rms < 4e-6 and largest < 6e-5


def test_kept_weights_follow_every_kind_of_write(isa):
    """Without gradients transformed weights are kept between calls; writes that no version counter sees must still count."""
    rng = np.random.default_rng(5)
    x = guarded(rng.standard_normal((3, 32, 18, 18)).astype(np.float32))
    values = rng.standard_normal((80, 16, 3, 3)).astype(np.float32)
    weight = pydlx.from_numpy(values)

    def check(**options):
        with pydlx.no_grad():
            got = [F.conv2d(x, weight, groups=2, **options) for _ in range(2)]
        fresh = F.conv2d(x, weight.clone().requires_grad_(True), groups=2, **options).detach()
        assert all(np.array_equal(g.numpy(), fresh.numpy()) for g in got)

    check()
    check(padding=1)
    check(padding=2, dilation=2)
    check(padding=1, stride=2)
    weight.mul_(2)
    check()
    weight.data[3, 4, 1, 1] = 7.0
    check()
    values[79, 15, 2, 2] = -3.0
    check()
    check(padding=1, stride=2)
    values[0, 0, 0, 0] = np.nan
    with pydlx.no_grad():
        assert all(np.isnan(F.conv2d(x, weight, groups=2).numpy()).any() for _ in range(2))
    values[0, 0, 0, 0] = 1.0
    weight = weight.as_strided((80, 16, 3, 3), (144, 9, 1, 3))
    check()


def test_kept_weights_in_several_threads():
    rng = np.random.default_rng(6)
    x, weight = (guarded(rng.standard_normal(s).astype(np.float32)) for s in ((2, 48, 20, 20), (48, 48, 3, 3)))
    want = F.conv2d(x, weight.clone().requires_grad_(True)).detach().numpy()

    def work(_):
        with pydlx.no_grad():
            return all(np.array_equal(F.conv2d(x, weight).numpy(), want) for _ in range(20))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("row", [(1, 260, 70, 9, 10), (2, 64, 64, 57, 57)], ids=["few tiles", "many"])
def test_kept_weights_change_no_bit(isa, row, stride):
    x, weight, bias = map(guarded, operands(*row))
    with pydlx.no_grad():
        kept = [F.conv2d(x, weight, bias, padding=1, stride=stride).numpy().copy() for _ in range(2)]
    fresh = F.conv2d(x, weight.requires_grad_(), bias, padding=1, stride=stride).detach().numpy()
    assert np.array_equal(kept[0], fresh) and np.array_equal(kept[1], fresh)
