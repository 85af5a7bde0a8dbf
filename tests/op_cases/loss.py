"""Cases of the classification losses."""

import numpy as np
from cases import Case, ErrorCase, args, integers, normal, uniform

ALL = ("float32", "float64", "float16", "bfloat16")


def _f(T):
    """The functions under test: pydlx._C, or torch.nn.functional."""
    return T._C if T.__name__ == "pydlx" else T.nn.functional


def _ce(**options):
    return lambda T, x, t, *w: _f(T).cross_entropy(x, t, *w, **options)


def _nll(**options):
    return lambda T, x, t, *w: _f(T).nll_loss(x, t, *w, **options)


def _probabilities(*shape):
    def make(rng):
        p = rng.uniform(0.1, 1, shape)
        return p / p.sum(1 if len(shape) > 1 else 0, keepdims=True)

    return make


def _some_ignored(low, high, ignore, *shape):
    def make(rng):
        t = rng.integers(low, high, shape)
        t[rng.uniform(size=shape) < 0.3] = ignore
        return t

    return make


def _linear_ce(reduction="mean", **options):
    def fn(T, x, w, t, *b):
        if T.__name__ == "pydlx":
            return T._C.linear_cross_entropy(x, w, t, *b, reduction=reduction, **options)
        logits = T.nn.functional.linear(x, w, *b)
        loss = T.nn.functional.cross_entropy(
            logits.reshape(-1, w.shape[0]), t.reshape(-1), reduction=reduction, **options
        )
        return loss.reshape(t.shape) if reduction == "none" else loss

    return fn


def _unit(*shape):
    return uniform(0.02, 0.98, *shape)


def _pairs(op, x, t, **options):
    """An elementwise loss in its three reductions. Sums of signed terms are compared on the scale of a few units."""

    def case(reduction, *shape):
        name = f"{op}/{'_'.join([reduction, *options])}"
        call = lambda T, a, b: getattr(_f(T), op)(a, b, reduction=reduction, **options)  # noqa: E731
        # PyTorch's second derivative of binary_cross_entropy adds 1e-12 to x (1 - x), which shows in float64.
        tolerance = 8 if op == "kl_div" else 2
        return Case(
            name,
            call,
            args(x(*shape), t(*shape)),
            dtypes=ALL if reduction == "none" else ("float32", "float64"),
            tolerance=tolerance,
            second=op != "binary_cross_entropy",
        )

    return [case("none", 7, 19), case("mean", 101, 97), case("sum", 33)]


