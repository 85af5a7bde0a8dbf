"""Cases of reading and writing at indices."""

import numpy as np
from cases import Case, ErrorCase, args, booleans, distinct, integers, normal

HALVES = ("float32", "float64", "float16", "bfloat16")


def row(name, fn, *inputs, **options):
    options.setdefault("grad_inputs", [0, 1] if name.endswith("+") else [0])
    return Case(name.rstrip("+"), fn, args(*inputs), **options)


def permutation(n):
    return lambda rng: rng.permutation(n)


def _inplace(change):
    def run(T, x, *rest):
        y = x * 1
        change(T, y, *rest)
        return y * y

    return run


def _set_mask(T, y, v, m):
    y[m] = v * 2


def _set_rows(T, y, v, i):
    y[i] = v * 2


def _add_rows(T, y, v, i):
    y[i] += v * 2


def _set_pairs(T, y, v, i, j):
    y[:, i, j] = v


X = normal(5, 6, 7)
CASES = [
    # Advanced indexing.
    row("index/rows", lambda T, x, i: x[i] * 2, X, integers(-5, 5, 9), dtypes=HALVES),
    row("index/rows2d", lambda T, x, i: x[i] * 2, X, integers(-5, 5, 3, 4)),
    row("index/column", lambda T, x, i: x[:, i] * 2, X, integers(0, 6, 4)),
    row("index/last", lambda T, x, i: x[..., i] * 2, X, integers(0, 7, 4)),
    row("index/pair", lambda T, x, i, j: x[i, j] * 2, X, integers(0, 5, 8), integers(-6, 6, 8)),
    row("index/broadcast", lambda T, x, i, j: x[i[:, None], j] * 2, X, integers(0, 5, 3), integers(-6, 6, 4)),
    row("index/separated", lambda T, x, i, j: x[i, :, j] * 2, X, integers(0, 5, 8), integers(0, 7, 8)),
    row("index/adjacent", lambda T, x, i, j: x[:, i, j] * 2, X, integers(0, 6, 8), integers(0, 7, 8)),
    row("index/mixed", lambda T, x, i: x[1:4, None, i, ::2] * 2, X, integers(0, 6, 2, 3)),
    row("index/int-and-tensor", lambda T, x, i: x[1, :, i] * 2, X, integers(0, 7, 4)),
    row("index/mask", lambda T, x, m: x[m] * 2, X, booleans(5, 6, 7), dtypes=HALVES),
    row("index/mask-rows", lambda T, x, m: x[m] * 2, X, booleans(5)),
    row("index/mask-columns", lambda T, x, m: x[:, m] * 2, X, booleans(6, 7)),
    row(
        "index/mask-and-tensor",
        lambda T, x, m, i: x[m, i] * 2,
        X,
        lambda rng: np.array([1, 0, 1, 1, 0], bool),
        integers(0, 6, 3),
    ),
    row("index/transposed", lambda T, x, i, j: x.transpose(0, 2)[i, j] * 2, X, integers(0, 7, 8), integers(0, 6, 8)),
    row("index/empty", lambda T, x, i: x[i] * 2, X, integers(0, 1, 0)),
    row("index/0d-tensor", lambda T, x, i: x[i] * 2, X, lambda rng: np.array(-2)),
    row("index/int32", lambda T, x, i: x[i] * 2, X, integers(0, 5, 3, dtype="int32")),
    row("setitem/mask+", _inplace(_set_mask), X, normal(7), booleans(5, 6)),
    row("setitem/mask-number+", _inplace(_set_mask), X, normal(), booleans(5, 6, 7)),
    row("setitem/rows+", _inplace(_set_rows), X, normal(5, 1, 7), permutation(5)),
    row("setitem/add+", _inplace(_add_rows), X, normal(3, 6, 7), lambda rng: np.array([4, -5, 2])),
    row(
        "setitem/pairs+",
        _inplace(_set_pairs),
        X,
        normal(5, 4),
        lambda rng: np.array([0, 1, 2, 3]),
        lambda rng: np.array([6, 1, 0, -2]),
    ),
    row(
        "index_put+", lambda T, x, v, i, j: x.index_put((i, j), v) * 2, X, normal(7), permutation(5), integers(0, 6, 5)
    ),
    row("index_put/number+", lambda T, x, v, i: x.index_put((i,), v) * 2, X, normal(), permutation(4), dtypes=HALVES),
    row("index_put/column+", lambda T, x, v, i: x.index_put((i,), v) * 2, X, normal(3, 6, 1), permutation(3)),
    row(
        "index_put/accumulate+",
        lambda T, x, v, i: T.index_put(x, (i,), v, accumulate=True) * 2,
        X,
        normal(9, 6, 7),
        integers(-5, 5, 9),
        dtypes=HALVES,
    ),
    row(
        "index_put_/accumulate+",
        _inplace(lambda T, y, v, i: y.index_put_((i,), v, True)),
        normal(50),
        normal(300),
        integers(0, 50, 300),
    ),
    # One index for all slices.
    row("index_select", lambda T, x, i: x.index_select(1, i) * 2, X, integers(0, 6, 9), dtypes=HALVES),
    row("index_select/0", lambda T, x, i: T.index_select(x, 0, i) * 2, normal(40, 33), integers(0, 40, 100)),
    row("index_select/-1", lambda T, x, i: T.index_select(x, -1, i) * 2, X, integers(0, 7, 4)),
    row(
        "index_add+", lambda T, x, s, i: x.index_add(1, i, s) * 2, X, normal(5, 9, 7), integers(0, 6, 9), dtypes=HALVES
    ),
    row(
        "index_add/rows+",
        lambda T, x, s, i: x.index_add(0, i, s) * 2,
        normal(30, 147),
        normal(200, 147),
        integers(0, 30, 200),
        dtypes=HALVES,
        tolerance=2.0,
    ),
    row(
        "index_add/rows of slices+",
        lambda T, x, s, i: x.t().index_add(0, i, s.t()[:, 1:]) * 2,
        normal(32, 20),
        normal(33, 50),
        integers(0, 20, 50),
        dtypes=HALVES,
        tolerance=2.0,
    ),
    row(
        "index_add/alpha+",
        lambda T, x, s, i: T.index_add(x, 0, i, s, alpha=-1.5) * 2,
        X,
        normal(9, 6, 7),
        integers(0, 5, 9),
    ),
    row(
        "index_add_+",
        _inplace(lambda T, y, s, i: y.index_add_(0, i, s)),
        normal(30, 65),
        normal(200, 65),
        integers(0, 30, 200),
        tolerance=2.0,
    ),
    row(
        "index_copy+", lambda T, x, s, i: x.index_copy(1, i, s) * 2, X, normal(5, 3, 7), lambda rng: np.array([4, 0, 1])
    ),
    row(
        "index_copy_+",
        _inplace(lambda T, y, s, i: y.index_copy_(0, i, s)),
        X,
        normal(2, 6, 7),
        lambda rng: np.array([4, 0]),
    ),
    row("index_fill", lambda T, x, i: x.index_fill(1, i, 3.5) * x, X, integers(0, 6, 3)),
    row("index_fill/tensor+", lambda T, x, v, i: x.index_fill(2, i, v) * 2, X, normal(), lambda rng: np.array([0, 5])),
    row("index_fill_", _inplace(lambda T, y, i: y.index_fill_(0, i, -1)), X, integers(0, 5, 3)),
    # One index per element.
    row("gather", lambda T, x, i: x.gather(1, i) * 2, X, integers(0, 6, 5, 3, 7), dtypes=HALVES),
    row("gather/last", lambda T, x, i: T.gather(x, -1, i) * 2, X, integers(0, 7, 4, 6, 9)),
    row("gather/first", lambda T, x, i: T.gather(x, 0, i) * 2, X, integers(0, 5, 8, 5, 3)),
    row("gather/column", lambda T, x, i: T.gather(x, 1, i) * 2, normal(33, 10), integers(0, 10, 33, 1)),
    row("gather/0d", lambda T, x, i: T.gather(x, 0, i) * 2, normal(), lambda rng: np.array(0)),
    row(
        "scatter+",
        lambda T, x, s, i: x.scatter(0, i, s) * 2,
        normal(9, 6),
        normal(4, 6),
        lambda rng: np.array([rng.permutation(9)[:4] for _ in range(6)]).T,
    ),
    row(
        "scatter/larger-src+",
        lambda T, x, s, i: x.scatter(1, i, s) * 2,
        normal(5, 6),
        normal(4, 5),
        lambda rng: np.array([[0, 1, 5], [3, 4, 2]]),
        grad=False,
    ),
    row("scatter/value", lambda T, x, i: x.scatter(1, i, 2.5) * x, normal(5, 6), integers(0, 6, 4, 3)),
    row("scatter_/value", _inplace(lambda T, y, i: y.scatter_(1, i, 1.0)), normal(5, 6), integers(0, 6, 5, 1)),
    row(
        "scatter/add+",
        lambda T, x, s, i: x.scatter(1, i, s, reduce="add"),
        normal(5, 6),
        normal(5, 4),
        integers(0, 6, 5, 4),
        grad=False,
    ),
    row(
        "scatter/multiply+",
        lambda T, x, s, i: x.scatter(1, i, s, reduce="multiply"),
        normal(5, 6),
        normal(5, 4),
        integers(0, 6, 5, 4),
        grad=False,
    ),
    row(
        "scatter_add+",
        lambda T, x, s, i: x.scatter_add(0, i, s) * 2,
        normal(4, 6),
        normal(9, 6),
        integers(0, 4, 9, 6),
        dtypes=HALVES,
    ),
    row(
        "scatter_add/last+",
        lambda T, x, s, i: T.scatter_add(x, 2, i, s) * 2,
        X,
        normal(5, 6, 20),
        integers(0, 7, 5, 6, 20),
    ),
    row(
        "scatter_add_+",
        _inplace(lambda T, y, s, i: y.scatter_add_(0, i, s)),
        normal(20),
        normal(900),
        integers(0, 20, 900),
        tolerance=4.0,
    ),
    *[
        row(
            f"scatter_reduce/{how}{'' if keep else '-fresh'}+",
            lambda T, x, s, i, how=how, keep=keep: T.scatter_reduce(x, 1, i, s, how, include_self=keep) * 2,
            distinct(4, 5) if how.startswith("a") else normal(4, 5),
            distinct(4, 8) if how.startswith("a") else normal(4, 8),
            integers(0, 5, 4, 8),
            second=how != "mean" or True,
        )
        for how in ("sum", "prod", "mean", "amax", "amin")
        for keep in (True, False)
    ],
    *[
        row(
            f"scatter_reduce/{how}-{dtype}",
            lambda T, x, s, i, how=how: T.scatter_reduce(x, 0, i, s, how, include_self=False),
            integers(0, 2, 3, 7, dtype=dtype),
            integers(0, 2, 5, 7, dtype=dtype),
            integers(0, 3, 5, 7),
            grad=False,
            exact=True,
        )
        for how in ("amax", "amin")
        for dtype in ("bool", "uint8", "int8", "int16", "int32", "int64")
    ],
    row(
        "scatter_reduce/int",
        lambda T, x, s, i: T.scatter_reduce(x, 0, i, s, "mean"),
        integers(-99, 99, 4),
        integers(-99, 99, 30),
        integers(0, 4, 30),
        grad=False,
        exact=True,
    ),
    row("take", lambda T, x, i: x.take(i) * 2, X, integers(-210, 210, 4, 5)),
    row("take_along_dim", lambda T, x, i: T.take_along_dim(x, i, 1) * 2, X, integers(0, 6, 1, 4, 7)),
    row("take_along_dim/flat", lambda T, x, i: T.take_along_dim(x, i) * 2, X, integers(0, 210, 9)),
    row("put_+", _inplace(lambda T, y, s, i: y.put_(i, s)), X, normal(4), lambda rng: np.array([3, 100, -1, 7])),
    row(
        "put_/accumulate+",
        _inplace(lambda T, y, s, i: y.put_(i, s, accumulate=True)),
        X,
        normal(4),
        lambda rng: np.array([3, 3, -1, 7]),
    ),
    row("masked_select", lambda T, x, m: x.masked_select(m) * 2, X, booleans(6, 1)),
    row("masked_scatter+", lambda T, x, s, m: x.masked_scatter(m, s) * 2, X, normal(300), booleans(6, 7)),
    row("masked_scatter_+", _inplace(lambda T, y, s, m: y.masked_scatter_(m, s)), X, normal(300), booleans(6, 7)),
    # Finding.
    row("nonzero", lambda T, m: T.nonzero(m), booleans(5, 6, 7), grad=False, exact=True),
    row("nonzero/long", lambda T, m: m.nonzero(), booleans(40000), grad=False, exact=True),
    row("nonzero/0d", lambda T, m: m.nonzero(), booleans(), grad=False, exact=True),
    row("nonzero/tuple", lambda T, x: T.nonzero(x, as_tuple=True), integers(-1, 2, 5, 6), grad=False, exact=True),
    row("argwhere", lambda T, x: T.argwhere(x), integers(-1, 2, 5, 6), grad=False, exact=True),
    row("where/condition", lambda T, m: T.where(m), booleans(5, 6), grad=False, exact=True),
]


