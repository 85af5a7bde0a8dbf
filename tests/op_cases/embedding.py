"""Cases of table look-ups."""

import numpy as np
from cases import Case, ErrorCase, args, integers, normal


def _f(T):
    """The functions under test: pydlx._C, or torch.nn.functional."""
    return T._C if T.__name__ == "pydlx" else T.nn.functional


def _bag(T, i, w, mode):
    if T.__name__ == "pydlx":
        return T.nn.functional.embedding_bag(i, w, mode=mode)
    return getattr(T.nn.functional.embedding(i, w), mode)(1)  # whose gradient PyTorch can differentiate again


CASES = [
    Case(
        "embedding",
        lambda T, i, w: _f(T).embedding(i, w),
        args(integers(0, 11, 4, 9), normal(11, 67)),
        dtypes=("float32", "float64", "float16", "bfloat16"),
    ),
    Case(
        "embedding/int32", lambda T, i, w: _f(T).embedding(i, w), args(integers(0, 5, 7, dtype="int32"), normal(5, 3))
    ),
    Case(
        "embedding/padding",
        lambda T, i, w: _f(T).embedding(i, w, 2),
        args(integers(0, 5, 30), normal(5, 3)),
        grad=False,
    ),
    Case(
        "embedding/negative padding",
        lambda T, i, w: _f(T).embedding(i, w, padding_idx=-1),
        args(integers(0, 5, 30), normal(5, 3)),
        grad=False,
    ),
    Case(
        "embedding/frequency",
        lambda T, i, w: _f(T).embedding(i, w, scale_grad_by_freq=True),
        args(integers(0, 5, 30), normal(5, 3)),
        grad=False,
    ),
    *(
        Case(
            f"embedding_bag/{mode} {width}",
            lambda T, i, w, mode=mode: _bag(T, i, w, mode),
            args(integers(0, 11, 6, 9), normal(11, width)),
            dtypes=("float32", "float64", "float16", "bfloat16"),
        )
        for mode in ("sum", "mean")
        for width in (3, 147)
    ),
    Case(
        "embedding_bag/int32",
        lambda T, i, w: _bag(T, i, w, "mean"),
        args(integers(0, 5, 7, 2, dtype="int32"), normal(5, 3)),
    ),
    Case("embedding/0d", lambda T, i, w: _f(T).embedding(i, w), args(integers(0, 5), normal(5, 3))),
    Case(
        "embedding/empty", lambda T, i, w: _f(T).embedding(i, w), args(integers(0, 5, 0, 2), normal(5, 3)), second=False
    ),
    Case("embedding/many", lambda T, i, w: _f(T).embedding(i, w), args(integers(0, 1000, 3000), normal(1000, 5))),
    Case("one_hot", lambda T, i: _f(T).one_hot(i), args(integers(0, 6, 3, 4)), grad=False, exact=True),
    Case("one_hot/classes", lambda T, i: _f(T).one_hot(i, 9), args(integers(0, 6, 5)), grad=False, exact=True),
]


def _index(T, *values):
    return T.from_numpy(np.array(values, np.int64))


def _table(T):
    return T.from_numpy(np.ones((4, 2), np.float32))


ERRORS = [
    ErrorCase(
        "embedding/range",
        lambda T: T._C.embedding(_index(T, 0, 3, 4), _table(T)),
        IndexError,
        r"\[embedding\] input: .*\[0, 4\).*position 2",
    ),
    ErrorCase("embedding/negative", lambda T: T._C.embedding(_index(T, -1), _table(T)), IndexError, r"position 0"),
    ErrorCase("embedding/float", lambda T: T._C.embedding(_table(T), _table(T)), TypeError, r"\[embedding\] input"),
    ErrorCase(
        "embedding/padding",
        lambda T: T._C.embedding(_index(T, 0), _table(T), 4),
        ValueError,
        r"\[embedding\] padding_idx",
    ),
    ErrorCase(
        "embedding/weight", lambda T: T._C.embedding(_index(T, 0), _table(T)[0]), ValueError, r"\[embedding\] weight"
    ),
    ErrorCase("one_hot/range", lambda T: T._C.one_hot(_index(T, 0, 5), 3), ValueError, r"\[one_hot\] input"),
    ErrorCase("one_hot/negative", lambda T: T._C.one_hot(_index(T, 0, -5)), ValueError, r"\[one_hot\] input"),
]
