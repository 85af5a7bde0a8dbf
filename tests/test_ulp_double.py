"""Accuracy of float64 functions in ULP against extended precision, and their special values (C99)."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

wide = np.longdouble
pytestmark = pytest.mark.skipif(np.finfo(wide).nmant < 63, reason="no extended precision on this platform")
PI = wide("3.14159265358979323846264338327950288")


def erf_series(x):
    """2 x / sqrt(pi) e^(-x^2) times the sum of (2 x^2)^n / (1 3 5 ... (2n + 1)), where nothing cancels."""
    total, term = np.zeros_like(x), np.ones_like(x)
    for n in range(1, 140):
        total += term
        term = term * (2 * x * x / (2 * n + 1))
    return 2 * x / np.sqrt(PI) * np.exp(-x * x) * total


def erfc_fraction(x):
    """The continued fraction e^(-x^2) / sqrt(pi) / (x + 1/2 / (x + 1 / (x + 3/2 / ...)))."""
    tail = x
    for n in range(240, 0, -1):
        tail = x + wide(n) / 2 / tail
    return np.exp(-x * x) / np.sqrt(PI) / tail


def erf(x):
    a = np.abs(x)
    return np.sign(x) * np.where(a < 2, erf_series(np.minimum(a, 2)), 1 - erfc_fraction(np.maximum(a, 2)))


def erfc(x):
    a = np.abs(x)
    upper = np.where(a < 2, 1 - erf_series(np.minimum(a, 2)), erfc_fraction(np.maximum(a, 2)))
    return np.where(x < 0, 2 - upper, upper)


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def logit(x):
    return np.where(np.abs(x - 0.5) < 0.25, 2 * np.arctanh(2 * x - 1), np.log(x) - np.log1p(-x))


def normal_cdf(x):
    return erfc(-x / np.sqrt(wide(2))) / 2


rng = np.random.default_rng(5)
N = 20_001


def signed(x):
    return x * rng.choice([-1.0, 1.0], len(x))


everywhere = signed(np.exp2(rng.uniform(-1074, 1023.9, N)))
moderate = np.concatenate([np.linspace(-700, 700, N), np.linspace(-3, 3, N), signed(np.exp2(rng.uniform(-60, 9, N)))])
positive = np.concatenate([np.abs(everywhere), np.linspace(0.4, 3, N), 1 + signed(np.exp2(rng.uniform(-52, -1, N)))])
unit = np.concatenate([np.linspace(-1, 1, N), signed(1 - np.exp2(rng.uniform(-53, -1, N))), signed(rng.random(N))])
# next to multiples of pi / 2, where the reduction has to keep the digits, and up to the largest fast argument
turns = signed(np.floor(rng.uniform(1, 636_000, N))) * (np.pi / 2)
angles = np.concatenate([np.linspace(-20, 20, N), turns, np.nextafter(turns, 0), signed(rng.uniform(0, 1e6, N))])
angles = np.concatenate([angles, signed(np.exp2(rng.uniform(-1074, 19, N)))])
tail = np.concatenate([np.linspace(-6, 26.5, N), signed(np.exp2(rng.uniform(-300, 2, N)))])

# function: (bound in ULP, reference, arguments)
TABLE = {
    "exp": (1.5, np.exp, moderate),
    "exp2": (1.5, np.exp2, moderate),
    "expm1": (2.0, np.expm1, moderate),
    "log": (1.0, np.log, positive),
    "log2": (1.0, np.log2, positive),
    "log10": (1.0, np.log10, positive),
    "log1p": (1.5, np.log1p, np.concatenate([positive, moderate[moderate > -1]])),
    "sin": (1.5, np.sin, angles),
    "cos": (1.5, np.cos, angles),
    "tan": (2.5, np.tan, angles),
    "asin": (2.5, np.arcsin, unit),
    "acos": (2.0, np.arccos, unit),
    "atan": (2.0, np.arctan, np.concatenate([everywhere, moderate])),
    "sinh": (2.5, np.sinh, moderate),
    "cosh": (1.5, np.cosh, moderate),
    "tanh": (3.0, np.tanh, moderate),
    "asinh": (2.0, np.arcsinh, np.concatenate([everywhere, moderate])),
    "acosh": (3.0, np.arccosh, positive[positive >= 1]),
    "atanh": (2.0, np.arctanh, unit),
    "sigmoid": (2.5, sigmoid, moderate),
    "erf": (1.5, erf, moderate),
    "erfc": (3.0, erfc, tail),
    "logit": (2.0, logit, np.concatenate([np.abs(unit), 0.5 + unit / 2, np.abs(everywhere)])),
    "silu": (3.0, lambda x: x * sigmoid(x), moderate),
    "logsigmoid": (2.0, lambda x: np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))), moderate),
    "gelu": (3.0, lambda x: x * normal_cdf(x), np.clip(moderate, -36, 36)),
}


def ulp_errors(got, want):
    """|got - want| in units of the float64 spacing at want; 0 where both are the same special value."""
    with np.errstate(all="ignore"):
        spacing = np.spacing(np.maximum(np.abs(want), 2.3e-308).astype(np.float64))
        error = (np.abs(got.astype(wide) - want) / spacing).astype(np.float64)
        rounded = want.astype(np.float64)
    same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def check(got, want, bound, *operands):
    error = ulp_errors(got, want)
    worst = int(np.argmax(error))
    at = [x[worst] for x in operands]
    assert error[worst] <= bound, f"{at}: {got[worst]!r}, expected {want[worst]!r}: {error[worst]:.2f} ULP"


def function(name):
    return getattr(pydlx, name, None) or getattr(pydlx.nn.functional, name)


@pytest.mark.parametrize("name", TABLE)
def test_bound(name, isa):
    bound, reference, x = TABLE[name]
    with np.errstate(all="ignore"):
        want = reference(x.astype(wide))
    check(function(name)(pydlx.from_numpy(x)).numpy(), want, bound, x)


@pytest.mark.parametrize("name", [n for n in TABLE if TABLE[n][1].__module__ == "numpy"])
def test_special_values(name, isa):
    """Against the C library, through NumPy, the signs of zeros included."""
    v = [0.0, 1, 0.5, 5e-324, 1e-310, 2.3e-308, 1e-160, 1e160, 1e306, 1.7e308, 710, 746, 1e17, np.inf, np.nan]
    x = np.array([*v, *(-a for a in v)])
    with np.errstate(all="ignore"):
        want = TABLE[name][1](x)
    got = function(name)(pydlx.from_numpy(x)).numpy()
    np.testing.assert_allclose(got, want, rtol=1e-15, atol=1e-323)
    number = ~np.isnan(want)
    assert np.array_equal(np.signbit(got[number]), np.signbit(want[number]))


def test_error_function_special_values(isa):
    inf, nan = np.inf, np.nan
    x = pydlx.from_numpy(np.array([0.0, -0.0, 5e-324, -1e-310, 30, -30, 1e300, -1e300, inf, -inf, nan]))
    tiny = 2 / np.sqrt(np.pi)
    erf_want = np.array([0.0, -0.0, 5e-324, -1e-310 * tiny, 1, -1, 1, -1, 1, -1, nan])
    got = pydlx.erf(x).numpy()
    np.testing.assert_allclose(got, erf_want, rtol=1e-15, atol=1e-323)
    assert np.array_equal(np.signbit(got[:-1]), np.signbit(erf_want[:-1]))
    np.testing.assert_array_equal(pydlx.erfc(x).numpy(), [1, 1, 1, 1, 0, 2, 0, 2, 0, 2, nan])
    got = pydlx.erfinv(pydlx.tensor([1.0, -1.0, 1.5, -2.0, inf, nan, 0.0, -0.0], dtype=pydlx.float64)).numpy()
    np.testing.assert_array_equal(got, [inf, -inf, nan, nan, nan, nan, 0.0, -0.0])
    assert np.signbit(got[-1]) and not np.signbit(got[-2])


def test_erfinv_bound(isa):
    """A Newton step in extended precision from what was found shows how far away the solution is."""
    near_one = 1 - np.exp2(-np.linspace(1, 53, 4001))
    x = np.concatenate([np.linspace(0, 0.999, 20_001)[1:], near_one, np.exp2(np.linspace(-1000, -1, 4001))])
    found = pydlx.erfinv(pydlx.from_numpy(x)).numpy().astype(wide)
    residual = np.where(x < 0.5, erf(found) - x, (1 - x.astype(wide)) - erfc(found))
    step = np.abs(residual) / (2 / np.sqrt(PI) * np.exp(-found * found))
    error = step / np.spacing(found.astype(np.float64))
    assert error.max() <= 2.5, (x[np.argmax(error)], error.max())


def zeta_less_1(k):
    """Sum of n^-k over n >= 2, its end by the formula of Euler and Maclaurin."""
    n = np.arange(2, 40, dtype=wide)
    end, k = wide(40), wide(k)
    rest = end ** (1 - k) / (k - 1) + end**-k / 2 + k * end ** (-k - 1) / 12
    rest -= k * (k + 1) * (k + 2) * end ** (-k - 3) / 720
    rest += k * (k + 1) * (k + 2) * (k + 3) * (k + 4) * end ** (-k - 5) / 30240
    return np.sum(n**-k) + rest


def lgamma_reference(x):
    """The Taylor series at 2 with the recurrence below 10, Stirling's series above."""
    whole = np.clip(np.round(x), 0, 10)
    whole = np.where((x > 0.5) & (x < 1.5), 1, whole)
    t = x - whole
    series = t * (1 - wide("0.577215664901532860606512090082402431"))
    for k in range(2, 75):
        series += (-1) ** k * zeta_less_1(k) / k * t**k
    up = np.where(whole == 0, np.log(x) + np.log1p(x), np.where(whole == 1, np.log1p(t), 0))
    down = sum(np.where(whole > j + 1, np.log(np.maximum(x - j, 1)), 0) for j in range(1, 9))
    z = 1 / (x * x)
    bernoulli = z * (1 / wide(1260) - z * (1 / wide(1680) - z * (1 / wide(1188) - z * 691 / wide(360360))))
    stirling = (x - wide(0.5)) * np.log(x) - x + np.log(2 * PI) / 2 + (1 / wide(12) - z / 360 + z * bernoulli) / x
    return np.where(x < 10, series - up + down, stirling)


