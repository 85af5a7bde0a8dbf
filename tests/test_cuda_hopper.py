"""Products of 16-bit floats by the instructions of sm_90a: the kernel against float64 around the edges of tiles, panels and boxes, what
it refuses, and (compiled apart, cuda_hopper.cpp) the arithmetic it rests on and the emulator's model of those instructions."""

from __future__ import annotations

import functools
import os

import numpy as np
import pytest
from cuda_program import check_wgmma_choice, compiled, python, run_part

import pydlx

needs_device = pytest.mark.skipif(not pydlx.cuda.is_available(), reason=pydlx._C._cuda.why_unavailable() or "no GPU")
needs_hopper = pytest.mark.skipif(
    not pydlx.cuda.is_available() or pydlx.cuda.get_device_capability()[0] != 9,
    reason="no GPU of compute capability 9.x",
)
LAYOUTS = ["nn", "nt", "tn", "tt"]
UNITS = {pydlx.float16: 9.8e-4, pydlx.bfloat16: 7.9e-3}


def operand(rng, rows, cols, transposed, dtype, batch=()):
    """A view whose lines begin at multiples of 16 bytes; what lies between them is NaN and must not be read."""
    lines, width = (cols, rows) if transposed else (rows, cols)
    a = np.full((*batch, lines, (width + 7) // 8 * 8), np.nan, np.float32)
    a[..., :width] = rng.standard_normal((*batch, lines, width))
    t = pydlx.from_numpy(a).to(dtype).cuda()[..., :width]
    return t.transpose(-1, -2) if transposed else t


def exact(t):
    return t.cpu().double().numpy()


def check(got, want, dtype, k):
    # One rounding of the result, and sums of k products in float.
    assert np.abs(exact(got) - want).max() <= UNITS[dtype] * np.abs(want).max() + 1.2e-7 * 4 * k


@needs_device
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", UNITS, ids=str)
@pytest.mark.parametrize("m", [64, 127, 128, 129])
@pytest.mark.parametrize(("n", "k"), [(64, 64), (127, 65), (128, 127), (129, 128), (255, 129), (256, 64), (257, 200)])
def test_edges(m, n, k, layout, dtype):
    rng = np.random.default_rng(m * n + k)
    a, b = operand(rng, m, k, layout[0] == "t", dtype), operand(rng, k, n, layout[1] == "t", dtype)
    check(a @ b, exact(a) @ exact(b), dtype, k)


@needs_device
@pytest.mark.parametrize("layout", LAYOUTS)
def test_wide_tiles(layout):
    """As many tiles as make a GPU of 132 processors prefer the wide ones, the last of each row and column cut."""
    rng = np.random.default_rng(7)
    a, b = (
        operand(rng, 1030, 64, layout[0] == "t", pydlx.bfloat16),
        operand(rng, 64, 2310, layout[1] == "t", pydlx.bfloat16),
    )
    check(a @ b, exact(a) @ exact(b), pydlx.bfloat16, 64)


@needs_device
@pytest.mark.parametrize("dtype", UNITS, ids=str)
@pytest.mark.parametrize("n", [72, 129])
def test_epilogue(n, dtype):
    """Bias, activation, factors and what was there before; an odd number of columns is stored one by one."""
    rng = np.random.default_rng(n)
    x, w = operand(rng, 100, 96, False, dtype), operand(rng, n, 96, False, dtype)
    bias = pydlx.from_numpy(rng.standard_normal(n).astype(np.float32)).to(dtype).cuda()
    before = pydlx.from_numpy(rng.standard_normal((100, n)).astype(np.float32)).to(dtype).cuda()
    product = exact(x) @ exact(w).T
    check(pydlx.nn.functional.linear(x, w, bias), product + exact(bias), dtype, 96)
    odd = pydlx.cat([bias[:1], bias])[1:]  # not at a multiple of four bytes
    check(pydlx.nn.functional.linear(x, w, odd), product + exact(bias), dtype, 96)
    check(pydlx.addmm(before, x, w.t(), beta=0.5, alpha=-2), 0.5 * exact(before) - 2 * product, dtype, 96)
    check(pydlx.addmm(bias, x, w.t()), product + exact(bias), dtype, 96)
    for activation in (pydlx.nn.ReLU(), pydlx.nn.GELU(), pydlx.nn.Tanh()):
        layer = pydlx.nn.Sequential(pydlx.nn.Linear(96, n), activation).to(dtype).cuda()
        with pydlx.no_grad():
            layer[0].weight.copy_(w)
            layer[0].bias.copy_(bias)
            check(layer(x), activation(pydlx.from_numpy(product + exact(bias))).numpy(), dtype, 96)


@needs_device
@pytest.mark.parametrize("layout", LAYOUTS)
def test_batches(layout):
    rng = np.random.default_rng(3)
    dtype = pydlx.float16
    a = operand(rng, 65, 72, layout[0] == "t", dtype, (5,))
    b = operand(rng, 72, 130, layout[1] == "t", dtype, (5,))
    check(pydlx.bmm(a, b), exact(a) @ exact(b), dtype, 72)
    check(a @ b[2], exact(a) @ exact(b[2]), dtype, 72)  # one matrix for the whole batch
    check(a[1] @ b, exact(a[1]) @ exact(b), dtype, 72)
    # Heads of attention lie between each other: the step from one matrix to the next is shorter than a line.
    q, k = (operand(rng, 66, 3 * 64, False, dtype, (2,)).reshape(2, 66, 3, 64).transpose(1, 2) for _ in range(2))
    check(q @ k.transpose(-1, -2), exact(q) @ exact(k).swapaxes(-1, -2), dtype, 64)


@needs_device
def test_long_sums_are_split_in_a_fixed_order():
    rng = np.random.default_rng(5)
    a, b = operand(rng, 70, 4500, False, pydlx.bfloat16), operand(rng, 4500, 129, False, pydlx.bfloat16)
    first = a @ b
    check(first, exact(a) @ exact(b), pydlx.bfloat16, 4500)
    assert all(((a @ b) == first).all().item() for _ in range(2))


@needs_device
@pytest.mark.parametrize(("columns", "first"), [(131, 1), (136, 8), (128, 8), (132, 8), (136, 4)])
def test_nothing_is_written_beside_the_result(columns, first):
    """Results are stored by chunks of 16 bytes where their lines are made of those, otherwise one by one."""
    rng = np.random.default_rng(6)
    a, b = operand(rng, 130, 64, False, pydlx.float16), operand(rng, 64, columns, False, pydlx.float16)
    around = pydlx.full((140, 152), 7.0, dtype=pydlx.float16, device="cuda")
    inside = around[4:134, first : first + columns]
    pydlx.mm(a, b, out=inside)
    check(inside, exact(a) @ exact(b), pydlx.float16, 64)
    inside.fill_(7.0)
    assert (around == 7.0).all().item()


@needs_device
def test_gradients():
    rng = np.random.default_rng(8)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in [(72, 128), (80, 128)])
    g = pydlx.from_numpy(rng.standard_normal((72, 80)).astype(np.float32)).bfloat16().cuda()
    a, b = (pydlx.from_numpy(v).bfloat16().cuda().requires_grad_() for v in (x, w))
    pydlx.nn.functional.linear(a, b).backward(g)
    check(a.grad, exact(g) @ exact(b.detach()), pydlx.bfloat16, 80)
    check(b.grad, exact(g).T @ exact(a.detach()), pydlx.bfloat16, 72)


@needs_device
def test_recorded_products_read_new_values():
    rng = np.random.default_rng(9)
    a, b = operand(rng, 64, 64, False, pydlx.bfloat16), operand(rng, 64, 128, False, pydlx.bfloat16)
    out = pydlx.empty(64, 128, dtype=pydlx.bfloat16, device="cuda")
    pydlx.mm(a, b, out=out)
    graph = pydlx.cuda.CUDAGraph()
    with pydlx.cuda.graph(graph):
        pydlx.mm(a, b, out=out)
    a.mul_(-2.0)
    graph.replay()
    check(out, exact(a) @ exact(b), pydlx.bfloat16, 64)


PROGRAM = """
import pydlx
def make(*shape): return pydlx.ones(*shape, dtype=pydlx.bfloat16, device="cuda")
a = make(64, 128)
a @ make(128, 72)
a[:, :100] @ make(128, 72)[:100]
make(128, 64).t() @ make(72, 128).t()
a @ make(128, 63)
make(63, 128) @ make(128, 72)
make(64 * 128 + 8)[1:8193].reshape(64, 128) @ make(128, 72)
a[:, ::2] @ make(64, 72)
"""


@needs_hopper
def test_choice():
    """PYDLX_VERBOSE names the kernel, or why it was not taken; PYDLX_CUDA_WGMMA=0 turns it off."""
    expected = [
        "wgmma, 128 x 128 tiles, lines of A along k, of B along n",
        "wgmma, 128 x 128 tiles, lines of A along k, of B along n",
        "wgmma, 128 x 128 tiles, lines of A along m, of B along k",
        "not wgmma: fewer than 64 rows, columns or terms",
        "not wgmma: fewer than 64 rows, columns or terms",
        "not wgmma: an operand does not begin at a multiple of 16 bytes",
        "not wgmma: an operand is contiguous along neither axis",
    ]
    off = check_wgmma_choice(PROGRAM, "matmul", expected)
    assert "mma.sync" in off[0]


PAIRS = """
import hashlib, numpy as np, pydlx
rng = np.random.default_rng(0)
def make(*shape): return pydlx.from_numpy(rng.standard_normal(shape).astype(np.float32)).bfloat16().cuda()
def show(c): print(hashlib.sha256(c.float().cpu().numpy().tobytes()).hexdigest())
for m, n, k in [(129, 128, 64), (300, 264, 200), (774, 1030, 72), (384, 130, 1096), (256, 128, 1536)]:
    a, b, bias = make(m, k), make(k, (n + 7) // 8 * 8)[:, :n], make(n)
    for c in (a @ b, pydlx.addmm(bias, a, b), a.t().contiguous().t() @ b.t().contiguous().t()): show(c)
show(make(3, 200, 64) @ make(3, 64, 128))
"""


@needs_hopper
@pytest.mark.skipif(os.environ.get("PYDLX_CUDA_CLUSTER") == "0", reason="clusters are turned off")
def test_blocks_in_pairs():
    """Blocks that share the columns of B: the same results without, bit by bit, and where no cluster can run."""
    together, apart, refused = (
        python(PAIRS, PYDLX_VERBOSE="1", **less)
        for less in ({}, {"PYDLX_CUDA_CLUSTER": "0"}, {"PYDLX_EMULATED_CLUSTERS": "0"})
    )
    assert together.returncode == 0, together.stderr
    assert len(together.stdout.split()) == 16
    assert together.stdout == apart.stdout == refused.stdout
    assert "; blocks in pairs" in together.stderr
    assert "; blocks in pairs" not in apart.stderr


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hopper")
    return functools.cache(lambda name: compiled(folder / name, f"tests/{name}.cpp"))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("cuda_hopper", "descriptors"),
        ("cuda_hopper", "plans"),
        ("cuda_hopper", "copies"),
        ("cuda_hopper", "turns"),
        ("cuda_hopper", "thread_copies"),
        ("cuda_hopper", "copied_product"),
        ("cuda_hopper", "products"),
        ("cuda_cluster", "stores"),
        ("cuda_cluster", "clusters"),
    ],
)
def test_parts(program, name, part):
    done = run_part(program(name), part)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "mistake", "message"),
    [
        ("cuda_hopper", "missing_arrival", "still misses 1 of 3 arrivals and 0 bytes"),
        ("cuda_hopper", "next_phase", "still misses 16 of 24 arrivals and 0 bytes"),
        ("cuda_hopper", "missing_bytes", "still misses 0 of 1 arrivals and 16 bytes"),
        ("cuda_hopper", "no_barrier", "not initialised"),
        ("cuda_hopper", "unwaited_copy", "copies that it never waited for"),
        ("cuda_hopper", "odd_copy", "not a multiple of its size"),
        ("cuda_hopper", "unshown_copy", "no proxy fence has shown"),
        ("cuda_hopper", "unfenced", "without a wgmma.fence"),
        ("cuda_hopper", "unwaited", "never waited for"),
        ("cuda_hopper", "changed_registers", "changed before it was waited for"),
        ("cuda_hopper", "missing_warp", "some of the warpgroup's 128 threads miss"),
        ("cuda_cluster", "unshown_store", "no proxy fence has shown"),
        ("cuda_cluster", "early_store", "no proxy fence has shown"),
        ("cuda_cluster", "reused_panel", "has changed before a bulk store had read it"),
        ("cuda_cluster", "unwaited_store", "bulk stores that it never waited for"),
        ("cuda_cluster", "stray_barrier", "a named barrier that some threads miss"),
        ("cuda_cluster", "begins_alone", "not initialised"),
        ("cuda_cluster", "ends_alone", "the shared memory of a block that has ended"),
        ("cuda_cluster", "half_bytes", "still misses 1 of 2 arrivals"),
        ("cuda_cluster", "foreign_wait", "a wait on an mbarrier of another block"),
        ("cuda_cluster", "no_such_block", "in a block that the cluster does not have"),
        ("cuda_cluster", "missed_by_a_thread", "a barrier of the cluster that some threads miss"),
    ],
)
def test_mistakes_end_the_process(program, name, mistake, message):
    done = run_part(program(name), mistake)
    assert done.returncode < 0
    assert message in done.stderr
