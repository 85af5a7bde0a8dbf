"""Cases of elementwise math, logic, clamping and activations."""

from __future__ import annotations

import numpy as np
import torch
from cases import Case, ErrorCase, args, away_from, booleans, integers, normal, uniform

ALL_FLOATS = ("float32", "float64", "float16", "bfloat16")
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, -3.5, 1e-30, -1e-30, 60.0, -60.0, np.inf, -np.inf, np.nan])


def special(rng):
    return SPECIAL.copy()


def pairs(rng):
    """Every pair of special values."""
    return [np.repeat(SPECIAL, len(SPECIAL)), np.tile(SPECIAL, len(SPECIAL))]


def method(name, **kwargs):
    return lambda T, *t: getattr(t[0], name)(*t[1:], **kwargs)


def function(name, *extra, **kwargs):
    return lambda T, *t: getattr(T, name)(*t, *extra, **kwargs)


def nn(name, *extra, **kwargs):
    """An activation: under pydlx's own namespace, or in torch.nn.functional."""

    def call(T, *t):
        f = getattr(T, name, None) or getattr(T.nn.functional, name)
        return f(*t, *extra, **kwargs)

    return call


def inplace(name, *extra, **kwargs):
    """The in-place form on an interior tensor, so that its history is rewritten."""

    def call(T, x, *t):
        y = x * 1
        result = getattr(y, name)(*t, *extra, **kwargs)
        assert result is y
        return y

    return call


# name, domain, second derivatives checked
UNARY = {
    "exp2": uniform(-9, 9, 5, 13),
    "expm1": uniform(-3, 3, 5, 13),
    "log": uniform(0.05, 30, 5, 13),
    "log2": uniform(0.05, 30, 5, 13),
    "log10": uniform(0.05, 30, 5, 13),
    "log1p": uniform(-0.9, 9, 5, 13),
    "sin": uniform(-9, 9, 5, 13),
    "cos": uniform(-9, 9, 5, 13),
    "tan": uniform(-1.2, 1.2, 5, 13),
    "asin": uniform(-0.9, 0.9, 5, 13),
    "acos": uniform(-0.9, 0.9, 5, 13),
    "atan": uniform(-5, 5, 5, 13),
    "sinh": uniform(-4, 4, 5, 13),
    "cosh": uniform(-4, 4, 5, 13),
    "tanh": uniform(-4, 4, 5, 13),
    "asinh": uniform(-4, 4, 5, 13),
    "acosh": uniform(1.2, 9, 5, 13),
    "atanh": uniform(-0.9, 0.9, 5, 13),
    "sigmoid": uniform(-9, 9, 5, 13),
    "erf": uniform(-3, 3, 5, 13),
    "erfc": uniform(-3, 3, 5, 13),
    "erfinv": uniform(-0.9, 0.9, 5, 13),
    "rsqrt": uniform(0.2, 9, 5, 13),
    "reciprocal": uniform(0.2, 9, 5, 13),
    "square": normal(5, 13),
    "deg2rad": normal(5, 13),
    "rad2deg": normal(5, 13),
    "frac": away_from([-3, -2, -1, 0, 1, 2, 3], 0.05, 5, 13),
    "sign": away_from([0], 0.05, 5, 13),
    "floor": away_from([-3, -2, -1, 0, 1, 2, 3], 0.05, 5, 13),
    "ceil": away_from([-3, -2, -1, 0, 1, 2, 3], 0.05, 5, 13),
    "trunc": away_from([-3, -2, -1, 0, 1, 2, 3], 0.05, 5, 13),
    "round": away_from([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5], 0.05, 5, 13),
    "lgamma": uniform(0.3, 9, 5, 13),
    "digamma": uniform(0.3, 9, 5, 13),
    "logit": uniform(0.05, 0.95, 5, 13),
}
# Conditioning near poles; PyTorch's polygamma, the derivative of digamma, is only good to 1e-9
# (test_ulp.py measures ours).
TOLERANCE = {"tan": 4, "atanh": 4, "logit": 4, "digamma": 1e5}
STEPS = {"sign", "floor", "ceil", "trunc", "round"}  # zero gradient: nothing to differentiate again

