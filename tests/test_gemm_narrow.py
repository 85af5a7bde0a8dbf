"""Products of 16-bit floats at the edges of every tile, block and path, on every instruction set, against float64 NumPy."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import pydlx

ISAS = pydlx._C.build_info()["cpu_isas"]
DTYPES = {"bfloat16": pydlx.bfloat16, "float16": pydlx.float16}
ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
LEAST = {"bfloat16": 2.0**-133, "float16": 2.0**-24}  # subnormal step
PAIRS = "avx512_bf16"


def operand(rng, rows, cols, dtype, layout):
    """Rounded values in float64 and the tensor: "n" rows contiguous, "t" columns contiguous, "s" neither."""
    x = pydlx.from_numpy(rng.standard_normal((rows, cols))).to(DTYPES[dtype])
    if layout == "t":
        t = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif layout == "s":
        t = pydlx.full((2 * rows + 1, 3 * cols + 1), float("nan"), dtype=x.dtype)[1::2, 1::3]
        t.copy_(x)
    else:
        t = x
    return x.double().numpy(), t


def check(got, a, b, dtype, want=None):
    """The sum in float32, then one rounding."""
    exact = a @ b if want is None else want
    bound = np.abs(a) @ np.abs(b) + (0 if want is None else np.abs(want))
    limit = ROUNDING[dtype] * np.abs(exact) * 1.01 + 1.2e-7 * (4 + np.sqrt(a.shape[-1])) * bound + LEAST[dtype]
    assert got.dtype == DTYPES[dtype]
    got = got.double().numpy()
    assert got.shape == exact.shape
    worst = np.abs(got - exact) - limit
    assert (worst <= 0).all(), f"error {np.abs(got - exact).max()} at {np.unravel_index(worst.argmax(), worst.shape)}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt", "ss"])
def test_tile_edges(isa, dtype, layout):
    rng = np.random.default_rng(1)
    for m in (1, 2, 4, 5, 6, 7, 12, 13, 33):
        for n in (1, 3, 8, 9, 15, 16, 17, 31, 33, 48, 63, 64, 65, 129):
            for k in (0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 65, 101):
                a, ta = operand(rng, m, k, dtype, layout[0])
                b, tb = operand(rng, k, n, dtype, layout[1])
                check(ta @ tb, a, b, dtype)


@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
@pytest.mark.parametrize("k", [1023, 1024, 1025, 2049, 2051])
def test_blocks_of_k(isa, layout, k):
    """Sums that wait in float32 between blocks of K; rows and columns one beside their blocks."""
    rng = np.random.default_rng(2)
    for dtype in DTYPES:
        for m, n in ((13, 70), (47, 321), (49, 319)):
            a, ta = operand(rng, m, k, dtype, layout[0])
            b, tb = operand(rng, k, n, dtype, layout[1])
            check(ta @ tb, a, b, dtype)


def test_groups_of_rows(isa):
    """So many rows that their sums between blocks of K wait in groups."""
    rng = np.random.default_rng(9)
    a, ta = operand(rng, 3301, 1030, "bfloat16", "n")
    b, tb = operand(rng, 1030, 320, "bfloat16", "n")
    check(ta @ tb, a, b, "bfloat16")


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 12])
@pytest.mark.parametrize("dtype", DTYPES)
def test_few_rows(isa, dtype, rows):
    """Strips of 1024 columns and inner products, both ways round."""
    rng = np.random.default_rng(3)
    for n in (65, 1023, 1024, 1025, 2100):
        for k in (16, 17, 23, 64, 301):
            a, ta = operand(rng, rows, k, dtype, "n")
            b, tb = operand(rng, k, n, dtype, "n")
            check(ta @ tb, a, b, dtype)
            check(tb.T @ ta.T, b.T, a.T, dtype)
            check(ta @ tb.T.contiguous().T, a, b, dtype)
            check(tb.T.contiguous() @ ta.T.contiguous(), b.T, a.T, dtype)
            check((tb.T @ ta[0])[None], a[:1], b, dtype)


def test_large_matrix_fetched_ahead(isa):
    rng = np.random.default_rng(4)
    a, ta = operand(rng, 2, 2305, "bfloat16", "n")
    b, tb = operand(rng, 2305, 1900, "bfloat16", "n")
    check(ta @ tb, a, b, "bfloat16")
    check(ta @ tb.T.contiguous().T, a, b, "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
def test_epilogues(isa, dtype):
    """alpha, beta and bias; what lies around the result stays untouched, and with beta 0 it is not read."""
    rng = np.random.default_rng(5)
    for m, n, k in [(1, 1, 1), (1, 100, 33), (3, 300, 64), (7, 63, 41), (13, 65, 70), (40, 129, 1500), (40, 7, 64)]:
        for layout in ("nn", "nt"):
            a, ta = operand(rng, m, k, dtype, layout[0])
            b, tb = operand(rng, k, n, dtype, layout[1])
            for beta, old in ((0.5, 7.0), (0.0, float("nan"))):
                frame = pydlx.full((m + 4, n + 40), old, dtype=ta.dtype)
                frame[2:-2, 20:-20].addmm_(ta, tb, beta=beta, alpha=2)
                check(frame[2:-2, 20:-20], 2 * a, b, dtype, 2 * (a @ b) + (3.5 if beta else 0))
                frame[2:-2, 20:-20] = old
                assert np.array_equal(frame.float().numpy(), np.full((m + 4, n + 40), old, np.float32), equal_nan=True)
            bias, tbias = operand(rng, 1, n, dtype, "n")
            check(pydlx.nn.functional.linear(ta, tb.T, tbias[0]), a, b, dtype, a @ b + bias)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches(isa, dtype):
    rng = np.random.default_rng(6)
    for batch, m, n, k in [(1, 3, 4, 5), (7, 13, 65, 31), (40, 8, 8, 8), (3, 130, 70, 50), (5, 2, 700, 40)]:
        a, ta = operand(rng, batch * m, k, dtype, "n")
        b, tb = operand(rng, batch * k, n, dtype, "n")
        ta, tb = ta.reshape(batch, m, k), tb.reshape(batch, k, n)
        got, shared = ta @ tb, ta @ tb[0]
        for i in range(batch):
            check(got[i], a[i * m : i * m + m], b[i * k : i * k + k], dtype)
            check(shared[i], a[i * m : i * m + m], b[:k], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_specials(isa, dtype):
    for m in (1, 3, 7, 20):
        for columns_contiguous in (False, True):
            a, b = pydlx.ones(m, 71, dtype=DTYPES[dtype]), pydlx.ones(71, 90, dtype=DTYPES[dtype])
            a[m // 2, 70] = float("nan")
            b[3, 9] = float("inf")
            b[70, 11] = -float("inf")
            b[70, 12] = b[69, 12] = 60000.0  # their sum exceeds float16, not bfloat16
            t = b.T.contiguous().T if columns_contiguous else b
            got, want = (a @ t).float().numpy(), (a.float() @ b.float()).to(DTYPES[dtype]).float().numpy()
            assert np.array_equal(got, want, equal_nan=True)
            assert np.isnan(got[m // 2]).all() and np.isinf(got[0, 12]) == (dtype == "float16" and m > 1)


def test_subnormal_numbers(isa):
    """float16 keeps them everywhere; so does bfloat16, except on the instruction for pairs, which reads them as zero."""
    for m in (1, 3, 20):
        small = pydlx.full((m, 70), 2.0**-24, dtype=pydlx.float16)
        assert ((small @ pydlx.ones(70, 80, dtype=pydlx.float16)).double() == 70 * 2.0**-24).all()
        small = pydlx.full((m, 70), 2.0**-130, dtype=pydlx.bfloat16)
        want = 0.0 if isa == PAIRS else 70 * 2.0**100
        assert (
            (small @ pydlx.full((70, 80), 2.0**100 * 2.0**27, dtype=pydlx.bfloat16)).double() * 2.0**103 == want
        ).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_thread_counts_agree(isa, dtype, layout):
    rng = np.random.default_rng(7)
    before = pydlx.get_num_threads()
    try:
        shapes = [(200, 300, 501), (1, 4000, 600), (4000, 1, 600), (4000, 10, 64), (31, 900, 1300), (3, 4001, 600)]
        for m, n, k in shapes:
            _, a = operand(rng, m, k, dtype, layout[0])
            _, b = operand(rng, k, n, dtype, layout[1])
            results = []
            for threads in (1, 2, 3, 7):
                pydlx.set_num_threads(threads)
                results.append((a @ b).float().numpy().tobytes())
            assert len(set(results)) == 1, (layout, m, n, k)
    finally:
        pydlx.set_num_threads(before)


def test_verbose_names_the_kernel_of_the_path(tmp_path):
    code = "import pydlx\nx = pydlx.ones(64, 40, dtype=pydlx.bfloat16)\nx @ x.T\nx.half() @ x.half().T"
    for isa in ISAS:
        environment = {**os.environ, "PYDLX_VERBOSE": "1", "PYDLX_CPU_ISA": isa}
        command = [sys.executable, "-c", code]  # in another folder: this one has a pydlx/ without its extension
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=tmp_path)
        first, bfloat16, half = done.stderr.splitlines()
        assert f"CPU path {isa}" in first
        assert ("vdpbf16ps" in bfloat16) == (isa == PAIRS) and "register tiles" in bfloat16
        assert "widened to float32" in half and "register tiles" in half


def test_gradients_of_a_layer_in_bfloat16(isa):
    rng = np.random.default_rng(8)
    x, tx = operand(rng, 37, 65, "bfloat16", "n")
    w, tw = operand(rng, 129, 65, "bfloat16", "n")
    g, tg = operand(rng, 37, 129, "bfloat16", "n")
    tx, tw = tx.requires_grad_(), tw.requires_grad_()
    pydlx.nn.functional.linear(tx, tw).backward(tg)
    check(tx.grad, g, w, "bfloat16")
    check(tw.grad, g.T, x, "bfloat16")
