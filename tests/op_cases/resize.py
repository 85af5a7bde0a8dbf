"""Cases of padding, interpolation, sliding blocks, pixel rearrangement and grid sampling."""

import numpy as np
from cases import Case, ErrorCase, args, integers, normal, uniform

from op_cases.conv import functional

HALVES = ("float32", "float64", "float16", "bfloat16")


def pad(amounts, mode="constant", value=None):
    return lambda T, x: functional(T).pad(x, amounts, mode, value)


def resize(**keywords):
    return lambda T, x: functional(T).interpolate(x, **keywords)


def blocks(name):
    """fold and unfold carry other names in the engine, where Tensor.unfold is something else."""
    engine = {"unfold": "im2col", "fold": "col2im"}[name]

    def call(*positional, **keywords):
        def run(T, x):
            return getattr(functional(T), name if T.__name__ == "torch" else engine)(x, *positional, **keywords)

        return run

    return call


unfold, fold = blocks("unfold"), blocks("fold")


def sample(mode, padding, align):
    return lambda T, x, g: functional(T).grid_sample(x, g, mode, padding, align)


def grid_cases():
    rows = []
    for mode in ("bilinear", "nearest"):
        for padding in ("zeros", "border", "reflection"):
            for align in (False, True):
                name = f"grid_sample/{mode} {padding} {'corners' if align else 'cells'}"
                inputs = args(normal(2, 3, 5, 7), uniform(-1.7, 1.7, 2, 4, 6, 2))
                rows.append(Case(name, sample(mode, padding, align), inputs, second=False))
    inputs = args(normal(1, 9, 3, 4, 5), uniform(-1.4, 1.4, 1, 2, 3, 13, 3))
    rows.append(Case("grid_sample/volume", sample("bilinear", "zeros", False), inputs, second=False))
    rows.append(Case("grid_sample/volume reflected", sample("bilinear", "reflection", True), inputs, second=False))
    inputs = args(normal(1, 2, 4, 1), uniform(-1.4, 1.4, 1, 10, 11, 2))
    rows.append(Case("grid_sample/thin", sample("bilinear", "reflection", True), inputs, second=False))
    return rows


