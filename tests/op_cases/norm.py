"""Cases of normalisation: layer, RMS, batch, group and instance norm."""

import numpy as np
from cases import Case, ErrorCase, args, normal, uniform

ALL = ("float32", "float64", "float16", "bfloat16")


def _f(T):
    """The functions under test: pydlx._C, or torch.nn.functional."""
    return T._C if T.__name__ == "pydlx" else T.nn.functional


def _train(T, x, w, b):
    return _f(T).batch_norm(x, None, None, w, b, True)


def _running(T, x, mean, var):
    mean, var = mean * 1, var * 1
    y = _f(T).batch_norm(x, mean, var, None, None, True, 0.3, 1e-3)
    return y, mean.detach(), var.detach()


def _add_norm(kind, **options):
    """x + residual and its normalisation, of which PyTorch has only the parts."""

    def call(T, x, residual, *affine):
        shape = x.shape[-1:]
        if T.__name__ == "pydlx":
            return tuple(getattr(T.nn.functional, f"add_{kind}")(x, residual, shape, *affine, **options))
        total = x + residual
        return total, getattr(T.nn.functional, kind)(total, shape, *affine, **options)

    return call


CASES = [
    Case(
        "add_layer_norm",
        _add_norm("layer_norm"),
        args(normal(7, 33), normal(7, 33), normal(33), normal(33)),
        dtypes=ALL,
        tolerance=2,
    ),
    Case("add_layer_norm/plain", _add_norm("layer_norm", eps=1e-3), args(normal(40, 5), normal(40, 5)), tolerance=2),
    Case("add_layer_norm/empty", _add_norm("layer_norm"), args(normal(0, 5), normal(0, 5))),
    Case(
        "add_rms_norm",
        _add_norm("rms_norm", eps=1e-6),
        args(normal(2, 3, 33), normal(2, 3, 33), normal(33)),
        dtypes=ALL,
        tolerance=2,
    ),
    Case(
        "layer_norm",
        lambda T, x, w, b: _f(T).layer_norm(x, (33,), w, b),
        args(normal(7, 33), normal(33), normal(33)),
        dtypes=ALL,
        tolerance=2,
    ),
    Case("layer_norm/axes", lambda T, x: _f(T).layer_norm(x, (3, 5), eps=1e-3), args(normal(4, 2, 3, 5)), tolerance=2),
    Case(
        "layer_norm/offset",
        lambda T, x: _f(T).layer_norm(x + 100, (129,)),
        args(normal(3, 129)),
        dtypes=("float64",),
        tolerance=200,
    ),
    Case("layer_norm/empty", lambda T, x: _f(T).layer_norm(x, (5,)), args(normal(0, 5))),
    Case(
        "rms_norm",
        lambda T, x, w: _f(T).rms_norm(x, (33,), w, 1e-6),
        args(normal(7, 33), normal(33)),
        dtypes=ALL,
        tolerance=2,
    ),
    Case("rms_norm/axes", lambda T, x: _f(T).rms_norm(x, (3, 5), eps=1e-5), args(normal(4, 3, 5)), tolerance=2),
    Case("batch_norm", _train, args(normal(5, 3, 4, 7), normal(3), normal(3)), dtypes=ALL, tolerance=4),
    Case("batch_norm/2d", _train, args(normal(37, 67), normal(67), normal(67)), tolerance=4),
    Case("batch_norm/3d", _train, args(normal(6, 5, 33), normal(5), normal(5)), tolerance=4),
    Case(
        "batch_norm/plain",
        lambda T, x: _f(T).batch_norm(x, None, None, training=True),
        args(normal(3, 4, 2, 2)),
        tolerance=4,
    ),
    Case(
        "batch_norm/eval",
        lambda T, x, m, v, w, b: _f(T).batch_norm(x, m, v, w, b),
        args(normal(5, 3, 4, 7), normal(3), uniform(0.5, 2, 3), normal(3), normal(3)),
        grad_inputs=(0, 3, 4),
        dtypes=ALL,
        tolerance=4,
    ),
    Case(
        "batch_norm/eval2d",
        lambda T, x, m, v, w, b: _f(T).batch_norm(x, m, v, w, b),
        args(normal(9, 3), normal(3), uniform(0.5, 2, 3), normal(3), normal(3)),
        grad_inputs=(0, 3, 4),
        tolerance=4,
    ),
    Case(
        "batch_norm/running", _running, args(normal(5, 3, 11), normal(3), uniform(0.5, 2, 3)), grad=False, tolerance=4
    ),
    Case(
        "group_norm",
        lambda T, x, w, b: _f(T).group_norm(x, 3, w, b),
        args(normal(4, 6, 5, 3), normal(6), normal(6)),
        dtypes=ALL,
        tolerance=4,
    ),
    Case("group_norm/plain", lambda T, x: _f(T).group_norm(x, 2), args(normal(3, 4, 7)), tolerance=4),
    Case(
        "group_norm/2d",
        lambda T, x, w, b: _f(T).group_norm(x, 2, w, b),
        args(normal(3, 8), normal(8), normal(8)),
        tolerance=4,
    ),
    Case(
        "instance_norm",
        lambda T, x, w, b: _f(T).instance_norm(x, None, None, w, b),
        args(normal(3, 4, 7, 5), normal(4), normal(4)),
        tolerance=4,
    ),
]


