"""Everything else: one call of nearly every function, in float32, float64 and bfloat16, with and without its backward pass.

The other families follow networks; this one walks the library and finds what no network of theirs asks for. It has well
over a thousand rows, so it runs only when it is named: ``pydlx bench breadth --rows "*float64*"``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..inputs import Inputs
from ..rows import Row, Step, forward, training

Make = Callable[[Inputs, str | None], Any]
DTYPES = (None, "float64", "bfloat16")  # None is float32


def _normal(*shape: int, scale: float = 1.0) -> Make:
    return lambda x, dtype: x.normal(*shape, scale=scale, dtype=dtype)


def _uniform(low: float, high: float, *shape: int) -> Make:
    return lambda x, dtype: x.uniform(*shape, low=low, high=high, dtype=dtype)


def _integers(high: int, *shape: int) -> Make:
    return lambda x, dtype: x.integers(high, *shape)


def _mask(*shape: int) -> Make:
    return lambda x, dtype: x.mask(*shape)


_S = (256, 1024)
_X = _normal(*_S)
_POSITIVE = _uniform(0.1, 8.0, *_S)
_UNIT = _uniform(-0.95, 0.95, *_S)
_SHARE = _uniform(0.02, 0.98, *_S)
_ROWS = _integers(256, 256, 1024)
_IMAGE = _normal(8, 64, 28, 28)
_VOLUME = _normal(2, 16, 12, 24, 24)
_LINE = _normal(32, 64, 128)


@dataclass(frozen=True)
class Call:
    """``fn(T, *inputs)``; ``leaves`` are the inputs that get a gradient, none if the function has none."""

    name: str
    fn: Callable[..., Any]
    inputs: Sequence[Make]
    leaves: Sequence[int] = (0,)
    dtypes: Sequence[str | None] = DTYPES
    check: bool = True

    def rows(self) -> Iterable[Row]:
        for dtype in self.dtypes:

            def make(x: Inputs, dtype: str | None = dtype) -> list[Any]:
                return [made(x, dtype) for made in self.inputs]

            title = f"{self.name} {dtype or 'float32'}"
            # the reference of a 16-bit row would differ by the row's own rounding
            check = self.check and dtype != "bfloat16"
            yield Row(title, forward(self.fn, make), check=check)
            if self.leaves:
                yield Row(f"{title} fwd+bwd", training(self.fn, make, self.leaves), check=check)


def _named(T: Any, name: str) -> Any:
    return getattr(T if hasattr(T, name) else T.nn.functional, name)


def _each(names: str, *inputs: Make, leaves: Sequence[int] = (0,), dtypes: Sequence[str | None] = DTYPES) -> list[Call]:
    """Functions that are called with the inputs alone."""
    return [
        Call(name, lambda T, *xs, name=name: _named(T, name)(*xs), inputs, leaves, dtypes) for name in names.split()
    ]


def _calls(*calls: tuple[Any, ...], leaves: Sequence[int] = (0,), dtypes: Sequence[str | None] = DTYPES) -> list[Call]:
    """(name, function, input, input, ...) each."""
    return [Call(name, fn, inputs, leaves, dtypes) for name, fn, *inputs in calls]


_EXACT = (None, "float64")
_SINGLE = (None,)


def _pointwise() -> list[Call]:
    return [
        *_each(
            "abs neg square exp exp2 expm1 sin cos tan atan sinh cosh tanh asinh sigmoid erf erfc sinc sign round", _X
        ),
        *_each("relu gelu silu mish softplus elu celu selu leaky_relu relu6 hardtanh hardsigmoid hardswish", _X),
        *_each("softshrink hardshrink tanhshrink softsign logsigmoid deg2rad frac nan_to_num", _X),
        *_each("log log2 log10 log1p sqrt rsqrt reciprocal lgamma digamma", _POSITIVE),
        *_each("asin acos atanh erfinv", _UNIT),
        *_each("logit", _SHARE),
        *_each("acosh", _uniform(1.1, 8.0, *_S)),
        *_each("floor ceil trunc isnan isfinite signbit logical_not", _X, leaves=()),
        *_each("add sub mul atan2 hypot maximum minimum fmax fmin logaddexp copysign", _X, _normal(*_S), leaves=(0, 1)),
        *_each("div pow xlogy", _POSITIVE, _uniform(0.2, 3.0, *_S), leaves=(0, 1)),
        *_each("fmod remainder", _X, _POSITIVE),
        *_each("floor_divide", _X, _POSITIVE, leaves=()),
        *_each("eq lt logical_and logical_xor heaviside isclose", _X, _normal(*_S), leaves=()),
        *_each("bitwise_and bitwise_xor gcd", _ROWS, _integers(100, *_S), leaves=(), dtypes=_SINGLE),
        *_calls(
            ("int64 //", lambda T, a, b: a // (b + 1), _ROWS, _integers(100, *_S)),
            ("int64 %", lambda T, a, b: a % (b + 1), _ROWS, _integers(100, *_S)),
            ("int64 +", lambda T, a, b: a + b, _ROWS, _integers(100, *_S)),
            ("int64 to float32", lambda T, a: a.float(), _ROWS),
            ("mask to float32", lambda T, a: a.float(), _mask(*_S)),
            leaves=(),
            dtypes=_SINGLE,
        ),
        *_calls(
            ("gelu tanh", lambda T, x: T.nn.functional.gelu(x, approximate="tanh"), _X),
            ("x ** 2", lambda T, x: x**2, _X),
            ("x ** 3", lambda T, x: x**3, _X),
            ("x ** 0.5", lambda T, x: x**0.5, _POSITIVE),
            ("x ** 1.7", lambda T, x: x**1.7, _POSITIVE),
            ("2 ** x", lambda T, x: 2**x, _X),
            ("1 / x", lambda T, x: 1 / x, _POSITIVE),
            ("1 - x", lambda T, x: 1 - x, _X),
            ("x + 1", lambda T, x: x + 1, _X),
            ("clamp", lambda T, x: T.clamp(x, -0.5, 0.5), _X),
            ("threshold", lambda T, x: T.nn.functional.threshold(x, 0.1, 0.0), _X),
            ("glu", lambda T, x: T.nn.functional.glu(x), _X),
            ("prelu", lambda T, x, w: T.prelu(x, w), _IMAGE, _uniform(0.1, 0.3, 64)),
            ("x + row", lambda T, x, r: x + r, _X, _normal(1024)),
            ("x * column", lambda T, x, c: x * c, _X, _normal(256, 1)),
            ("x + channel", lambda T, x, c: x + c, _IMAGE, _normal(1, 64, 1, 1)),
            ("x + x.t()", lambda T, x: x + x.t(), _normal(512, 512)),
            ("lerp", lambda T, a, b: T.lerp(a, b, 0.3), _X, _normal(*_S)),
            ("addcmul", lambda T, a, b, c: T.addcmul(a, b, c), _X, _normal(*_S), _normal(*_S)),
            ("addcdiv", lambda T, a, b, c: T.addcdiv(a, b, c), _X, _normal(*_S), _POSITIVE),
            ("where", lambda T, a, b, m: T.where(m, a, b), _X, _normal(*_S), _mask(*_S)),
            ("where number", lambda T, a, m: T.where(m, a, 0.0), _X, _mask(*_S)),
            ("masked_fill", lambda T, a, m: a.masked_fill(m, -1e9), _X, _mask(*_S)),
            ("ldexp", lambda T, a, b: T.ldexp(a, b), _X, _integers(8, *_S)),
        ),
    ]


def _reductions() -> list[Call]:
    def along(name: str, dim: int, x: Make = _X, **more: Any) -> Call:
        return Call(f"{name} dim {dim}", lambda T, x: getattr(T, name)(x, dim=dim, **more), [x])

    def first(name: str, dim: int, leaves: Sequence[int] = (0,), x: Make = _X) -> Call:
        return Call(f"{name} dim {dim}", lambda T, x: getattr(T, name)(x, dim=dim)[0], [x], leaves)

    return [
        *(
            along(name, dim)
            for name in ["sum", "mean", "var", "std", "amax", "amin", "logsumexp", "norm", "cumsum", "softmax"]
            for dim in (0, 1)
        ),
        *(first(name, dim) for name in ["max", "min", "median", "cummax"] for dim in (0, 1)),
        *(along(name, 1, _uniform(0.9, 1.1, *_S)) for name in ("prod", "cumprod")),
        along("logcumsumexp", 1),
        along("log_softmax", 1, _IMAGE),
        along("nansum", 1),
        along("diff", 1),
        first("mode", 1, (), _integers(20, *_S)),
        first("sort", 1),
        *_each("sum mean std norm max", _X),
        *_each("argmax argmin count_nonzero", _X, leaves=()),
        *_calls(
            ("argmax dim 0", lambda T, x: x.argmax(0), _X),
            ("argmax dim 1", lambda T, x: x.argmax(1), _X),
            ("argsort", lambda T, x: x.argsort(1), _X),
            ("any dim 1", lambda T, x: (x > 3).any(1), _X),
            ("equal", lambda T, x: T.tensor(float(T.equal(x, x))), _X),
            ("allclose", lambda T, x, y: T.tensor(float(T.allclose(x, x))), _X, _X),
            ("bincount", lambda T, x: T.bincount(x.reshape(-1)), _ROWS),
            ("unique", lambda T, x: T.unique(x), _ROWS),
            leaves=(),
            dtypes=_SINGLE,
        ),
        *_calls(
            ("sum dims 0,2,3", lambda T, x: x.sum((0, 2, 3)), _IMAGE),
            ("mean dims 2,3", lambda T, x: x.mean((2, 3)), _IMAGE),
            ("amax dims 2,3", lambda T, x: x.amax((2, 3)), _IMAGE),
            ("var dims 0,2,3", lambda T, x: x.var((0, 2, 3)), _IMAGE),
            ("norm inf dim 1", lambda T, x: T.norm(x, float("inf"), 1), _X),
            ("norm 1 dim 1", lambda T, x: T.norm(x, 1, 1), _X),
            ("norm 3 dim 1", lambda T, x: T.norm(x, 3, 1), _X),
            ("topk 10", lambda T, x: x.topk(10, dim=1)[0], _X),
            ("kthvalue", lambda T, x: x.kthvalue(100, dim=1)[0], _X),
        ),
        *_calls(
            ("quantile", lambda T, x: x.quantile(0.3, dim=1), _X),
            ("histc", lambda T, x: T.histc(x, 50, -4.0, 4.0), _X),
            ("cov", lambda T, x: T.cov(x), _X),
            ("corrcoef", lambda T, x: T.corrcoef(x), _X),
            ("trapezoid", lambda T, x: T.trapezoid(x, dim=1), _X),
            leaves=(),
            dtypes=_EXACT,
        ),
    ]


def _moving() -> list[Call]:
    return [
        *_calls(
            ("clone", lambda T, x: x.clone(), _X),
            ("contiguous of transpose", lambda T, x: x.t().contiguous(), _X),
            ("permute copy", lambda T, x: x.permute(0, 2, 3, 1).contiguous(), _IMAGE),
            ("flip 0", lambda T, x: x.flip(0), _X),
            ("flip 1", lambda T, x: x.flip(1), _X),
            ("roll", lambda T, x: x.roll(100, 1), _X),
            ("rot90", lambda T, x: T.rot90(x), _X),
            ("cat 0", lambda T, x, y: T.cat([x, y], 0), _X, _X),
            ("cat 1", lambda T, x, y: T.cat([x, y], 1), _X, _X),
            ("stack -1", lambda T, x, y: T.stack([x, y], -1), _X, _X),
            ("repeat", lambda T, x: x.repeat(2, 3), _X),
            ("tile rows", lambda T, x: T.tile(x, (3,)), _X),
            ("repeat_interleave", lambda T, x: x.repeat_interleave(3, dim=0), _X),
            ("expand copy", lambda T, x: x.expand(256, 1024).contiguous(), _normal(256, 1)),
            ("tril", lambda T, x: x.tril(), _X),
            ("triu", lambda T, x: x.triu(1), _X),
            ("diag", lambda T, x: x.diag(), _normal(512, 512)),
            ("diag_embed", lambda T, x: T.diag_embed(x), _normal(16, 128)),
            ("unfold", lambda T, x: T.nn.functional.unfold(x, 3, padding=1), _IMAGE),
            ("fold", lambda T, x: T.nn.functional.fold(x, (28, 28), 3, padding=1), _normal(4, 144, 784)),
            ("Tensor.unfold", lambda T, x: x.unfold(1, 16, 8).contiguous(), _X),
            ("slice step", lambda T, x: x[:, ::2].contiguous(), _X),
            ("x[1:] - x[:-1]", lambda T, x: x[1:] - x[:-1], _X),
            ("split and mul", lambda T, x: x[:, :512] * x[:, 512:], _X),
            ("pixel_shuffle", lambda T, x: T.nn.functional.pixel_shuffle(x, 2), _IMAGE),
            ("pixel_unshuffle", lambda T, x: T.nn.functional.pixel_unshuffle(x, 2), _IMAGE),
            ("channel_shuffle", lambda T, x: T.nn.functional.channel_shuffle(x, 4), _IMAGE),
            ("pad constant", lambda T, x: T.nn.functional.pad(x, (2, 2, 2, 2)), _IMAGE),
            ("pad reflect", lambda T, x: T.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect"), _IMAGE),
            ("pad replicate", lambda T, x: T.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate"), _IMAGE),
            ("pad circular", lambda T, x: T.nn.functional.pad(x, (2, 2, 2, 2), mode="circular"), _IMAGE),
            ("interpolate nearest", lambda T, x: T.nn.functional.interpolate(x, scale_factor=2), _IMAGE),
            (
                "interpolate bilinear",
                lambda T, x: T.nn.functional.interpolate(x, scale_factor=2, mode="bilinear"),
                _IMAGE,
            ),
            (
                "interpolate bicubic",
                lambda T, x: T.nn.functional.interpolate(x, scale_factor=2, mode="bicubic"),
                _normal(4, 8, 28, 28),
            ),
            ("interpolate area", lambda T, x: T.nn.functional.interpolate(x, size=14, mode="area"), _IMAGE),
        ),
        *_calls(
            (
                "grid_sample",
                lambda T, x, g: T.nn.functional.grid_sample(x, g, align_corners=False),
                _IMAGE,
                _uniform(-1.0, 1.0, 8, 28, 28, 2),
            ),
            (
                "affine_grid",
                lambda T, t: T.nn.functional.affine_grid(t, (8, 3, 64, 64), align_corners=False),
                _normal(8, 2, 3),
            ),
            dtypes=_EXACT,
        ),
        *_calls(
            ("one_hot", lambda T, x: T.nn.functional.one_hot(x, 256), _integers(256, 1024)),
            ("meshgrid", lambda T, x: T.meshgrid(x, x, indexing="ij")[0].contiguous(), _integers(256, 512)),
            ("arange", lambda T, x: T.arange(262144), _integers(2, 1)),
            ("linspace", lambda T, x: T.linspace(0, 1, 262144), _integers(2, 1)),
            ("eye", lambda T, x: T.eye(512), _integers(2, 1)),
            ("zeros", lambda T, x: T.zeros(256, 1024), _integers(2, 1)),
            ("full", lambda T, x: T.full((256, 1024), 2.5), _integers(2, 1)),
            ("tril_indices", lambda T, x: T.tril_indices(512, 512), _integers(2, 1)),
            leaves=(),
            dtypes=_SINGLE,
        ),
    ]


def _indexing() -> list[Call]:
    index = _integers(256, 512)
    return [
        *_calls(
            ("index_select 0", lambda T, x, i: x.index_select(0, i), _X, index),
            ("index_select 1", lambda T, x, i: x.index_select(1, i), _X, index),
            ("x[i]", lambda T, x, i: x[i], _X, index),
            ("x[:, i]", lambda T, x, i: x[:, i], _X, index),
            ("x[i, j]", lambda T, x, i, j: x[i, j], _X, _integers(256, 50000), _integers(1024, 50000)),
            ("x[mask]", lambda T, x, m: x[m], _X, _mask(*_S)),
            ("gather 1", lambda T, x, i: x.gather(1, i), _X, _integers(1024, 256, 512)),
            ("gather 0", lambda T, x, i: x.gather(0, i), _X, _integers(256, 128, 1024)),
            ("take_along_dim", lambda T, x, i: T.take_along_dim(x, i, 1), _X, _integers(1024, 256, 512)),
            ("take", lambda T, x, i: x.take(i), _X, _integers(256 * 1024, 50000)),
            ("embedding", lambda T, w, i: T.nn.functional.embedding(i, w), _normal(5000, 128), _integers(5000, 32, 64)),
            (
                "embedding_bag mean",
                lambda T, w, i: T.nn.functional.embedding_bag(i, w, mode="mean"),
                _normal(5000, 128),
                _integers(5000, 64, 32),
            ),
            (
                "embedding_bag sum",
                lambda T, w, i: T.nn.functional.embedding_bag(i, w, mode="sum"),
                _normal(5000, 128),
                _integers(5000, 64, 32),
            ),
        ),
        *_calls(
            ("index_add 0", lambda T, x, i, y: x.index_add(0, i, y), _X, index, _normal(512, 1024)),
            ("index_add 1", lambda T, x, i, y: x.index_add(1, i, y), _X, index, _normal(256, 512)),
            (
                "scatter_add 1",
                lambda T, x, i, y: x.scatter_add(1, i, y),
                _X,
                _integers(1024, 256, 512),
                _normal(256, 512),
            ),
            (
                "scatter_add 0",
                lambda T, x, i, y: x.scatter_add(0, i, y),
                _X,
                _integers(256, 128, 1024),
                _normal(128, 1024),
            ),
            (
                "index_put added",
                lambda T, x, i, y: x.index_put((i,), y, accumulate=True),
                _X,
                index,
                _normal(512, 1024),
            ),
            leaves=(0, 2),
        ),
        *_calls(
            ("index_put number", lambda T, x, i: x.clone().index_put_((i,), T.tensor(1.0, dtype=x.dtype)), _X, index),
            ("x[mask] = 0", _assign_masked, _X, _mask(*_S)),
            ("x[i] = 0", _assign_rows, _X, index),
            ("scatter", lambda T, x, i: x.scatter(1, i, 2.0), _X, _integers(1024, 256, 512)),
            (
                "scatter_reduce amax",
                lambda T, x, i, y: x.scatter_reduce(1, i, y, "amax"),
                _X,
                _integers(1024, 256, 512),
                _normal(256, 512),
            ),
            ("nonzero", lambda T, x: (x > 1).nonzero(), _X),
            ("masked_select", lambda T, x, m: x.masked_select(m), _X, _mask(*_S)),
            ("searchsorted", lambda T, e, x: T.searchsorted(e, x), lambda x, d: x.normal(4096, dtype=d).sort()[0], _X),
            ("bucketize", lambda T, x, e: T.bucketize(x, e), _X, lambda x, d: x.normal(64, dtype=d).sort()[0]),
            leaves=(),
        ),
    ]


def _assign_masked(T: Any, x: Any, mask: Any) -> Any:
    x[mask] = 0.0
    return x


def _assign_rows(T: Any, x: Any, index: Any) -> Any:
    x[index] = 0.0
    return x


def _losses() -> list[Call]:
    def loss(name: str, *inputs: Make, **more: Any) -> Call:
        return Call(name, lambda T, *xs: getattr(T.nn.functional, name)(*xs, **more), inputs)

    y = _normal(*_S)
    labels = _integers(1024, 256)
    return [
        *(loss(name, _X, y) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")),
        *(loss(name, _X, y) for name in ("poisson_nll_loss", "soft_margin_loss", "hinge_embedding_loss")),
        loss("binary_cross_entropy", _SHARE, _uniform(0.0, 1.0, *_S)),
        loss("binary_cross_entropy_with_logits", _X, _uniform(0.0, 1.0, *_S)),
        loss("kl_div", _uniform(-8.0, -2.0, *_S), _SHARE, reduction="batchmean"),
        loss("gaussian_nll_loss", _X, y, _POSITIVE),
        loss("cross_entropy", _X, labels),
        loss("nll_loss", _X, labels),
        loss("multi_margin_loss", _X, labels),
        loss("multilabel_soft_margin_loss", _X, _uniform(0.0, 1.0, *_S)),
        loss("cosine_similarity", _X, y),
        loss("pairwise_distance", _X, y),
        loss("normalize", _X),
        loss("triplet_margin_loss", _X, y, _normal(*_S)),
        *_calls(
            (
                "cross_entropy smoothing",
                lambda T, x, t: T.nn.functional.cross_entropy(x, t, label_smoothing=0.1),
                _X,
                labels,
            ),
            (
                "cross_entropy weights",
                lambda T, x, t, w: T.nn.functional.cross_entropy(x, t, w),
                _X,
                labels,
                _uniform(0.5, 1.0, 1024),
            ),
            ("cross_entropy probabilities", lambda T, x, p: T.nn.functional.cross_entropy(x, p.softmax(1)), _X, y),
            (
                "cross_entropy maps",
                lambda T, x, t: T.nn.functional.cross_entropy(x, t),
                _normal(8, 21, 64, 64),
                _integers(21, 8, 64, 64),
            ),
            (
                "cosine_embedding_loss",
                lambda T, a, b, t: T.nn.functional.cosine_embedding_loss(a, b, t * 2 - 1),
                _X,
                y,
                _integers(2, 256),
            ),
            (
                "margin_ranking_loss",
                lambda T, a, b, t: T.nn.functional.margin_ranking_loss(a, b, t * 2 - 1),
                _X,
                y,
                _integers(2, *_S),
            ),
        ),
        *_calls(
            (
                "ctc_loss",
                lambda T, x, t: T.nn.functional.ctc_loss(x.log_softmax(2), t + 1, [100] * 16, [20] * 16),
                _normal(100, 16, 40),
                _integers(39, 16, 20),
            ),
            dtypes=_EXACT,
        ),
    ]


def _layers() -> list[Call]:
    def pool(name: str, x: Make, *args: Any) -> Call:
        return Call(name, lambda T, x: getattr(T.nn.functional, name)(x, *args), [x])

    return [
        pool("max_pool1d", _LINE, 2),
        pool("avg_pool1d", _LINE, 2),
        pool("max_pool2d", _IMAGE, 2),
        pool("avg_pool2d", _IMAGE, 2),
        pool("max_pool3d", _VOLUME, 2),
        pool("avg_pool3d", _VOLUME, 2),
        pool("adaptive_avg_pool2d", _IMAGE, 7),
        pool("adaptive_max_pool2d", _IMAGE, 7),
        pool("adaptive_avg_pool1d", _LINE, 10),
        pool("lp_pool2d", _IMAGE, 2, 2),
        *_calls(
            ("max_pool2d 3/2/1", lambda T, x: T.nn.functional.max_pool2d(x, 3, 2, 1), _IMAGE),
            ("avg_pool2d 3/2/1", lambda T, x: T.nn.functional.avg_pool2d(x, 3, 2, 1), _IMAGE),
            ("layer_norm plain", lambda T, x: T.nn.functional.layer_norm(x, (1024,)), _X),
            ("local_response_norm", lambda T, x: T.nn.functional.local_response_norm(x, 5), _IMAGE),
            ("instance_norm", lambda T, x: T.nn.functional.instance_norm(x), _IMAGE),
            ("rms_norm plain", lambda T, x: T.nn.functional.rms_norm(x, (1024,)), _X),
        ),
        *(
            Call(name, fn, inputs, tuple(range(len(inputs))))
            for name, fn, inputs in (
                (
                    "layer_norm",
                    lambda T, x, w, b: T.nn.functional.layer_norm(x, (1024,), w, b),
                    [_X, _normal(1024), _normal(1024)],
                ),
                (
                    "group_norm",
                    lambda T, x, w, b: T.nn.functional.group_norm(x, 8, w, b),
                    [_IMAGE, _normal(64), _normal(64)],
                ),
                (
                    "batch_norm training",
                    lambda T, x, w, b: T.nn.functional.batch_norm(x, None, None, w, b, True),
                    [_IMAGE, _normal(64), _normal(64)],
                ),
                ("linear", lambda T, x, w, b: T.nn.functional.linear(x, w, b), [_X, _normal(256, 1024), _normal(256)]),
                (
                    "bilinear",
                    lambda T, a, b, w: T.nn.functional.bilinear(a, b, w),
                    [_normal(64, 32), _normal(64, 32), _normal(16, 32, 32)],
                ),
                ("mm", lambda T, a, b: a @ b, [_normal(256, 256), _normal(256, 256)]),
                ("bmm", lambda T, a, b: a @ b, [_normal(16, 64, 64), _normal(16, 64, 64)]),
                ("mv", lambda T, a, b: a @ b, [_X, _normal(1024)]),
                ("dot", lambda T, a, b: a @ b, [_normal(100000), _normal(100000)]),
                ("outer", lambda T, a, b: T.outer(a, b), [_normal(512), _normal(512)]),
                ("addmm", lambda T, c, a, b: T.addmm(c, a, b), [_normal(256), _normal(256, 256), _normal(256, 256)]),
                ("baddbmm", lambda T, c, a, b: T.baddbmm(c, a, b), [_normal(16, 64, 64)] * 3),
                ("einsum bij,bjk", lambda T, a, b: T.einsum("bij,bjk->bik", a, b), [_normal(16, 64, 64)] * 2),
                ("einsum bhid,bhjd", lambda T, a, b: T.einsum("bhid,bhjd->bhij", a, b), [_normal(4, 8, 64, 32)] * 2),
                ("tensordot", lambda T, a, b: T.tensordot(a, b, dims=2), [_normal(64, 16, 32), _normal(16, 32, 64)]),
                ("conv1d", lambda T, x, w: T.nn.functional.conv1d(x, w, padding=1), [_LINE, _normal(64, 64, 3)]),
                (
                    "conv2d 3x3",
                    lambda T, x, w: T.nn.functional.conv2d(x, w, padding=1),
                    [_IMAGE, _normal(64, 64, 3, 3, scale=0.1)],
                ),
                ("conv2d 1x1", lambda T, x, w: T.nn.functional.conv2d(x, w), [_IMAGE, _normal(64, 64, 1, 1)]),
                (
                    "conv2d 5x5",
                    lambda T, x, w: T.nn.functional.conv2d(x, w, padding=2),
                    [_IMAGE, _normal(32, 64, 5, 5, scale=0.1)],
                ),
                (
                    "conv2d depthwise",
                    lambda T, x, w: T.nn.functional.conv2d(x, w, padding=1, groups=64),
                    [_IMAGE, _normal(64, 1, 3, 3)],
                ),
                (
                    "conv3d",
                    lambda T, x, w: T.nn.functional.conv3d(x, w, padding=1),
                    [_VOLUME, _normal(16, 16, 3, 3, 3, scale=0.1)],
                ),
                (
                    "conv_transpose2d",
                    lambda T, x, w: T.nn.functional.conv_transpose2d(x, w, stride=2),
                    [_IMAGE, _normal(64, 32, 2, 2, scale=0.1)],
                ),
                (
                    "attention",
                    lambda T, q, k, v: T.nn.functional.scaled_dot_product_attention(q, k, v),
                    [_normal(4, 8, 128, 32)] * 3,
                ),
                ("cdist", lambda T, a, b: T.cdist(a, b), [_normal(200, 64), _normal(300, 64)]),
                ("cross", lambda T, a, b: T.cross(a, b, dim=1), [_normal(50000, 3)] * 2),
                ("kron", lambda T, a, b: T.kron(a, b), [_normal(16, 32), _normal(32, 16)]),
            )
        ),
        Call("dropout", lambda T, x: T.nn.functional.dropout(x, 0.3), [_X], check=False),
    ]


def _module(name: str, inputs: Sequence[Make], make: Callable[[Any], Any], run: Callable[..., Any]) -> list[Row]:
    """A module with all its parameters as leaves, without and with its backward pass, in float32."""

    def setup(T: Any, x: Inputs, train: bool) -> Step:
        module = x.load(make(T))
        step = (training if train else forward)(
            lambda T, *xs: run(module, *xs[: len(inputs)]),
            lambda x: [*(made(x, None) for made in inputs), *(module.parameters() if train else ())],
        )(T, x)
        if train:
            return step

        def quiet() -> Any:
            with T.no_grad():
                return step()

        return quiet

    return [
        Row(f"{name} float32", lambda T, x: setup(T, x, False)),
        Row(f"{name} float32 fwd+bwd", lambda T, x: setup(T, x, True)),
    ]


def _modules() -> list[Row]:
    cell, state = _normal(32, 64), [_normal(32, 64), _normal(32, 64)]
    return [
        *_module("LSTMCell", [cell, *state], lambda T: T.nn.LSTMCell(64, 64), lambda m, x, h, c: m(x, (h, c))[0]),
        *_module("GRUCell", [cell, state[0]], lambda T: T.nn.GRUCell(64, 64), lambda m, x, h: m(x, h)),
        *_module("RNNCell", [cell, state[0]], lambda T: T.nn.RNNCell(64, 64), lambda m, x, h: m(x, h)),
        *_module(
            "MultiheadAttention",
            [_normal(8, 64, 128)],
            lambda T: T.nn.MultiheadAttention(128, 4, batch_first=True),
            lambda m, x: m(x, x, x, need_weights=False)[0],
        ),
        *_module(
            "TransformerEncoderLayer",
            [_normal(8, 64, 128)],
            lambda T: T.nn.TransformerEncoderLayer(128, 4, 256, dropout=0.0, batch_first=True),
            lambda m, x: m(x),
        ),
        *_module(
            "LSTM 2 layers",
            [_normal(16, 20, 64)],
            lambda T: T.nn.LSTM(64, 64, 2, batch_first=True),
            lambda m, x: m(x)[0],
        ),
    ]


def rows() -> list[Row]:
    calls = [*_pointwise(), *_reductions(), *_moving(), *_indexing(), *_losses(), *_layers()]
    return [*(row for call in calls for row in call.rows()), *_modules()]