ACTIVATIONS = {
    "leaky_relu": (nn("leaky_relu", 0.1), [0]),
    "elu": (nn("elu", 1.3), [0]),
    "selu": (nn("selu"), [0]),
    "celu": (nn("celu", 0.5), [0]),
    "gelu": (nn("gelu"), []),
    "gelu/tanh": (nn("gelu", approximate="tanh"), []),
    "silu": (nn("silu"), []),
    "mish": (nn("mish"), []),
    "softplus": (nn("softplus"), []),
    "softplus/beta": (nn("softplus", 2.5, 4.0), [1.6]),
    "softsign": (nn("softsign"), [0]),
    "relu6": (nn("relu6"), [0, 6]),
    "hardtanh": (nn("hardtanh", -0.7, 1.5), [-0.7, 1.5]),
    # PyTorch's own derivative uses a float32 1/6 and has no second derivative.
    "hardsigmoid": (
        lambda T, x: T.nn.functional.relu6(x + 3) / 6 if T is torch else T.nn.functional.hardsigmoid(x),
        [-3, 3],
    ),
    "hardswish": (nn("hardswish"), [-3, 3]),
    "logsigmoid": (nn("logsigmoid"), []),
    "threshold": (nn("threshold", 0.4, -2.0), [0.4]),
    "hardshrink": (nn("hardshrink", 0.6), [-0.6, 0.6]),
    "softshrink": (nn("softshrink", 0.6), [-0.6, 0.6]),
    "tanhshrink": (nn("tanhshrink"), []),
    "rrelu": (nn("rrelu"), [0]),
}

