"""The float32 convolution algorithms against the same convolution in float64: every pass, around every tile edge, with misaligned
operands whose surroundings would spoil the result, on all instruction sets, for any number of threads."""

import itertools

import numpy as np
import pytest
from conv_operands import EDGES, FAST, errors, guarded, operands, operands_of, passes

import pydlx

F = pydlx.nn.functional


def check_rows(rows):
    for row in rows:
        (n, c, k, h, w, kernel, groups), geometry = row[:7], row[7]
        for rms, largest in errors(operands(n, c, k, h, w, kernel, groups), groups=groups, **geometry):
            assert rms < 2e-6 and largest < 2e-5, row


def test_pointwise(isa):
    """Panels of 64 columns that end inside and outside of an image, blocks of 512 channels, six rows, strides."""
    check_rows(
        [
            *((3, c, k, 7, 9, 1, 1, {}) for c, k in itertools.product((8, 31), (8, 13, 65))),
            *((2, 16, 12, h, w, 1, 1, {}) for h, w in ((8, 8), (1, 63), (5, 13), (23, 23), (16, 32), (1, 1))),
            (2, 511, 9, 3, 3, 1, 1, {}),
            (2, 514, 9, 24, 24, 1, 1, {}),
            (3, 24, 40, 9, 12, 1, 2, {}),
            (2, 40, 24, 9, 12, 1, 1, {"stride": 2}),
            (2, 32, 24, 10, 13, 1, 2, {"stride": (3, 1)}),
        ]
    )


def test_narrow(isa):
    """Groups of few channels: rows of outputs around the vector and the four rows taken together, kernels with and without their own
    code, strides, dilations, borders on all sides and none."""
    check_rows(
        [
            *(
                (2, 6, 6, h, w, 3, 6, {"padding": 1})
                for h, w in itertools.product((1, 3, 4, 5), (1, 7, 15, 16, 17, 33))
            ),
            *((2, 6, 12, h, w, 3, 6, {"padding": 1, "stride": 2}) for h, w in ((9, 31), (8, 33), (7, 64))),
            *((2, 9, 9, 12, 14, k, 9, {"padding": p}) for k, p in ((5, 2), (7, 3), ((3, 2), 0), (4, (1, 3)), (1, 0))),
            (2, 4, 12, 13, 15, 7, 4, {"padding": 3, "stride": 2}),
            (2, 8, 8, 13, 15, 3, 8, {"padding": 2, "dilation": 2}),
            (2, 8, 8, 14, 15, 3, 8, {"padding": (0, 3), "dilation": (3, 2), "stride": (2, 3)}),
            (2, 8, 8, 6, 7, 2, 8, {"padding": 3, "stride": 4}),
            *(
                (3, g * c, g * k, 9, 18, 3, g, {"padding": 1})
                for g, c, k in ((3, 4, 4), (2, 5, 7), (2, 3, 9), (4, 2, 1))
            ),
            (2, 3, 21, 30, 35, 7, 1, {"padding": 3, "stride": 2}),
            (1, 1, 32, 8, 8, 3, 1, {"padding": 1}),
            (3, 3, 17, 37, 39, 11, 1, {"padding": 2, "stride": 4}),
        ]
    )


def test_direct(isa):
    """Register tiles of 6, 8, 12 or 4 pixels and 1 to 4 vectors of channels, phases of strided gradients (some without taps), passes over
    more than 256 taps and channel groups, bands of rows."""
    check_rows(
        [
            *(
                (2, c, k, 9, 10, 3, 1, {"padding": 1, "stride": 2})
                for c, k in itertools.product((8, 16, 17, 33), (8, 16, 31, 48, 65))
            ),
            *((2, 10, 20, h, w, 3, 1, {"stride": 2}) for h, w in itertools.product((3, 4, 5, 12), (3, 13, 26))),
            *((1, 24, 24, 12, 13, k, 1, {"padding": p}) for k, p in ((5, 2), (7, 3), ((2, 3), 0), (4, (1, 3)))),
            (1, 32, 40, 4, 5, 3, 1, {"padding": 1}),
            (2, 16, 24, 12, 15, 3, 1, {"padding": 2, "dilation": 2}),
            (2, 16, 24, 14, 15, (3, 2), 1, {"padding": (0, 3), "dilation": (3, 2), "stride": (2, 3)}),
            (2, 16, 24, 11, 14, 2, 1, {"stride": 4}),
            (2, 27, 36, 9, 9, 3, 3, {"stride": 2}),
            (1, 150, 20, 6, 7, 5, 1, {"padding": 2, "stride": 2}),
            (1, 40, 24, 70, 90, 3, 1, {"padding": 1, "stride": 2}),
            (1, 16, 16, 1, 40, (1, 9), 1, {"padding": (0, 4)}),
        ]
    )


