"""Cases of sorting, selection, order statistics, unique values, searching and counting."""

import numpy as np
from cases import Case, ErrorCase, args, booleans, distinct, integers, normal, uniform

HALF = ("float32", "float64", "float16", "bfloat16")


def ties(*shape):
    return lambda rng: rng.integers(-3, 4, shape).astype(np.float64)


def special(rng):
    x = rng.standard_normal((3, 12))
    x[0, [1, 5]] = np.nan
    x[1, [0, 3]] = [np.inf, -np.inf]
    x[1, 5:8] = [0.0, -0.0, np.nan]
    return x


def quantiles(rng):
    return np.array([0.0, 0.1, 0.5, 0.77, 1.0])


def row(name, fn, *inputs, **kw):
    return Case(name, fn, args(*inputs), **kw)


def values(**kw):
    return {"grad": False, "exact": True, **kw}


CASES = [
    row("sort", lambda T, x: x.sort(), distinct(7, 33)),
    row("sort/descending", lambda T, x: T.sort(x, 0, descending=True), distinct(33, 5)),
    row("sort/middle", lambda T, x: T.sort(x, dim=1), distinct(3, 9, 4)),
    row(
        "sort/stable",
        lambda T, x: (*T.sort(x, stable=True), *T.sort(x, descending=True, stable=True)),
        ties(5, 70),
        **values(dtypes=HALF),
    ),
    row("sort/long", lambda T, x: T.sort(x, stable=True), ties(2, 5000), **values()),
    row("sort/radix", lambda T, x: T.sort(x, descending=True, stable=True), normal(3000), **values(dtypes=HALF)),
    row("sort/parallel", lambda T, x: T.sort(x, stable=True), normal(300_000), **values(layouts=False)),
    row(
        "sort/special",
        lambda T, x: (*T.sort(x, stable=True), *T.sort(x, stable=True, descending=True)),
        special,
        **values(dtypes=HALF),
    ),
    row(
        "sort/int",
        lambda T, x: (*T.sort(x, stable=True), T.argsort(x, dim=0, descending=True, stable=True)),
        integers(-300, 300, 6, 1500),
        **values(),
    ),
    row("sort/int8", lambda T, x: T.sort(x, dim=0, stable=True), integers(-128, 127, 60, 3, dtype="int8"), **values()),
    row("sort/uint8", lambda T, x: T.sort(x, stable=True), integers(0, 255, 2000, dtype="uint8"), **values()),
    row("sort/bool", lambda T, x: T.sort(x, stable=True), booleans(40), **values()),
    row("sort/0d", lambda T, x: x.sort(), normal(), **values()),
    row("sort/empty", lambda T, x: x.sort(1), normal(3, 0), **values()),
    row("argsort", lambda T, x: (x.argsort(), x.argsort(0, True)), distinct(8, 9), **values()),
    row("msort", lambda T, x: T.msort(x), distinct(8, 3)),
    row("topk", lambda T, x: x.topk(5), distinct(4, 900)),
    row("topk/smallest", lambda T, x: T.topk(x, 3, 0, largest=False), distinct(30, 4)),
    row("topk/all", lambda T, x: T.topk(x, 9, sorted=True), distinct(2, 9)),
    row("topk/long", lambda T, x: T.topk(x, 40), distinct(20_000), **values(dtypes=HALF[:2])),
    row("topk/int", lambda T, x: T.topk(x, 7).values, integers(-500, 500, 3, 700), **values()),
    row("topk/nan", lambda T, x: T.topk(x, 3).values, special, **values()),
    row("topk/none", lambda T, x: T.topk(x, 0), distinct(3, 5), **values()),
    row("kthvalue", lambda T, x: x.kthvalue(4), distinct(5, 100)),
    row("kthvalue/keepdim", lambda T, x: T.kthvalue(x, 2, 0, keepdim=True), distinct(5, 4, 3)),
    row("median", lambda T, x: x.median(), distinct(37)),
    row("median/dim", lambda T, x: x.median(1), distinct(5, 100)),
    row("median/first", lambda T, x: x.median(0, keepdim=True), distinct(6, 5, 2)),
    row(
        "median/nan",
        lambda T, x: (x.median(), x.median(1).values, x.nanmedian(), x.nanmedian(1).values),
        special,
        **values(),
    ),
    row("median/int", lambda T, x: x.median(), integers(-9, 9, 50), **values()),
    row("nanmedian", lambda T, x: T.nanmedian(x, 1), distinct(4, 9)),
    row("mode", lambda T, x: T.mode(x, 1).values, ties(6, 40), **values()),
    row("mode/int", lambda T, x: T.mode(x, 0, keepdim=True).values, integers(0, 4, 30, 3), **values()),
    row("quantile", lambda T, x: T.quantile(x, 0.3), distinct(41)),
    row("quantile/dim", lambda T, x: x.quantile(0.8, 1, keepdim=True), distinct(5, 22)),
    row("quantile/many", lambda T, x, q: T.quantile(x, q, dim=0), distinct(13, 4), quantiles, grad_inputs=[0]),
    row(
        "quantile/many-keep", lambda T, x, q: T.quantile(x, q, keepdim=True), distinct(3, 4), quantiles, grad_inputs=[0]
    ),
    row(
        "quantile/interpolation",
        lambda T, x, q: tuple(T.quantile(x, q, 1, interpolation=i) for i in ("lower", "higher", "midpoint", "nearest")),
        distinct(3, 8),
        quantiles,
        grad_inputs=[0],
    ),
    row("quantile/nan", lambda T, x: T.quantile(x, 0.5, 1), special, grad=False),
    row("unique", lambda T, x: T.unique(x), ties(7, 30), **values()),
    row(
        "unique/all", lambda T, x: x.unique(return_inverse=True, return_counts=True), integers(-5, 5, 6, 9), **values()
    ),
    row("unique/inverse", lambda T, x: T.unique(x, return_inverse=True), ties(40), **values()),
    row(
        "unique/dim",
        lambda T, x: T.unique(x, return_inverse=True, return_counts=True, dim=0),
        integers(0, 2, 20, 3),
        **values(),
    ),
    row("unique/dim-1", lambda T, x: T.unique(x, dim=1), integers(0, 2, 2, 20), **values()),
    row("unique/empty", lambda T, x: T.unique(x, return_inverse=True, return_counts=True), normal(0), **values()),
    row(
        "unique_consecutive",
        lambda T, x: T.unique_consecutive(x, return_inverse=True, return_counts=True),
        integers(0, 2, 50),
        **values(),
    ),
    row("unique_consecutive/dim", lambda T, x: T.unique_consecutive(x, dim=0), integers(0, 2, 30, 2), **values()),
    row(
        "searchsorted",
        lambda T, a, v: (T.searchsorted(a.sort().values, v), T.searchsorted(a.sort().values, v, right=True)),
        normal(50),
        normal(4, 9),
        **values(),
    ),
    row(
        "searchsorted/rows",
        lambda T, a, v: T.searchsorted(a.sort().values, v, side="right", out_int32=True),
        ties(4, 9),
        ties(4, 3),
        **values(),
    ),
    row(
        "searchsorted/sorter",
        lambda T, a, v: T.searchsorted(a, v, sorter=a.argsort()),
        distinct(30),
        normal(7),
        **values(),
    ),
    row("searchsorted/number", lambda T, a: T.searchsorted(a.sort().values, 0.25), normal(30), **values()),
    row(
        "bucketize",
        lambda T, v, b: (T.bucketize(v, b), T.bucketize(v, b, right=True)),
        ties(6, 5),
        lambda rng: np.arange(-2.0, 3.0),
        **values(),
    ),
    row("bincount", lambda T, x: (T.bincount(x), x.bincount(minlength=30)), integers(0, 20, 500), **values()),
    row("bincount/weights", lambda T, x, w: T.bincount(x, w), integers(0, 9, 200), normal(200), grad=False),
    row("histc", lambda T, x: (x.histc(8), T.histc(x, bins=5, min=-1, max=2)), normal(500), **values()),
    row("logcumsumexp", lambda T, x: x.logcumsumexp(1), normal(5, 40), dtypes=HALF),
    row("logcumsumexp/first", lambda T, x: T.logcumsumexp(x, 0), uniform(-30, 30, 20, 5)),
    row("cummax", lambda T, x: x.cummax(1), distinct(5, 30)),
    row("cummin", lambda T, x: T.cummin(x, 0), distinct(30, 5)),
    row("cummax/ties", lambda T, x: (*x.cummax(0), *x.cummin(1)), ties(9, 30), **values()),
    row("cummax/nan", lambda T, x: (*x.cummax(1), *x.cummin(0)), special, **values()),
    row("cummax/int", lambda T, x: x.cummax(0), integers(-9, 9, 30, 3, dtype="int32"), **values()),
    row("diff", lambda T, x: x.diff(), normal(4, 9)),
    row(
        "diff/twice", lambda T, x, a, b: T.diff(x, 2, 0, prepend=a, append=b), normal(4, 9), normal(1, 9), normal(2, 9)
    ),
    row("diff/bool", lambda T, x: x.diff(), booleans(9), **values()),
]

