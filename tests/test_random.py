"""Random numbers: the bits, their distributions, reproducibility, states, errors."""

from __future__ import annotations

import numpy as np
import pytest

import pydlx

M0, M1, K0, K1, MASK = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85, 0xFFFFFFFF


def philox(seed, block, sub=0):
    """Philox 4x32-10 written down independently of the engine."""
    c = [block & MASK, block >> 32, sub & MASK, sub >> 32]
    k = [seed & MASK, seed >> 32]
    for _ in range(10):
        p0, p1 = M0 * c[0], M1 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + K0) & MASK, (k[1] + K1) & MASK]
    return c


def zeros(*shape, dtype=pydlx.float32):
    return pydlx.from_numpy(np.zeros(shape)).to(dtype)


def ones(*shape, requires_grad=False):
    return pydlx.from_numpy(np.ones(shape, np.float32)).requires_grad_(requires_grad)


def generator(seed):
    return pydlx.Generator().manual_seed(seed)


def test_reference_known_answers():
    assert philox(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox(2**64 - 1, 2**64 - 1, 2**64 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize(("seed", "offset"), [(0, 0), (0x299F31D0A4093822, 2**32 - 3), (123, 2**64 - 2)])
def test_bits(isa, seed, offset):
    g = pydlx.Generator()
    g._set_state(seed, offset)
    got = pydlx.rand(101, generator=g).numpy()
    words = [w for b in range(26) for w in philox(seed, (offset + b) % 2**64)]
    want = np.array([(w >> 8) / 2.0**24 for w in words[:101]], np.float32)
    assert np.array_equal(got, want)
    assert g._get_state() == (seed, (offset + 26) % 2**64)


def test_double_bits():
    g = generator(77)
    got = pydlx.rand(5, dtype=pydlx.float64, generator=g).numpy()
    words = [w for b in range(3) for w in philox(77, b)]
    assert np.array_equal(got, [((words[2 * i] << 32 | words[2 * i + 1]) >> 11) / 2.0**53 for i in range(5)])


DRAWS = {
    "rand": lambda n, g: pydlx.rand(n, generator=g),
    "randn": lambda n, g: pydlx.randn(n, generator=g),
    "randn64": lambda n, g: pydlx.randn(n, generator=g, dtype=pydlx.float64),
    "randint": lambda n, g: pydlx.randint(-5, 1000, (n,), generator=g),
    "randperm": lambda n, g: pydlx.randperm(n, generator=g),
    "exponential": lambda n, g: pydlx.rand(n).exponential_(0.5, generator=g),
    "bernoulli": lambda n, g: pydlx.rand(n).bernoulli_(0.3, generator=g),
    "poisson": lambda n, g: pydlx.poisson(pydlx.rand(n, generator=generator(1)) * 30, generator=g),
    "multinomial": lambda n, g: pydlx.multinomial(pydlx.rand(n, 3, generator=generator(1)), 2, generator=g),
}


@pytest.mark.parametrize("name", DRAWS)
def test_threads_and_seeds(name):
    draw = DRAWS[name]
    before = pydlx.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            pydlx.set_num_threads(threads)
            results.append(draw(40003, generator(9)).numpy())
    finally:
        pydlx.set_num_threads(before)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], draw(40003, generator(10)).numpy())
    g = generator(9)
    draw(40003, g)
    assert not np.array_equal(results[0], draw(40003, g).numpy()), "the second draw repeats the first"


def test_prefix_does_not_depend_on_length():
    for dtype in (pydlx.float32, pydlx.float64):
        long = pydlx.randn(1000, generator=generator(3), dtype=dtype).numpy()
        assert np.array_equal(pydlx.randn(7, generator=generator(3), dtype=dtype).numpy(), long[:7])


def moments(x):
    x = x.double().numpy()
    return x.mean(), x.var(), ((x - x.mean()) ** 3).mean() / x.std() ** 3, ((x - x.mean()) ** 4).mean() / x.var() ** 2


N = 400_000


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_normal_moments(dtype):
    x = pydlx.randn(N, dtype=getattr(pydlx, dtype), generator=generator(5))
    mean, var, skew, kurtosis = moments(x)
    assert abs(mean) < 0.01
    assert abs(var - 1) < 0.02
    assert abs(skew) < 0.02
    assert abs(kurtosis - 3) < 0.06
    values = np.sort(x.double().numpy())
    for q, z in [(0.001, -3.0902), (0.1, -1.2816), (0.5, 0.0), (0.975, 1.96)]:
        assert abs(values[int(q * N)] - z) < 0.06