CASES = [
    Case("cross_entropy", _ce(), args(normal(37, 67), integers(0, 67, 37)), dtypes=ALL),
    Case("cross_entropy/wide", _ce(), args(normal(5, 3001), integers(0, 3001, 5))),
    Case("cross_entropy/sum", _ce(reduction="sum"), args(normal(9, 5), integers(0, 5, 9))),
    Case("cross_entropy/none", _ce(reduction="none"), args(normal(9, 5), integers(0, 5, 9))),
    Case("cross_entropy/1d", _ce(), args(normal(5), integers(0, 5))),
    Case("cross_entropy/one class", _ce(), args(normal(4, 1), integers(0, 1, 4)), tolerance=4),
    Case("cross_entropy/ignored", _ce(ignore_index=2), args(normal(9, 5), _some_ignored(0, 5, 2, 9))),
    Case(
        "cross_entropy/weight",
        _ce(ignore_index=-1),
        args(normal(19, 5), _some_ignored(0, 5, -1, 19), uniform(0.1, 2, 5)),
        grad_inputs=(0,),
    ),
    Case("cross_entropy/smoothing", _ce(label_smoothing=0.2), args(normal(19, 35), _some_ignored(0, 35, -100, 19))),
    Case(
        "cross_entropy/smoothing weight",
        _ce(label_smoothing=0.2),
        args(normal(19, 35), _some_ignored(0, 35, -100, 19), uniform(0.1, 2, 35)),
        grad_inputs=(0,),
    ),
    Case(
        "cross_entropy/smoothing none",
        _ce(label_smoothing=0.1, reduction="none"),
        args(normal(7, 6), integers(0, 6, 7)),
    ),
    Case("cross_entropy/maps", _ce(), args(normal(2, 5, 9, 11), _some_ignored(0, 5, -100, 2, 9, 11)), dtypes=ALL),
    Case(
        "cross_entropy/maps none",
        _ce(reduction="none", label_smoothing=0.1),
        args(normal(2, 5, 67), integers(0, 5, 2, 67), uniform(0.1, 2, 5)),
        grad_inputs=(0,),
    ),
    Case("cross_entropy/large", _ce(), args(uniform(-1e4, 1e4, 8, 20), integers(0, 20, 8)), second=False),
    Case(
        "cross_entropy/probabilities", _ce(), args(normal(9, 5), _probabilities(9, 5)), grad_inputs=(0, 1), tolerance=2
    ),
    Case(
        "cross_entropy/probabilities maps",
        _ce(label_smoothing=0.1, reduction="sum"),
        args(normal(3, 5, 4), _probabilities(3, 5, 4), uniform(0.1, 2, 5)),
        grad_inputs=(0, 1),
        tolerance=2,
    ),
    Case("cross_entropy/empty", _ce(reduction="sum"), args(normal(0, 5), integers(0, 5, 0))),
    Case("cross_entropy/empty mean", _ce(), args(normal(0, 5), integers(0, 5, 0)), grad=False),
    Case("nll_loss", _nll(), args(uniform(-6, -1, 19, 7), integers(0, 7, 19)), dtypes=ALL),
    Case(
        "nll_loss/weight",
        _nll(ignore_index=1),
        args(uniform(-6, -1, 19, 7), integers(0, 7, 19), uniform(0.1, 2, 7)),
        grad_inputs=(0,),
    ),
    Case("nll_loss/maps", _nll(reduction="none"), args(uniform(-6, -1, 2, 3, 4, 5), integers(0, 3, 2, 4, 5))),
    Case("nll_loss/1d", _nll(reduction="sum"), args(uniform(-6, -1, 7), integers(0, 7))),
    *_pairs("mse_loss", normal, normal),
    *_pairs("l1_loss", normal, normal),
    *_pairs("smooth_l1_loss", normal, normal, beta=0.7),
    *_pairs("huber_loss", normal, normal, delta=0.7),
    *_pairs("binary_cross_entropy", _unit, _unit),
    *_pairs("binary_cross_entropy_with_logits", normal, _unit),
    *_pairs("kl_div", normal, _unit),
    *_pairs("kl_div", normal, normal, log_target=True),
    Case("mse_loss/broadcast", lambda T, x, t: _f(T).mse_loss(x, t.expand(3, 5)), args(normal(3, 5), normal(5))),
    Case(
        "binary_cross_entropy/weight",
        lambda T, x, t, w: _f(T).binary_cross_entropy(x, t, w),
        args(_unit(4, 5), _unit(4, 5), uniform(0.1, 2, 5)),
        grad_inputs=(0,),
        second=False,
    ),
    Case(
        "binary_cross_entropy_with_logits/weights",
        lambda T, x, t, w, p: _f(T).binary_cross_entropy_with_logits(x, t, w, pos_weight=p),
        args(normal(4, 5), _unit(4, 5), uniform(0.1, 2, 5), uniform(0.1, 2, 5)),
        grad_inputs=(0,),
    ),
    Case(
        "binary_cross_entropy_with_logits/extreme",
        lambda T, x, t: _f(T).binary_cross_entropy_with_logits(x, t, reduction="none"),
        args(
            lambda rng: np.array([-1e4, -90.0, -20, 0, 1e-8, 20, 90, 1e4]),
            lambda rng: np.array([0.0, 1, 0.5, 0.5, 1, 1, 0, 1]),
        ),
        grad_inputs=(0,),
    ),
    Case(
        "binary_cross_entropy/ends",
        lambda T, x, t: _f(T).binary_cross_entropy(x, t, reduction="none"),
        args(lambda rng: np.array([0.0, 0, 1, 1, 1e-6]), lambda rng: np.array([0.0, 1, 0, 1, 0])),
        grad=False,
    ),
    Case(
        "kl_div/zero",
        lambda T, x, t: _f(T).kl_div(x, t, reduction="none"),
        args(normal(3), lambda rng: np.array([0.0, 1, 0])),
        grad=False,
    ),
    Case("linear_cross_entropy", _linear_ce(), args(normal(300, 9), normal(37, 9), integers(0, 37, 300)), tolerance=2),
    Case(
        "linear_cross_entropy/bias",
        _linear_ce("sum", label_smoothing=0.1),
        args(normal(2, 5, 9), normal(37, 9), _some_ignored(0, 37, -100, 2, 5), normal(37)),
        tolerance=2,
    ),
    Case(
        "linear_cross_entropy/none",
        _linear_ce("none"),
        args(normal(150, 9), normal(37, 9), integers(0, 37, 150), normal(37)),
        tolerance=2,
    ),
]


