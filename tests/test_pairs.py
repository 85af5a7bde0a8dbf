"""Elementwise functions of bfloat16 that run on pairs in words or on bits: every pattern, odd lengths, strides."""

import numpy as np
import pytest

import pydlx
from pydlx.nn import functional

UNARY = {
    "neg": pydlx.neg,
    "abs": pydlx.abs,
    "sign": pydlx.sign,
    "sqrt": pydlx.sqrt,
    "rsqrt": pydlx.rsqrt,
    "reciprocal": pydlx.reciprocal,
    "floor": pydlx.floor,
    "round": pydlx.round,
    "frac": pydlx.frac,
    "nan_to_num": lambda x: pydlx.nan_to_num(x, 1.5, 2.5, -3.5),
    "relu": pydlx.relu,
    "clamp": lambda x: pydlx.clamp(x, -0.75, 2.0),
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.25),
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "threshold": lambda x: functional.threshold(x, 0.5, -1.0),
    "hardshrink": functional.hardshrink,
    "softshrink": functional.softshrink,
    "signbit": lambda x: pydlx.signbit(x).to(x.dtype),
    # explicit vectors
    "exp": pydlx.exp,
    "exp2": pydlx.exp2,
    "tanh": pydlx.tanh,
    "sigmoid": pydlx.sigmoid,
    "erf": pydlx.erf,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "logsigmoid": functional.logsigmoid,
}
BINARY = {
    "add": pydlx.add,
    "sub": pydlx.sub,
    "mul": pydlx.mul,
    "div": pydlx.div,
    "maximum": pydlx.maximum,
    "fmin": pydlx.fmin,
    "copysign": pydlx.copysign,
    "heaviside": pydlx.heaviside,
    "add_scaled": lambda a, b: pydlx.add(a, b, alpha=0.75),
    "prelu": lambda a, b: pydlx.prelu(a, b[:1]),
}
TERNARY = {
    "addcmul": lambda a, b, c: pydlx.addcmul(a, b, c, value=0.5),
    "addcdiv": lambda a, b, c: pydlx.addcdiv(a, b, c, value=0.5),
    "lerp": pydlx.lerp,
}


def patterns(dtype, seed=None):
    """All 65536 values of a 16-bit float, in order or mixed."""
    bits = np.arange(65536, dtype=np.uint16)
    if seed is not None:
        np.random.default_rng(seed).shuffle(bits)
    return pydlx.from_numpy(bits.view(np.int16)).view(dtype)


def assert_same(got, want):
    """Equal bits, but for the payload of NaN."""
    assert got.dtype == want.dtype and got.shape == want.shape
    a, b = (t.contiguous().view(pydlx.int16).numpy() for t in (got, want))
    nan = np.isnan(want.float().numpy())
    np.testing.assert_array_equal(np.isnan(got.float().numpy()), nan)
    np.testing.assert_array_equal(a[~nan], b[~nan])


def assert_agree(f, *xs):
    """The function of 16-bit floats is the one of float32, rounded once."""
    assert_same(f(*xs), f(*(x.float() for x in xs)).to(xs[0].dtype))


DTYPES = pytest.mark.parametrize("dtype", [pydlx.bfloat16, pydlx.float16], ids=str)


@DTYPES
@pytest.mark.parametrize("name", UNARY)
def test_one_operand(name, dtype, isa):
    x = patterns(dtype)
    assert_agree(UNARY[name], x)
    for part in (x[1:], x[:65535], x[3:4], x[5:7], x[40:40], x[::3], x.reshape(256, 256).t(), x[:1].expand(7, 33)):
        assert_agree(UNARY[name], part)


def test_gelu_of_bfloat16(isa):
    """Within 0.52 units of the last of its eight digits, and special values; every pattern, odd lengths."""
    x = patterns(pydlx.bfloat16)
    wide = x.double()
    want = (wide * 0.5 * pydlx.erfc(wide * -(0.5**0.5))).numpy()
    got = functional.gelu(x).double().numpy()
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        unit = np.exp2(np.maximum(np.floor(np.log2(np.abs(want))), -126) - 7)
        error = np.where(np.isfinite(want), np.abs(got - want) / unit, 0)
    assert np.nanmax(error) <= 0.53, x[int(np.nanargmax(error))]
    special = ~np.isfinite(want)
    np.testing.assert_array_equal(got[special], want[special])
    for part in (x[1:], x[:65535], x[3:4], x[40:40], x[::3], x.reshape(256, 256).t()):
        assert_same(functional.gelu(part), functional.gelu(part.clone().contiguous()))
    tail = pydlx.linspace(-9, 9, 97).to(pydlx.bfloat16)  # the ends of the table among others, in vectors and after them
    assert_same(functional.gelu(tail), pydlx.cat([functional.gelu(tail[i : i + 1]) for i in range(97)]))


@DTYPES
@pytest.mark.parametrize("name", BINARY)
def test_two_operands(name, dtype, isa):
    f = BINARY[name]
    a, b = patterns(dtype, 1), patterns(dtype, 2)
    for part in (slice(None), slice(1, None), slice(7, 8), slice(0, 63), slice(None, None, 5)):
        assert_agree(f, a[part], b[part])
    if name != "prelu":
        assert_agree(f, a[:0], b[:0])
        square = b.reshape(256, 256)
        assert_agree(f, a.reshape(256, 256), square.t())
        assert_agree(f, a.reshape(256, 256), square[:, 3:4])
        assert_agree(f, a.reshape(256, 256), square[5])


@DTYPES
@pytest.mark.parametrize("name", TERNARY)
def test_three_operands(name, dtype, isa):
    xs = [patterns(dtype, seed) for seed in (1, 2, 3)]
    for part in (slice(None), slice(1, None), slice(7, 8), slice(0, 63), slice(9, 9), slice(None, None, 5)):
        assert_agree(TERNARY[name], *(x[part] for x in xs))


@DTYPES
@pytest.mark.parametrize(
    "name",
    [
        *("relu", "leaky_relu", "clamp", "hardsigmoid", "hardswish", "threshold", "softshrink"),
        *("silu", "softplus", "logsigmoid"),
    ],
)
def test_gradients(name, dtype, isa):
    x, g = patterns(dtype, 4), patterns(dtype, 5)
    for part in (slice(None), slice(1, 1000), slice(2, 3)):
        grads = []
        for convert in (lambda t: t.clone(), lambda t: t.float()):
            leaf = convert(x[part]).requires_grad_()
            UNARY[name](leaf).backward(convert(g[part]))
            grads.append(leaf.grad)
        assert_same(grads[0], grads[1].to(dtype))


@DTYPES
def test_in_place_and_out(dtype):
    x = patterns(dtype, 6)[1:]
    want = pydlx.neg(x)
    out = pydlx.empty(65535, dtype=dtype)
    pydlx.neg(x, out=out)
    assert_same(out, want)
    y = x.clone()
    y.neg_()
    assert_same(y, want)
    z = x.clone()
    z.mul_(z)
    assert_same(z, x * x)
