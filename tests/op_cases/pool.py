"""Cases of the pooling ops."""

import numpy as np
from cases import Case, ErrorCase, args, distinct, normal

from op_cases.conv import functional

HALVES = ("float32", "float64", "float16", "bfloat16")


def pool(op, *positional, **keywords):
    return lambda T, x: getattr(functional(T), op)(x, *positional, **keywords)


def with_nan(rng):
    x = rng.standard_normal((2, 3, 9, 9))
    x[0, 1, 4, 4] = np.nan
    x[1, 0, :, :] = -np.inf
    return [x]


def unpool(axes, kernel, **keywords):
    def run(T, x):
        f = functional(T)
        y, i = getattr(f, f"max_pool{axes}d")(x, kernel, return_indices=True)
        return getattr(f, f"max_unpool{axes}d")(y * 2, i, kernel, **keywords)

    return run


CASES = [
    Case("max_pool1d", pool("max_pool1d", 3), args(distinct(2, 3, 17))),
    Case("max_pool2d", pool("max_pool2d", 2), args(distinct(2, 3, 8, 8)), dtypes=("float32", "float64")),
    Case(
        "max_pool2d/half",
        lambda T, x: functional(T).max_pool2d(x, 2),
        args(normal(2, 3, 8, 8)),
        dtypes=HALVES,
        grad=False,
    ),
    Case("max_pool2d/overlap", pool("max_pool2d", 3, 2, 1), args(distinct(2, 3, 9, 11))),
    Case("max_pool2d/wide", pool("max_pool2d", (2, 3), (1, 2)), args(distinct(1, 2, 4, 300))),
    Case("max_pool2d/dilated", pool("max_pool2d", 3, 1, 1, 2), args(distinct(2, 3, 9, 11))),
    Case("max_pool2d/ceil", pool("max_pool2d", 3, 2, 1, ceil_mode=True), args(distinct(2, 3, 8, 10))),
    Case("max_pool2d/ceil beyond", pool("max_pool2d", 2, 3, ceil_mode=True), args(distinct(2, 3, 7, 6))),
    Case("max_pool2d/small planes", pool("max_pool2d", 2, return_indices=True), args(distinct(7, 5, 4, 5))),
    Case(
        "max_pool2d/bands",
        pool("max_pool2d", 3, 2, 1, return_indices=True),
        args(distinct(1, 2, 70, 150)),
        second=False,
    ),
    Case("max_pool2d/vector edges", pool("max_pool2d", (3, 2), 1, return_indices=True), args(distinct(1, 3, 6, 34))),
    Case("max_pool2d/stride 3", pool("max_pool2d", (4, 3), 3, (2, 1)), args(distinct(2, 2, 11, 52))),
    Case("max_pool2d/indices", pool("max_pool2d", 3, 2, 1, return_indices=True), args(distinct(2, 3, 9, 11))),
    Case("max_pool2d/unbatched", pool("max_pool2d", 3), args(distinct(3, 9, 11))),
    Case("max_pool2d/empty batch", pool("max_pool2d", 3), args(distinct(0, 3, 9, 11))),
    Case("max_pool2d/nan", pool("max_pool2d", 3, 2, return_indices=True), with_nan, grad=False),
    Case("max_pool2d/nan values", pool("max_pool2d", 3, 2), with_nan, grad=False),
    Case("max_pool3d", pool("max_pool3d", 2, (1, 2, 2), (0, 1, 1)), args(distinct(2, 2, 5, 4, 6))),
    Case("avg_pool1d", pool("avg_pool1d", 3, 2, 1), args(normal(2, 3, 17))),
    Case("avg_pool2d", pool("avg_pool2d", 2), args(normal(2, 3, 8, 9)), dtypes=HALVES),
    Case("avg_pool2d/padded", pool("avg_pool2d", 3, 2, 1), args(normal(2, 3, 9, 11))),
    Case("avg_pool2d/exclude", pool("avg_pool2d", 3, 2, 1, count_include_pad=False), args(normal(2, 3, 9, 11))),
    Case("avg_pool2d/ceil", pool("avg_pool2d", 3, 2, 1, True), args(normal(2, 3, 8, 10))),
    Case("avg_pool2d/ceil exclude", pool("avg_pool2d", (2, 3), 2, 1, True, False), args(normal(2, 3, 8, 10))),
    Case("avg_pool2d/divisor", pool("avg_pool2d", 3, 1, divisor_override=5), args(normal(2, 8, 10))),
    Case("avg_pool3d", pool("avg_pool3d", 2, 1, (1, 0, 1)), args(normal(2, 2, 5, 4, 6))),
    Case("adaptive_avg_pool1d", pool("adaptive_avg_pool1d", 5), args(normal(2, 3, 17))),
    Case("adaptive_avg_pool2d", pool("adaptive_avg_pool2d", (3, 7)), args(normal(2, 3, 8, 5)), dtypes=HALVES),
    Case("adaptive_avg_pool2d/one", pool("adaptive_avg_pool2d", 1), args(normal(2, 3, 8, 5))),
    Case("adaptive_avg_pool2d/none", pool("adaptive_avg_pool2d", (None, 2)), args(normal(2, 3, 8, 5))),
    Case("adaptive_avg_pool3d", pool("adaptive_avg_pool3d", (2, 3, 1)), args(normal(2, 2, 5, 4, 6))),
    Case("adaptive_max_pool1d", pool("adaptive_max_pool1d", 5), args(distinct(2, 3, 17))),
    Case("adaptive_max_pool2d", pool("adaptive_max_pool2d", (3, 4)), args(distinct(2, 3, 8, 5))),
    Case(
        "adaptive_max_pool2d/indices",
        pool("adaptive_max_pool2d", (3, 4), return_indices=True),
        args(distinct(2, 3, 8, 5)),
    ),
    Case("adaptive_avg_pool2d/even", pool("adaptive_avg_pool2d", (4, 9)), args(normal(2, 3, 8, 18)), dtypes=HALVES),
    Case("adaptive_avg_pool2d/wide", pool("adaptive_avg_pool2d", (4, 2)), args(normal(2, 3, 8, 18))),
    Case("adaptive_avg_pool3d/even", pool("adaptive_avg_pool3d", (2, 1, 3)), args(normal(2, 2, 4, 3, 6))),
    Case("adaptive_max_pool1d/even", pool("adaptive_max_pool1d", 9), args(distinct(2, 3, 18))),
    Case("adaptive_max_pool2d/even", pool("adaptive_max_pool2d", (4, 9)), args(distinct(2, 3, 8, 18))),
    Case("adaptive_max_pool2d/wide", pool("adaptive_max_pool2d", (4, 2)), args(distinct(2, 3, 8, 18))),
    Case("adaptive_max_pool3d", pool("adaptive_max_pool3d", 2), args(distinct(2, 2, 5, 4, 6))),
    Case("max_unpool1d", unpool(1, 3), args(distinct(2, 3, 17)), second=False),
    Case("max_unpool2d", unpool(2, 2), args(distinct(2, 3, 8, 6)), second=False),
    Case("max_unpool2d/size", unpool(2, 2, output_size=(9, 7)), args(distinct(2, 3, 9, 7)), second=False),
    Case("max_unpool3d", unpool(3, 2), args(distinct(2, 2, 4, 4, 6)), second=False),
]