def test_depthwise_channels_last(isa):
    """Rows of 1 to 9 outputs (four pass together), kernels with and without their own code, channels around the vector."""
    rows = [
        *((2, c, 6, w, 3, {"padding": 1}) for c in (15, 16, 17, 33) for w in (1, 3, 4, 5, 9)),
        *((2, 20, 9, w, 3, {"padding": 1, "stride": 2}) for w in (7, 8, 9, 16, 17)),
        *((2, 20, 8, 10, k, {"padding": k // 2, "stride": s}) for k in (5, 7, 2) for s in (1, 2, 3)),
        (1, 24, 9, 11, 3, {"padding": 2, "dilation": 2}),
        (1, 24, 9, 11, (3, 5), {"padding": (0, 3)}),
        (2, 18, 40, 44, 3, {"padding": 1}),
    ]
    for n, c, h, w, kernel, geometry in rows:
        x, weight, bias = operands(n, c, c, h, w, kernel, c)
        want = passes(*(pydlx.from_numpy(a.astype(np.float64)) for a in (x, weight, bias)), groups=c, **geometry)
        last = guarded(np.ascontiguousarray(x.transpose(0, 2, 3, 1))).permute(0, 3, 1, 2)
        got = passes(last, guarded(weight), guarded(bias), groups=c, **geometry)
        for a, b in zip(got, want, strict=True):
            scale = np.sqrt(np.mean(b * b))
            assert a.shape == b.shape and np.abs(a - b).max() < 2e-5 * scale, (c, h, w, kernel, geometry)


def test_direct_channels_last(isa):
    """Pixels copied with all their channels (as many as fill vectors) or group by group, results stored in place or through a buffer: the
    layout moves the sums, it does not change them, and neither do the other images."""
    rows = [
        *(
            (2, c, k, 9, 10, 3, 1, {"padding": 1, "stride": 2})
            for c in (8, 16, 17, 32, 48)
            for k in (8, 16, 31, 64, 80)
        ),
        *((1, 32, 24, h, w, 3, 1, {"stride": 2}) for h, w in itertools.product((3, 4, 5), (3, 12, 13, 14, 27))),
        (1, 16, 32, 12, 15, (3, 2), 1, {"padding": (0, 3), "dilation": (3, 2), "stride": (2, 3)}),
        (2, 64, 32, 9, 9, 3, 2, {"stride": 2, "padding": 2}),
        (1, 32, 16, 70, 90, 3, 1, {"padding": 1, "stride": 2}),
        (1, 160, 16, 7, 6, 5, 1, {"padding": 2, "stride": 2}),
    ]
    for n, c, k, h, w, kernel, groups, geometry in rows:
        arrays = operands(n, c, k, h, w, kernel, groups)
        want = passes(*map(guarded, arrays), groups=groups, **geometry)[:2]
        last = np.ascontiguousarray(arrays[0].transpose(0, 2, 3, 1))
        x, weight, bias = (guarded(last).permute(0, 3, 1, 2), *map(guarded, arrays[1:]))
        got = passes(x, weight, bias, groups=groups, **geometry)[:2]
        for a, b in zip(got, want, strict=True):
            assert np.array_equal(a, b), (c, k, h, w, geometry)
        alone = F.conv2d(x[n - 1 :], weight, bias, groups=groups, **geometry)
        assert np.array_equal(alone.detach().numpy(), want[0][n - 1 :]), (c, k, h, w, geometry)


@pytest.mark.parametrize(
    "geometry",
    [
        {"stride": 2, "padding": 1},
        {"stride": (2, 1, 2), "padding": (1, 0, 1)},
        {"stride": 2, "dilation": (2, 1, 1), "padding": 2},
    ],
    ids=str,
)
def test_direct_channels_last_with_three_axes(isa, geometry):
    for c, k in ((16, 16), (32, 24), (17, 16)):
        arrays = operands_of(2, c, k, (5, 7, 8), (3, 3, 3))
        want = passes(*map(guarded, arrays), **geometry)[:2]
        last = guarded(np.ascontiguousarray(arrays[0].transpose(0, 2, 3, 4, 1))).permute(0, 4, 1, 2, 3)
        got = passes(last, *map(guarded, arrays[1:]), **geometry)[:2]
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True)), (c, k)


STEMS = [
    *((2, 3, k, 9, w, 3, 1, {"padding": 1}) for k, w in itertools.product((16, 17, 32, 48, 64, 65), (5, 6, 7, 10))),
    *(
        (1, 2, 33, 5, w, 3, 1, {})
        for w in (3, 5, 6, 9, 10, 11, 13, 14, 15, 16, 17, 30, 31, 50, 51, 82, 83, 114, 115, 130)
    ),
    *((1, 7, k, 13, 11, 5, 1, {"padding": 2}) for k in (16, 31, 49, 130)),
    (2, 3, 64, 33, 41, 7, 1, {"padding": 3, "stride": 2}),
    (1, 3, 64, 61, 67, 11, 1, {"padding": 2, "stride": 4}),
    (2, 6, 40, 12, 13, (3, 5), 2, {"padding": (0, 4), "dilation": (2, 1), "stride": (1, 3)}),
    (3, 1, 24, 7, 90, 5, 1, {"padding": 6}),
    (1, 2, 20, 3, 3, 8, 1, {"padding": 3}),
    (3, 3, 24, 50, 40, 3, 1, {"padding": 1}),
]


def test_stem(isa):
    """Row tiles of 4 to 14 pixels (4 and 6 with smaller vectors), rows one shorter than, as long as and one longer than whole tiles and
    than the pieces that are transposed together, bands of rows, several groups, panels of output channels that are not full."""
    check_rows(STEMS)


def test_stem_channels_last(isa):
    """The layout decides where the sums are stored, not what they are; neither do the other images of a batch."""
    for n, c, k, h, w, kernel, groups, geometry in STEMS:
        arrays = operands(n, c, k, h, w, kernel, groups)
        rows = passes(*map(guarded, arrays), groups=groups, **geometry)[0]
        last = np.ascontiguousarray(arrays[0].transpose(0, 2, 3, 1))
        x, weight, bias = (guarded(last).permute(0, 3, 1, 2), *map(guarded, arrays[1:]))
        got = F.conv2d(x, weight, bias, groups=groups, **geometry)
        assert got.is_contiguous(memory_format=pydlx.channels_last)
        assert np.array_equal(got.numpy(), rows), (c, k, h, w)
        alone = F.conv2d(x[n - 1 :], weight, bias, groups=groups, **geometry)
        assert np.array_equal(alone.numpy(), rows[n - 1 :]), (c, k, h, w)


VOLUMES = [
    *((2, c, k, (4, 5, 6), (3, 3, 3), 1, {"padding": 1}) for c, k in itertools.product((8, 17, 33), (8, 31, 65))),
    *((1, 16, 24, (d, 5, 7), (3, 2, 3), 1, {"padding": (1, 0, 1), "stride": (2, 1, 2)}) for d in (1, 2, 5, 6)),
    (2, 16, 16, (5, 6, 7), (3, 3, 2), 2, {"dilation": (2, 1, 2), "padding": (2, 1, 0)}),
    (1, 12, 20, (4, 6, 5), (2, 2, 2), 1, {"stride": 3, "padding": (3, 1, 0)}),
    (1, 10, 9, (3, 4, 5), (2, 3, 3), 1, {"stride": (4, 3, 1), "padding": (4, 0, 2)}),
    (1, 64, 16, (3, 9, 40), (5, 3, 3), 1, {"padding": (4, 1, 1)}),
    (3, 16, 40, (70,), (3,), 1, {"padding": 1}),
    (2, 24, 16, (41,), (5,), 1, {"stride": 3, "padding": 4}),
]


@pytest.mark.parametrize("row", VOLUMES, ids=str)
def test_one_and_three_axes(isa, row):
    """Depth taps whose input plane does not exist, phases of a strided gradient without taps, planes without any tap."""
    n, c, k, size, kernel, groups, geometry = row
    for rms, largest in errors(operands_of(n, c, k, size, kernel, groups), groups=groups, **geometry):
        assert rms < 2e-6 and largest < 2e-5


def test_highest_precision(isa, highest):
    check_rows([(3, 20, 40, 13, 14, 3, 1, {"padding": 1}), (2, 64, 64, 28, 9, 3, 1, {"padding": (0, 2)})])


def test_transposed_convolution_takes_the_same_kernels():
    x, weight, _ = operands(6, 20, 24, 13, 12)
    bias = np.linspace(-1, 1, 20, dtype=np.float32)
    y = np.random.default_rng(1).standard_normal((6, 24, 13, 12)).astype(np.float32)
    got = F.conv_transpose2d(guarded(y), guarded(weight), guarded(bias), padding=1).numpy()
    want = F.conv_transpose2d(*(pydlx.from_numpy(a.astype(np.float64)) for a in (y, weight, bias)), padding=1).numpy()
    assert np.abs(got - want).max() < 6e-5 * np.sqrt(np.mean(want**2))


def test_strided_operands():
    x, weight, bias = operands(6, 32, 40, 18, 20)
    want = passes(*map(guarded, (x[:, ::2, 1:17, ::2], weight[::2, 1::2], bias[::2])), padding=1)
    t, v = pydlx.from_numpy(x), pydlx.from_numpy(weight)
    got = passes(t[:, ::2, 1:17, ::2], v[::2, 1::2], pydlx.from_numpy(bias)[::2], padding=1)
    for a, b in zip(got, want, strict=True):
        assert np.array_equal(a, b)


def test_any_number_of_threads():
    before = pydlx.get_num_threads()
    try:
        for n, c, k, h, w, pad, groups in EDGES[:3] + EDGES[-9:] + [(2, 64, 96, 57, 57, 1, 1)]:
            arrays = operands(n, c, k, h, w, groups=groups)
            results = set()
            for threads in (1, 2, 3, 7):
                pydlx.set_num_threads(threads)
                results.add(tuple(a.tobytes() for a in passes(*map(guarded, arrays), padding=pad, groups=groups)))
            assert len(results) == 1, (n, c, k, h, w)
    finally:
        pydlx.set_num_threads(before)


def test_any_number_of_threads_other_algorithms():
    before = pydlx.get_num_threads()
    try:
        for n, c, k, kernel, groups, stride in (
            (2, 64, 72, 1, 1, 1),
            (5, 24, 48, 1, 1, 2),
            (3, 12, 24, 3, 12, 1),
            (2, 3, 40, 7, 1, 2),
        ):
            arrays = operands(n, c, k, 19, 21, kernel, groups)
            results = set()
            for threads in (1, 2, 3, 7):
                pydlx.set_num_threads(threads)
                got = passes(*map(guarded, arrays), stride=stride, groups=groups)
                results.add(tuple(a.tobytes() for a in got))
            assert len(results) == 1, (n, c, k, kernel)
    finally:
        pydlx.set_num_threads(before)


def test_any_number_of_threads_with_three_axes():
    before = pydlx.get_num_threads()
    try:
        for n, c, k, size, kernel, groups, geometry in (
            VOLUMES[4],
            VOLUMES[-3],
            FAST[8],
            FAST[16],
            FAST[19],
            FAST[22],
            FAST[-2],
        ):
            results = set()
            for threads in (1, 2, 3, 7):
                pydlx.set_num_threads(threads)
                got = passes(*map(guarded, operands_of(n, c, k, size, kernel, groups)), groups=groups, **geometry)
                results.add(tuple(a.tobytes() for a in got))
            assert len(results) == 1, (n, c, k, size)
    finally:
        pydlx.set_num_threads(before)


@pytest.mark.parametrize("dtype", [pydlx.float32, pydlx.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [pydlx.contiguous_format, pydlx.channels_last], ids=str)
def test_a_step_that_is_never_taken_may_be_of_any_length(dtype, layout):
    x, weight, _ = (pydlx.from_numpy(a).to(dtype) for a in operands(1, 15, 40, 8, 3))
    results = []
    for step in (1, 2**40):
        leaves = [t.clone().to(memory_format=layout).requires_grad_() for t in (x, weight)]
        y = F.conv2d(*leaves, stride=(1, step))
        y.backward(pydlx.ones_like(y))
        results.append([t.detach().float().numpy() for t in (y, *(leaf.grad for leaf in leaves))])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-2 if dtype == pydlx.bfloat16 else 1e-4)


def test_precision_names():
    with pytest.raises(ValueError, match="expected 'highest', 'high' or 'medium'"):
        pydlx.set_float32_matmul_precision("low")
    assert pydlx.get_float32_matmul_precision() == "high"
