"""Cases of the reductions, extrema and scans."""

import math

import numpy as np
from cases import Case, ErrorCase, args, away_from, booleans, distinct, integers, normal, uniform

HALF = ("float32", "float64", "float16", "bfloat16")


def nan_at(*positions):
    def make(rng):
        x = rng.standard_normal((4, 9))
        x.reshape(-1)[list(positions)] = np.nan
        return x

    return make


def zeros_at(shape, *positions):
    def make(rng):
        x = rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)
        x.reshape(-1)[list(positions)] = 0
        return x

    return make


def ties(*shape):
    return lambda rng: rng.integers(-2, 3, shape).astype(np.float64)


def row(name, fn, inputs, **kw):
    return Case(name, fn, args(inputs) if callable(inputs) else args(*inputs), **kw)


CASES = [
    row("sum/all", lambda T, x: x.sum(), normal(331, 403), dtypes=HALF),
    row("sum/long", lambda T, x: x.sum(), normal(300_001), grad=False),
    row("sum/axis-last", lambda T, x: x.sum(-1), normal(7, 5003), dtypes=HALF),
    row("sum/axis-short", lambda T, x: x.sum(1), normal(1021, 10)),
    row("sum/axis-first", lambda T, x: x.sum(0), normal(517, 1031), dtypes=HALF, grad=False),
    row("sum/axis-narrow", lambda T, x: x.sum(0), normal(5003, 3)),
    row("sum/axis-tall", lambda T, x: x.sum(0), normal(20011, 17), grad=False),
    row("sum/axis-middle", lambda T, x: x.sum(1, keepdim=True), normal(9, 131, 67)),
    row("sum/outer-axes", lambda T, x: x.sum((0, 2)), normal(11, 13, 49)),
    row("sum/outer-axes-wide", lambda T, x: x.sum((0, 3)), normal(3, 5, 7, 600), grad=False),
    row("sum/expanded", lambda T, x: x.expand(5, 7, 3).sum((0, 1)), normal(7, 1), layouts=False),
    row("sum/size-1", lambda T, x: x.sum(1), normal(9, 1, 4)),
    row("sum/0d", lambda T, x: x.sum(), normal()),
    row("sum/0d-dim", lambda T, x: x.sum(0), normal()),
    row("sum/empty", lambda T, x: x.sum(0), normal(0, 3)),
    row("sum/none", lambda T, x: x.sum(1), normal(0, 3)),
    row("sum/int", lambda T, x: x.sum(1), integers(-1000, 1000, 7, 5001, dtype="int32"), grad=False, exact=True),
    row("sum/int8", lambda T, x: x.sum(), integers(-100, 100, 333, dtype="int8"), grad=False, exact=True),
    row("sum/bool", lambda T, x: (x.sum(), x.sum(0)), booleans(63, 131), grad=False, exact=True),
    row("sum/dtype", lambda T, x: x.sum(1, dtype=T.float64), normal(5, 100)),
    row("sum/bool-to-float", lambda T, x: x.sum(dtype=T.float32), booleans(100), grad=False),
    row("sum/axis-keyword", lambda T, x: x.sum(axis=1, keepdims=True), normal(5, 6)),
    row("mean", lambda T, x: x.mean(), normal(101, 33), dtypes=HALF),
    row("mean/dims", lambda T, x: x.mean((0, 2), keepdim=True), normal(5, 7, 11)),
    row("mean/int-dtype", lambda T, x: x.mean(dtype=T.float32), integers(0, 9, 77), grad=False),
    row("mean/empty", lambda T, x: x.mean(), normal(0), grad=False),
    row("nansum", lambda T, x: T.nansum(x, 1), nan_at(3, 4, 20), grad=False),
    row("nansum/clean", lambda T, x: T.nansum(x), normal(4, 9)),
    row("nanmean", lambda T, x: T.nanmean(x, 0), nan_at(3, 4, 20), grad=False),
    row("prod", lambda T, x: x.prod(), uniform(0.8, 1.2, 6, 11)),
    row("prod/dim", lambda T, x: x.prod(1, keepdim=True), uniform(0.5, 1.5, 4, 9)),
    row("prod/one-zero", lambda T, x: x.prod(1), zeros_at((4, 5), 2, 9)),
    row("prod/two-zeros", lambda T, x: x.prod(0), zeros_at((4, 5), 2, 12, 4)),
    row("prod/zero-all", lambda T, x: x.prod(), zeros_at((7,), 3)),
    row("prod/empty", lambda T, x: x.prod(0), normal(0, 3)),
    row("prod/0d", lambda T, x: x.prod(), normal()),
    row("prod/int", lambda T, x: x.prod(1), integers(-5, 6, 9, 7, dtype="int16"), grad=False, exact=True),
    row("var", lambda T, x: x.var(), normal(131, 67), dtypes=HALF),
    # The oracle itself is 17 ULP away from the exact variance here.
    row("var/rows", lambda T, x: x.var(1), normal(7, 5003), tolerance=2),
    row("var/columns", lambda T, x: x.var(0, keepdim=True), normal(517, 70)),
    # The oracle itself loses digits to the offset (Welford's update in float64).
    row("var/offset", lambda T, x: (x + 1000).var(1), normal(5, 3001), dtypes=("float64",), tolerance=32),
    row("var/biased", lambda T, x: x.var(1, unbiased=False), normal(7, 13)),
    row("var/all-biased", lambda T, x: x.var(unbiased=False), normal(7, 13)),
    row("var/correction", lambda T, x: x.var((0, 2), correction=3, keepdim=True), normal(5, 4, 6)),
    row("short/sum", lambda T, x: (x.sum(2), x.var(2), x.logsumexp(2)), normal(3, 131, 10)),
    row("short/max", lambda T, x: (*x.max(1), x.amin(1), x.any(1)), ties(200, 7), dtypes=HALF, grad=False, exact=True),
    row(
        "short/int", lambda T, x: (x.sum(1), x.argmin(1)), integers(-9, 9, 131, 5, dtype="int8"), grad=False, exact=True
    ),
    row("var/one", lambda T, x: x.var(1, correction=0), normal(4, 1)),
    row("std", lambda T, x: x.std(), normal(45)),
    row("std/dim", lambda T, x: x.std(0, False, True), normal(45, 5)),
    row("var_mean", lambda T, x: T.var_mean(x, 1), normal(9, 20)),
    row("std_mean", lambda T, x: T.std_mean(x, dim=(0, 1), correction=0), normal(9, 20)),
    row("var_mean/mean-only", lambda T, x: T.var_mean(x, 1)[1], normal(9, 20)),
    row("norm", lambda T, x: x.norm(), normal(33, 65), dtypes=HALF),
    row("norm/fro", lambda T, x: T.norm(x, "fro", dim=(0, 1)), normal(3, 65)),
    row("norm/1", lambda T, x: x.norm(1, 0), away_from([0], 0.1, 33, 5)),
    row("norm/2", lambda T, x: x.norm(2, dim=1, keepdim=True), normal(33, 5)),
    row("norm/2-zero", lambda T, x: (x * 0).norm(2, 1), normal(3, 5), second=False),
    row("norm/3", lambda T, x: x.norm(3, 1), away_from([0], 0.1, 5, 7)),
    row(
        "norm/half", lambda T, x: x.norm(0.5, (0, 1), keepdim=True), away_from([0], 0.1, 5, 7), tolerance=4
    ),  # squares the relative error of pow
    row("norm/3-zero", lambda T, x: (x * 0).norm(3, 1), normal(3, 5), second=False),
    row("norm/0", lambda T, x: x.norm(0, 1), zeros_at((4, 5), 2, 9), grad=False),
    row("norm/inf", lambda T, x: x.norm(math.inf, 1), distinct(6, 7)),
    row("norm/-inf", lambda T, x: x.norm(-math.inf, 0), distinct(6, 7)),
    row("logsumexp", lambda T, x: x.logsumexp(1), normal(7, 133), dtypes=HALF),
    # The gradient exp(x - y) inherits the rounding of y: |y| = 300 times that of a value near 1.
    row("logsumexp/columns", lambda T, x: T.logsumexp(x, 0, keepdim=True), uniform(-300, 300, 131, 9), tolerance=16),
    row("logsumexp/dims", lambda T, x: T.logsumexp(x, (0, 2)), normal(3, 4, 5)),
    row("logsumexp/long", lambda T, x: T.logsumexp(x, 0), normal(40_001), grad=False),
    row("logsumexp/huge", lambda T, x: T.logsumexp(x * 1e4, 0), normal(5, 40), dtypes=("float64",)),
    row(
        "logsumexp/infinite",
        lambda T, x: T.logsumexp(x / 0.0, 1),
        lambda rng: np.array([[-1.0, -2.0], [1.0, -1.0]]),
        grad=False,
    ),
    row(
        "any", lambda T, x: (x.any(), x.any(1), x.all(), x.all(0, keepdim=True)), booleans(5, 7), grad=False, exact=True
    ),
    row("any/float", lambda T, x: (x.any(0), x.all(0)), ties(4, 600), grad=False, exact=True),
    row("any/nan", lambda T, x: (x * 0).any(1), nan_at(5), grad=False, exact=True),
    row("any/empty", lambda T, x: (x.any(), x.all(), x.any(0), x.all(0)), normal(0, 3), grad=False, exact=True),
    row("any/uint8", lambda T, x: (x.any(), x.all()), integers(0, 2, 30, dtype="uint8"), grad=False, exact=True),
    row(
        "count_nonzero",
        lambda T, x: (T.count_nonzero(x), T.count_nonzero(x, dim=(0, 1)), x.count_nonzero(1)),
        ties(6, 7, 5),
        grad=False,
        exact=True,
    ),
    row(
        "amax",
        lambda T, x: x.amax(),
        distinct(31, 65),
        dtypes=("float32", "float64", "float16", "bfloat16"),
        exact=True,
        grad=False,
    ),
    row("amax/dims", lambda T, x: x.amax((0, 2)), distinct(5, 4, 7)),
    row("amin/columns", lambda T, x: x.amin(0, keepdim=True), distinct(131, 5)),
    row("amax/ties", lambda T, x: x.amax(1), ties(5, 30), grad=False, exact=True),
    row("amax/nan", lambda T, x: (x.amax(1), x.amin(0)), nan_at(0, 13), grad=False, exact=True),
    row(
        "amax/int",
        lambda T, x: (x.amax(1), x.amin(0), x.amax()),
        integers(-128, 127, 130, 9, dtype="int8"),
        grad=False,
        exact=True,
    ),
    row("amax/bool", lambda T, x: x.amax(1), booleans(5, 3), grad=False, exact=True),
    row("aminmax", lambda T, x: T.aminmax(x, dim=1), distinct(5, 9)),
    row("aminmax/all", lambda T, x: x.aminmax(), distinct(5, 9)),
    row("max/all", lambda T, x: x.max(), distinct(500)),
    row("min/all", lambda T, x: x.min(), distinct(5000, 1)),
    row("max/dim", lambda T, x: x.max(1), distinct(9, 300), dtypes=("float32", "float64")),
    row("max/long", lambda T, x: x.max(1), distinct(2, 20001), grad=False, exact=True),
    row("min/dim", lambda T, x: x.min(0, keepdim=True), distinct(300, 9)),
    row("max/middle", lambda T, x: T.max(x, 1), distinct(3, 131, 600), grad=False, exact=True),
    row("max/ties", lambda T, x: (x.max(1).indices, x.min(0).indices), ties(40, 50), grad=False, exact=True),
    row("max/half", lambda T, x: x.max(1), ties(40, 50), grad=False, exact=True, dtypes=("float16", "bfloat16")),
    row("max/nan", lambda T, x: (*x.max(1), *x.min(0)), nan_at(0, 13, 14), grad=False, exact=True),
    row("max/int", lambda T, x: (*x.max(1), *x.min(0)), integers(-9, 9, 30, 70), grad=False, exact=True),
    row("max/bool", lambda T, x: (*x.max(1), *x.min(0)), booleans(5, 6), grad=False, exact=True),
    row("max/other", lambda T, a, b: (T.max(a, b), a.min(b)), (normal(5, 3), normal(3))),
    row("max/0d", lambda T, x: (*x.max(0), x.argmax()), normal(), exact=True),
    row(
        "argmax",
        lambda T, x: (x.argmax(), x.argmax(0), x.argmin(1, keepdim=True), x.argmin()),
        distinct(70, 130),
        grad=False,
        exact=True,
    ),
    row("argmax/nan", lambda T, x: (x.argmax(), x.argmin(1)), nan_at(7, 13), grad=False, exact=True),
    row("argmax/middle", lambda T, x: (x.argmax(1), x.argmax()), ties(4, 33, 5), grad=False, exact=True),
    row("argmax/keepdim", lambda T, x: x.argmax(keepdim=True), distinct(3, 4), grad=False, exact=True),
    row("cumsum", lambda T, x: x.cumsum(1), normal(7, 300), dtypes=HALF),
    row("cumsum/columns", lambda T, x: x.cumsum(0), normal(50, 131)),
    row("cumsum/middle", lambda T, x: T.cumsum(x, dim=-2), normal(3, 40, 5)),
    row("cumsum/0d", lambda T, x: x.cumsum(0), normal()),
    row("cumsum/empty", lambda T, x: x.cumsum(0), normal(0, 3)),
    row(
        "cumsum/int",
        lambda T, x: (x.cumsum(0), x.cumsum(1, dtype=T.int32)),
        integers(-9, 9, 7, 8, dtype="int16"),
        grad=False,
        exact=True,
    ),
    row("cumsum/bool", lambda T, x: (x.cumsum(0), x.cumsum(0, dtype=T.float32)), booleans(30), grad=False, exact=True),
    row("cumprod", lambda T, x: x.cumprod(1), uniform(0.5, 1.5, 4, 12), dtypes=("float32", "float64")),
    row("cumprod/zeros", lambda T, x: x.cumprod(1), zeros_at((4, 6), 2, 4, 6, 17)),
    row("cumprod/columns", lambda T, x: x.cumprod(0), zeros_at((5, 4), 2, 10, 16)),
    row("cumprod/int", lambda T, x: x.cumprod(1), integers(-3, 4, 4, 6), grad=False, exact=True),
]