def wrong(name, op, error, match, shape, *positional, **keywords):
    def run(T):
        return getattr(functional(T), op)(T.from_numpy(np.ones(shape)), *positional, **keywords)

    return ErrorCase(f"{op}/{name}", run, error, match)


ERRORS = [
    wrong("kernel too large", "max_pool2d", ValueError, r"\[max_pool2d\] kernel_size", (2, 3, 4, 4), 5),
    wrong("kernel zero", "max_pool2d", ValueError, r"\[max_pool2d\] kernel_size", (2, 3, 4, 4), 0),
    wrong("stride zero", "max_pool2d", ValueError, r"\[max_pool2d\] stride", (2, 3, 4, 4), 2, 0),
    wrong("padding", "max_pool2d", ValueError, r"\[max_pool2d\] padding: expected at most half", (2, 3, 4, 4), 2, 2, 2),
    wrong("padding negative", "avg_pool2d", ValueError, r"\[avg_pool2d\] padding", (2, 3, 4, 4), 2, 2, -1),
    wrong("dilation overflow", "max_pool2d", ValueError, r"\[max_pool2d\]", (2, 3, 4, 4), 3, 2, 0, 2**62),
    wrong("kernel overflow", "avg_pool2d", ValueError, r"\[avg_pool2d\]", (2, 3, 4, 4), 2**63 - 1, 1, 2**61),
    wrong("rank", "max_pool2d", ValueError, r"\[max_pool2d\] input", (4, 4), 2),
    wrong("empty", "max_pool2d", ValueError, r"\[max_pool2d\] input", (2, 3, 0, 4), 2),
    wrong("divisor", "avg_pool2d", ValueError, r"divisor_override", (2, 3, 4, 4), 2, divisor_override=0),
    wrong("size", "adaptive_avg_pool2d", ValueError, r"output_size", (2, 3, 4, 4), (2, 3, 4)),
    wrong("negative", "adaptive_avg_pool2d", ValueError, r"output_size", (2, 3, 4, 4), -1),
    wrong("huge", "adaptive_avg_pool2d", ValueError, r"adaptive_avg_pool2d", (2, 3, 4, 4), 2**62),
    ErrorCase(
        "max_unpool2d/index",
        lambda T: T._C.max_unpool2d(T.from_numpy(np.ones((1, 1, 2, 2))), T.from_numpy(np.full((1, 1, 2, 2), 16)), 2),
        IndexError,
        r"\[max_unpool2d\] indices: expected positions in \[0, 16\)",
    ),
    ErrorCase(
        "max_unpool2d/negative index",
        lambda T: T._C.max_unpool2d(T.from_numpy(np.ones((1, 1, 2, 2))), T.from_numpy(np.full((1, 1, 2, 2), -1)), 2),
        IndexError,
        r"\[max_unpool2d\] indices",
    ),
    ErrorCase(
        "max_unpool2d/shape",
        lambda T: T._C.max_unpool2d(
            T.from_numpy(np.ones((1, 1, 2, 2))), T.from_numpy(np.ones((1, 1, 2, 3), np.int64)), 2
        ),
        ValueError,
        r"\[max_unpool2d\] indices",
    ),
]