CASES = [
    Case("constant_pad_nd", lambda T, x: T.constant_pad_nd(x, (1, 2, 0, 3), 2.5), args(normal(2, 3, 4)), dtypes=HALVES),
    Case("constant_pad_nd/crop", lambda T, x: T.constant_pad_nd(x, (-1, 2, -2, -1)), args(normal(2, 5, 4))),
    Case("constant_pad_nd/all cropped", lambda T, x: T.constant_pad_nd(x, (-3, 2)), args(normal(2, 3))),
    Case(
        "constant_pad_nd/int",
        lambda T, x: T.constant_pad_nd(x, (1, 1), 7),
        args(integers(-5, 5, 3, 4)),
        grad=False,
        exact=True,
    ),
    Case("pad/constant", pad((1, 2, 3, 0), value=-1.5), args(normal(2, 3, 4))),
    Case("pad/reflect", pad((2, 1, 3, 4), "reflect"), args(normal(2, 3, 5, 6)), dtypes=HALVES),
    Case("pad/reflect 1d", pad((2, 0), "reflect"), args(normal(3, 6))),
    Case("pad/reflect 3d", pad((1, 2, 0, 1, 2, 1), "reflect"), args(normal(1, 2, 3, 4, 5))),
    Case("pad/replicate", pad((7, 1, 0, 9), "replicate"), args(normal(2, 3, 5, 6))),
    Case("pad/replicate crop", pad((-1, 2, 1, -2), "replicate"), args(normal(2, 3, 5, 6))),
    Case("pad/circular", pad((2, 6, 3, 1), "circular"), args(normal(2, 3, 5, 6))),
    Case("interpolate/nearest", resize(size=(7, 4)), args(normal(2, 3, 5, 6)), dtypes=HALVES),
    Case("interpolate/nearest factor", resize(scale_factor=1.7), args(normal(2, 3, 9))),
    Case("interpolate/nearest-exact", resize(size=(3, 13), mode="nearest-exact"), args(normal(2, 3, 5, 6))),
    Case("interpolate/nearest 3d", resize(scale_factor=(2, 0.5, 1.3)), args(normal(1, 2, 3, 6, 5))),
    Case("interpolate/linear", resize(size=11, mode="linear"), args(normal(2, 3, 5))),
    Case("interpolate/bilinear", resize(size=(9, 4), mode="bilinear"), args(normal(2, 3, 5, 6)), dtypes=HALVES),
    Case(
        "interpolate/bilinear corners",
        resize(size=(9, 1), mode="bilinear", align_corners=True),
        args(normal(2, 3, 5, 6)),
    ),
    Case("interpolate/bilinear factor", resize(scale_factor=1.9, mode="bilinear"), args(normal(2, 3, 5, 6))),
    Case(
        "interpolate/bilinear recomputed",
        resize(scale_factor=1.9, mode="bilinear", recompute_scale_factor=True),
        args(normal(2, 3, 5, 6)),
    ),
    Case(
        "interpolate/bilinear antialias",
        resize(size=(4, 11), mode="bilinear", antialias=True),
        args(normal(2, 3, 9, 6)),
    ),
    Case("interpolate/bicubic", resize(size=(9, 4), mode="bicubic"), args(normal(2, 3, 5, 6))),
    Case(
        "interpolate/bicubic corners", resize(size=(3, 8), mode="bicubic", align_corners=True), args(normal(2, 3, 5, 6))
    ),
    Case(
        "interpolate/bicubic antialias", resize(size=(3, 4), mode="bicubic", antialias=True), args(normal(2, 3, 9, 10))
    ),
    Case("interpolate/trilinear", resize(size=(2, 7, 5), mode="trilinear"), args(normal(1, 2, 3, 4, 5))),
    Case("interpolate/area", resize(size=(3, 4), mode="area"), args(normal(2, 3, 8, 5))),
    Case("im2col", unfold((2, 3)), args(normal(2, 3, 5, 6)), dtypes=HALVES),
    Case("im2col/all", unfold(3, 2, 2, (1, 2)), args(normal(2, 3, 6, 7))),
    Case("im2col/unbatched", unfold(2, padding=1, stride=3), args(normal(3, 6, 7))),
    Case("col2im", fold((5, 6), (2, 3)), args(normal(2, 18, 16))),
    Case("col2im/all", fold((6, 7), 3, 2, 2, (1, 2)), args(normal(1, 9, 24))),
    Case("col2im/unbatched", fold((4, 4), 2, stride=2), args(normal(8, 4))),
    Case("pixel_shuffle", lambda T, x: T.pixel_shuffle(x, 2), args(normal(2, 12, 3, 4))),
    Case("pixel_unshuffle", lambda T, x: T.pixel_unshuffle(x, 3), args(normal(2, 6, 9))),
    Case("channel_shuffle", lambda T, x: T.channel_shuffle(x, 3), args(normal(2, 12, 3, 4))),
    *grid_cases(),
]


def wrong(name, fn, match, *shapes, error=ValueError):
    return ErrorCase(name, lambda T: fn(T, *[T.from_numpy(np.ones(s)) for s in shapes]), error, match)


def pad_error(name, match, amounts, shape=(2, 3)):
    return wrong(f"constant_pad_nd/{name}", lambda T, x: T.constant_pad_nd(x, amounts), match, shape)


