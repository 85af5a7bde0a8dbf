"""Cases of the core ops: arithmetic, views, sum, matrix product, layer norm."""

import numpy as np
from cases import Case, ErrorCase, args, away_from, integers, normal, uniform

CASES = [
    Case("neg", lambda T, x: -x, args(normal(3, 5))),
    Case("exp", lambda T, x: x.exp(), args(uniform(-20, 20, 67))),
    Case("sqrt", lambda T, x: x.sqrt(), args(uniform(0.1, 9, 4, 7))),
    Case("abs", lambda T, x: x.abs(), args(away_from([0], 0.1, 33))),
    Case(
        "relu",
        lambda T, x: T.relu(x),
        args(away_from([0], 0.1, 5, 13)),
        dtypes=("float32", "float64", "float16", "bfloat16"),
    ),
    Case(
        "add",
        lambda T, a, b: a + b,
        args(normal(4, 5), normal(4, 5)),
        dtypes=("float32", "float64", "float16", "bfloat16"),
    ),
    Case("add/broadcast", lambda T, a, b: a + b, args(normal(4, 1, 5), normal(3, 1))),
    Case("add/alpha", lambda T, a, b: T.add(a, b, alpha=-2.5), args(normal(7), normal(7))),
    Case(
        "add/alpha broadcast",
        lambda T, a, b: T.add(a.t(), b, alpha=3) + T.sub(b, a.t(), alpha=0.5),
        args(normal(5, 7), normal(5)),
        dtypes=("float32", "float64", "float16", "bfloat16"),
    ),
    Case("add_/alpha", lambda T, a, b: (a * 1).add_(b, alpha=-0.5).sub_(b * b, alpha=2), args(normal(33), normal(33))),
    Case(
        "add/alpha int",
        lambda T, a, b: T.add(a, b, alpha=-3).sub(a, alpha=2),
        args(integers(-9, 9, 4, 3), integers(-9, 9, 3)),
        grad=False,
        exact=True,
    ),
    Case("add/alpha 0 of infinity", lambda T, a: T.add(a, a / 0, alpha=0), args(away_from([0], 0.5, 5)), grad=False),
    Case("add/empty", lambda T, a, b: a + b, args(normal(0, 5), normal(1, 5))),
    Case("add/0d", lambda T, a, b: a + b, args(normal(), normal(3))),
    Case("sub/number", lambda T, x: 3 - x * 2, args(normal(9))),
    Case("mul", lambda T, a, b: a * b, args(normal(3, 4), normal(4))),
    Case("mul/square", lambda T, x: x * x, args(normal(3, 4))),
    Case("div", lambda T, a, b: a / b, args(normal(3, 4), away_from([0], 0.5, 4))),
    Case("maximum", lambda T, a, b: T.maximum(a, b), args(normal(50), normal(50))),
    Case("minimum", lambda T, a, b: T.minimum(a, b), args(normal(5, 10), normal(10))),
    Case("lt", lambda T, a, b: a < b, args(normal(50), normal(50)), grad=False, exact=True),
    Case("add/int", lambda T, a, b: a + b, args(integers(-9, 9, 4, 3), integers(-9, 9, 3)), grad=False, exact=True),
    Case("where", lambda T, a, b: T.where(a > 0, a, b), args(away_from([0], 0.1, 6, 7), normal(7))),
    Case("transpose", lambda T, x: x.transpose(0, 2) * 2, args(normal(2, 3, 4))),
    Case("reshape", lambda T, x: x.transpose(0, 1).reshape(-1, 2) * 2, args(normal(4, 3))),
    Case("expand", lambda T, x: x.expand(5, 4, 3) * 2, args(normal(4, 1))),
    Case("slice", lambda T, x: x[1:, ::2] * 3, args(normal(5, 7))),
    Case("select", lambda T, x: x[2] * x[-1], args(normal(5, 7))),
    Case("as_strided", lambda T, x: x.as_strided((3, 4), (2, 1), 1) * 2, args(normal(12)), layouts=False),
    Case("sum", lambda T, x: x.sum(), args(normal(100, 100))),
    Case("sum/rows", lambda T, x: x.sum(1), args(normal(37, 129))),
    Case("sum/columns", lambda T, x: x.sum(0, keepdim=True), args(normal(129, 67))),
    Case("sum/middle", lambda T, x: x.sum((0, 2)), args(normal(5, 6, 7))),
    Case(
        "matmul",
        lambda T, a, b: a @ b,
        args(normal(17, 33), normal(33, 65)),
        dtypes=("float32", "float64", "float16", "bfloat16"),
    ),
    Case("matmul/batched", lambda T, a, b: a @ b, args(normal(2, 1, 3, 4), normal(5, 4, 6))),
    Case("matmul/vector", lambda T, a, b: a @ b, args(normal(3, 4), normal(4))),
    Case("matmul/dot", lambda T, a, b: a @ b, args(normal(7), normal(7))),
    Case(
        "matmul/transposed", lambda T, a, b: a.transpose(0, 1) @ b.transpose(0, 1), args(normal(33, 17), normal(65, 33))
    ),
    Case("matmul/empty", lambda T, a, b: a @ b, args(normal(3, 0), normal(0, 4))),
    Case("inplace/view", lambda T, x, y: _write_row(T, x, y), args(normal(4, 3), normal(3))),
]


def _write_row(T, x, y):
    z = x * 1
    z[1] = y * 2
    z[:, 0].mul_(3)
    return z * z


ERRORS = [
    ErrorCase(
        "add/shape",
        lambda T: T.from_numpy(np.ones((2, 3))) + T.from_numpy(np.ones(4)),
        ValueError,
        r"\[add\].*\(2, 3\).*\(4,\)",
    ),
    ErrorCase(
        "matmul/inner",
        lambda T: T.from_numpy(np.ones((2, 3))) @ T.from_numpy(np.ones((2, 3))),
        ValueError,
        r"\[matmul\]",
    ),
    ErrorCase("view/size", lambda T: T.from_numpy(np.ones(6)).view(4, -1), ValueError, r"\[view\] shape: .*6 elements"),
    ErrorCase("view/overflow", lambda T: T.from_numpy(np.ones(6)).view(2**62, 2**62), ValueError, r"overflow"),
    ErrorCase("select/range", lambda T: T.from_numpy(np.ones(6))[6], IndexError, r"got 6"),
    ErrorCase("select/min", lambda T: T.from_numpy(np.ones(6))[-(2**63)], IndexError, r"\[select\]"),
    ErrorCase(
        "as_strided/reach", lambda T: T.from_numpy(np.ones(6)).as_strided((7,), (1,)), ValueError, r"storage holds 6"
    ),
    ErrorCase("exp/string", lambda T: T.exp("a"), TypeError, r"\[exp\] input: expected a tensor, got str 'a'"),
]
