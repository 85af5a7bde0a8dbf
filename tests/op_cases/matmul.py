"""Matrix products, einsum, linear layers."""

import numpy as np
from cases import Case, ErrorCase, args, integers, normal

ALL = ("float32", "float64", "float16", "bfloat16")


def eye(T, *shape):
    return T.from_numpy(np.ones(shape))


# in-place product: shapes of the target and of both factors
INPLACE = {
    "addmv_": ((3,), (3, 4), (4,)),
    "addr_": ((3, 4), (3,), (4,)),
    "addbmm_": ((3, 5), (2, 3, 4), (2, 4, 5)),
    "baddbmm_": ((2, 3, 5), (2, 3, 4), (2, 4, 5)),
}


def in_place(name, beta, alpha):
    return lambda T, x, a, b: getattr(x.clone(), name)(a, b, beta=beta, alpha=alpha)


ACTIVATIONS = {
    "none": lambda T, y: y,
    "relu": lambda T, y: y.relu(),
    "gelu": lambda T, y: T.nn.functional.gelu(y),
    "gelu_tanh": lambda T, y: T.nn.functional.gelu(y, approximate="tanh"),
    "silu": lambda T, y: T.nn.functional.silu(y),
    "sigmoid": lambda T, y: y.sigmoid(),
    "tanh": lambda T, y: y.tanh(),
}


def linear_activation(name):
    def call(T, x, w, *b):
        if T.__name__ == "pydlx":
            return T.nn.functional.linear_activation(x, w, *b, activation=name)
        return ACTIVATIONS[name](T, T.nn.functional.linear(x, w, *b))

    return call