ERRORS = [
    ErrorCase("sum/axis", lambda T: T.from_numpy(np.ones((2, 3))).sum(2), IndexError, r"\[sum\] dim: .*got 2"),
    ErrorCase(
        "sum/twice", lambda T: T.from_numpy(np.ones((2, 3))).sum((0, -2)), ValueError, r"\[sum\] dim: .*more than once"
    ),
    ErrorCase("mean/int", lambda T: T.from_numpy(np.ones(3, "int64")).mean(), TypeError, r"\[mean\] input: .*int64"),
    ErrorCase("amax/empty", lambda T: T.from_numpy(np.ones((0, 3))).amax(0), IndexError, r"\[amax\] dim: .*\(0, 3\)"),
    ErrorCase("max/empty", lambda T: T.from_numpy(np.ones((0,))).max(), IndexError, r"\[max\]"),
    ErrorCase("argmax/empty", lambda T: T.from_numpy(np.ones((3, 0))).argmax(1), IndexError, r"\[argmax\]"),
    ErrorCase("argmax/bool", lambda T: T.from_numpy(np.ones(3, bool)).argmax(), TypeError, r"\[argmax\] input: .*bool"),
    ErrorCase("norm/name", lambda T: T.from_numpy(np.ones(3)).norm("nuc"), ValueError, r"\[norm\] p: .*'nuc'"),
    ErrorCase("norm/empty-inf", lambda T: T.from_numpy(np.ones(0)).norm(math.inf), ValueError, r"\[norm\]"),
    ErrorCase("var/int", lambda T: T.from_numpy(np.ones(3, "int32")).var(), TypeError, r"\[var\] input"),
    ErrorCase("cumsum/axis", lambda T: T.from_numpy(np.ones(3)).cumsum(1), IndexError, r"\[cumsum\] dim"),
]