def test_other_moments():
    def check(x, mean, var):
        m, v, *_ = moments(x)
        assert abs(m - mean) < 6 * np.sqrt(var / N) and abs(v - var) < 0.03 * var, (m, v)

    check(pydlx.rand(N, generator=generator(1)), 0.5, 1 / 12)
    check(zeros(N).uniform_(-3, 5, generator=generator(2)), 1, 64 / 12)
    check(zeros(N).exponential_(2.5, generator=generator(3)), 0.4, 0.16)
    check(zeros(N).geometric_(0.25, generator=generator(4)), 4, 12)
    check(
        zeros(N).log_normal_(0.5, 0.25, generator=generator(5)), np.exp(0.53125), (np.exp(0.0625) - 1) * np.exp(1.0625)
    )
    check(pydlx.randint(10, (N,), generator=generator(6)), 4.5, 99 / 12)
    check(zeros(N).bernoulli_(0.2, generator=generator(7)), 0.2, 0.16)
    check(pydlx.poisson(zeros(N).fill_(3.5), generator=generator(8)), 3.5, 3.5)
    check(pydlx.poisson(zeros(N).fill_(60), generator=generator(9)), 60, 60)
    check(pydlx.normal(2.0, 3.0, (N,), generator=generator(10)), 2, 9)
    cauchy = zeros(N).cauchy_(1, 2, generator=generator(11)).numpy()
    assert np.allclose(np.percentile(cauchy, [25, 50, 75]), [-1, 1, 3], atol=0.05)


def test_ranges():
    for dtype in (pydlx.float16, pydlx.bfloat16, pydlx.float32, pydlx.float64):
        x = pydlx.rand(100_000, dtype=dtype, generator=generator(1)).double().numpy()
        assert x.min() >= 0
        assert x.max() < 1
        assert (zeros(100_000, dtype=dtype).exponential_(generator=generator(1)).double().numpy() > 0).all()
    x = pydlx.randint(-(2**63), 2**63 - 1, (1000,), generator=generator(1)).numpy()
    assert x.min() < -(2**62)
    assert x.max() > 2**62
    x = zeros(1000, dtype=pydlx.uint8).random_(generator=generator(1)).numpy()
    assert x.min() < 10
    assert x.max() > 245
    limits = {
        pydlx.bool: 1,
        pydlx.int8: 2**7 - 1,
        pydlx.int16: 2**15 - 1,
        pydlx.int32: 2**31 - 1,
        pydlx.int64: 2**63 - 1,
    }
    limits |= {pydlx.float16: 2**11, pydlx.bfloat16: 2**8, pydlx.float32: 2**24, pydlx.float64: 2**53}
    for dtype, limit in limits.items():  # without bounds: every integer that the dtype holds exactly
        x = zeros(1000, dtype=dtype).random_(generator=generator(1)).double()
        assert 0 <= x.min() <= 0.01 * limit, dtype
        assert 0.99 * limit <= x.max() <= limit, dtype
    x = zeros(1000, dtype=pydlx.int64).random_(-5, 5, generator=generator(1)).numpy()
    assert set(x) == set(range(-5, 5))
    assert sorted(pydlx.randperm(1001, generator=generator(1)).numpy()) == list(range(1001))
    assert pydlx.rand(0, 3).shape == (0, 3)
    assert pydlx.randperm(0).shape == (0,)
    assert pydlx.randn(()).shape == ()


def test_multinomial():
    w = pydlx.from_numpy(np.array([[1.0, 2, 0, 5], [0, 0, 3, 0]], np.float32))
    x = pydlx.multinomial(w, 40_000, replacement=True, generator=generator(1)).numpy()
    assert np.allclose(np.bincount(x[0], minlength=4) / 40_000, [0.125, 0.25, 0, 0.625], atol=0.01)
    assert (x[1] == 2).all()
    first = [pydlx.multinomial(w[0], 3, generator=generator(s)).numpy() for s in range(2000)]
    assert all(sorted(f) == [0, 1, 3] for f in first)
    assert abs(np.mean([f[0] == 3 for f in first]) - 0.625) < 0.05
    assert abs(np.mean([f[1] == 1 for f in first if f[0] == 3]) - 2 / 3) < 0.06