CASES = [
    *[
        Case(
            f"linear_activation/{n}",
            linear_activation(n),
            args(normal(3, 13, 17), normal(70, 17), normal(70)),
            dtypes=ALL,
        )
        for n in ACTIVATIONS
    ],
    Case("linear_activation/no_bias", linear_activation("relu"), args(normal(7, 5), normal(3, 5))),
    Case("linear_activation/vector", linear_activation("tanh"), args(normal(70), normal(9, 70), normal(9))),
    Case("linear_activation/one_row_of_weights", linear_activation("tanh"), args(normal(4, 7), normal(7))),
    Case("linear_activation/empty", linear_activation("relu"), args(normal(0, 5), normal(3, 5), normal(3))),
    Case("linear_activation/no_features", linear_activation("sigmoid"), args(normal(4, 0), normal(3, 0), normal(3))),
    *[Case(n, in_place(n, 0.5, -2), args(*[normal(*s) for s in shapes])) for n, shapes in INPLACE.items()],
    *[
        Case(f"{n}/int", in_place(n, 2, -3), args(*[integers(-9, 9, *s) for s in shapes]), grad=False, exact=True)
        for n, shapes in INPLACE.items()
    ],
    Case("mm", lambda T, a, b: T.mm(a, b), args(normal(17, 33), normal(33, 65)), dtypes=ALL),
    Case(
        "mm/transposed",
        lambda T, a, b: T.mm(a.transpose(0, 1), b.transpose(0, 1)),
        args(normal(40, 70), normal(70, 40)),
    ),
    Case("mm/large", lambda T, a, b: a.mm(b), args(normal(130, 520), normal(520, 200)), second=False),
    Case(
        "mm/int", lambda T, a, b: T.mm(a, b), args(integers(-9, 9, 5, 7), integers(-9, 9, 7, 6)), grad=False, exact=True
    ),
    Case(
        "matmul/int_batched",
        lambda T, a, b: a @ b,
        args(integers(-9, 9, 3, 5, 7), integers(-9, 9, 7, 6)),
        grad=False,
        exact=True,
    ),
    Case("mm/empty_rows", lambda T, a, b: T.mm(a, b), args(normal(0, 3), normal(3, 4))),
    Case("bmm", lambda T, a, b: T.bmm(a, b), args(normal(5, 7, 9), normal(5, 9, 11)), dtypes=ALL),
    Case("bmm/empty", lambda T, a, b: T.bmm(a, b), args(normal(0, 7, 9), normal(0, 9, 11))),
    Case(
        "bmm/swapped",
        lambda T, a, b: T.bmm(a.transpose(1, 2), b.transpose(1, 2)),
        args(normal(3, 9, 7), normal(3, 11, 9)),
    ),
    Case("mv", lambda T, a, v: T.mv(a, v), args(normal(33, 50), normal(50))),
    Case("mv/transposed", lambda T, a, v: T.mv(a.transpose(0, 1), v), args(normal(50, 33), normal(50))),
    Case("dot", lambda T, a, b: T.dot(a, b), args(normal(101), normal(101))),
    Case("dot/empty", lambda T, a, b: T.dot(a, b), args(normal(0), normal(0))),
    Case("vdot", lambda T, a, b: T.vdot(a, b), args(normal(5), normal(5))),
    Case("inner", lambda T, a, b: T.inner(a, b), args(normal(2, 3, 7), normal(5, 7))),
    Case("inner/scalar", lambda T, a, b: T.inner(a, b), args(normal(), normal(5, 7))),
    Case("outer", lambda T, a, b: T.outer(a, b), args(normal(4), normal(7))),
    Case("ger", lambda T, a, b: T.ger(a, b), args(normal(4), normal(7))),
    Case("matmul/3d_2d", lambda T, a, b: a @ b, args(normal(3, 4, 5), normal(5, 6))),
    Case("matmul/3d_2d_strided", lambda T, a, b: a.transpose(0, 1) @ b, args(normal(3, 4, 5), normal(5, 6))),
    Case("matmul/2d_3d", lambda T, a, b: a @ b, args(normal(4, 5), normal(3, 5, 6))),
    Case("matmul/3d_1d", lambda T, a, b: a @ b, args(normal(3, 4, 5), normal(5))),
    Case("matmul/1d_2d", lambda T, a, b: a @ b, args(normal(5), normal(5, 6))),
    Case("matmul/1d_3d", lambda T, a, b: a @ b, args(normal(5), normal(3, 5, 6))),
    Case("matmul/4d", lambda T, a, b: a @ b, args(normal(2, 3, 4, 5), normal(3, 5, 6))),
    Case(
        "matmul/heads",
        lambda T, a, b: a.permute(0, 2, 1, 3) @ b.permute(0, 2, 3, 1),
        args(normal(2, 7, 3, 5), normal(2, 6, 3, 5)),
    ),
    Case("matmul/empty_batch", lambda T, a, b: a @ b, args(normal(0, 4, 5), normal(5, 6))),
    Case(
        "matmul/out",
        lambda T, a, b: T.matmul(a, b, out=T.zeros_like(a @ b)),
        args(normal(4, 5), normal(5, 6)),
        grad=False,
    ),
    Case("addmm", lambda T, c, a, b: T.addmm(c, a, b), args(normal(7, 9), normal(7, 5), normal(5, 9)), dtypes=ALL),
    Case(
        "addmm/factors",
        lambda T, c, a, b: T.addmm(c, a, b, beta=0.5, alpha=-2),
        args(normal(9), normal(7, 5), normal(5, 9)),
    ),
    Case(
        "addmm/beta0",
        lambda T, c, a, b: T.addmm(c / 0, a, b, beta=0),
        args(normal(9), normal(7, 5), normal(5, 9)),
        grad=False,
    ),
    Case("addmm/k0", lambda T, c, a, b: T.addmm(c, a, b, beta=2), args(normal(9), normal(7, 0), normal(0, 9))),
    Case(
        "addmm_",
        lambda T, c, a, b: (c * 1).addmm_(a, b, beta=3, alpha=2),
        args(normal(7, 9), normal(7, 5), normal(5, 9)),
    ),
    Case("addmv", lambda T, c, a, b: T.addmv(c, a, b, beta=2, alpha=3), args(normal(7), normal(7, 5), normal(5))),
    Case("addr", lambda T, c, a, b: T.addr(c, a, b, beta=2, alpha=3), args(normal(7, 5), normal(7), normal(5))),
    Case(
        "addbmm",
        lambda T, c, a, b: T.addbmm(c, a, b, beta=2, alpha=3),
        args(normal(7, 5), normal(3, 7, 4), normal(3, 4, 5)),
    ),
    Case(
        "baddbmm",
        lambda T, c, a, b: T.baddbmm(c, a, b, beta=2, alpha=3),
        args(normal(7, 5), normal(3, 7, 4), normal(3, 4, 5)),
    ),
    Case("baddbmm/full", lambda T, c, a, b: c.baddbmm(a, b), args(normal(3, 7, 5), normal(3, 7, 4), normal(3, 4, 5))),
    Case("linear", lambda T, x, w, b: _linear(T, x, w, b), args(normal(5, 17), normal(33, 17), normal(33)), dtypes=ALL),
    Case("linear/3d", lambda T, x, w: _linear(T, x, w), args(normal(2, 3, 17), normal(9, 17))),
    Case("linear/vector", lambda T, x, w, b: _linear(T, x, w, b), args(normal(17), normal(9, 17), normal(9))),
    Case("linear/weight_vector", lambda T, x, w: _linear(T, x, w), args(normal(4, 17), normal(17))),
    Case("linear/empty", lambda T, x, w, b: _linear(T, x, w, b), args(normal(0, 17), normal(9, 17), normal(9))),
    Case("linear/no_features", lambda T, x, w, b: _linear(T, x, w, b), args(normal(4, 0), normal(9, 0), normal(9))),
    Case(
        "linear/batch",
        lambda T, x, w, b: _linear(T, x, w, b),
        args(normal(70, 130), normal(90, 130), normal(90)),
        second=False,
    ),
    # The second derivative scatters a transposed gradient through the slice.
    Case("linear/slice", lambda T, x, w: _linear(T, x, w)[:2].exp(), args(normal(3, 4), normal(5, 4)), grad_inputs=[1]),
    Case(
        "bilinear",
        lambda T, x, y, w, b: _bilinear(T, x, y, w, b),
        args(normal(4, 3), normal(4, 5), normal(6, 3, 5), normal(6)),
    ),
    Case("tensordot", lambda T, a, b: T.tensordot(a, b, dims=2), args(normal(3, 4, 5), normal(4, 5, 6))),
    Case(
        "tensordot/lists",
        lambda T, a, b: T.tensordot(a, b, dims=([0, 2], [1, 0])),
        args(normal(3, 4, 5), normal(5, 3, 2)),
    ),
    Case("tensordot/outer", lambda T, a, b: T.tensordot(a, b, dims=0), args(normal(3, 2), normal(4))),
    Case("chain_matmul", lambda T, a, b, c: T.chain_matmul(a, b, c), args(normal(3, 20), normal(20, 4), normal(4, 9))),
    Case(
        "matrix_power", lambda T, a: T.matrix_power(a, 5), args(normal(4, 4)), tolerance=4
    ),  # error grows with the power
    Case("matrix_power/0", lambda T, a: T.matrix_power(a, 0), args(normal(2, 3, 3)), grad=False),
    Case("kron", lambda T, a, b: T.kron(a, b), args(normal(2, 3), normal(4, 1, 5))),
    Case("kron/short rows", lambda T, a, b: T.kron(a, b), args(normal(5, 3), normal(7, 6))),
    Case("kron/short rows of another rank", lambda T, a, b: T.kron(a, b), args(normal(2, 4, 1), normal(5, 2))),
    Case("cross", lambda T, a, b: T.cross(a, b, dim=1), args(normal(5, 3, 7), normal(5, 3, 7)), dtypes=ALL),
    Case("cross/rows", lambda T, a, b: T.cross(a, b, dim=-1), args(normal(67, 3), normal(67, 3))),
    Case("cross/of one with many", lambda T, a, b: T.cross(a, b, dim=0), args(normal(3, 1), normal(3, 9))),
    Case("cross/empty", lambda T, a, b: T.cross(a, b, dim=1), args(normal(0, 3), normal(0, 3)), second=False),
    Case("kron/0d", lambda T, a, b: T.kron(a, b), args(normal(), normal(5, 2))),
    Case("kron/empty", lambda T, a, b: T.kron(a, b), args(normal(4, 0), normal(5, 2)), second=False),
    Case("trace", lambda T, a: T.trace(a) * 2, args(normal(4, 6))),
    Case("einsum/matmul", lambda T, a, b: T.einsum("ij,jk->ik", a, b), args(normal(3, 4), normal(4, 5))),
    Case("einsum/implicit", lambda T, a, b: T.einsum("bA, Ab", a, b), args(normal(3, 4), normal(4, 3))),
    Case("einsum/implicit_order", lambda T, a: T.einsum("ba", a), args(normal(3, 4))),
    Case(
        "einsum/batched",
        lambda T, a, b: T.einsum("bhqd,bhkd->bhqk", a, b),
        args(normal(2, 3, 4, 5), normal(2, 3, 6, 5)),
    ),
    Case(
        "einsum/ellipsis",
        lambda T, a, b: T.einsum("...ij,jk...->...ik", a, b),
        args(normal(2, 3, 4, 5), normal(5, 6, 3)),
    ),
    Case(
        "einsum/ellipsis_broadcast",
        lambda T, a, b: T.einsum("...i,...i->...", a, b),
        args(normal(4, 1, 5), normal(3, 5)),
    ),
    Case("einsum/diagonal", lambda T, a: T.einsum("iij->ij", a), args(normal(4, 4, 5))),
    Case("einsum/trace", lambda T, a: T.einsum("ii", a), args(normal(4, 4))),
    Case("einsum/sum", lambda T, a: T.einsum("ijk->j", a), args(normal(4, 3, 5))),
    Case("einsum/elementwise", lambda T, a, b: T.einsum("ij,ij->ij", a, b), args(normal(4, 3), normal(4, 3))),
    Case("einsum/outer", lambda T, a, b: T.einsum("i,j->ji", a, b), args(normal(4), normal(3))),
    Case(
        "einsum/three",
        lambda T, a, b, c: T.einsum("ij,jk,kl->il", a, b, c),
        args(normal(2, 3), normal(3, 4), normal(4, 5)),
    ),
    Case(
        "einsum/bilinear",
        lambda T, a, b, c: T.einsum("bi,oij,bj->bo", a, b, c),
        args(normal(2, 3), normal(6, 3, 4), normal(2, 4)),
    ),
    Case("einsum/size_one", lambda T, a, b: T.einsum("ij,jk->ik", a, b), args(normal(3, 1), normal(4, 5))),
    Case("einsum/list", lambda T, a, b: T.einsum(a, [0, 1], b, [1, 2], [2, 0]), args(normal(3, 4), normal(4, 5))),
    Case("einsum/empty", lambda T, a, b: T.einsum("ij,jk->ik", a, b), args(normal(3, 0), normal(0, 5))),
]