def test_gamma_function_bounds(isa):
    """log gamma of positive numbers, next to its zeros too, and its derivatives, which have an absolute error."""
    near = np.concatenate([z + signed(np.exp2(rng.uniform(-52, -1, 4001))) for z in (1.0, 2.0)])
    x = np.concatenate([np.linspace(0, 12, N)[1:], near, np.exp2(rng.uniform(-1022, 900, N))])
    got = pydlx.lgamma(pydlx.from_numpy(x)).numpy()
    check(got, lgamma_reference(x.astype(wide)), 3.5, x)
    assert np.array_equal(
        pydlx.lgamma(pydlx.tensor([1.0, 2.0, 0.0, np.inf], dtype=pydlx.float64)), [0, 0, np.inf, np.inf]
    )
    x = np.concatenate([np.linspace(0, 12, N)[1:], np.exp2(rng.uniform(-500, 500, N))])
    t = pydlx.from_numpy(x).requires_grad_()
    psi = pydlx.digamma(t)
    psi.sum().backward()
    y, first, second = x.astype(wide), 0, 0
    for _ in range(30):
        first, second, y = first - 1 / y, second + 1 / (y * y), y + 1
    z = 1 / (y * y)
    first += np.log(y) - 1 / (2 * y) - z * (1 / wide(12) - z * (1 / wide(120) - z * (1 / wide(252) - z / 240)))
    second += 1 / y + z / 2 + z / y * (1 / wide(6) - z * (1 / wide(30) - z * (1 / wide(42) - z / 30)))
    error = np.abs(psi.detach().numpy() - first) / np.maximum(np.abs(first), 1)
    assert error.max() <= 2.5e-15, (x[np.argmax(error)], error.max())
    check(t.grad.numpy(), second, 8, x)


