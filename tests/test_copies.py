"""Copies between layouts: every path of the copy kernels, around the edges of their tiles, for every element size."""

from itertools import permutations

import numpy as np
import pytest

import pydlx as T

EDGES = [1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65]
DTYPES = ["bool", "int16", "float32", "float64"]


def filled(shape, dtype):
    values = np.arange(int(np.prod(shape))).reshape(shape)
    return (values % 3 == 0) if dtype == "bool" else (values % 30011).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_transposed_matrices(dtype, isa):
    for rows in EDGES:
        for cols in EDGES:
            array = filled((rows, cols), dtype)
            got = T.from_numpy(array).t().contiguous()
            assert np.array_equal(got.numpy(), array.T), (rows, cols)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5, 17), (3, 33, 2, 16), (2, 64, 9, 8), (1, 2, 40, 3)])
def test_permuted_axes(shape, dtype, isa):
    array = filled(shape, dtype)
    for order in permutations(range(4)):
        got = T.from_numpy(array).permute(*order).contiguous()
        assert np.array_equal(got.numpy(), array.transpose(order)), order


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_parts_of_larger_tensors_leave_the_rest_alone(dtype, isa):
    for rows, cols in [(5, 3), (17, 33), (40, 64), (35, 13)]:
        for step in (1, 2):
            source = filled((cols * step, rows + 3), dtype)
            target = np.full((rows + 2, cols + 2), -1, dtype)
            expected = target.copy()
            expected[1:-1, 1:-1] = source[::step, 2:-1].T
            T.from_numpy(target)[1:-1, 1:-1] = T.from_numpy(source)[::step, 2:-1].t()
            assert np.array_equal(target, expected), (rows, cols, step)


def test_rows_of_heads_for_any_number_of_threads(isa):
    array = filled((3, 50, 4, 24), "float32")
    before = T.get_num_threads()
    try:
        for threads in (1, 2, 3):
            T.set_num_threads(threads)
            for order in [(0, 2, 1, 3), (2, 1, 0, 3), (1, 0, 2, 3)]:
                got = T.from_numpy(array).permute(*order).contiguous()
                assert np.array_equal(got.numpy(), array.transpose(order)), (threads, order)
    finally:
        T.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_short_rows_of_every_length(dtype, isa):
    """Up to four vectors a row, read from and written to places that are no multiples of anything."""
    before = T.get_num_threads()
    try:
        for threads in (1, 3):
            T.set_num_threads(threads)
            for n in range(1, 261 if dtype == "bool" else 140):
                source = filled((7, 3, n + 3), dtype)
                target = np.zeros((7, 3, n + 2), dtype)
                T.from_numpy(target)[:, :, 1:-1] = T.from_numpy(source)[:, :, 2:-1]
                expected = np.zeros_like(target)
                expected[:, :, 1:-1] = source[:, :, 2:-1]
                assert np.array_equal(target, expected), n
            for size, step in [(16, 8), (33, 1), (5, 7)]:
                row = filled((3, 300), dtype)
                got = T.from_numpy(row).unfold(1, size, step).contiguous()
                assert np.array_equal(got.numpy(), np.lib.stride_tricks.sliding_window_view(row, size, 1)[:, ::step])
    finally:
        T.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_joining_rows_of_any_length(dtype, isa):
    """Short rows are laid side by side in one go, single elements interleaved, long rows part by part."""
    before = T.get_num_threads()
    try:
        for threads in (1, 3):
            T.set_num_threads(threads)
            for rows in (1, 2, 37, 700):
                for widths in ((1, 1), (1, 1, 1), (3, 0, 5), (16, 7), (64, 65, 1), (129, 300), (1,) * 9, (9000, 40)):
                    if rows * sum(widths) > 700 * 1000:
                        continue
                    arrays = [filled((2, rows, w), dtype) for w in widths]
                    got = T.cat([T.from_numpy(a) for a in arrays], 2)
                    assert np.array_equal(got.numpy(), np.concatenate(arrays, 2)), (rows, widths)
                    got = T.cat([T.from_numpy(a.transpose(0, 2, 1).copy()) for a in arrays], 1)
                    assert np.array_equal(got.numpy(), np.concatenate(arrays, 2).transpose(0, 2, 1)), (rows, widths)
                parts = [filled((rows, 33), dtype) + k for k in range(3)]
                for dim in (0, 1, 2):
                    got = T.stack([T.from_numpy(p.astype(dtype)) for p in parts], dim)
                    assert np.array_equal(got.numpy(), np.stack([p.astype(dtype) for p in parts], dim)), (rows, dim)
    finally:
        T.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES)
def test_joining_short_vectors_at_any_address(dtype, isa):
    arrays = [filled((40,), dtype) for _ in range(3)]
    for n in (1, 2, 4, 8):
        for start in (1, 2, 3):
            got = T.cat([T.from_numpy(a)[start : start + n] for a in arrays])
            assert np.array_equal(got.numpy(), np.concatenate([a[start : start + n] for a in arrays]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_repeated_rows_of_any_length(dtype, isa):
    for width in (1, 5, 15, 16, 17, 63, 64, 65, 255, 1030, 4099, 9000):
        array = filled((3, width), dtype)
        tensor = T.from_numpy(array)
        for count in (0, 1, 2, 5):
            assert np.array_equal(T.repeat_interleave(tensor, count, dim=0).numpy(), np.repeat(array, count, 0))
            assert np.array_equal(T.repeat_interleave(tensor, count, dim=1).numpy(), np.repeat(array, count, 1))
        table = T.nn.functional.embedding(T.tensor([2, 0, 1, 2]), tensor)
        assert np.array_equal(table.numpy(), array[[2, 0, 1, 2]])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_masks_become_numbers(dtype, isa):
    """0 or 1 of any byte, as memory from elsewhere holds them, for every length around a vector."""
    raw = np.arange(256, dtype=np.uint8)
    for n in (0, 1, 7, 15, 16, 17, 63, 64, 65, 255, 256):
        mask = T.from_numpy(raw[:n].copy()).view(T.bool)
        for step in (1, 2):
            got = mask[::step].to(getattr(T, dtype)).double().numpy()
            np.testing.assert_array_equal(got, (raw[:n:step] != 0).astype(np.float64))