CASES = [
    *[
        Case(n, function(n), args(m), second=n not in STEPS | {"digamma", "lgamma"}, tolerance=TOLERANCE.get(n, 1))
        for n, m in UNARY.items()
    ],
    *[Case(f"{n}/special", function(n), args(special), grad=False, layouts=False) for n in UNARY if n != "logit"],
    *[
        Case(f"{n}_", inplace(f"{n}_"), args(UNARY.get(n, normal(5, 13))), second=False)
        for n in ("sin", "exp2", "tanh", "sigmoid", "rsqrt", "log1p", "floor", "neg", "abs", "square", "erf")
    ],
    *[
        Case(f"{n}/half", function(n), args(UNARY[n]), dtypes=("float16", "bfloat16"), grad=False)
        for n in ("log", "tanh", "sigmoid", "sin", "erf", "rsqrt")
    ],
    *[
        Case(n, f, args(away_from(kinks, 0.05, 7, 11)), dtypes=ALL_FLOATS, tolerance=2)
        for n, (f, kinks) in ACTIVATIONS.items()
    ],
    *[
        Case(f"{n}/wide", f, args(uniform(-30, 30, 500)), grad=False)
        for n, (f, _) in ACTIVATIONS.items()
        if n not in ("softplus/beta",)
    ],
    Case("prelu", lambda T, x, w: T.prelu(x, w), args(away_from([0], 0.05, 2, 3, 4), normal(3))),
    Case("prelu/one", lambda T, x, w: T.prelu(x, w), args(away_from([0], 0.05, 5), normal(1))),
    Case("glu", nn("glu"), args(normal(3, 8))),
    Case("glu/dim", nn("glu", 0), args(normal(6, 5))),
    # two operands
    Case("pow", lambda T, a, b: a**b, args(uniform(0.1, 4, 4, 5), normal(5)), dtypes=ALL_FLOATS),
    *[
        Case(f"pow/{p}", lambda T, x, p=p: x**p, args(uniform(0.3, 4, 4, 9)))
        for p in (2, 0.5, 3, -1, -0.5, -2, 0, 1, 2.7, 4)
    ],
    Case("pow/number_base", lambda T, x: 2.5**x, args(normal(4, 9))),
    Case("pow/negative_base", lambda T, x: x**3 + x**2, args(normal(4, 9))),
    Case("pow/special", lambda T, a, b: T.pow(a, b), pairs, grad=False, layouts=False, dtypes=("float64",)),
    Case("pow/int", lambda T, a, b: a**b, args(integers(-4, 5, 4, 9), integers(0, 5, 9)), grad=False, exact=True),
    Case("pow/int_number", lambda T, a: T.pow(a, 3), args(integers(-9, 9, 30)), grad=False, exact=True),
    Case(
        "pow/int_to_float", lambda T, a: a**0.5, args(integers(0, 9, 30)), grad=False, tolerance=1e9
    ),  # float32 result
    Case("pow_", inplace("pow_", 3), args(normal(4, 9)), second=False),
    Case("atan2", function("atan2"), args(normal(4, 9), normal(9))),
    Case("hypot", function("hypot"), args(normal(4, 9), normal(9))),
    Case("fmax", function("fmax"), args(normal(4, 9), normal(9))),
    Case("fmin", function("fmin"), args(normal(4, 9), normal(9))),
    Case("copysign", function("copysign"), args(away_from([0], 0.05, 4, 9), away_from([0], 0.05, 9)), second=False),
    Case("xlogy", function("xlogy"), args(normal(4, 9), uniform(0.1, 5, 9))),
    Case("logaddexp", function("logaddexp"), args(normal(4, 9), normal(9))),
    Case("logaddexp2", function("logaddexp2"), args(normal(4, 9), normal(9)), dtypes=ALL_FLOATS),
    Case("logaddexp2/mixed", function("logaddexp2"), args(integers(-5, 5, 4, 9), normal(9)), grad=False),
    Case("sinc", function("sinc"), args(away_from([0], 0.05, 4, 9)), tolerance=4),
    Case("sinc/special", function("sinc"), args(lambda rng: np.array([0.0, 1.5, -0.25])), grad=False),
    # PyTorch takes an integer power of 2 in the derivative, which is 0 for negative exponents.
    # PyTorch's gradient takes 2 to a negative integer power for 0.
    Case("ldexp", lambda T, a, b: T.ldexp(a, b), args(normal(4, 9), integers(-5, 5, 9)), grad=False, dtypes=ALL_FLOATS),
    Case("ldexp/float", lambda T, a, b: T.ldexp(a, b), args(normal(4, 9), normal(9)), grad=False),
    Case("ldexp/int", lambda T, a, b: T.ldexp(a, b), args(integers(-5, 5, 4, 9), integers(-5, 5, 9)), grad=False),
    *[
        Case(f"contiguous/{n}", lambda T, x, p=p: x.permute(p).contiguous() * 2, args(normal(*shape)))
        for n, p, shape in (
            ("matrix", (1, 0), (67, 45)),
            ("batch", (0, 2, 1), (3, 33, 65)),
            ("reverse", (2, 1, 0), (9, 34, 40)),
            ("small", (1, 0), (7, 100)),
        )
    ],
    Case("heaviside", function("heaviside"), args(special, special), grad=False, layouts=False),
    *[
        Case(f"{n}/special", function(n), pairs, grad=False, layouts=False)
        for n in (
            "atan2",
            "hypot",
            "fmax",
            "fmin",
            "maximum",
            "minimum",
            "copysign",
            "xlogy",
            "logaddexp",
            "floor_divide",
            "fmod",
        )
    ],
    Case(
        "floor_divide",
        lambda T, a, b: a // b,
        args(normal(4, 9), away_from([0], 0.3, 9)),
        grad=False,
        exact=True,
        dtypes=("float64",),
    ),
    Case(
        "remainder",
        lambda T, a, b: a % b,
        args(uniform(-9, 9, 4, 9), away_from([0], 0.3, 9)),
        dtypes=("float64",),
        grad=False,
    ),
    Case("remainder/number", lambda T, a: a % 2.5, args(uniform(0.1, 2.4, 4, 9))),
    Case("fmod/grad", lambda T, a: T.fmod(a, 2.5), args(uniform(0.1, 2.4, 4, 9))),
    *[
        Case(
            f"{n}/int",
            lambda T, a, b, n=n: getattr(T, n)(a, b),
            args(integers(-20, 20, 50), lambda r: r.choice([-7, -3, -1, 1, 2, 5], 50)),
            grad=False,
            exact=True,
        )
        for n in ("floor_divide", "remainder", "fmod")
    ],
    Case(
        "div/floor",
        lambda T, a, b: T.div(a, b, rounding_mode="floor"),
        args(integers(-20, 20, 50), lambda r: r.choice([-7, -3, 2], 50)),
        grad=False,
        exact=True,
    ),
    Case(
        "div/trunc",
        lambda T, a, b: a.div(b, rounding_mode="trunc"),
        args(integers(-20, 20, 50), lambda r: r.choice([-7, -3, 2], 50)),
        grad=False,
        exact=True,
    ),
    Case("rsub", lambda T, a, b: T.rsub(a, b, alpha=2), args(normal(9), normal(9))),
    Case("lerp", function("lerp"), args(normal(4, 9), normal(4, 9), uniform(0, 1, 9))),
    Case("lerp/number", function("lerp", 0.3), args(normal(4, 9), normal(4, 9))),
    Case("addcmul", function("addcmul", value=-0.7), args(normal(4, 9), normal(9), normal(4, 1))),
    Case("addcdiv", function("addcdiv", value=-0.7), args(normal(4, 9), normal(9), uniform(0.5, 2, 4, 1))),
    Case(
        "addcmul_",
        lambda T, a, b, c: (a * 1).addcmul_(b, c, value=0.3),
        args(normal(4, 9), normal(9), normal(4, 1)),
        second=False,
    ),
    Case("clamp", function("clamp", -0.5, 0.8), args(away_from([-0.5, 0.8], 0.05, 4, 9)), dtypes=ALL_FLOATS),
    Case("clamp/min", function("clamp", min=0.1), args(away_from([0.1], 0.05, 4, 9))),
    Case("clamp/max", function("clamp", max=0.1), args(away_from([0.1], 0.05, 4, 9))),
    Case("clamp/tensors", function("clamp"), args(normal(4, 9), uniform(-1, -0.5, 9), uniform(0.5, 1, 4, 1))),
    Case("clamp/special", function("clamp", -1, 2), args(special), grad=False, layouts=False),
    Case("clamp/int", function("clamp", -3, 4), args(integers(-9, 9, 30)), grad=False, exact=True),
    Case("clamp_min", function("clamp_min", 0.1), args(away_from([0.1], 0.05, 4, 9))),
    Case("clamp_", inplace("clamp_", -0.5, 0.8), args(away_from([-0.5, 0.8], 0.05, 4, 9)), second=False),
    Case("round/decimals", lambda T, x: T.round(x, decimals=2), args(normal(30)), grad=False, dtypes=("float64",)),
    Case(
        "nan_to_num", function("nan_to_num"), args(special), grad=False, layouts=False, dtypes=("float64",), exact=True
    ),
    Case(
        "nan_to_num/values",
        function("nan_to_num", 1.0, 2.0, -3.0),
        args(special),
        grad=False,
        layouts=False,
        exact=True,
        dtypes=("float64",),
    ),
    # predicates, logic, bits
    *[
        Case(n, function(n), args(special), grad=False, layouts=False, exact=True)
        for n in ("isnan", "isinf", "isfinite", "isposinf", "isneginf", "signbit", "logical_not")
    ],
    *[
        Case(f"{n}/float", function(n), args(special, special), grad=False, layouts=False, exact=True)
        for n in ("logical_and", "logical_or", "logical_xor")
    ],
    *[
        Case(
            n,
            lambda T, a, b, n=n: getattr(a, n)(b),
            args(integers(-9, 9, 4, 9, dtype="int32"), integers(-9, 9, 9, dtype="int32")),
            grad=False,
            exact=True,
        )
        for n in ("bitwise_and", "bitwise_or", "bitwise_xor", "logical_and", "logical_or", "logical_xor")
    ],
    Case(
        "bitwise/operators",
        lambda T, a, b: (a & b, a | b, a ^ b, ~a),
        args(booleans(40), booleans(40)),
        grad=False,
        exact=True,
    ),
    Case("bitwise/not", lambda T, a: ~a, args(integers(-9, 9, 40)), grad=False, exact=True),
    Case(
        "shift",
        lambda T, a, b: (a << b, a >> b),
        args(integers(-99, 99, 200, dtype="int32"), integers(0, 31, 200, dtype="int32")),
        grad=False,
        exact=True,
    ),
    Case(
        "shift/beyond",
        lambda T, a, b: (a << b, a >> b),
        args(integers(-99, 99, 200), integers(-5, 90, 200)),
        grad=False,
        exact=True,
    ),
    Case(
        "isclose",
        lambda T, a, b: T.isclose(a, b * 1.00001),
        args(special, special),
        grad=False,
        layouts=False,
        exact=True,
        dtypes=("float64",),
    ),
    Case(
        "isclose/pairs",
        lambda T, a, b: T.isclose(a, b, equal_nan=True),
        pairs,
        grad=False,
        layouts=False,
        exact=True,
        dtypes=("float64",),
    ),
    Case("masked_fill", lambda T, x, m: x.masked_fill(m, -1.5), args(normal(4, 9), booleans(9)), dtypes=ALL_FLOATS),
    Case("masked_fill/tensor", lambda T, x, m, v: x.masked_fill(m, v), args(normal(4, 9), booleans(4, 9), normal())),
    Case(
        "masked_fill_",
        lambda T, x, m: (x * 1).masked_fill_(m, -np.inf),
        args(normal(4, 9), booleans(9)),
        second=False,
        grad=False,
    ),
    Case(
        "masked_fill_/grad",
        lambda T, x, m: (x * 1).masked_fill_(m, 2.0),
        args(normal(4, 9), booleans(4, 9)),
        second=False,
    ),
    Case("eq_", lambda T, x, y: (x * 1).gt_(y), args(normal(4, 9), normal(9)), grad=False, exact=True),
    Case("where/scalar", lambda T, x: T.where(x > 0, x, 2.5), args(away_from([0], 0.05, 4, 9))),
    # layouts beyond one staging block
    Case("tanh/long", lambda T, x: T.tanh(x.transpose(0, 1)), args(normal(3, 1500))),
    Case("add/column", lambda T, a, b: a + b, args(normal(3, 1500), normal(3, 1)), dtypes=ALL_FLOATS),
    Case("pow/long", lambda T, a: T.pow(2.0, a[:, ::3]), args(normal(3, 2100)), dtypes=ALL_FLOATS),
    Case("gelu/empty", nn("gelu"), args(normal(0, 4))),
    Case("silu/0d", nn("silu"), args(normal())),
]


