"""Cases of softmax and its relatives."""

import numpy as np
from cases import Case, ErrorCase, args, normal, uniform

HALF = ("float32", "float64", "float16", "bfloat16")


def masked(rng):
    x = rng.standard_normal((3, 5))
    x[0, 1:3] = -np.inf
    x[1] = -np.inf
    x[2, 0] = np.inf
    return x


CASES = [
    Case("softmax", lambda T, x: T.softmax(x, -1), args(normal(7, 67)), dtypes=HALF),
    Case("softmax/first", lambda T, x: x.softmax(0), args(normal(37, 70)), dtypes=HALF),
    Case("softmax/middle", lambda T, x: x.softmax(dim=1), args(normal(3, 7, 5))),
    Case("softmax/short", lambda T, x: (x.softmax(1), x.log_softmax(1)), args(normal(131, 10)), dtypes=HALF),
    Case("softmax/wide", lambda T, x: x.softmax(1), args(uniform(-80, 80, 2, 5003))),
    Case("softmax/extreme", lambda T, x: T.softmax(x * 1e30, 1), args(normal(5, 33)), grad=False),
    Case(
        "softmax/infinite",
        lambda T, x: (T.softmax(x, 1), T.softmax(x, 0), T.log_softmax(x, 1)),
        args(masked),
        grad=False,
    ),
    Case("softmax/dtype", lambda T, x: T.softmax(x, 1, dtype=T.float64), args(normal(5, 9))),
    Case("softmax/0d", lambda T, x: x.softmax(0), args(normal())),
    Case("softmax/empty", lambda T, x: x.softmax(0), args(normal(0, 3))),
    Case("log_softmax", lambda T, x: T.log_softmax(x, -1), args(normal(7, 67)), dtypes=HALF),
    Case("log_softmax/first", lambda T, x: x.log_softmax(0), args(uniform(-30, 30, 37, 70))),
    Case("log_softmax/middle", lambda T, x: x.log_softmax(1), args(normal(2, 9, 3))),
    Case("log_softmax/0d", lambda T, x: x.log_softmax(-1), args(normal())),
]

ERRORS = [
    ErrorCase("softmax/axis", lambda T: T.softmax(T.from_numpy(np.ones((2, 3))), 2), IndexError, r"\[softmax\] dim"),
    ErrorCase(
        "softmax/int",
        lambda T: T.softmax(T.from_numpy(np.ones(3, "int64")), 0),
        TypeError,
        r"\[softmax\] input: .*int64",
    ),
]
