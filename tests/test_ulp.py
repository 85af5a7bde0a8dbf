"""Accuracy of float32 functions over their whole range, in ULP against float64, and their special values (C99)."""

from __future__ import annotations

import math

import numpy as np
import pytest

import pydlx

# function: (bound in ULP, float64 reference). The reference is NumPy's, or the C library's through math.
erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


TABLE = {
    "exp": (1.5, np.exp),
    "exp2": (1.5, np.exp2),
    "expm1": (2.0, np.expm1),
    "log": (1.5, np.log),
    "log2": (2.5, np.log2),
    "log10": (2.5, np.log10),
    "log1p": (2.0, np.log1p),
    "logit": (2.0, lambda x: np.where(np.abs(x - 0.5) < 0.25, 2 * np.arctanh(2 * x - 1), np.log(x) - np.log1p(-x))),
    "sin": (1.5, np.sin),
    "cos": (1.5, np.cos),
    "tan": (1.5, np.tan),
    "asin": (1.5, np.arcsin),
    "acos": (1.5, np.arccos),
    "atan": (2.0, np.arctan),
    "sinh": (2.0, np.sinh),
    "cosh": (2.0, np.cosh),
    "tanh": (3.0, np.tanh),
    "asinh": (1.5, np.arcsinh),
    "acosh": (1.5, np.arccosh),
    "atanh": (2.0, np.arctanh),
    "sigmoid": (2.5, sigmoid),
    "erf": (2.0, erf),
    "erfc": (2.0, np.vectorize(math.erfc, otypes=[np.float64])),
    "sqrt": (0.5, np.sqrt),
    "rsqrt": (1.5, lambda x: 1 / np.sqrt(x)),
    "reciprocal": (0.5, lambda x: 1 / x),
}


def samples():
    """Every 5001st bit pattern: 859 k values of all magnitudes and signs, subnormals too; plus a dense set around 1."""
    bits = np.arange(0, 2**32, 5001, dtype=np.uint64).astype(np.uint32)
    return np.concatenate([bits.view(np.float32), np.linspace(-12, 12, 200_001, dtype=np.float32)])


SAMPLES = samples()


def ulp_errors(got, want):
    """|got - want| in units of the float32 spacing at want; 0 where both are the same special value."""
    magnitude = np.maximum(np.abs(want), 2.0**-126)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        spacing = np.exp2(np.floor(np.log2(magnitude)) - 23)
        error = np.abs(got.astype(np.float64) - want) / spacing
        overflow = np.abs(want) >= 2.0**128 * (1 - 2.0**-25)  # rounds to infinity in float32
    same = (np.isnan(got) & np.isnan(want)) | (overflow & np.isinf(got) & (np.sign(got) == np.sign(want)))
    return np.where(same, 0.0, error)


@pytest.mark.parametrize("name", TABLE)
def test_bound(name, isa):
    bound, reference = TABLE[name]
    x = SAMPLES if name not in ("erf", "erfc") else SAMPLES[::4]
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.float64))
    got = getattr(pydlx, name)(pydlx.from_numpy(x)).numpy()
    error = ulp_errors(got, want)
    error = np.where(np.isnan(error), np.inf, error)
    worst = int(np.argmax(error))
    assert error[worst] <= bound, (
        f"{name}({x[worst]!r}) = {got[worst]!r}, expected {want[worst]!r}: {error[worst]:.2f} ULP"
    )


def test_pow_bound(isa):
    rng = np.random.default_rng(0)
    n = 200_000
    x = np.exp2(rng.uniform(-149, 128, n)).astype(np.float32)
    y = (rng.uniform(-1.05, 1.05, n) * 150 / np.maximum(np.abs(np.log2(x)), 1e-3)).astype(np.float32)
    x[::3], y[::3] = -x[::3], np.round(y[::3])
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
    got = pydlx.pow(pydlx.from_numpy(x), pydlx.from_numpy(y)).numpy()
    assert ulp_errors(got, want).max() <= 1.0