@pytest.mark.parametrize("n", [2, 127, 128, 129, 1000])
def test_multinomial_of_many_weights(n):
    w = np.arange(1.0, n + 1)
    w[n // 2 : n - n // 4] = 0  # across sums' chunks
    x = pydlx.multinomial(pydlx.from_numpy(w), 200 * n, replacement=True, generator=generator(1)).numpy()
    count, mean = np.bincount(x, minlength=n), 200 * n * w / w.sum()
    assert not count[w == 0].any()
    assert np.square(count - mean)[w > 0] @ (1 / mean[w > 0]) < (w > 0).sum() + 5 * np.sqrt(2 * n)  # chi squared


def test_strided_and_in_place():
    base = zeros(6, 8)
    version = base._version
    base.transpose(0, 1)[::2].normal_(generator=generator(4))
    assert base._version > version
    want = pydlx.randn(4, 6, generator=generator(4)).numpy()
    assert np.array_equal(base.numpy().T[::2], want)
    assert (base.numpy().T[1::2] == 0).all()
    x = ones(3, requires_grad=True)
    y = (x * 2).uniform_()
    y.sum().backward()
    assert (x.grad.numpy() == 0).all()
    with pytest.raises(RuntimeError, match=r"\[normal_\]"):
        x.normal_()


def test_state():
    assert pydlx.manual_seed(-1) is pydlx.default_generator
    assert pydlx.initial_seed() == 2**64 - 1
    pydlx.manual_seed(7)
    pydlx.rand(10)
    state = pydlx.get_rng_state()
    assert state.dtype == pydlx.uint8
    a = pydlx.rand(10).numpy()
    with pydlx.random.fork_rng():
        pydlx.manual_seed(1)
        pydlx.rand(3)
    b = pydlx.rand(10).numpy()
    pydlx.set_rng_state(state)
    assert np.array_equal(pydlx.rand(10).numpy(), a)
    assert np.array_equal(pydlx.rand(10).numpy(), b)
    assert not np.array_equal(a, b)
    pydlx.set_rng_state(pydlx.full((len(state),), 255, dtype=pydlx.uint8))  # holds no address, whatever the bytes say
    assert pydlx.get_rng_state()[16:].sum() == 0
    with pytest.raises(ValueError, match=r"\[set_state\] new_state"):
        pydlx.set_rng_state(zeros(3, dtype=pydlx.uint8))


ERRORS = [
    (lambda: pydlx.rand(-1), ValueError, r"\[rand\] size"),
    (lambda: pydlx.randn(2**40, 2**40), ValueError, "overflow"),
    (lambda: pydlx.rand(2, dtype=pydlx.int64), TypeError, r"\[rand\] dtype"),
    (lambda: pydlx.randint(5, 5, (2,)), ValueError, r"\[randint\] high"),
    (lambda: pydlx.randint(0, 300, (2,), dtype=pydlx.uint8), ValueError, r"uint8 can hold"),
    (lambda: pydlx.randperm(-1), ValueError, r"\[randperm\] n"),
    (lambda: zeros(2).uniform_(2, 1), ValueError, r"\[uniform_\] from"),
    (lambda: zeros(2).normal_(0, -1), ValueError, r"\[normal_\] std"),
    (lambda: zeros(2).normal_(0, float("nan")), ValueError, r"\[normal_\] std"),
    (lambda: pydlx.normal(zeros(2), zeros(2) - 1), ValueError, r"\[normal\] std"),
    (lambda: zeros(2).bernoulli_(1.5), ValueError, r"\[bernoulli_\] p"),
    (lambda: zeros(2).bernoulli_(float("nan")), ValueError, r"\[bernoulli_\] p"),
    (lambda: pydlx.bernoulli(zeros(5) * float("nan")), ValueError, r"flat position 0"),
    (lambda: pydlx.bernoulli(zeros(5, dtype=pydlx.int64)), TypeError, r"\[bernoulli\] input"),
    (lambda: zeros(2).exponential_(0), ValueError, r"\[exponential_\] lambd"),
    (lambda: zeros(2).random_(3, 3), ValueError, r"\[random_\] to"),
    (lambda: pydlx.poisson(zeros(3) - 1), ValueError, r"\[poisson\] input"),
    (lambda: pydlx.multinomial(ones(3), 4), ValueError, r"replacement=True"),
    (lambda: pydlx.multinomial(zeros(3), 1), ValueError, r"positive weights"),
    (lambda: pydlx.multinomial(zeros(3) - 1, 1), ValueError, r"flat position 0"),
    (lambda: pydlx.multinomial(ones(3), 0), ValueError, r"num_samples"),
    (lambda: pydlx.manual_seed(2**64), ValueError, r"\[manual_seed\] seed"),
    (lambda: pydlx.Generator().manual_seed("1"), TypeError, r"\[manual_seed\] seed: expected an integer, got str"),
    (lambda: pydlx.Generator().set_state("1"), ValueError, r"\[set_state\] new_state"),
]


@pytest.mark.parametrize(("call", "error", "match"), ERRORS, ids=range(len(ERRORS)))
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()