@pytest.mark.parametrize("name", ["lgamma", "digamma"])
def test_negative_neighbours_change_nothing(name, isa):
    """Arguments that need a reflection take another way; the others of their block do not notice, nor in place."""
    x = rng.uniform(0.1, 20, 1500)
    alone = getattr(pydlx, name)(pydlx.from_numpy(x)).numpy()
    mixed = x.copy()
    mixed[::7] = -rng.uniform(0.1, 20, len(mixed[::7]))
    mixed[14], mixed[21] = np.nan, -np.inf
    t = pydlx.from_numpy(mixed.copy())
    got = getattr(pydlx, name)(t).numpy()
    keep = mixed > 0
    assert np.array_equal(got[keep], alone[keep])
    getattr(t, name + "_")()
    assert np.array_equal(t.numpy(), got, equal_nan=True)
    few = getattr(pydlx, name)(pydlx.from_numpy(mixed[~keep])).numpy()
    assert np.array_equal(few, got[~keep], equal_nan=True)


def test_pow_bound(isa):
    n = 100_000
    x = np.exp2(rng.uniform(-1074, 1023, n))
    x[::2] = rng.uniform(0.3, 3, n)[::2]
    y = rng.uniform(-1.05, 1.05, n) * 1074 / np.maximum(np.abs(np.log2(x)), 1e-3)
    x[::3], y[::3] = -x[::3], np.round(y[::3])
    with np.errstate(all="ignore"):
        want = np.power(x.astype(wide), y.astype(wide))
    check(pydlx.pow(pydlx.from_numpy(x), pydlx.from_numpy(y)).numpy(), want, 2.0, x, y)
    with np.errstate(all="ignore"):
        want = np.power(wide(2), y.astype(wide))
    check((2 ** pydlx.from_numpy(y)).numpy(), want, 2.0, y)