def error(name, fn, match, kind=IndexError):
    return ErrorCase(name, fn, kind, match)


ERRORS = [
    error(
        "index/range",
        lambda T: T.ones(5, 3)[T.tensor([0, 7])],
        r"\[index\] index: expected indices in \[-5, 4\] for axis 0 of shape \(5, 3\), got 7 at position 1",
    ),
    error("index/smallest", lambda T: T.ones(5)[T.tensor([-(2**63)])], r"got -9223372036854775808"),
    error("index/pair", lambda T: T.ones(5, 3)[T.tensor([0, 1]), T.tensor([1, -4])], r"axis 1 .*got -4"),
    error("index/empty-axis", lambda T: T.ones(0, 3)[T.tensor([0])], r"\[-0, -1\]|\[0, -1\]"),
    error("index/float", lambda T: T.ones(5)[T.tensor([0.5])], r"float32"),
    error("index/float-number", lambda T: T.ones(5)[1.5], r"float"),
    error("index/text", lambda T: T.ones(5)["a"], r"str"),
    error("index/many", lambda T: T.ones(5)[0, 0], r"too many indices"),
    error("index/many-tensors", lambda T: T.ones(5)[T.tensor([0]), T.tensor([0])], r"too many indices"),
    error("index/mask", lambda T: T.ones(5)[T.ones(4, dtype=T.bool)], r"mask of shape \(4,\)"),
    error("index/ellipses", lambda T: T.ones(5)[..., ...], r"ellipsis"),
    error("index/broadcast", lambda T: T.ones(5, 5)[T.tensor([0, 1]), T.tensor([0, 1, 2])], r"broadcast", Exception),
    error("index/number", lambda T: T.ones(5)[5], r"got 5"),
    error("index/wide", lambda T: T.ones(5)[2**70], r"64 bits"),
    error("index/step", lambda T: T.ones(5)[::-1], r"positive", ValueError),
    error(
        "setitem/shape",
        lambda T: T.ones(5, 3).__setitem__(T.tensor([0, 1]), T.ones(4)),
        r"broadcast together, got \(4,\) and \(2, 3\)",
        ValueError,
    ),
    error("setitem/text", lambda T: T.ones(5).__setitem__(0, "a"), r"str", TypeError),
    error(
        "setitem/leaf", lambda T: T.ones(5, requires_grad=True).__setitem__(T.tensor([0]), 1.0), r"leaf", RuntimeError
    ),
    error("setitem/expanded", lambda T: T.ones(1).expand(5).__setitem__(T.tensor([0]), 1.0), r"clone", RuntimeError),
    error(
        "index_select/range",
        lambda T: T.ones(5, 3).index_select(1, T.tensor([3])),
        r"\[index_select\] index: expected indices in \[0, 2\] for axis 1",
    ),
    error("index_select/2d", lambda T: T.ones(5, 3).index_select(1, T.zeros(1, 1, dtype=T.int64)), r"1-d", ValueError),
    error(
        "index_add/shape",
        lambda T: T.ones(5, 3).index_add(0, T.tensor([1]), T.ones(2, 3)),
        r"\(1, 3\), got \(2, 3\)",
        ValueError,
    ),
    error("gather/negative", lambda T: T.ones(5, 3).gather(1, T.zeros(1, 1, dtype=T.int64) - 1), r"got -1"),
    error("gather/rank", lambda T: T.ones(5, 3).gather(1, T.tensor([0])), r"2 dimensions", ValueError),
    error("gather/large", lambda T: T.ones(5, 3).gather(1, T.zeros(6, 1, dtype=T.int64)), r"no larger", ValueError),
    error("gather/float", lambda T: T.ones(5).gather(0, T.zeros(1)), r"\.long\(\)", TypeError),
    error("scatter/src", lambda T: T.ones(5).scatter(0, T.arange(4), T.ones(3)), r"at least as large", ValueError),
    error("scatter/range", lambda T: T.ones(5).scatter_(0, T.tensor([9]), 1.0), r"got 9"),
    error(
        "scatter/reduce",
        lambda T: T.ones(5).scatter(0, T.tensor([1]), 1.0, reduce="max"),
        r"'add' or 'multiply'",
        ValueError,
    ),
    error(
        "scatter_reduce/name",
        lambda T: T.ones(5).scatter_reduce(0, T.tensor([1]), T.ones(1), "median"),
        r"'median'",
        ValueError,
    ),
    error("take/range", lambda T: T.ones(5, 3).take(T.tensor([15])), r"got 15"),
    error("masked_select/dtype", lambda T: T.ones(3).masked_select(T.ones(3)), r"bool", TypeError),
    error(
        "masked_scatter/short",
        lambda T: T.ones(3).masked_scatter(T.ones(3, dtype=T.bool), T.ones(2)),
        r"at least 3",
        ValueError,
    ),
    error("item/many", lambda T: T.ones(3).item(), r"one element", ValueError),
]
