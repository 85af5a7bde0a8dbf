"""Cases of joining, splitting and rearranging."""

import numpy as np
from cases import Case, ErrorCase, args, integers, normal

X = normal(4, 5, 6)
HALVES = ("float32", "float64", "float16", "bfloat16")


def _twice(tensors):
    """Products of the pieces with different weights, so that gradients of pieces differ."""
    return tuple(t * (i + 1) * t for i, t in enumerate(tensors))


def row(name, fn, inputs=None, **options):
    return Case(name, fn, args(*(inputs or [X])), **options)


CASES = [
    row(
        "cat",
        lambda T, a, b, c: T.cat([a, b, c], 1) * 2,
        [normal(3, 2, 4), normal(3, 0, 4), normal(3, 5, 4)],
        dtypes=HALVES,
    ),
    row("cat/last", lambda T, a, b: T.concat((a, b), dim=-1) * 3, [normal(7, 3), normal(7, 1)]),
    row("cat/blank", lambda T, a, b: T.concatenate([a, b], 1) * 2, [normal(0), normal(3, 4)]),
    row("cat/mixed", lambda T, a, b: T.cat([a, b]), [normal(3), integers(0, 9, 4)], grad_inputs=[0]),
    row(
        "cat/int",
        lambda T, a, b: T.cat([a, b], 0),
        [integers(-5, 5, 3, 2), integers(-5, 5, 1, 2, dtype="int32")],
        grad=False,
        exact=True,
    ),
    row("stack", lambda T, a, b: T.stack([a, b], -1) * 2, [normal(3, 4), normal(3, 4)]),
    row("stack/0d", lambda T, a, b: T.stack((a, b)) * 2, [normal(), normal()]),
    row("hstack", lambda T, a, b: T.hstack([a, b]) * 2, [normal(3, 2), normal(3, 1)]),
    row("hstack/1d", lambda T, a, b: T.hstack([a, b]) * 2, [normal(3), normal()]),
    row("vstack", lambda T, a, b: T.vstack([a, b]) * 2, [normal(3), normal(2, 3)]),
    row("dstack", lambda T, a, b: T.dstack([a, b]) * 2, [normal(3), normal(3)]),
    row("column_stack", lambda T, a, b: T.column_stack([a, b]) * 2, [normal(3), normal(3, 2)]),
    row("block_diag", lambda T, a, b, c: T.block_diag(a, b, c) * 2, [normal(2, 3), normal(), normal(4)]),
    row("split", lambda T, x: _twice(T.split(x, 2, 1))),
    row("split/some", lambda T, x: T.split(x, 2, 1)[1] * 2),
    row("split/sizes", lambda T, x: _twice(x.split([1, 0, 4], dim=-2))),
    row("split_with_sizes", lambda T, x: _twice(x.split_with_sizes([4, 2], 2))),
    row("tensor_split", lambda T, x: _twice(T.tensor_split(x, 4, 2))),
    row("tensor_split/at", lambda T, x: _twice(T.tensor_split(x, (1, 3, -1), dim=1))),
    row("tensor_split/back", lambda T, x: _twice(T.tensor_split(x, (3, 1, 9), dim=1))),
    row("chunk", lambda T, x: _twice(x.chunk(4, 1))),
    row("chunk/empty", lambda T, x: tuple(x.chunk(3, 0)), [normal(0, 2)]),
    row("unbind", lambda T, x: _twice(x.unbind(1))),
    row("unbind/iterate", lambda T, x: _twice(tuple(x)[1:])),
    row("hsplit", lambda T, x: _twice(x.hsplit([2, 3]))),
    row("vsplit", lambda T, x: _twice(T.vsplit(x, 2))),
    row("dsplit", lambda T, x: _twice(T.dsplit(x, 3))),
    row("unfold", lambda T, x: x.unfold(1, 3, 1) * 2),
    row("unfold/apart", lambda T, x: x.unfold(-1, 2, 3) * 2),
    row("unfold/overlapping", lambda T, x: x.unfold(1, 4, 2) * 2),
    row("unfold/part of a step left over", lambda T, x: x.unfold(2, 5, 2) * 2),
    row("unfold/one window", lambda T, x: x.unfold(2, 5, 9) * 2),
    row("unfold/wide", lambda T, x: x.unfold(2, 5, 1) * 2),
    row("unfold/0d", lambda T, x: x.unfold(0, 1, 1) * 2, [normal()]),
    row("diagonal", lambda T, x: T.diagonal(x, 1, 0, 2) * 2),
    row("diagonal/below", lambda T, x: x.diagonal(-2) * 2),
    row("diagonal/outside", lambda T, x: x.diagonal(99) * 2),
    row("diag/vector", lambda T, x: T.diag(x, -1) * 2, [normal(4)]),
    row("diag/matrix", lambda T, x: x.diag(1) * 2, [normal(4, 6)]),
    row("diag_embed", lambda T, x: T.diag_embed(x, 1, 0, 2) * 2, [normal(3, 4)]),
    row("diagflat", lambda T, x: T.diagflat(x, -2) * 2, [normal(2, 2)]),
    row("flatten", lambda T, x: T.flatten(x, 1) * 2),
    row("flatten/transposed", lambda T, x: x.transpose(0, 2).flatten() * 2),
    row("flatten/0d", lambda T, x: x.flatten() * 2, [normal()]),
    row("unflatten", lambda T, x: x.unflatten(1, (5, -1, 1)) * 2),
    row("ravel", lambda T, x: x.transpose(0, 1).ravel() * 2),
    row("movedim", lambda T, x: T.movedim(x, 0, -1) * 2),
    row("moveaxis", lambda T, x: T.moveaxis(x, (0, 1), (2, 0)) * 2),
    row("swapaxes", lambda T, x: x.swapaxes(0, 2) * 2),
    row("swapdims", lambda T, x: T.swapdims(x, 0, 1) * 2),
    row("t", lambda T, x: x.t() * 2, [normal(3, 4)]),
    row("adjoint", lambda T, x: x.adjoint() * 2),
    row("H", lambda T, x: x.H * 2, [normal(3, 4)]),
    row("mH", lambda T, x: x.mH * 2),
    row("view_as", lambda T, x, y: x.view_as(y) * 2, [normal(6), normal(2, 3)], grad_inputs=[0], layouts=False),
    row("reshape_as", lambda T, x, y: x.reshape_as(y) * 2, [normal(6), normal(2, 3)], grad_inputs=[0]),
    row("expand_as", lambda T, x, y: x.expand_as(y) * 2, [normal(3), normal(2, 3)], grad_inputs=[0]),
    row("broadcast_to", lambda T, x: T.broadcast_to(x, (5, 2, 3)) * 2, [normal(2, 1)]),
    row("broadcast_tensors", lambda T, x, y: _twice(T.broadcast_tensors(x, y)), [normal(2, 1), normal(3)]),
    row("atleast_1d", lambda T, x: T.atleast_1d(x) * 2, [normal()]),
    row("atleast_2d", lambda T, x, y: _twice(T.atleast_2d(x, y)), [normal(), normal(3)]),
    row("atleast_3d", lambda T, x, y, z: _twice(T.atleast_3d((x, y, z))), [normal(), normal(3), normal(2, 4)]),
    row("meshgrid", lambda T, x, y: _twice(T.meshgrid(x, y, indexing="ij")), [normal(2), normal(3)]),
    row("meshgrid/xy", lambda T, x, y, z: _twice(T.meshgrid(x, y, z, indexing="xy")), [normal(2), normal(3), normal()]),
    row("cartesian_prod", lambda T, x, y: T.cartesian_prod(x, y) * 2, [normal(2), normal(3)]),
    row("combinations", lambda T, x: T.combinations(x, 3) * 2, [normal(5)]),
    row("combinations/repeated", lambda T, x: T.combinations(x, with_replacement=True) * 2, [normal(4)]),
    row("squeeze", lambda T, x: x.squeeze() * 2, [normal(1, 3, 1, 2)]),
    row("squeeze/one", lambda T, x: x.squeeze(2) * 2, [normal(1, 3, 1, 2)]),
    row("squeeze/several", lambda T, x: x.squeeze((0, 1, -2)) * 2, [normal(1, 3, 1, 2)]),
    row("squeeze_", lambda T, x: (x * 1).squeeze_() * x.squeeze(), [normal(1, 3, 1, 2)]),
    row("unsqueeze_", lambda T, x: (x * 2).unsqueeze_(1) * 2),
    row("transpose_", lambda T, x: (x * 2).transpose_(0, 1).mul_(3)),
    row("flip", lambda T, x: x.flip((0, 2)) * 2, dtypes=HALVES),
    row("flip/variadic", lambda T, x: x.flip(-1, 1) * 2),
    row("fliplr", lambda T, x: T.fliplr(x) * 2),
    row("flipud", lambda T, x: T.flipud(x) * 2),
    row("roll", lambda T, x: T.roll(x, 2, 1) * 2),
    row("roll/several", lambda T, x: x.roll((-1, 7), (0, 2)) * 2),
    row("roll/flat", lambda T, x: x.roll(-13) * 2),
    row("rot90", lambda T, x: T.rot90(x, 1, (0, 1)) * 2),
    row("rot90/others", lambda T, x: (x.rot90(3) * 2, x.rot90(-4) * 2, x.rot90(6, (1, 2)) * 2)),
    row("rot90/negative", lambda T, x: x.rot90(-1, [2, 0]) * 2),
    row("rot90/default", lambda T, x: x.rot90() * 2),
    row("repeat", lambda T, x: x.repeat(2, 1, 3) * 2, [normal(2, 3)]),
    row("repeat/none", lambda T, x: x.repeat(0, 2) * 2, [normal(2, 3)]),
    row("tile", lambda T, x: x.tile((2, 3)) * 2, [normal(2, 1, 3)]),
    row("tile/short", lambda T, x: T.tile(x, (2,)) * 2, [normal(2, 3)]),
    row("repeat_interleave", lambda T, x: x.repeat_interleave(3, dim=1) * 2),
    row("repeat_interleave/flat", lambda T, x: T.repeat_interleave(x, 2) * 2, [normal(2, 3)]),
    row(
        "repeat_interleave/counts",
        lambda T, x, n: T.repeat_interleave(x, n, dim=1) * 2,
        [X, integers(0, 4, 5)],
        grad_inputs=[0],
    ),
    row("slice_scatter", lambda T, x, s: x.slice_scatter(s, 1, 1, None, 2) * 2, [X, normal(4, 2, 6)]),
    row("select_scatter", lambda T, x, s: T.select_scatter(x, s, 2, -1) * 2, [X, normal(4, 5)]),
    row("diagonal_scatter", lambda T, x, s: T.diagonal_scatter(x, s, 1, 0, 2) * 2, [X, normal(5, 4)]),
    row("fill_diagonal_", lambda T, x: (x * 1).fill_diagonal_(3.0) * x, [normal(4, 6)]),
    row("fill_diagonal_wrap", lambda T, x: (x * 1).fill_diagonal_(3.0, wrap=True) * x, [normal(11, 3)]),
    row("tril_", lambda T, x: (x * 1).tril_(1) * x),
    row("narrow/middle", lambda T, x: x.narrow(1, 2, 2) * x.narrow(1, 0, 2)),
    row(
        "view/dtype",
        lambda T, x: x.view(T.int32),
        [integers(-(2**60), 2**60, 4, 3)],
        grad=False,
        exact=True,
        layouts=False,
    ),
]


