"""Functions composed in Python, beside PyTorch's: values, dtypes, shapes and gradients."""

import pytest
from ports import Programs, assert_same

import pydlx

PROGRAMS = Programs()


def with_gradients(function, *inputs):
    out = function(*inputs)
    out.sum().backward()
    return [out, *[x.grad for x in inputs]]


def doubles(draw, *shape):
    return draw(*shape, dtype="float64", grad=True)


@PROGRAMS
def distances(lib, draw):
    results = [lib.cdist(draw(2, 3, 4), draw(5, 4), 0), lib.cdist(draw(2, 3, 0), draw(5, 0), float("inf"))]
    results += with_gradients(lambda a, b: lib.cdist(a, b, 0), doubles(draw, 2, 3, 4), doubles(draw, 5, 4))
    for p in (1, 1.5, 2, 3, float("inf")):
        results += with_gradients(lambda a, b, p=p: lib.cdist(a, b, p), doubles(draw, 2, 3, 4), doubles(draw, 5, 4))
    results += with_gradients(lambda a: lib.cdist(a, a), doubles(draw, 3, 4))  # zero distances have zero gradients
    return results + with_gradients(lambda a, b: lib.dist(a, b, 3), doubles(draw, 3, 4), doubles(draw, 4))


@PROGRAMS
def products(lib, draw):
    results = with_gradients(lambda a, b: lib.cross(a, b, dim=1), doubles(draw, 2, 3), doubles(draw, 2, 3))
    return [*results, doubles(draw, 3, 2).cross(doubles(draw, 3, 2)), lib.cross(draw(2, 1, 3), draw(1, 4, 3), dim=-1)]


@PROGRAMS
def covariance(lib, draw):
    counts, importance = lib.tensor([1, 2, 1, 3, 1]), lib.tensor([0.1, 0.2, 0.3, 0.4, 0.5])
    x = draw(3, 5)
    return [
        *with_gradients(lib.cov, doubles(draw, 3, 5)),
        *(lib.cov(x, correction=0), lib.cov(x, fweights=counts), lib.cov(x, aweights=importance)),
        *(lib.cov(x, fweights=counts, aweights=importance), lib.cov(x[0]), lib.cov(lib.tensor([[1, 2, 3], [3, 5, 1]]))),
        *(lib.corrcoef(x), x[0].corrcoef()),
    ]


@PROGRAMS
def integrals(lib, draw):
    y, x = draw(3, 4), draw(4)
    return [
        *(lib.trapezoid(y), lib.trapezoid(y, dx=0.5, dim=0), lib.trapezoid(y, x), lib.trapezoid(y, draw(3, 4))),
        *(lib.trapezoid(y, draw(3), dim=0), lib.trapezoid(lib.tensor([1, 2, 3])), lib.trapezoid(draw(1))),
        *(lib.trapezoid(draw(0)), lib.cumulative_trapezoid(y), lib.trapz(x, x)),
    ]


@PROGRAMS
def membership(lib, draw):
    nan = float("nan")
    return [
        lib.isin(lib.tensor([[1, 2], [3, 4]]), lib.tensor([2, 4])),
        lib.isin(lib.tensor([1.0, 2.5]), lib.tensor([2, 1])),
        lib.isin(2, lib.tensor([1, 2])),
        lib.isin(lib.tensor([1, 2]), 2, invert=True),
        lib.isin(lib.tensor([1]), lib.tensor([], dtype=lib.int64)),
        lib.isin(lib.tensor([1.0, nan]), lib.tensor([nan, 1.0])),
    ]


@PROGRAMS
def types(lib, draw):
    dtypes = [lib.bool, lib.uint8, lib.int8, lib.int64, lib.float16, lib.float32, lib.float64]
    values = [1, 1.5, True, *(lib.ones(2, dtype=d) for d in dtypes), lib.tensor(1), lib.tensor(2.0, dtype=lib.float64)]
    casts = [lib.can_cast(a, b) for a in dtypes for b in dtypes]
    return [casts, [str(lib.result_type(a, b)) for a in values for b in values], lib.is_complex(lib.ones(1))]


@PROGRAMS
def integers(lib, draw):
    a, b = lib.tensor([12, 0, -8, 7, 0]), lib.tensor([18, 5, 12, 0, 0])
    small = lib.tensor([[4], [6]], dtype=lib.int32)
    coordinates = [lib.unravel_index(lib.tensor([0, 5, 11]), (3, 4)), lib.unravel_index(lib.tensor(5), 7)]
    return [lib.gcd(a, b), lib.lcm(a, b), lib.gcd(small, lib.tensor([2, 3])), a.gcd(b), coordinates]


def test_gcd_of_the_smallest_integer():
    """Its absolute value is negative; PyTorch's result then is, too."""
    assert pydlx.gcd(pydlx.tensor([-(2**63), -128]), pydlx.tensor([6, -7])).tolist() == [2, 1]