def _ones(T, *shape):
    return T.from_numpy(np.ones(shape, np.float32))


def _index(T, *values):
    return T.from_numpy(np.array(values, np.int64))


ERRORS = [
    ErrorCase(
        "binary_cross_entropy/range",
        lambda T: T._C.binary_cross_entropy(_ones(T, 3) * 1.5, _ones(T, 3)),
        ValueError,
        r"\[binary_cross_entropy\] input: .*position 0",
    ),
    ErrorCase(
        "binary_cross_entropy/shape",
        lambda T: T._C.binary_cross_entropy(_ones(T, 3), _ones(T, 2)),
        ValueError,
        r"target: expected shape \(3,\)",
    ),
    ErrorCase("mse_loss/shape", lambda T: T._C.mse_loss(_ones(T, 3), _ones(T, 2)), ValueError, r"\[mse_loss\]"),
    ErrorCase(
        "huber_loss/delta",
        lambda T: T._C.huber_loss(_ones(T, 3), _ones(T, 3), delta=0.0),
        ValueError,
        r"\[huber_loss\] delta",
    ),
    ErrorCase(
        "cross_entropy/range",
        lambda T: T._C.cross_entropy(_ones(T, 3, 4), _index(T, 0, 4, 1)),
        IndexError,
        r"\[cross_entropy\] target: .*\[0, 4\).*position 1",
    ),
    ErrorCase(
        "cross_entropy/negative",
        lambda T: T._C.cross_entropy(_ones(T, 3, 4), _index(T, 0, 1, -1)),
        IndexError,
        r"position 2",
    ),
    ErrorCase(
        "cross_entropy/maps range",
        lambda T: T._C.cross_entropy(_ones(T, 1, 4, 3), _index(T, 0, 1, 9).reshape(1, 3)),
        IndexError,
        r"position 2",
    ),
    ErrorCase(
        "cross_entropy/shape",
        lambda T: T._C.cross_entropy(_ones(T, 3, 4), _index(T, 0, 1)),
        ValueError,
        r"\[cross_entropy\] target: expected shape \(3,\)",
    ),
    ErrorCase(
        "cross_entropy/weight",
        lambda T: T._C.cross_entropy(_ones(T, 2, 4), _index(T, 0, 1), _ones(T, 3)),
        ValueError,
        r"\[cross_entropy\] weight",
    ),
    ErrorCase(
        "cross_entropy/reduction",
        lambda T: T._C.cross_entropy(_ones(T, 2, 4), _index(T, 0, 1), reduction="avg"),
        ValueError,
        r"'avg'",
    ),
    ErrorCase(
        "cross_entropy/smoothing",
        lambda T: T._C.cross_entropy(_ones(T, 2, 4), _index(T, 0, 1), label_smoothing=1.5),
        ValueError,
        r"label_smoothing",
    ),
    ErrorCase(
        "cross_entropy/classes",
        lambda T: T._C.cross_entropy(_ones(T, 2, 0), _index(T, 0, 1)),
        ValueError,
        r"at least one class",
    ),
    ErrorCase(
        "nll_loss/range", lambda T: T._C.nll_loss(_ones(T, 2, 3), _index(T, 0, 3)), IndexError, r"\[nll_loss\] target"
    ),
    ErrorCase(
        "linear_cross_entropy/range",
        lambda T: T._C.linear_cross_entropy(_ones(T, 2, 3), _ones(T, 4, 3), _index(T, 0, 4)),
        IndexError,
        r"\[linear_cross_entropy\] target",
    ),
    ErrorCase(
        "linear_cross_entropy/weight",
        lambda T: T._C.linear_cross_entropy(_ones(T, 2, 3), _ones(T, 4, 2), _index(T, 0, 1)),
        ValueError,
        r"weight: expected shape \(V, 3\)",
    ),
]