def test_atan2_bound_and_special_values():
    rng = np.random.default_rng(1)
    y, x = (np.exp2(rng.uniform(-60, 60, 200_000)) * rng.choice([-1, 1], 200_000) for _ in range(2))
    y[::2] = x[::2] * rng.uniform(-2, 2, 100_000)
    v = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan])
    y = np.concatenate([y, np.repeat(v, len(v))]).astype(np.float32)
    x = np.concatenate([x, np.tile(v, len(v))]).astype(np.float32)
    want = np.arctan2(y.astype(np.float64), x.astype(np.float64))
    got = pydlx.atan2(pydlx.from_numpy(y), pydlx.from_numpy(x)).numpy()
    assert ulp_errors(got, want).max() <= 3.0
    number = ~np.isnan(want)
    assert np.array_equal(np.signbit(got[number]), np.signbit(want[number]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pow_special_values(dtype, isa):
    """Every pair of special values, against the C library (through NumPy), signs of zeros included; and what lies in
    partial vectors, apart and as one number."""
    v = [0.0, -0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, 1.5, -1.5, 1e30, -1e30, np.inf, -np.inf, np.nan]
    v = np.array([*v, 1e-42, -1e-42, 3.4e38, 8388609, 16777216, 1.0000001, 0.99999994, 1e-5], dtype)
    a, b = np.repeat(v, len(v)), np.tile(v, len(v))
    with np.errstate(all="ignore"):
        want = np.power(a.astype(np.float64), b.astype(np.float64)).astype(dtype)
    got = pydlx.pow(pydlx.from_numpy(a), pydlx.from_numpy(b)).numpy()
    np.testing.assert_allclose(got, want, rtol=2e-7, atol=2e-45)
    number = ~np.isnan(want)
    assert np.array_equal(np.signbit(got[number]), np.signbit(want[number]))
    for n in (1, 3, 15, 16, 17, 31, 33):
        x, y = pydlx.from_numpy(a[200 : 200 + 2 * n]), pydlx.from_numpy(b[200 : 200 + n].copy())
        np.testing.assert_array_equal(pydlx.pow(x[::2], y).numpy(), pydlx.pow(x[::2].clone(), y).numpy())
        np.testing.assert_array_equal(pydlx.pow(x[1:], 3.5).numpy(), pydlx.pow(x, 3.5).numpy()[1:])


@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "tanh", "sigmoid", "exp2"])
def test_double(name):
    """The float64 forms against extended precision where NumPy's long double has it."""
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("no extended precision on this platform")
    x = np.concatenate(
        [np.linspace(-700, 700, 20_001), np.linspace(-3, 3, 20_001), np.exp2(np.linspace(-1074, 1000, 5_001))]
    )
    reference = {**{k: v[1] for k, v in TABLE.items()}}[name]
    with np.errstate(all="ignore"):
        want = reference(x.astype(np.longdouble))
        got = getattr(pydlx, name)(pydlx.from_numpy(x)).numpy()
        spacing = np.spacing(np.maximum(np.abs(want), 2.3e-308).astype(np.float64))
        error = np.abs(got.astype(np.longdouble) - want) / spacing
    finite = np.isfinite(want) & (np.abs(want) < 1.7e308)
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert error[finite].max() <= 3.0, (
        f"{name}: {float(error[finite].max()):.2f} ULP at {x[finite][np.argmax(error[finite])]}"
    )


def test_double_trigonometric_functions_reduce_large_arguments_in_double(isa):
    x = np.outer([1.2345678, -7.654321], 10.0 ** np.arange(-300, 308, 4)).ravel()
    for name in ("sin", "cos", "tan"):
        got = getattr(pydlx, name)(pydlx.from_numpy(x)).numpy()
        np.testing.assert_allclose(got, getattr(np, name)(x), rtol=1e-15)


def test_gelu_tanh_vanishes_for_large_negative_doubles():
    x = pydlx.tensor([-20.0, -1e20, -1e300], dtype=pydlx.float64, requires_grad=True)
    y = pydlx.nn.functional.gelu(x, approximate="tanh")
    y.sum().backward()
    assert y.abs().max().item() < 1e-100 and x.grad.abs().max().item() < 1e-100


def test_sinc_gradient_near_zero():
    """-pi^2 x / 3, where the textbook formula cancels completely."""
    x = pydlx.from_numpy(10.0 ** np.arange(-300, -5)).requires_grad_(True)
    (slope,) = pydlx.autograd.grad(pydlx.sinc(x).sum(), x, create_graph=True)
    np.testing.assert_allclose(slope.detach().numpy(), -(np.pi**2) / 3 * x.detach().numpy(), rtol=1e-11)
    (curvature,) = pydlx.autograd.grad(slope.sum(), x)
    np.testing.assert_allclose(curvature.numpy(), -(np.pi**2) / 3, rtol=1e-11)


def test_trigamma_at_known_points():
    """psi'(1) = pi^2/6, psi'(1/2) = pi^2/2, psi'(1/4) = pi^2 + 8 Catalan; psi'(-1/2) = pi^2/2 + 4."""
    x = pydlx.from_numpy(np.array([1.0, 0.5, 0.25, -0.5])).requires_grad_(True)
    pydlx.digamma(x).sum().backward()
    want = [math.pi**2 / 6, math.pi**2 / 2, math.pi**2 + 8 * 0.915965594177219015, math.pi**2 / 2 + 4]
    np.testing.assert_allclose(x.grad.numpy(), want, rtol=1e-14)