@PROGRAMS
def neighbours(lib, draw):
    inf, nan, largest = float("inf"), float("nan"), 3.4028234663852886e38
    x = lib.tensor([1.0, 0.0, -1.0, 0.0, 5.0, inf, nan, -0.0, largest])
    y = lib.tensor([2.0, 1.0, 0.0, -1.0, 5.0, 0.0, 1.0, 0.0, inf])
    wide = lib.nextafter(lib.tensor([1.0, -1.0], dtype=lib.float64), lib.tensor(-9.0, dtype=lib.float64))
    return [lib.nextafter(x, y).view(lib.int32), wide.view(lib.int64)]


@PROGRAMS
def powers(lib, draw):
    return [
        *(lib.vander(lib.tensor([1, 2, 3])), lib.vander(lib.tensor([1.0, 2.0, 3.0]), 4, True)),
        *(lib.renorm(draw(3, 4), 2, 0, 1.0), lib.renorm(draw(3, 4), 1, 1, 1.0), draw(2, 3, 4).renorm(2, -1, 1.5)),
    ]


@PROGRAMS
def quantiles(lib, draw):
    nan = float("nan")
    x = lib.tensor([[1.0, nan, 3.0, 2.0], [nan] * 4, [4.0, 3.0, 2.0, 1.0]], dtype=lib.float64)
    q = lib.tensor([0.0, 0.3, 0.5, 1.0], dtype=lib.float64)
    results = with_gradients(lambda t: lib.nanquantile(t, 0.3, 1), doubles(draw, 3, 4))
    for interpolation in ("linear", "lower", "higher", "midpoint", "nearest"):
        for dim in (None, 0, -1):
            results.append(lib.nanquantile(x, q, dim, interpolation=interpolation))
            results.append(x.nanquantile(0.4, dim, True, interpolation=interpolation))
    return results


@PROGRAMS
def index_reduction(lib, draw):
    x, index, source = draw(3, 4), lib.tensor([0, 2, 0, 1]), draw(4, 4)
    return [
        x.index_reduce(0, index, source, reduce, include_self=own)
        for reduce in ("prod", "mean", "amax", "amin")
        for own in (True, False)
    ]


@PROGRAMS
def methods(lib, draw):
    x = lib.tensor([1.0, 2.0])
    return [
        *(x.where(lib.tensor([True, False]), lib.tensor(0.0)), lib.ones(2, 3).sum_to_size(1, 3)),
        *(
            lib.ones(2, 3).sum_to_size(3),
            x.clone().apply_(lambda v: v * 2),
            x[:1].is_nonzero(),
            x.is_cpu,
            x.is_signed(),
        ),
        *(x.type(), x.type(lib.int8).type(), lib.FloatTensor(2, 3).shape, isinstance(x, lib.LongTensor)),
    ]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_program(program):
    assert_same(program, program.__name__)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pydlx.cdist(pydlx.ones(2, 3), pydlx.ones(2, 4)), ValueError, r"\[cdist\] x2"),
        (lambda: pydlx.cdist(pydlx.ones(2, 3), pydlx.ones(2, 3), -1), ValueError, r"\[cdist\] p"),
        (lambda: pydlx.cross(pydlx.ones(2), pydlx.ones(2)), ValueError, "size 3"),
        (lambda: pydlx.cross(pydlx.ones(3, 2), pydlx.ones(3, 2), 5), IndexError, "2 axes"),
        (lambda: pydlx.cov(pydlx.ones(2, 3), fweights=pydlx.ones(2)), ValueError, "fweights"),
        (lambda: pydlx.gcd(pydlx.ones(1), pydlx.ones(1)), TypeError, "integers"),
        (lambda: pydlx.nextafter(pydlx.ones(1, dtype=pydlx.int64), pydlx.ones(1)), TypeError, "float32 or float64"),
        (lambda: pydlx.unravel_index(pydlx.tensor([12]), (3, 4)), ValueError, "0 to 11"),
        (lambda: pydlx.nanquantile(pydlx.ones(3), 2.0), ValueError, r"\[0, 1\]"),
        (lambda: pydlx.nanquantile(pydlx.ones(3), 0.5, interpolation="cubic"), ValueError, "'cubic'"),
        (lambda: pydlx.trapezoid(pydlx.ones(3), pydlx.ones(3), dx=1.0), ValueError, "both"),
        (lambda: pydlx.index_reduce(pydlx.ones(3), 0, pydlx.tensor([0]), pydlx.ones(2), "amax"), ValueError, "index"),
        (lambda: pydlx.ones(3).index_reduce(0, pydlx.tensor([0]), pydlx.ones(1), "sum"), ValueError, "'sum'"),
        (lambda: pydlx.ones(3).type("torch.QuintTensor"), ValueError, "FloatTensor"),
        (lambda: pydlx.ones(2, 3).sum_to_size(2), ValueError, "sum_to_size"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call()