def _linear(T, *tensors):
    return T.nn.functional.linear(*tensors)


def _bilinear(T, *tensors):
    return T.bilinear(*tensors)


ERRORS = [
    ErrorCase(
        "linear_activation/name",
        lambda T: T.nn.functional.linear_activation(eye(T, 2, 3), eye(T, 4, 3), activation="swish"),
        ValueError,
        r"\[linear_activation\] activation: expected 'none', 'relu', .* got 'swish'",
    ),
    ErrorCase(
        "linear_activation/weight",
        lambda T: T.nn.functional.linear_activation(eye(T, 2, 3), eye(T, 4, 5)),
        ValueError,
        r"\[linear\] weight: expected shape \(out_features, 3\)",
    ),
    ErrorCase(
        "mm/inner",
        lambda T: T.mm(eye(T, 2, 3), eye(T, 2, 3)),
        ValueError,
        r"\[mm\] mat2: expected inner sizes.*\(2, 3\)",
    ),
    ErrorCase(
        "mm/ndim",
        lambda T: T.mm(eye(T, 2), eye(T, 2, 3)),
        ValueError,
        r"\[mm\] input: expected 2 dimensions, got shape \(2,\)",
    ),
    ErrorCase(
        "bmm/batch",
        lambda T: T.bmm(eye(T, 2, 3, 4), eye(T, 3, 4, 3)),
        ValueError,
        r"\[bmm\] mat2: expected batch size 2",
    ),
    ErrorCase(
        "mm/dtype",
        lambda T: T.mm(eye(T, 2, 3).to(T.float32), eye(T, 3, 2)),
        TypeError,
        r"\[mm\] mat2: expected dtype float32",
    ),
    ErrorCase("dot/length", lambda T: T.dot(eye(T, 2), eye(T, 3)), ValueError, r"\[dot\]"),
    ErrorCase(
        "linear/weight",
        lambda T: T.nn.functional.linear(eye(T, 2, 3), eye(T, 4, 5)),
        ValueError,
        r"\[linear\] weight: expected shape \(out_features, 3\)",
    ),
    ErrorCase(
        "linear/bias",
        lambda T: T.nn.functional.linear(eye(T, 2, 3), eye(T, 4, 3), eye(T, 3)),
        ValueError,
        r"\[linear\] bias: expected shape \(4,\)",
    ),
    ErrorCase("addmm/input", lambda T: T.addmm(eye(T, 5), eye(T, 2, 3), eye(T, 3, 4)), ValueError, r"\[addmm\]"),
    ErrorCase(
        "einsum/terms", lambda T: T.einsum("ij,jk->ik", eye(T, 2, 2)), ValueError, r"one term per operand \(1\), got 2"
    ),
    ErrorCase(
        "einsum/size",
        lambda T: T.einsum("ij,jk->ik", eye(T, 2, 3), eye(T, 4, 5)),
        ValueError,
        r"expected size 3 for 'j' of operand 1",
    ),
    ErrorCase("einsum/output", lambda T: T.einsum("ij->k", eye(T, 2, 3)), ValueError, r"output label 'k'"),
    ErrorCase("einsum/letter", lambda T: T.einsum("i1->i", eye(T, 2, 3)), ValueError, r"got '1'"),
    ErrorCase("einsum/axes", lambda T: T.einsum("ijk->i", eye(T, 2, 3)), ValueError, r"3 axes for operand 0"),
    ErrorCase("matrix_power/negative", lambda T: T.matrix_power(eye(T, 2, 2), -1), ValueError, r"\[matrix_power\] n"),
    ErrorCase("chain_matmul/inner", lambda T: T.chain_matmul(eye(T, 2, 3), eye(T, 4, 5)), ValueError, r"\[multi_dot\]"),
]
