"""Cases of tensor creation."""

from cases import Case, ErrorCase, args, integers, normal


def made(name, fn, **options):
    return Case(
        f"create/{name}",
        fn,
        args(),
        grad=False,
        exact=options.pop("exact", True),
        dtypes=("float32",),
        layouts=False,
        **options,
    )


CASES = [
    made("zeros", lambda T: T.zeros(2, 3)),
    made("zeros/tuple", lambda T: T.zeros((2, 0, 3), dtype=T.int16)),
    made("zeros/0d", lambda T: T.zeros(())),
    made("zeros/kw", lambda T: T.zeros(size=(2,), dtype=T.bool, device="cpu")),
    made("ones", lambda T: T.ones([4], dtype=T.uint8)),
    made("like/format", lambda T: T.zeros_like(T.ones(2, 3, 4, 5), memory_format=T.channels_last)),
    made("full", lambda T: (T.full((2, 2), 7), T.full((3,), 2.5), T.full((), True), T.full((2,), 3, dtype=T.float64))),
    made(
        "arange",
        lambda T: (
            T.arange(5),
            T.arange(2, 8),
            T.arange(8, -3, -3),
            T.arange(0, 1, 0.1),
            T.arange(3.5),
            T.arange(5, 5),
        ),
    ),
    made(
        "arange/dtype",
        lambda T: (
            T.arange(0, 5, dtype=T.float64),
            T.arange(1, 9, 2, dtype=T.int8),
            T.arange(4, dtype=T.bfloat16).float(),
        ),
    ),
    made("arange/extreme", lambda T: T.arange(2**62, 2**62 + 3)),
    made("arange/kw", lambda T: T.arange(start=1, end=7, step=3)),
    made(
        "linspace",
        lambda T: (
            T.linspace(0, 1, 1),
            T.linspace(3, -3, 7),
            T.linspace(0, 10, 11, dtype=T.int64),
            T.linspace(0, 1, 0),
        ),
    ),
    made("linspace/long", lambda T: T.linspace(-1, 1, 1001, dtype=T.float64), exact=False),
    made(
        "logspace",
        lambda T: (T.logspace(-3, 3, 7, dtype=T.float64), T.logspace(0, 8, 9, base=2, dtype=T.float64)),
        exact=False,
    ),
    made("eye", lambda T: (T.eye(3), T.eye(2, 4, dtype=T.int64), T.eye(4, 2), T.eye(0))),
    made(
        "like",
        lambda T: (
            T.zeros_like(T.ones(2, 3)),
            T.ones_like(T.zeros(2, dtype=T.int32)),
            T.full_like(T.zeros(3), 4, dtype=T.int8),
        ),
    ),
    made(
        "new",
        lambda T: (
            T.ones(1, dtype=T.int16).new_zeros(2, 3),
            T.ones(1).new_ones((2,)),
            T.ones(1).new_full((2,), 3),
            T.ones(2).new_tensor([1, 2]),
        ),
    ),
    made("scalar_tensor", lambda T: T.scalar_tensor(2)),
    made(
        "tril_indices",
        lambda T: (T.tril_indices(3, 4), T.tril_indices(4, 2, -1), T.tril_indices(3, 3, 1, dtype=T.int32)),
    ),
    made("triu_indices", lambda T: (T.triu_indices(3, 4), T.triu_indices(4, 2, 1), T.triu_indices(0, 3))),
    made("out", lambda T: T.arange(3, out=T.empty(3, dtype=T.int64))),
    Case(
        "tril", lambda T, x: T.tril(x) * 2, args(normal(3, 4, 5)), dtypes=("float32", "float64", "float16", "bfloat16")
    ),
    Case("tril/above", lambda T, x: x.tril(2) * 2, args(normal(6, 4))),
    Case("triu", lambda T, x: T.triu(x, diagonal=1) * 2, args(normal(3, 4, 5))),
    Case("triu/below", lambda T, x: x.triu(-9) * 2, args(normal(4, 6))),
    Case("tril/int", lambda T, x: x.tril(-1), args(integers(-5, 5, 7, 7, dtype="int8")), grad=False, exact=True),
    Case("tril/large", lambda T, x: x.triu(), args(normal(150, 200)), grad=False),
]

ERRORS = [
    ErrorCase("zeros/negative", lambda T: T.zeros(2, -1), ValueError, r"non-negative"),
    ErrorCase("zeros/overflow", lambda T: T.zeros(2**40, 2**40), ValueError, r"overflows 64 bits"),
    ErrorCase("zeros/text", lambda T: T.zeros("a"), TypeError, r"\[zeros\] size"),
    ErrorCase("zeros/dtype", lambda T: T.zeros(2, dtype="float"), TypeError, r"\[zeros\] dtype: expected a dtype"),
    ErrorCase("zeros/grad", lambda T: T.zeros(2, dtype=T.int64, requires_grad=True), TypeError, r"floating point"),
    ErrorCase("arange/step", lambda T: T.arange(0, 5, 0), ValueError, r"\[arange\] step"),
    ErrorCase("arange/side", lambda T: T.arange(0, 5, -1), ValueError, r"\[arange\] end"),
    ErrorCase("arange/nan", lambda T: T.arange(float("nan")), ValueError, r"finite"),
    ErrorCase("arange/huge", lambda T: T.arange(0.0, 1e300, 1e-300), ValueError, r"2\^63"),
    ErrorCase("linspace/steps", lambda T: T.linspace(0, 1, -1), ValueError, r"\[linspace\] steps"),
    ErrorCase("eye/negative", lambda T: T.eye(-1), ValueError, r"\[eye\]"),
    ErrorCase("tril/1d", lambda T: T.ones(3).tril(), ValueError, r"\[tril\] input"),
    ErrorCase("empty_strided/rank", lambda T: T.empty_strided((2, 3), (1,)), ValueError, r"\[empty_strided\] stride"),
    ErrorCase(
        "tensor/ragged",
        lambda T: T.tensor([[1, 2], [3]]),
        ValueError,
        r"\[tensor\] data: expected length 2 at dimension 1, got 1",
    ),
    ErrorCase("tensor/mixed", lambda T: T.tensor([[1, 2], 3]), ValueError, r"\[tensor\] data"),
    ErrorCase("tensor/deeper", lambda T: T.tensor([1, [2]]), ValueError, r"\[tensor\] data"),
    ErrorCase("tensor/large", lambda T: T.tensor([2**63]), ValueError, r"64 bits"),
    ErrorCase("tensor/range", lambda T: T.tensor([300], dtype=T.uint8), ValueError, r"\[0, 255\] for uint8, got 300"),
    ErrorCase("tensor/text", lambda T: T.tensor(["a"]), TypeError, r"got str"),
    ErrorCase("tensor/complex", lambda T: T.tensor([1j]), TypeError, r"complex"),
    ErrorCase("tensor/none", lambda T: T.tensor(None), TypeError, r"NoneType"),
    ErrorCase("tensor/cycle", lambda T: T.tensor(_cycle()), ValueError, r"nested at most"),
    ErrorCase("tensor/nan-int", lambda T: T.tensor([float("nan")], dtype=T.int64), ValueError, r"finite"),
]


def _cycle():
    a = []
    a.append(a)
    return a