def test_atan2_and_hypot_bounds(isa):
    n = 60_000
    y, x = (signed(np.exp2(rng.uniform(-600, 600, n))) for _ in range(2))
    y[::2], x[1::2] = x[::2] * rng.uniform(-3, 3, n // 2), y[1::2] * rng.uniform(-3, 3, n // 2)
    y[:2000], x[:2000] = (
        signed(np.exp2(rng.uniform(-1074, -1000, 2000))),
        signed(np.exp2(rng.uniform(1000, 1023, 2000))),
    )
    y[2000:4000], x[2000:4000] = (signed(np.exp2(rng.uniform(-1074, -1015, 2000))) for _ in range(2))
    y[4000:6000], x[4000:6000] = (signed(np.exp2(rng.uniform(1000, 1023, 2000))) for _ in range(2))
    v = np.array([0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 5e-324, 1.7e308, -1.7e308])
    y, x = np.concatenate([y, np.repeat(v, len(v))]), np.concatenate([x, np.tile(v, len(v))])
    a, b = pydlx.from_numpy(y), pydlx.from_numpy(x)
    with np.errstate(all="ignore"):
        angle, length = np.arctan2(y.astype(wide), x.astype(wide)), np.hypot(y.astype(wide), x.astype(wide))
    got = pydlx.atan2(a, b).numpy()
    check(got, angle, 2.5, y, x)
    number = ~np.isnan(got)
    assert np.array_equal(np.signbit(got[number]), np.signbit(np.arctan2(y, x)[number]))
    check(pydlx.hypot(a, b).numpy(), length, 1.5, y, x)


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_rare_arguments_among_others(name, isa):
    """Arguments for the C library between those for the fast form, and parts of vectors; strided input."""
    x = np.linspace(-9, 9, 2 * 531)
    x[::97] *= 1e12
    x[5], x[6] = np.inf, np.nan
    got = function(name)(pydlx.from_numpy(x)[::2]).numpy()
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(got, getattr(np, name)(x[::2]), rtol=1e-15)