IMAGE = (2, 3, 4, 5)
ERRORS = [
    pad_error("odd", r"\[pad\] pad: expected \(front, back\) pairs", (1, 2, 3)),
    pad_error("too many", r"\[pad\] pad", (1, 2, 3, 4, 5, 6)),
    pad_error("negative size", r"\[pad\] pad: expected an output size", (-2, -2)),
    pad_error("overflow", r"\[pad\]", (2**62, 2**62)),
    pad_error("huge", r"overflow", (2**62, 0)),
    wrong("pad/mode", pad((1, 1), "mirror"), r"\[pad\] mode", IMAGE),
    wrong("pad/reflect too far", pad((5, 1), "reflect"), r"\[pad\] pad: expected at most 4", (3, 5)),
    wrong("pad/circular too far", pad((0, 6), "circular"), r"\[pad\] pad: expected at most 5", (3, 5)),
    wrong("pad/reflect rank", pad((1, 1), "reflect"), r"\[pad\] pad", IMAGE),
    wrong("pad/replicate overflow", pad((2**62, 2**62), "replicate"), r"\[pad\]", (3, 5)),
    wrong("pad/replicate huge", pad((2**61, 0), "replicate"), r"overflow|\[pad\]", (3, 5)),
    wrong("interpolate/both", resize(size=3, scale_factor=2), r"\[interpolate\] size", IMAGE),
    wrong("interpolate/neither", resize(), r"\[interpolate\] size", IMAGE),
    wrong("interpolate/mode", resize(size=3, mode="cubic"), r"\[interpolate\] mode", IMAGE),
    wrong("interpolate/mode axes", resize(size=3, mode="linear"), r"\[interpolate\] mode", IMAGE),
    wrong("interpolate/corners", resize(size=3, align_corners=True), r"\[interpolate\] align_corners", IMAGE),
    wrong("interpolate/zero", resize(size=0), r"\[interpolate\] size", IMAGE),
    wrong("interpolate/negative factor", resize(scale_factor=-2.0), r"\[interpolate\] scale_factor", IMAGE),
    wrong("interpolate/nan factor", resize(scale_factor=float("nan")), r"\[interpolate\] scale_factor", IMAGE),
    wrong("interpolate/huge", resize(size=2**62), r"interpolate", IMAGE),
    wrong("unfold/too large", unfold(6), r"\[unfold\] kernel_size", IMAGE),
    wrong("unfold/stride", unfold(2, stride=0), r"\[unfold\] kernel_size", IMAGE),
    wrong("unfold/overflow", unfold(2, padding=2**62), r"\[unfold\]", IMAGE),
    wrong("fold/blocks", fold((5, 6), (2, 3)), r"\[fold\] input: expected 16 blocks", (2, 18, 15)),
    wrong("fold/channels", fold((5, 6), (2, 3)), r"\[fold\] input", (2, 17, 16)),
    wrong("pixel_shuffle/channels", lambda T, x: T.pixel_shuffle(x, 2), r"\[pixel_shuffle\] input", IMAGE),
    wrong("pixel_shuffle/factor", lambda T, x: T.pixel_shuffle(x, 0), r"\[pixel_shuffle\] upscale_factor", IMAGE),
    wrong("pixel_unshuffle/size", lambda T, x: T.pixel_unshuffle(x, 3), r"\[pixel_unshuffle\] input", IMAGE),
    wrong("channel_shuffle/groups", lambda T, x: T.channel_shuffle(x, 2), r"\[channel_shuffle\] groups", IMAGE),
    wrong("grid_sample/grid", sample("bilinear", "zeros", False), r"\[grid_sample\] grid", IMAGE, (1, 4, 4, 2)),
    wrong("grid_sample/mode", sample("cubic", "zeros", False), r"\[grid_sample\] mode", IMAGE, (2, 4, 4, 2)),
    wrong(
        "grid_sample/padding", sample("nearest", "wrap", False), r"\[grid_sample\] padding_mode", IMAGE, (2, 4, 4, 2)
    ),
]


def _second_derivative(T):
    x = T.from_numpy(np.ones(IMAGE)).requires_grad_()
    y = functional(T).grid_sample(x, T.from_numpy(np.zeros((2, 1, 1, 2))), "bilinear", "zeros", False)
    T.autograd.grad(y.sum(), [x], create_graph=True)


ERRORS.append(ErrorCase("grid_sample/second derivative", _second_derivative, NotImplementedError, r"\[grid_sample\]"))
