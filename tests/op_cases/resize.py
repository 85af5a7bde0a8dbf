"""Cases of padding and resampling."""

import numpy as np

from cases import Case, ErrorCase, args, integers, normal

CASES = [
    Case("constant_pad_nd", lambda T, x: T.constant_pad_nd(x, (1, 2, 0, 3), 2.5), args(normal(2, 3, 4)), dtypes=("float32", "float64", "float16")),
    Case("constant_pad_nd/crop", lambda T, x: T.constant_pad_nd(x, (-1, 2, -2, -1)), args(normal(2, 5, 4))),
    Case("constant_pad_nd/all cropped", lambda T, x: T.constant_pad_nd(x, (-3, 2)), args(normal(2, 3))),
    Case("constant_pad_nd/int", lambda T, x: T.constant_pad_nd(x, (1, 1), 7), args(integers(-5, 5, 3, 4)), grad=False, exact=True),
]


def pad_error(name, match, pad, shape=(2, 3)):
    return ErrorCase(f"constant_pad_nd/{name}", lambda T: T.constant_pad_nd(T.from_numpy(np.ones(shape)), pad), ValueError, match)


ERRORS = [
    pad_error("odd", r"\[pad\] pad: expected \(front, back\) pairs", (1, 2, 3)),
    pad_error("too many", r"\[pad\] pad", (1, 2, 3, 4, 5, 6)),
    pad_error("negative size", r"\[pad\] pad: expected an output size", (-2, -2)),
    pad_error("overflow", r"\[pad\]", (2**62, 2**62)),
    pad_error("huge", r"overflow", (2**62, 0)),
]
