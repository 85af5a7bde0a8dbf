"""Max pooling on vectors: values and positions around the ends of vectors, for every layout and element type."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import pydlx
import pydlx.nn.functional as F

DTYPES = ["float32", "float64"]


def images(shape, dtype, seed=0):
    """Few different values, so that windows have several maxima, and some that compare in their own way."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 4, shape).astype(dtype)
    for value in (np.inf, -np.inf, np.nan, np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max, -0.0):
        x[rng.random(shape) < 0.02] = value
    return x


def assert_same(x, *options):
    """Values and positions are PyTorch's."""
    name = f"max_pool{x.ndim - 2}d"
    got = getattr(F, name)(pydlx.from_numpy(x), *options, return_indices=True)
    want = getattr(torch.nn.functional, name)(torch.from_numpy(x), *options, return_indices=True)
    alone = getattr(F, name)(pydlx.from_numpy(x), *options)
    np.testing.assert_array_equal(got[0].numpy(), want[0].numpy())
    np.testing.assert_array_equal(alone.numpy(), want[0].numpy())
    np.testing.assert_array_equal(got[1].numpy(), want[1].numpy())


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_every_width(dtype, isa):
    for width in (3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 50, 65):
        for options in [(2,), (3, 2, 1), (3, 1), (2, 1, 1), (3, 3), (3, 2, 1, 1, True), (2, 2, 0, 1, True)]:
            assert_same(images((2, 3, 7, width), dtype), *options)
            assert_same(images((2, 3, width), dtype), *options)
        for options in [((3, 2), 2, (1, 0)), ((1, 2), (1, 2)), ((4, 2), (1, 2), (2, 0))]:
            assert_same(images((2, 3, 7, width), dtype), *options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_planes_of_several_bands(dtype, isa):
    assert_same(images((1, 2, 130, 140), dtype), 3, 2, 1)
    assert_same(images((1, 1, 9, 5000), dtype), 2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [1, 4, 8, 15, 16, 17, 64, 67, 128])
def test_channels_last(channels, dtype, isa):
    x = images((2, 9, 10, channels), dtype)
    for options in [(2,), (3, 2, 1)]:
        want = torch.nn.functional.max_pool2d(
            torch.from_numpy(x).permute(0, 3, 1, 2).contiguous(), *options, return_indices=True
        )
        got = F.max_pool2d(pydlx.from_numpy(x).permute(0, 3, 1, 2), *options, return_indices=True)
        np.testing.assert_array_equal(got[0].numpy(), want[0].numpy())
        np.testing.assert_array_equal(got[1].numpy(), want[1].numpy())


def test_positions_past_the_caches(isa):
    """Images that no cache holds: positions leave by whole cache lines."""
    before = pydlx.get_num_threads()
    x = images((2, 180, 180, 64), "float32")
    want = torch.nn.functional.max_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2), 3, 2, 1, return_indices=True)
    try:
        for threads in (1, 2, 3):
            pydlx.set_num_threads(threads)
            got = F.max_pool2d(pydlx.from_numpy(x).permute(0, 3, 1, 2), 3, 2, 1, return_indices=True)
            np.testing.assert_array_equal(got[0].numpy(), want[0].numpy())
            np.testing.assert_array_equal(got[1].numpy(), want[1].numpy())
    finally:
        pydlx.set_num_threads(before)