ERRORS = [
    ErrorCase("topk/k", lambda T: T.from_numpy(np.ones((2, 3))).topk(4), ValueError, r"\[topk\] k: .*got 4"),
    ErrorCase("kthvalue/k", lambda T: T.from_numpy(np.ones((2, 3))).kthvalue(0), ValueError, r"\[kthvalue\] k"),
    ErrorCase("sort/axis", lambda T: T.from_numpy(np.ones((2, 3))).sort(2), IndexError, r"\[sort\] dim"),
    ErrorCase("median/empty", lambda T: T.from_numpy(np.ones((2, 0))).median(1), IndexError, r"\[median\] dim"),
    ErrorCase("quantile/range", lambda T: T.from_numpy(np.ones(3)).quantile(1.5), ValueError, r"\[quantile\] q"),
    ErrorCase(
        "quantile/name",
        lambda T: T.from_numpy(np.ones(3)).quantile(0.5, interpolation="x"),
        ValueError,
        r"\[quantile\] interpolation",
    ),
    ErrorCase(
        "searchsorted/rows",
        lambda T: T.searchsorted(T.from_numpy(np.ones((2, 3))), T.from_numpy(np.ones((3, 3)))),
        ValueError,
        r"\[searchsorted\] input",
    ),
    ErrorCase(
        "searchsorted/sorter",
        lambda T: T.searchsorted(T.from_numpy(np.ones(3)), 1.0, sorter=T.from_numpy(np.array([0, 1, 9]))),
        IndexError,
        r"\[searchsorted\] sorter",
    ),
    ErrorCase(
        "bincount/negative", lambda T: T.bincount(T.from_numpy(np.array([1, -1]))), ValueError, r"\[bincount\] input"
    ),
    ErrorCase("histc/range", lambda T: T.histc(T.from_numpy(np.ones(3)), 4, 2, 1), ValueError, r"\[histc\] min"),
    ErrorCase("diff/0d", lambda T: T.diff(T.from_numpy(np.array(1.0))), ValueError, r"\[diff\] input"),
]
