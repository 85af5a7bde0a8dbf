"""Sizes at which the CUDA kernels take their other paths (sorting, several tiles, several launches), against the CPU bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from test_cuda_ops import kernels_exist

import pydlx

pytestmark = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")


def assert_same(fn, *arrays):
    """fn gives the same bits on both devices."""
    tensors = [pydlx.tensor(a) for a in arrays]
    want = fn(*tensors)
    with kernels_exist():
        got = fn(*[t.cuda() for t in tensors])
    want, got = (r if isinstance(r, tuple) else (r,) for r in (want, got))
    for w, g in zip(want, got, strict=True):
        assert g.device.type == "cuda"
        w, g = w.numpy(), g.cpu().numpy()
        assert w.dtype == g.dtype and w.shape == g.shape
        np.testing.assert_array_equal(g, w)


def floats(*sizes, seed=0):
    return np.random.default_rng(seed).standard_normal(sizes).astype(np.float32)


def below(high, *sizes, seed=1):
    return np.random.default_rng(seed).integers(0, high, sizes)


def test_ordered_scatter_of_one_line():
    assert_same(lambda x, i, s: x.scatter_add(0, i, s), floats(300), below(300, 5000), floats(5000))
    assert_same(lambda x, i, s: x.scatter(0, i, s), floats(300), below(300, 5000), floats(5000))


def test_ordered_scatter_of_several_lines():
    for dim in (0, 1):
        sizes = (700, 5) if dim == 0 else (5, 700)
        assert_same(lambda x, i, s, d=dim: x.scatter_add(d, i, s), floats(90, 90), below(90, *sizes), floats(*sizes))
        assert_same(lambda x, i, s, d=dim: x.scatter(d, i, s), floats(90, 90), below(90, *sizes), floats(*sizes))
        for how in ("prod", "amax", "amin"):
            assert_same(
                lambda x, i, s, d=dim, h=how: x.scatter_reduce(d, i, s, h),
                floats(90, 90),
                below(90, *sizes),
                floats(*sizes),
            )


def test_rows_with_one_index():
    assert_same(lambda x, i, s: x.index_add(0, i, s), floats(50, 33), below(50, 1500), floats(1500, 33))
    assert_same(lambda x, i, s: x.index_copy(0, i, s), floats(50, 33), below(50, 4000), floats(4000, 33))
    assert_same(lambda x, i, s: x.index_add(1, i, s), floats(7, 50, 3), below(50, 1500), floats(7, 1500, 3))
    assert_same(lambda x, i: x[i], floats(50, 32), below(50, 4000))
    assert_same(lambda x, i: x.index_select(1, i), floats(7, 50, 8), below(50, 400))


def test_indices_of_few_bits_and_many():
    for places, count in ((2, 90), (256, 3000), (70000, 3000)):
        assert_same(lambda x, i, s: x.index_add(0, i, s), floats(places), below(places, count), floats(count))


def test_finding_elements():
    mask = below(3, 3, 70, 211) == 0
    assert_same(lambda m: m.nonzero(), mask)
    assert_same(lambda x, m: x[m], floats(3, 70, 211), mask)
    assert_same(lambda r: pydlx.repeat_interleave(r), below(9, 5000))


def test_embedding_gradient_keeps_its_order():
    for cols in (3, 8):
        g = floats(6000, cols)

        def gradient(w, i, g):
            w = w.detach().clone().requires_grad_()
            out = pydlx.nn.functional.embedding(i, w, padding_idx=2)
            out.backward(g)
            return w.grad

        assert_same(gradient, floats(500, cols), below(500, 6000), g)


def runs(lengths):
    """An index that has place 2 k so many times as ``lengths[k]`` says, shuffled."""
    index = np.repeat(2 * np.arange(len(lengths)), lengths)
    return np.random.default_rng(8).permutation(index)


RUNS = {
    "one place": [9000],
    "few places": [2000, 3000, 1500],
    "around what a thread walks": [127, 128, 129, 1, 130, 0, 2],
    "around a piece": [255, 256, 257, 511, 512, 513, 300],
    "one among many": [1, 3] * 40 + [700] + [2] * 300,
    "more elements than pieces": [70000],
}


@pytest.mark.parametrize("lengths", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16, pydlx.float32, pydlx.float64], ids=str)
def test_places_that_are_met_often(lengths, dtype):
    """Long runs are cut into pieces: against float64, equal on every call, and not a matter of what else there is."""
    index, places = runs(lengths), 2 * len(lengths) + 1
    epsilon = pydlx.finfo(dtype).eps
    i = pydlx.tensor(index).cuda()
    for columns in (1, 5, 16, 72) if len(index) < 2000 else (1, 24) if len(index) <= 9000 else (1,):
        values = floats(len(index), columns)
        x = pydlx.tensor(values).to(dtype)
        exact = x.double().numpy()
        want, size = np.zeros((places, columns)), np.zeros((places, columns))
        np.add.at(want, index, exact)
        np.add.at(size, index, np.abs(exact))

        def check(got, want=want, size=size):
            error = np.abs(got.cpu().double().numpy() - want)
            assert (error <= epsilon * np.abs(want) + 2e-7 * size * (1e-9 if dtype == pydlx.float64 else 1)).all()

        x = x.cuda()
        zero = pydlx.zeros(places, columns, dtype=dtype, device="cuda")
        sums = zero.index_add(0, i, x)
        check(sums)
        assert (zero.index_add(0, i, x) == sums).all().item()
        often = int(np.argmax(np.bincount(index)))
        one = pydlx.nonzero(i == often).flatten()
        assert (zero.index_add(0, i[one], x[one])[often] == sums[often]).all().item()
        check(zero.scatter_add(0, i[:, None].expand(-1, columns), x))
        check(zero.t().scatter_add(1, i.expand(columns, -1), x.t()).t())
        check(zero.index_put((i,), x, accumulate=True))
        if dtype in (pydlx.float32, pydlx.float64):
            check(pydlx.bincount(i, x[:, 0].contiguous(), minlength=places)[:, None], want[:, :1], size[:, :1])
        table = zero.clone().requires_grad_()
        for options in ({}, {"padding_idx": 2}, {"scale_grad_by_freq": True}):
            table.grad = None
            pydlx.nn.functional.embedding(i, table, **options).backward(x)
            w, s = want.copy(), size.copy()
            if "padding_idx" in options:
                w[2] = s[2] = 0
            if "scale_grad_by_freq" in options:
                often = np.maximum(np.bincount(index, minlength=places), 1)[:, None]
                w, s = w / often, s / often
            check(table.grad, w, s)
        for how, ufunc in (("amax", np.maximum), ("amin", np.minimum), ("prod", np.multiply)):
            factor = exact if how != "prod" else np.exp(exact / 100)
            values = pydlx.tensor(factor).to(dtype)
            result = np.ones((places, columns))
            ufunc.at(result, index, values.double().numpy())
            got = pydlx.ones(places, columns, dtype=dtype, device="cuda")
            got = got.scatter_reduce(0, i[:, None].expand(-1, columns), values.cuda(), how).cpu().double().numpy()
            if how != "prod":
                np.testing.assert_array_equal(got, result)
            elif dtype in (pydlx.float32, pydlx.float64):
                np.testing.assert_allclose(got, result, rtol=len(index) * float(epsilon))
        last = {int(k): q for q, k in enumerate(index)}
        got = zero.scatter(0, i[:, None].expand(-1, columns), x).cpu().double().numpy()
        for k, q in last.items():
            assert (got[k] == exact[q]).all()


def test_integers_that_are_met_often():
    for dtype in (pydlx.bool, pydlx.uint8, pydlx.int8, pydlx.int16, pydlx.int32, pydlx.int64):
        assert_same(
            lambda x, i, s, d=dtype: x.to(d).scatter_add(0, i, s.to(d)), below(9, 5), runs([900, 70, 0]), below(9, 970)
        )


def test_one_hot():
    assert_same(lambda i: pydlx.nn.functional.one_hot(i), below(300, 3000))


def test_bad_index_is_reported():
    x, i = pydlx.zeros(10).cuda(), pydlx.tensor([1, 99]).cuda()
    with pytest.raises(IndexError, match="position 1"):
        x[i].cpu()
    with pytest.raises(IndexError, match="position 0"):
        pydlx.zeros(0).cuda().index_select(0, i).cpu()
    assert x.scatter(0, pydlx.tensor([2]).cuda(), 3.0).cpu().tolist()[2] == 3  # the device goes on


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int16", "uint8", "bool", "float16"])
@pytest.mark.parametrize(
    ("rows", "n"), [(1, 1), (70, 3), (9, 40), (40, 100), (3, 2048), (2, 2049), (3, 9000), (2, 17_001)]
)
def test_sort(dtype, rows, n):
    x = np.round(floats(rows, n) * 20)
    if dtype == "bool":
        x = x > 0
    for descending in (False, True):
        assert_same(lambda t, d=descending: t.sort(-1, descending=d), x.astype(dtype))
        for k in {1, min(n, 7), n // 3, n}:
            assert_same(lambda t, d=descending, k=k: t.topk(k, largest=d), x.astype(dtype))
    if dtype != "bool":
        for k in {1, n // 2 + 1, n}:
            assert_same(lambda t, k=k: t.kthvalue(k), x.astype(dtype))


@pytest.mark.parametrize("n", [5000, 30_000])  # longer rows are divided among blocks
def test_sort_of_special_values(n):
    x = floats(3, n)
    x[:, ::7], x[:, 1::7], x[:, 2::7], x[:2, 3::7] = np.inf, -0.0, 0.0, np.nan
    assert_same(lambda t: t.sort(-1), x)
    assert_same(lambda t: t.topk(900), x)
    assert_same(lambda t: t.median(1), x)
    assert_same(lambda t: t.nanmedian(1), x)


def test_bincount_with_weights():
    assert_same(lambda i, w: pydlx.bincount(i, w), below(40, 1200), floats(1200))
    assert_same(lambda i: pydlx.bincount(i, minlength=99), below(40, 5000))
    for bins in (1, 8192, 8193):
        assert_same(lambda i, n=bins: pydlx.bincount(i, minlength=n), np.minimum(below(bins, 9000), below(50, 9000)))


def test_searchsorted():
    for right in (False, True):
        assert_same(lambda a, v, r=right: pydlx.searchsorted(a, v, right=r), np.sort(floats(3, 500), -1), floats(3, 99))


def weights(*sizes):
    w = np.abs(floats(*sizes, seed=4))
    w[..., ::3] = 0
    return w


N = 9001  # no multiple of what a thread draws, several blocks
DRAWS = {
    **{
        f"{name}-{dtype}": lambda x, g, name=name, dtype=dtype, a=a: getattr(x(N, dtype=dtype), name)(*a, generator=g)
        for name, a in (
            ("uniform_", (-2, 3)),
            ("normal_", (1, 2)),
            ("exponential_", (0.5,)),
            ("geometric_", (0.1,)),
            ("cauchy_", (1, 2)),
            ("bernoulli_", (0.3,)),
        )
        for dtype in (pydlx.float32, pydlx.float64, pydlx.float16, pydlx.bfloat16)
    },
    "randint": lambda x, g: x(N, dtype=pydlx.int64).random_(-5, 1000, generator=g),
    "random": lambda x, g: x(N, dtype=pydlx.int64).random_(generator=g),
    "bernoulli": lambda x, g: pydlx.bernoulli(pydlx.linspace(0, 1, N).to(x(1).device), generator=g),
    "poisson-small": lambda x, g: pydlx.poisson(x(N) + 3, generator=g),
    "poisson": lambda x, g: pydlx.poisson(pydlx.linspace(0, 90, N).to(x(1).device), generator=g),
    "multinomial": lambda x, g: pydlx.multinomial(
        pydlx.tensor(weights(5, 3000)).to(x(1).device), 700, True, generator=g
    ),
    "multinomial-long": lambda x, g: pydlx.multinomial(
        pydlx.tensor(weights(150_000)).to(x(1).device), 99, True, generator=g
    ),
    "multinomial-once": lambda x, g: pydlx.multinomial(
        pydlx.tensor(weights(5, 3000)).to(x(1).device), 700, generator=g
    ),
    "multinomial-short": lambda x, g: pydlx.multinomial(pydlx.tensor(weights(90, 7)).to(x(1).device), 4, generator=g),
    **{
        f"randperm-{n}": lambda x, g, n=n: pydlx.randperm(n, generator=g, device=x(1).device)
        for n in (1, 2, 33, 5000, 20000)
    },
}


@pytest.mark.parametrize("name", DRAWS)
def test_random_bits(name):
    drawn = []
    for device in ("cpu", "cuda"):
        g = pydlx.Generator(device=device)
        g.manual_seed(2**40 + 7)
        x = DRAWS[name](lambda *s, d=device, **o: pydlx.zeros(*s, device=d, **o), g)
        assert x.device.type == device
        drawn.append((x.float() if x.dtype == pydlx.bfloat16 else x).cpu().numpy())
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize("dtype", [pydlx.float32, pydlx.float64, pydlx.float16, pydlx.bfloat16])
def test_dropout_bits(dtype):
    x = pydlx.tensor(floats(N)).to(dtype)
    for p in (0.0, 0.3, 1.0):
        results = []
        for t in (x, x.cuda()):
            pydlx.manual_seed(5)
            results.append(pydlx.nn.functional.dropout(t, p).float().cpu().numpy())
        np.testing.assert_array_equal(*results)


def test_bad_weights_are_reported():
    for bad in ([0.5, -1.0, 2.0], [0.0, 0.0, 0.0]):
        with pytest.raises(ValueError, match="weights"):
            pydlx.multinomial(pydlx.tensor(bad).cuda(), 1).cpu()


@pytest.mark.parametrize("sizes", [(5000,), (3, 2500), (3000, 3), (2, 700, 40), (3000, 2, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "float16"])
def test_scans(sizes, dtype):
    x = (floats(*sizes) * 20 % 9).astype(dtype)
    dim = int(np.argmax(sizes))
    for op in (pydlx.cummax, pydlx.cummin):
        assert_same(lambda t, op=op: op(t, dim), x)
    if dtype == "int64":  # exact in any order of addition
        assert_same(lambda t: t.cumsum(dim), x)
        assert_same(lambda t: (t % 3 + 1).cumprod(dim), x)
    elif dtype == "float64":
        t = pydlx.tensor(x)
        for op in (pydlx.cumsum, pydlx.logcumsumexp):
            np.testing.assert_allclose(op(t.cuda(), dim).cpu().numpy(), op(t, dim).numpy(), rtol=1e-13)
        y = 1 + t / 1000
        np.testing.assert_allclose(y.cuda().cumprod(dim).cpu().numpy(), y.cumprod(dim).numpy(), rtol=1e-11)


OPTIMISERS = {
    "sgd": lambda p: pydlx.optim.SGD(p, lr=0.1),
    "sgd-nesterov": lambda p: pydlx.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd-dampening": lambda p: pydlx.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, maximize=True),
    "adam": lambda p: pydlx.optim.Adam(p, lr=0.1),
    "adamw-amsgrad": lambda p: pydlx.optim.AdamW(p, lr=0.1, amsgrad=True),
    "rmsprop": lambda p: pydlx.optim.RMSprop(p, lr=0.1),
    "rmsprop-all": lambda p: pydlx.optim.RMSprop(p, lr=0.1, centered=True, momentum=0.5, weight_decay=0.1),
    "adagrad": lambda p: pydlx.optim.Adagrad(p, lr=0.1, lr_decay=0.1),
}


@pytest.mark.parametrize("dtype", [pydlx.float32, pydlx.float64, pydlx.bfloat16])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers(name, dtype):
    """More tensors than one launch takes, of odd sizes, one of several tiles, some not aligned to 16 bytes."""
    sizes = [*range(1, 80), 0, 5003]
    results = []
    for device in ("cpu", "cuda"):
        flat = pydlx.tensor(floats(sum(sizes))).to(dtype).to(device)
        params = [piece.detach().requires_grad_() for piece in flat.split(sizes)]
        optimiser = OPTIMISERS[name](params)
        for step in range(3):
            for i, p in enumerate(params):
                p.grad = pydlx.tensor(floats(sizes[i], seed=10 * i + step)).to(dtype).to(device)
            optimiser.step()
        results.append(flat.float().cpu().numpy() if dtype == pydlx.bfloat16 else flat.cpu().numpy())
    eps = {pydlx.float32: 1e-6, pydlx.float64: 1e-14, pydlx.bfloat16: 1e-2}[dtype]
    np.testing.assert_allclose(results[1], results[0], rtol=eps, atol=eps)


@pytest.mark.parametrize(
    "options", [{"kernel_size": 3, "stride": 2, "padding": 1}, {"kernel_size": 5, "stride": 1, "dilation": 2}]
)
def test_pooling_of_many_windows(options):
    x = floats(3, 4, 40, 37)

    def max_pool(x):
        x = x.detach().requires_grad_()
        y, i = pydlx.nn.functional.max_pool2d(x, return_indices=True, **options)
        (y * y).sum().backward()
        return y.detach(), i, x.grad

    assert_same(max_pool, x)
    if "dilation" not in options:
        assert_same(
            lambda t: pydlx.nn.functional.max_unpool2d(
                *pydlx.nn.functional.max_pool2d(t, 2, 2, return_indices=True), 2
            ),
            x[..., :36],
        )


def test_random_numbers_of_a_recorded_graph_go_on():
    """Replays draw what eager calls would have drawn, and other draws in between take their share."""

    def step(x):
        y = pydlx.nn.functional.dropout(x * 1, 0.4)
        y = y + pydlx.rand_like(x) + pydlx.randn(x.shape, device="cuda") + pydlx.randperm(x.numel(), device="cuda")
        y.sum().backward()
        return y.detach()

    seen = []
    for recorded in (False, True):
        x = pydlx.ones(301, device="cuda", requires_grad=True)
        pydlx.manual_seed(11)
        results = []
        if recorded:
            g = pydlx.cuda.CUDAGraph()
            with pydlx.cuda.graph(g):
                x.grad = None
                y = step(x)
                grad = x.grad
        for i in range(3):
            if recorded:
                g.replay()
            else:
                x.grad = None
                y, grad = step(x), x.grad
            results += [y.cpu().numpy(), grad.cpu().numpy()]
            if i == 0:
                results.append(pydlx.rand(5, device="cuda").cpu().numpy())
        seen.append(results)
    for eager, replayed in zip(*seen, strict=True):
        np.testing.assert_array_equal(replayed, eager)
    own = pydlx.Generator(device="cuda")
    with pytest.raises(RuntimeError, match="default generator"), pydlx.cuda.graph(pydlx.cuda.CUDAGraph()):
        pydlx.rand(3, device="cuda", generator=own)


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16, pydlx.float32, pydlx.float64], ids=str)
def test_rows_added_to_rows(dtype):
    """Rows of several places, of one, aligned and not, dense and strided; sums of 16-bit floats are rounded once."""
    for rows, count, columns in ((50, 1500, 33), (7, 300, 64), (1, 40, 16), (300, 5, 24), (20, 100, 40)):
        for offset in (0, 1):

            def add(x, i, s, offset=offset, rows=rows):
                x, s = x.to(dtype)[:, offset:], s.to(dtype)[:, offset:]
                y = x.clone()
                y.index_put_((i - rows // 2,), s, accumulate=True)
                return x.index_add(0, i, s).double(), y.double()

            assert_same(add, floats(rows, columns + 1), below(rows, count), floats(count, columns + 1))


def test_rows_added_outside_are_reported():
    x = pydlx.zeros(4, 16, device="cuda")
    i = pydlx.tensor([0, 9, 3], device="cuda")

    def use():
        x.index_add_(0, i, pydlx.ones(3, 16, device="cuda"))
        pydlx.cuda.synchronize()

    with pytest.raises(IndexError):
        use()
    assert x[1:3].sum().item() == 0


@pytest.mark.parametrize("dtype", [pydlx.float16, pydlx.bfloat16, pydlx.float32, pydlx.float64], ids=str)
@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize(
    ("bags", "length", "columns"),
    [(5, 7, 16), (3, 1, 5), (300, 20, 33), (2, 1000, 24), (1, 513, 7), (4, 0, 3), (0, 4, 3), (700, 600, 128)],
)
def test_bags(bags, length, columns, mode, dtype):
    if bags * length * columns > 1e6 and dtype != pydlx.bfloat16:
        pytest.skip("one dtype is enough of the largest")
    embedding_bag = pydlx.nn.functional.embedding_bag
    table, picks, slope = floats(60, columns), below(60, bags, length), floats(bags, columns, seed=2)
    results = []
    for device in ("cpu", "cuda"):
        weight = pydlx.tensor(table, dtype=dtype, device=device, requires_grad=True)
        out = embedding_bag(pydlx.tensor(picks, device=device), weight, mode=mode)
        out.backward(pydlx.tensor(slope, dtype=dtype, device=device))
        results.append([t.detach().double().cpu().numpy() for t in (out, weight.grad)])
    unit = float(pydlx.finfo(dtype).eps)
    for want, got in zip(*results, strict=True):
        # Sums are formed in float32 at least, of up to so many terms, and rounded once.
        wide = min(unit, 2.0**-23) * (1 + max(length, bags * length / 60) ** 0.5)
        np.testing.assert_allclose(got, want, rtol=0, atol=(unit + wide) * max(1.0, np.abs(want).max(initial=0)))


def test_bags_of_rows_that_are_not_there():
    weight = pydlx.ones(4, 16, device="cuda")

    def use():
        pydlx.nn.functional.embedding_bag(pydlx.tensor([[0, 1], [2, 4]], device="cuda"), weight)
        pydlx.cuda.synchronize()

    with pytest.raises(IndexError, match="position 3"):
        use()


def test_more_rows_than_blocks():
    """Rows that are the work of a block, in turns."""
    x = floats(300, 9)
    x[::7, 3] = np.nan
    assert_same(lambda t: t.median(1), x)
    assert_same(lambda t: t.kthvalue(4, 1), x)
    assert_same(lambda t: t.topk(3, 1), floats(200, 1100))
    weights = np.abs(floats(300, 12)) * (below(3, 300, 12) > 0) + 1e-3

    def draw(w, replacement):
        pydlx.manual_seed(5)
        return pydlx.multinomial(w, 4, replacement)

    for replacement in (True, False):
        assert_same(lambda w, r=replacement: draw(w, r), weights.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_dropout_draws_what_the_cpu_draws(dtype):
    for n in (1, 7, 8, 1003):
        x = pydlx.tensor(floats(n + 1)).to(getattr(pydlx, dtype))
        for skew in (0, 1):
            results = []
            for t in (x, x.cuda()):
                pydlx.manual_seed(n)
                results.append(pydlx.nn.functional.dropout(t[skew:], 0.4, training=True).cpu().double().numpy())
            np.testing.assert_array_equal(*results)
