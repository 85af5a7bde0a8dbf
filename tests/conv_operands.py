"""Operands of convolutions that show what is read outside of them, the passes, and the shapes around the edges of Winograd's tiles."""

import itertools

import numpy as np

import pydlx

F = pydlx.nn.functional


def guarded(array):
    """A tensor that starts at an odd element of a buffer of NaNs: what is read outside of it shows in the result."""
    buffer = np.full(array.size + 35, np.nan, array.dtype)
    buffer[17 : 17 + array.size] = array.reshape(-1)
    return pydlx.from_numpy(buffer)[17 : 17 + array.size].reshape(array.shape)


def operands(n, c, k, h, w, kernel=3, groups=1, seed=0):
    return operands_of(n, c, k, (h, w), (kernel, kernel) if isinstance(kernel, int) else kernel, groups, seed)


def operands_of(n, c, k, size, kernel, groups=1, seed=0):
    """Any number of axes."""
    rng = np.random.default_rng([seed, n, c, k, *size])
    x = rng.standard_normal((n, c, *size)).astype(np.float32)
    weight = rng.standard_normal((k, c // groups, *kernel)).astype(np.float32)
    return x, weight, rng.standard_normal(k).astype(np.float32)


def passes(x, weight, bias, grad=None, **geometry):
    """Output and the gradients of <output, grad> for input, weight and bias, as arrays."""
    leaves = [t.requires_grad_(True) for t in (x, weight, bias)]
    y = (F.conv1d, F.conv2d, F.conv3d)[x.ndim - 3](*leaves, **geometry)
    if grad is None:
        grad = np.random.default_rng(7).standard_normal(y.shape).astype(np.float32)
    g = guarded(grad).to(y.dtype)
    return [t.detach().numpy() for t in (y, *pydlx.autograd.grad(y, leaves, g))]


def errors(arrays, **geometry):
    """Root mean square and maximal error of each pass, relative to the root mean square of the float64 result."""
    got = passes(*map(guarded, arrays), **geometry)
    want = passes(*(pydlx.from_numpy(a.astype(np.float64)) for a in arrays), **geometry)
    rows = []
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and np.isfinite(a).all()
        scale = np.sqrt(np.mean(b * b))
        rows.append((np.sqrt(np.mean((a - b) ** 2)) / scale, np.abs(a - b).max() / scale))
    return rows


# Tiles are 4 x 4 outputs, vectors 16, 8 or 4 channels, panels of the product 64, 16 or 8; planes above 64 columns are cut in pieces.
EDGES = [
    *((12, c, k, 8, 8, 1, 1) for c, k in itertools.product((16, 17, 31, 33), (16, 31, 33, 65))),
    *((6, 20, 24, h, w, 1, 1) for h, w in itertools.product((7, 8, 9, 12, 13), (8, 11, 12, 13))),
    *((3, 16, 18, 14, w, pad, 1) for w, pad in ((63, 1), (64, 1), (65, 1), (69, 0), (70, 2), (130, (0, 2)))),
    (40, 16, 16, 3, 3, 0, 1),
    (40, 16, 16, 1, 2, 1, 1),
    (9, 48, 32, 10, 10, 1, 2),
    (2, 65, 129, 18, 17, (2, 0), 1),
    (33, 128, 70, 5, 6, 1, 1),
    # Few tiles: panels of kernels are transformed, 128 input channels at a time, where they are multiplied.
    (2, 129, 66, 9, 10, 1, 1),
    (1, 260, 20, 6, 7, 1, 1),
    (2, 64, 130, 5, 19, 2, 2),
    (1, 70, 64, 4, 66, 1, 1),
]

# The same kernels: five taps (tiles of 2 x 2 outputs), three taps of one axis (tiles of 4), a kernel with depth (its planes become input
# channels; without a common vector of channels the weight gradient goes another way), pixels sorted by their residue modulo a dilation.
FAST = [
    *((3, c, k, (9, 10), (5, 5), 1, {"padding": 2}) for c, k in itertools.product((16, 17, 33), (16, 31, 65))),
    *((5, 20, 24, (h, w), (5, 5), 1, {"padding": p}) for h, w, p in ((5, 6, 0), (6, 5, 1), (7, 8, (4, 0)), (1, 2, 4))),
    (4, 40, 34, (6, 37), (5, 5), 2, {"padding": (1, 3)}),
    *(
        (3, c, k, (n,), (3,), 1, {"padding": 1})
        for c, k, n in ((32, 33, 127), (47, 64, 128), (48, 40, 129), (33, 65, 259))
    ),
    (2, 32, 35, (9, 30), (1, 3), 1, {"padding": (0, 2)}),
    *(
        (2, c, k, (d, 9, 10), (3, 3, 3), 1, {"padding": 1})
        for c, k, d in ((16, 16, 1), (32, 17, 2), (20, 33, 4), (45, 50, 2))
    ),
    (2, 32, 36, (5, 9, 8), (2, 3, 3), 2, {"padding": (1, 0, 2)}),
    (1, 16, 24, (4, 7, 9), (3, 5, 5), 1, {"padding": (2, 2, 1)}),
    *(
        (2, c, 24, (14, 15), (3, 3), 1, {"padding": p, "dilation": d})
        for c, p, d in ((16, 2, 2), (17, 1, 2), (33, 0, (3, 2)))
    ),
    *((2, 18, 20, (h, w), (3, 3), 1, {"padding": 3, "dilation": 3}) for h, w in ((11, 12), (12, 13), (13, 11))),
    (2, 32, 32, (17, 23), (3, 3), 2, {"padding": (5, 8), "dilation": (4, 5)}),
    (2, 16, 16, (21, 20), (3, 3), 1, {"padding": (1, 0), "dilation": (1, 7)}),
]

# Stride 2: tiles of 3 x 3 to 5 x 5 outputs, of 6 x 6 to 10 x 10 pixels of the input gradient, which begin with the second row of
# the padded image; at least 16 tiles, or 4 with many channels.
STRIDED = [
    *((9, c, k, 18, 17, 1, 1) for c, k in itertools.product((32, 47, 65), (33, 64, 70))),
    *((16, 33, 36, h, w, 1, 1) for h, w in itertools.product((5, 7, 8, 9), (6, 8, 9, 10))),
    *((6, 64, 65, h, w, 1, 1) for h, w in itertools.product((15, 16, 17), (14, 15, 18))),
    *(
        (5, 40, 35, h, w, pad, 1)
        for h, w in itertools.product((17, 18), (20, 23))
        for pad in (0, 2, (0, 1), (1, 0), (2, 1), (0, 2))
    ),
    *((3, 34, 48, h, w, 1, 1) for h, w in itertools.product((25, 28, 29, 31), (18, 19, 20, 27))),
    *((2, 32, 34, 19, w, 1, 1) for w in (127, 128, 129, 145)),
    (40, 32, 32, 1, 2, 1, 1),
    (40, 32, 32, 3, 4, 0, 1),
    (12, 96, 70, 16, 18, 1, 2),
    # Few tiles: panels of kernels are transformed, 128 input channels at a time.
    (2, 129, 130, 14, 9, 1, 1),
    (1, 260, 70, 16, 15, 1, 1),
    (1, 70, 260, 13, 17, 0, 1),
    (1, 512, 40, 15, 17, 1, 1),
]
STRIDED_HIGHEST = [
    *((5, 97, 100, h, w, 1, 1) for h, w in itertools.product((11, 12, 13), (13, 14, 15))),
    *((16, 64, 130, h, w, pad, 1) for h, w, pad in ((7, 8, 0), (8, 7, (0, 1)), (5, 6, (1, 2)), (6, 5, 2))),
    (2, 256, 144, 20, 17, 1, 2),
    (3, 130, 129, 17, 16, 1, 1),
]
