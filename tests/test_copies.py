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