def _array(T, values, dtype):
    return T.from_numpy(np.array(values, dtype))


ERRORS = [
    ErrorCase(
        "floor_divide/zero", lambda T: _array(T, [1, 2], "int64") // 0, RuntimeError, r"\[floor_divide\] other: .*zero"
    ),
    ErrorCase(
        "remainder/zero",
        lambda T: _array(T, [1, 2], "int32") % _array(T, [1, 0], "int32"),
        RuntimeError,
        r"\[remainder\] other: .*zero",
    ),
    ErrorCase(
        "div/mode",
        lambda T: T.div(_array(T, [1.0], "float32"), 2, rounding_mode="up"),
        ValueError,
        r"rounding_mode: .*'up'",
    ),
    ErrorCase("pow/negative", lambda T: _array(T, [2], "int64") ** -1, ValueError, r"\[pow\] exponent: .*-1"),
    ErrorCase("clamp/none", lambda T: _array(T, [2.0], "float32").clamp(), ValueError, r"\[clamp\] min: "),
    ErrorCase(
        "gelu/approximate",
        lambda T: T.nn.functional.gelu(_array(T, [2.0], "float32"), approximate="erf"),
        ValueError,
        r"\[gelu\] approximate: ",
    ),
    ErrorCase(
        "gelu/int", lambda T: T.nn.functional.gelu(_array(T, [2], "int64")), TypeError, r"\[gelu\] input: .*int64"
    ),
    ErrorCase("bitwise_and/float", lambda T: _array(T, [2.0], "float32") & 1, TypeError, r"\[bitwise_and\]"),
    ErrorCase(
        "masked_fill/mask",
        lambda T: _array(T, [2.0], "float32").masked_fill(_array(T, [1], "int64"), 0),
        TypeError,
        r"mask: .*bool",
    ),
    ErrorCase(
        "masked_fill/value",
        lambda T: _array(T, [2], "int64").masked_fill(_array(T, [1], "bool"), 0.5),
        TypeError,
        r"value: ",
    ),
    ErrorCase(
        "glu/odd",
        lambda T: T.nn.functional.glu(_array(T, [1.0, 2, 3], "float32")),
        ValueError,
        r"\[glu\] input: .*even",
    ),
    ErrorCase(
        "prelu/shape",
        lambda T: T.prelu(_array(T, [[1.0, 2]], "float32"), _array(T, [1.0, 2, 3], "float32")),
        ValueError,
        r"\[prelu\] weight",
    ),
    ErrorCase("sin_/int", lambda T: _array(T, [1, 2], "int64").sin_(), TypeError, r"\[sin_\]"),
    ErrorCase(
        "pow_/shape",
        lambda T: _array(T, [1.0, 2], "float32").pow_(_array(T, [[1.0], [2]], "float32")),
        ValueError,
        r"\[pow_\]",
    ),
    ErrorCase("celu/zero", lambda T: T.celu(_array(T, [1.0], "float32"), 0.0), ValueError, r"\[celu\] alpha"),
]