def _ones(T, *shape):
    return T.from_numpy(np.ones(shape, np.float32))


ERRORS = [
    ErrorCase(
        "layer_norm/weight",
        lambda T: T._C.layer_norm(_ones(T, 2, 3), (3,), _ones(T, 2)),
        ValueError,
        r"\[layer_norm\] weight: expected shape \(3,\), got \(2,\)",
    ),
    ErrorCase(
        "add_layer_norm/residual",
        lambda T: T.nn.functional.add_layer_norm(_ones(T, 2, 3), _ones(T, 1, 3), (3,)),
        ValueError,
        r"\[add_layer_norm\] residual: expected shape \(2, 3\), got \(1, 3\)",
    ),
    ErrorCase(
        "add_rms_norm/dtype",
        lambda T: T.nn.functional.add_rms_norm(_ones(T, 2, 3), _ones(T, 2, 3).double(), (3,)),
        TypeError,
        r"\[add_rms_norm\] residual: expected float32 like the input, got float64",
    ),
    ErrorCase("rms_norm/shape", lambda T: T._C.rms_norm(_ones(T, 2, 3), (4,)), ValueError, r"\[rms_norm\] input"),
    ErrorCase(
        "batch_norm/short",
        lambda T: T._C.batch_norm(_ones(T, 2, 3, 4), _ones(T, 2), _ones(T, 3)),
        ValueError,
        r"\[batch_norm\] running_mean: expected shape \(3,\)",
    ),
    ErrorCase(
        "batch_norm/weight",
        lambda T: T._C.batch_norm(_ones(T, 2, 3, 4), None, None, _ones(T, 4), None, True),
        ValueError,
        r"\[batch_norm\] weight",
    ),
    ErrorCase(
        "batch_norm/single",
        lambda T: T._C.batch_norm(_ones(T, 1, 3), None, None, None, None, True),
        ValueError,
        r"more than one value per channel",
    ),
    ErrorCase(
        "batch_norm/eval", lambda T: T._C.batch_norm(_ones(T, 2, 3), None, None), ValueError, r"running statistics"
    ),
    ErrorCase(
        "batch_norm/int",
        lambda T: T._C.batch_norm(T.from_numpy(np.ones((2, 3), np.int64)), None, None, None, None, True),
        TypeError,
        r"\[batch_norm\] input",
    ),
    ErrorCase(
        "batch_norm/0d",
        lambda T: T._C.batch_norm(_ones(T), None, None, None, None, True),
        ValueError,
        r"at least 2 axes",
    ),
    ErrorCase(
        "group_norm/groups", lambda T: T._C.group_norm(_ones(T, 2, 3), 2), ValueError, r"\[group_norm\] num_groups"
    ),
    ErrorCase(
        "group_norm/zero", lambda T: T._C.group_norm(_ones(T, 2, 3), 0), ValueError, r"\[group_norm\] num_groups"
    ),
]