def f(*shape):
    return lambda T: T.ones(*shape)


def error(name, fn, kind, match):
    return ErrorCase(name, fn, kind, match)


ERRORS = [
    error("cat/nothing", lambda T: T.cat([]), ValueError, r"\[cat\] tensors: expected at least one"),
    error(
        "cat/shape",
        lambda T: T.cat([T.ones(2, 3), T.ones(2, 4)]),
        ValueError,
        r"\[cat\].*\(2, 3\).*\(2, 4\) at position 1",
    ),
    error("cat/0d", lambda T: T.cat([T.ones(()), T.ones(())]), ValueError, r"stack"),
    error("cat/text", lambda T: T.cat("ab"), TypeError, r"\[cat\] tensors"),
    error("stack/shape", lambda T: T.stack([T.ones(2), T.ones(3)]), ValueError, r"\[stack\]"),
    error("split/zero", lambda T: T.ones(4).split(0), ValueError, r"\[split\]"),
    error("split/sum", lambda T: T.ones(4).split([1, 2]), ValueError, r"sum to 4"),
    error("chunk/zero", lambda T: T.ones(4).chunk(0), ValueError, r"\[chunk\]"),
    error("unfold/size", lambda T: T.ones(4).unfold(0, 5, 1), ValueError, r"\[unfold\] size"),
    error("unfold/step", lambda T: T.ones(4).unfold(0, 2, 0), ValueError, r"\[unfold\] step"),
    error("diagonal/same", lambda T: T.ones(4, 4).diagonal(0, 1, 1), ValueError, r"\[diagonal\]"),
    error("flip/twice", lambda T: T.ones(4, 4).flip(1, -1), ValueError, r"\[flip\] dims: axis 1"),
    error("flip/axis", lambda T: T.ones(4, 4).flip(2), IndexError, r"\[flip\] dims"),
    error("repeat/short", lambda T: T.ones(4, 4).repeat(2), ValueError, r"\[repeat\]"),
    error("repeat/huge", lambda T: T.ones(4).repeat(2**62), ValueError, r"overflow"),
    error("repeat_interleave/negative", lambda T: T.ones(2).repeat_interleave(T.arange(-1, 1)), ValueError, r"counts"),
    error("unflatten/size", lambda T: T.ones(6).unflatten(0, (4, -1)), ValueError, r"multiply to 6"),
    error("movedim/twice", lambda T: T.ones(2, 3).movedim((0, 0), (0, 1)), ValueError, r"\[movedim\]"),
    error("squeeze_/leaf", lambda T: T.ones(1, requires_grad=True).squeeze_(), RuntimeError, r"\[squeeze_\].*leaf"),
    error(
        "split/inplace",
        lambda T: (T.ones(4, requires_grad=True) * 2).split(2)[0].mul_(2),
        RuntimeError,
        r"several outputs",
    ),
    error("meshgrid/indexing", lambda T: T.meshgrid(T.ones(2), indexing="zz"), ValueError, r"'zz'"),
    error("view/dtype", lambda T: T.ones(3, dtype=T.uint8).view(T.int32), ValueError, r"divisible by 4"),
    error("block_diag/3d", lambda T: T.block_diag(T.ones(1, 1, 1)), ValueError, r"\[block_diag\]"),
    error("resize_/grad", lambda T: T.ones(2, requires_grad=True).resize_(3), RuntimeError, r"\[resize_\]"),
    error("numpy/order", lambda T: T.stack(np.ones(3)), TypeError, r"\[stack\] tensors"),
]