def test_gelu_keeps_the_tail():
    """x Phi(x) stays accurate where 1 + erf would cancel to zero."""
    x = np.linspace(-12, 6, 20_001, dtype=np.float32)
    want = x * 0.5 * np.vectorize(math.erfc)(-x.astype(np.float64) / math.sqrt(2))
    got = pydlx.nn.functional.gelu(pydlx.from_numpy(x)).numpy()
    nonzero = want != 0
    assert (np.abs(got - want)[nonzero] / np.abs(want[nonzero])).max() < 2e-5


def test_integer_extremes_do_not_trap():
    """INT64_MIN / -1 and shifts beyond the width are defined; see functors/binary.h."""
    low = pydlx.from_numpy(np.array([-(2**63), 7], np.int64))
    minus = pydlx.from_numpy(np.array([-1, -1], np.int64))
    assert (low // minus).numpy().tolist() == [-(2**63), -7]
    assert pydlx.div(low, minus, rounding_mode="trunc").numpy().tolist() == [-(2**63), -7]
    assert (low % minus).numpy().tolist() == [0, 0]
    assert pydlx.fmod(low, minus).numpy().tolist() == [0, 0]
    assert abs(low).numpy().tolist() == [-(2**63), 7]
    assert (low >> 200).numpy().tolist() == [-1, 0]
    assert (low << 64).numpy().tolist() == [0, 0]


def test_erfinv_bound(isa):
    """A Newton step in float64 from what was found shows how far away the solution is."""
    near_one = 1 - np.exp2(-np.linspace(1, 24, 4001))
    x = np.concatenate([np.linspace(-0.999, 0.999, 40_001), near_one, -near_one, np.exp2(np.linspace(-126, -1, 4001))])
    x = x.astype(np.float32)
    y = pydlx.erfinv(pydlx.from_numpy(x)).numpy()
    for a, found in zip(np.abs(x).astype(np.float64)[np.abs(x) < 1], np.abs(y).astype(np.float64)[np.abs(x) < 1]):
        residual = math.erf(found) - a if a < 0.5 else (1 - a) - math.erfc(found)
        step = residual / (2 / math.sqrt(math.pi) * math.exp(-found * found))
        assert abs(step) <= 2.5 * np.spacing(np.float32(found)), (a, found)
    assert np.array_equal(np.signbit(x), np.signbit(y))
    special = pydlx.erfinv(pydlx.tensor([1.0, -1.0, 1.5, -2.0, math.inf, math.nan, 0.0, -0.0])).numpy()
    want = [np.inf, -np.inf, np.nan, np.nan, np.nan, np.nan, 0.0, -0.0]
    np.testing.assert_array_equal(special, want)
    assert np.signbit(special[-1]) and not np.signbit(special[-2])


def test_lgamma_and_digamma_bounds(isa):
    """Against the float64 forms, which are other formulas; the zeros of both functions lie among the samples."""
    zeros = np.array([1, 2, 1.4616321, -0.50408298, -1.5734984, -2.4570248, -2.7476826, -3.1435809, -3.9552942])
    near = (zeros[:, None] + np.linspace(-1e-4, 1e-4, 201)).ravel()
    dense = np.concatenate([np.linspace(-150, 150, 60_001), np.linspace(-4, 4, 40_001), near])
    x = np.concatenate([SAMPLES[::8], dense.astype(np.float32)])
    x = x[~np.isnan(x)]
    wide = pydlx.from_numpy(x.astype(np.float64))
    for name in ("lgamma", "digamma"):
        want = getattr(pydlx, name)(wide).numpy()
        got = getattr(pydlx, name)(pydlx.from_numpy(x)).numpy()
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.where(got == want.astype(np.float32), 0, ulp_errors(got, want))
        worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        assert error[worst] <= 1.5, (name, x[worst], got[worst], want[worst])
    inf, nan = math.inf, math.nan
    poles = pydlx.tensor([0.0, -0.0, -1, -7, -1e30, inf, -inf, nan, 1, 2, -16777216.0])
    np.testing.assert_array_equal(pydlx.lgamma(poles).numpy(), [inf, inf, inf, inf, inf, inf, inf, nan, 0, 0, inf])
    np.testing.assert_array_equal(pydlx.digamma(poles[:8]).numpy(), [-inf, inf, nan, nan, nan, inf, nan, nan])


def test_trigamma_bound(isa):
    """The gradient of digamma, against the float64 form."""
    special = np.array([0.0, -1, -5, np.inf, 1e30, 1e-30, -1e-30, -0.0])
    x = np.concatenate([np.linspace(-60, 60, 40_001), np.linspace(-2, 9, 40_001), np.exp2(np.linspace(-60, 60, 2001))])
    x = np.concatenate([x, special]).astype(np.float32)
    slopes = []
    for dtype in (np.float32, np.float64):
        v = pydlx.from_numpy(x.astype(dtype)).requires_grad_(True)
        pydlx.digamma(v).sum().backward()
        slopes.append(v.grad.numpy())
    got, want = slopes
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(got == want.astype(np.float32), 0, ulp_errors(got, want))
    worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    assert error[worst] <= 1.5, (x[worst], got[worst], want[worst])


FLOAT_SPECIALS = [0.0, -0.0, 1, -1, 0.5, -3, 5.5, 1e-45, -1e-45, 1e-38, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan, 1e9]


def division_operands(dtype):
    """Quotients of all magnitudes, near-integral ones, and every pair of special values."""
    rng = np.random.default_rng(3)
    n = 60_000
    a = np.exp2(rng.uniform(-140, 127, n)) * rng.choice([-1, 1], n)
    b = a / np.exp2(rng.uniform(-3, 40, n)) * rng.choice([-1, 1], n)
    b[::3] = a[::3] / rng.integers(1, 2**30, n)[::3]  # quotients at or next to an integer
    a[1::3], b[1::3] = rng.standard_normal(n)[1::3], rng.standard_normal(n)[1::3]
    a[:600], b[:600] = np.exp2(rng.uniform(-149, -120, 600)), np.exp2(rng.uniform(-149, -130, 600))
    v = np.array(FLOAT_SPECIALS)
    with np.errstate(all="ignore"):
        return (
            np.concatenate([a, np.repeat(v, len(v))]).astype(dtype),
            np.concatenate([b, np.tile(v, len(v))]).astype(dtype),
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_float_remainders_are_exact(dtype, isa):
    """Bit for bit the C library's fmod and what follows from it; vectors with and without rare operands among them."""
    a, b = division_operands(dtype)
    with np.errstate(all="ignore"):
        r = np.fmod(a, b)
        turned = (r != 0) & ((r < 0) != (b < 0))
        modulo = np.where(turned, r + b, r)
        q = (a - r) / b - turned.astype(dtype)
        floor = np.floor(q)
        floor = np.where(q - floor > 0.5, floor + 1, floor)
        floor = np.where(q == 0, np.copysign(np.zeros_like(q), a / b), floor)
        floor = np.where(b == 0, a / b, floor)
    for rare in (True, False):
        with np.errstate(all="ignore"):
            keep = np.ones(len(a), bool) if rare else np.abs(a.astype(np.float64)) < 2.0**28 * np.abs(b)
        x, y = pydlx.from_numpy(a[keep]), pydlx.from_numpy(b[keep])
        for name, want in (("fmod", r), ("remainder", modulo), ("floor_divide", floor)):
            got = getattr(pydlx, name)(x, y).numpy()
            np.testing.assert_array_equal(got, want[keep], err_msg=name)
            number = ~np.isnan(got)
            assert np.array_equal(np.signbit(got[number]), np.signbit(want[keep][number])), name


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64"])
def test_integer_division_is_exact(dtype, isa):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(4)
    edges = [0, 1, 2, 3, 7, 100, info.max, info.max - 1, info.min, info.min + 1, info.max // 2, info.min // 2]
    edges += [-1, -2, -3, -7] if info.min else []
    edges += (
        [s * 2**k + d for k in (24, 31, 50, 51, 52, 53) for s in (-1, 1) for d in (-1, 0, 1)] if info.bits == 64 else []
    )
    edges = np.array(edges, dtype)
    a, b = np.repeat(edges, len(edges)), np.tile(edges, len(edges))
    scale = 2.0 ** rng.uniform(0, info.bits - 1.01, (2, 20_000))
    more = (scale * (rng.choice([-1, 1], scale.shape) if info.min else 1)).astype(dtype)
    a, b = np.concatenate([a, more[0]]), np.concatenate([b, more[1]])
    a, b = a[b != 0], b[b != 0]
    small = np.abs(a.astype(np.float64)) < 2.0**51
    small &= np.abs(b.astype(np.float64)) < 2.0**51
    for keep in (small, np.ones(len(a), bool)):
        x, y = a[keep], b[keep]
        p, q = pydlx.from_numpy(x), pydlx.from_numpy(y)
        with np.errstate(all="ignore"):
            floor, modulo, rest = x // y, x % y, np.fmod(x, y)
        toward_zero = floor + ((rest != 0) & ((x < 0) != (y < 0)))
        assert np.array_equal((p // q).numpy(), floor)
        assert np.array_equal((p % q).numpy(), modulo)
        assert np.array_equal(pydlx.fmod(p, q).numpy(), rest)
        assert np.array_equal(pydlx.div(p, q, rounding_mode="trunc").numpy(), toward_zero.astype(dtype))
